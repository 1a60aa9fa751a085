//! Requests out of the stores' outboxes: let in as any other, and taken out when they are certain.
//!
//! Not the reading of an outbox (`participants/outbox.rs` is its port). A request that is answered
//! with anything but a refusal or an abort is in the journal, and is brought to its end whatever
//! crashes. Invariant: the engine holds its stores, so a store's outbox holds the engine weakly.

use std::sync::{Arc, Weak};

use crate::model::outcome::{CoordinationResult, OutcomeKind};
use crate::model::request::CoordinationRequest;
use crate::participants::outbox::{Acceptance, OutboxSink};
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::error::EngineError;

struct Sink(Weak<Core>);

/// Has every store hand over what users wrote into it.
pub(super) fn open(core: &Arc<Core>) {
    for (_, store, _) in &core.ports.stores {
        store.open_outbox(Arc::new(Sink(Arc::downgrade(core))));
    }
}

impl OutboxSink for Sink {
    fn accept(&self, request: CoordinationRequest, reply: Reply<Acceptance>) {
        let Some(core) = self.0.upgrade() else {
            return reply.send(Acceptance::Later("the service is gone".to_owned()));
        };
        let waiter = Reply::new(move |answer| reply.send(acceptance(answer)));
        let request = Arc::new(request);
        core.post(Fact::Submitted { request, attachment: None, enlisted: None, waiter });
    }
}

fn acceptance(answer: Result<CoordinationResult, EngineError>) -> Acceptance {
    let outcome = match answer {
        Ok(result) => result.outcome,
        Err(error) => return Acceptance::Later(error.to_string()),
    };
    let reason = outcome.message.unwrap_or_default();
    match outcome.kind {
        OutcomeKind::Refused if outcome.code.as_deref() == Some("request.overloaded") => {
            Acceptance::Later(reason)
        }
        // What was aborted stays where people find it, with the reason.
        OutcomeKind::Refused | OutcomeKind::Aborted => Acceptance::Refused(reason),
        OutcomeKind::Committed | OutcomeKind::Unknown | OutcomeKind::Heuristic => {
            Acceptance::Accepted
        }
    }
}
