//! A user's own open transaction as what decides: a method of Python that commits it with the row.
//!
//! Not the row and not the commit: those are Python's, with the user's driver. Invariant: nothing
//! is called here; whatever is not said for certain is unknown, and the row is read.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use unanimity::model::ids::{ClusterId, StoreName};
use unanimity::participants::last_resource::{DecideAsk, Deciding, Enlisted, encode_read_only};
use unanimity::reply::Reply;

use crate::bridge::{Item, Shared};
use crate::call::{Answers, Argument, Call, Method};

/// A method `(cluster_id, coordination_id, store_name, read_only)` that answers `"committed"`, or
/// why it rolled back for certain, as `("refused", why)`.
pub(crate) struct EnlistedTransaction {
    bridge: Arc<Shared>,
    method: Arc<Method>,
}

impl EnlistedTransaction {
    pub(crate) fn new(bridge: &Arc<Shared>, callable: Py<PyAny>, store: &StoreName) -> Self {
        let owner = format!("the connection enlisted for '{store}'");
        let method = Method { callable, is_async: true, owner, name: "commit" };
        Self { bridge: Arc::clone(bridge), method: Arc::new(method) }
    }
}

impl Enlisted for EnlistedTransaction {
    fn decide(&self, cluster: &ClusterId, ask: DecideAsk, reply: Reply<Deciding>) {
        let DecideAsk { work, read_only } = ask;
        let (cluster, id, store) = (cluster.clone(), work.id().clone(), work.store.clone());
        let read_only = encode_read_only(&read_only);
        let arguments = move |py: Python<'_>| {
            let made = (cluster.as_str(), id.as_str(), store.as_str(), read_only.as_str());
            made.into_pyobject(py).map(Bound::<PyTuple>::unbind)
        };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(&self.method),
            argument: Argument::Made(Box::new(arguments)),
            attachment: work.attachment,
            timeout: work.timeout,
            answers: Answers::Told(Box::new(move |answer| reply.send(deciding_of(answer)))),
        }));
    }
}

fn deciding_of(answer: Result<&Bound<'_, PyAny>, String>) -> Deciding {
    let answer = match answer {
        Ok(answer) => answer,
        Err(message) => return Deciding::Unknown { message },
    };
    if answer.extract::<String>().is_ok_and(|word| word == "committed") {
        return Deciding::Committed;
    }
    match answer.extract::<(String, String)>() {
        Ok((word, reason)) if word == "refused" => Deciding::Refused { reason },
        _ => Deciding::Unknown { message: format!("the enlisted transaction said {answer}") },
    }
}
