//! A Python object as a participant: questions become calls for the loop, answers are checked.
//!
//! Not the running of coroutines (lanes, in Python). Invariants: a call is answered exactly once;
//! what a method returns is taken only if it has the right shape and vocabulary, and anything else
//! is an unknown answer whose message names store and method; a raised exception is kept for the
//! caller, traceback and all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use unanimity::consensus::{Proposal, Standing};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Decision, Vote};
use unanimity::model::request::CoordinationType;
use unanimity::model::value::Value;
use unanimity::participants::{
    Abilities, Attachment, DeliveryAsk, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::Reply;

use crate::bridge::{Item, Shared};
use crate::convert::{Class, from_value};
use crate::errors;

/// What travels with a request from its caller to its stores.
pub(crate) struct Caller {
    /// The context in which the caller asked.
    pub(crate) context: Py<PyAny>,
    /// The operations as he gave them.
    pub(crate) operations: Vec<Py<PyAny>>,
    /// The first exception that a store raised on the way.
    pub(crate) cause: Mutex<Option<Py<PyAny>>>,
}

impl Caller {
    pub(crate) fn of(attachment: Option<&Attachment>) -> Option<&Self> {
        attachment?.downcast_ref::<Self>()
    }
}

/// How the call's argument is made, on the loop's thread.
pub(crate) enum Argument {
    Prepare(Box<PrepareAsk>),
    Id(CoordinationId),
    Nothing,
    Proposal {
        id: CoordinationId,
        decision: Decision,
        evidence: Value,
    },
    Map(Value),
    /// Keyword arguments.
    Keywords(Value),
}

/// Who waits for the answer of a call.
pub(crate) enum Answers {
    Vote(Reply<Vote>),
    Acknowledgement(Reply<Acknowledgement>),
    List(Reply<Result<Vec<CoordinationId>, ParticipantError>>),
    Proposal(Reply<Proposal>),
    Standing(Reply<Standing>),
    Nobody,
}

/// A method to be called on the loop.
pub(crate) struct Call {
    pub(crate) method: Arc<Method>,
    pub(crate) argument: Argument,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) timeout: Duration,
    pub(crate) answers: Answers,
}

/// A bound method of a user's object.
pub(crate) struct Method {
    pub(crate) callable: Py<PyAny>,
    pub(crate) is_async: bool,
    /// For messages: "store 'payments'".
    pub(crate) owner: String,
    /// For messages: `prepare_transaction`.
    pub(crate) name: &'static str,
}

/// Calls that were started and not answered, by token.
#[derive(Default)]
pub(crate) struct Expected {
    calls: HashMap<u64, Started>,
    token: u64,
}

/// A call under way.
pub(crate) struct Started {
    method: Arc<Method>,
    attachment: Option<Attachment>,
    answers: Answers,
}

impl Expected {
    fn put(&mut self, started: Started) -> u64 {
        self.token += 1;
        self.calls.insert(self.token, started);
        self.token
    }

    pub(crate) fn take(&mut self, token: u64) -> Option<Started> {
        self.calls.remove(&token)
    }
}

impl Call {
    /// Makes the argument and remembers who waits. `None` when the argument cannot be made: then
    /// the answer is given already.
    pub(crate) fn start<'py>(
        self,
        py: Python<'py>,
        expected: &Mutex<Expected>,
    ) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let context = Caller::of(self.attachment.as_ref()).map(|caller| caller.context.bind(py));
        let context = context.cloned().unwrap_or_else(|| py.None().into_bound(py));
        let arguments = self.argument.make(py, self.attachment.as_ref());
        let started =
            Started { method: self.method, attachment: self.attachment, answers: self.answers };
        match arguments {
            Err(error) => {
                started.raised(error.value(py).as_any());
                if errors::ends_the_program(py, &error) { Err(error) } else { Ok(None) }
            }
            Ok((arguments, keywords)) => {
                let method = Arc::clone(&started.method);
                // Not held while Python code runs: that may end anywhere.
                let token = expected.lock().unwrap_or_else(PoisonError::into_inner).put(started);
                let timeout = self.timeout.as_secs_f64();
                let callable = method.callable.bind(py);
                let ready =
                    (token, callable, arguments, keywords, context, method.is_async, timeout);
                ready.into_pyobject(py).map(Some)
            }
        }
    }
}

type Arguments<'py> = (Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>);

impl Argument {
    fn make<'py>(
        self,
        py: Python<'py>,
        attachment: Option<&Attachment>,
    ) -> PyResult<Arguments<'py>> {
        let arguments = match self {
            Self::Prepare(ask) => (prepare_request(py, &ask, attachment)?,).into_pyobject(py)?,
            Self::Id(id) => (id.as_str(),).into_pyobject(py)?,
            Self::Nothing => PyTuple::empty(py),
            Self::Proposal { id, decision, evidence } => {
                (id.as_str(), decision.as_str(), from_value(py, &evidence)?).into_pyobject(py)?
            }
            Self::Map(map) => (from_value(py, &map)?,).into_pyobject(py)?,
            Self::Keywords(map) => {
                let keywords = from_value(py, &map)?.into_bound(py).cast_into::<PyDict>()?;
                return Ok((PyTuple::empty(py), Some(keywords)));
            }
        };
        Ok((arguments, None))
    }
}

fn prepare_request<'py>(
    py: Python<'py>,
    ask: &PrepareAsk,
    attachment: Option<&Attachment>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: Class = Class::new("unanimity._stores", "PrepareRequest");
    let given = Caller::of(attachment).map(|caller| caller.operations.as_slice());
    let operations = PyList::empty(py);
    for (index, operation) in ask.request.operations.iter().enumerate() {
        if operation.store != ask.store {
            continue;
        }
        match given.and_then(|given| given.get(index)) {
            Some(original) => operations.append(original)?,
            None => operations.append(from_value(py, &operation.body)?)?,
        }
    }
    CLASS.get(py)?.call1((ask.id().as_str(), operations, ask.timeout.as_secs_f64()))
}

impl Started {
    /// "store 'payments': `prepare_transaction()`".
    fn place(&self) -> String {
        format!("{}: {}()", self.method.owner, self.method.name)
    }

    pub(crate) fn returned(self, answer: &Bound<'_, PyAny>) {
        let place = || format!("{}: {}()", self.method.owner, self.method.name);
        match self.answers {
            Answers::Vote(reply) => reply.send(vote_of(answer, place)),
            Answers::Acknowledgement(reply) => reply.send(acknowledgement_of(answer, place)),
            Answers::List(reply) => reply.send(ids_of(answer, &place())),
            Answers::Proposal(reply) => {
                let taken = answer.is_truthy().unwrap_or(false);
                reply.send(if taken { Proposal::Taken } else { Proposal::NotTaken });
            }
            Answers::Standing(reply) => reply.send(standing_of(answer)),
            Answers::Nobody => {}
        }
    }

    pub(crate) fn raised(self, error: &Bound<'_, PyAny>) {
        let kind = error.get_type().name().map_or_else(|_| "error".into(), |n| n.to_string());
        let words = error.str().map_or_else(|_| String::new(), |words| words.to_string());
        let message = format!("{} raised {kind}: {words}", self.place());
        if let Some(caller) = Caller::of(self.attachment.as_ref()) {
            let mut cause = caller.cause.lock().unwrap_or_else(PoisonError::into_inner);
            cause.get_or_insert_with(|| error.clone().unbind());
        }
        match self.answers {
            Answers::Vote(reply) => reply.send(Vote::Unknown { reason: message }),
            Answers::Acknowledgement(reply) => reply.send(Acknowledgement::Unknown { message }),
            Answers::List(reply) => reply.send(Err(ParticipantError::new(message))),
            Answers::Proposal(reply) => reply.send(Proposal::NotTaken),
            Answers::Standing(reply) => reply.send(Standing::Unknown),
            Answers::Nobody => tracing::warn!("{message}"),
        }
    }
}

fn text_of(answer: &Bound<'_, PyAny>, attribute: &str) -> Option<String> {
    let found = answer.getattr(attribute).ok()?;
    found.cast::<PyString>().ok().map(|text| text.to_string_lossy().into_owned())
}

fn wrong(answer: &Bound<'_, PyAny>, place: &str, expected: &str) -> String {
    let shown = answer.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
    let shown: String = shown.chars().take(200).collect();
    format!("{place} returned {shown}; {expected}")
}

fn vote_of(answer: &Bound<'_, PyAny>, place: impl Fn() -> String) -> Vote {
    let vote = answer.getattr(pyo3::intern!(answer.py(), "vote"));
    let vote = vote.ok().and_then(|vote| vote.cast_into::<PyString>().ok());
    match vote.as_ref().and_then(|vote| vote.to_str().ok()) {
        Some("COMMIT") => Vote::Commit,
        Some("READ_ONLY") => Vote::ReadOnly,
        Some("ABORT") => Vote::Abort { reason: text_of(answer, "reason").unwrap_or_default() },
        _ => {
            let expected = "return a PrepareResult whose vote is \"COMMIT\", \"ABORT\" or \
                            \"READ_ONLY\"";
            Vote::Unknown { reason: wrong(answer, &place(), expected) }
        }
    }
}

fn acknowledgement_of(answer: &Bound<'_, PyAny>, place: impl Fn() -> String) -> Acknowledgement {
    let status = answer.getattr(pyo3::intern!(answer.py(), "status"));
    let status = status.ok().and_then(|status| status.cast_into::<PyString>().ok());
    match status.as_ref().and_then(|status| status.to_str().ok()) {
        Some("SUCCESS") => Acknowledgement::Done,
        Some("FAILED") => {
            let message = text_of(answer, "error_message");
            Acknowledgement::Failed { message: message.unwrap_or_else(|| "FAILED".to_owned()) }
        }
        _ => {
            let expected = "return a result whose status is \"SUCCESS\" or \"FAILED\"";
            Acknowledgement::Unknown { message: wrong(answer, &place(), expected) }
        }
    }
}

fn ids_of(answer: &Bound<'_, PyAny>, place: &str) -> Result<Vec<CoordinationId>, ParticipantError> {
    let names: Vec<String> = answer.extract().map_err(|_| {
        ParticipantError::new(wrong(answer, place, "return a list of transaction ids"))
    })?;
    // An id that no coordination can have was prepared by somebody else.
    Ok(names.iter().filter_map(|name| CoordinationId::new(name).ok()).collect())
}

fn standing_of(answer: &Bound<'_, PyAny>) -> Standing {
    if answer.is_none() {
        return Standing::Open;
    }
    let decision = answer.get_item("decision").ok();
    let decision = decision.and_then(|decision| decision.cast_into::<PyString>().ok());
    match decision.and_then(|name| Decision::parse(&name.to_string_lossy())) {
        Some(decision) => Standing::Decided { decision, read_only: read_only_in(answer) },
        None => Standing::Unknown,
    }
}

/// The stores that had nothing to commit, by the evidence that was proposed with the decision.
fn read_only_in(answer: &Bound<'_, PyAny>) -> Vec<StoreName> {
    let votes = answer.get_item("evidence").and_then(|evidence| evidence.get_item("votes"));
    let votes =
        votes.ok().and_then(|votes| votes.extract::<HashMap<String, Option<String>>>().ok());
    let read_only =
        votes.into_iter().flatten().filter(|(_, vote)| vote.as_deref() == Some("READ_ONLY"));
    read_only.filter_map(|(store, _)| StoreName::new(&store).ok()).collect()
}

/// A user's object, seen as a participant.
pub(crate) struct PythonStore {
    bridge: Arc<Shared>,
    name: String,
    prepare: Option<Arc<Method>>,
    commit: Option<Arc<Method>>,
    abort: Option<Arc<Method>>,
    list_prepared: Option<Arc<Method>>,
}

impl PythonStore {
    /// From the adapter that Python made (`_stores.PythonStore`).
    pub(crate) fn adapt(bridge: &Arc<Shared>, adapter: &Bound<'_, PyAny>) -> PyResult<Self> {
        let name: String = adapter.getattr("name")?.extract()?;
        let owner = format!("store '{name}'");
        let method = |attribute: &str, flag: &str, public: &'static str| -> PyResult<_> {
            let callable = adapter.getattr(attribute)?;
            if callable.is_none() {
                return Ok(None);
            }
            let is_async = adapter.getattr(flag)?.is_truthy()?;
            let callable = callable.unbind();
            Ok(Some(Arc::new(Method { callable, is_async, owner: owner.clone(), name: public })))
        };
        Ok(Self {
            bridge: Arc::clone(bridge),
            prepare: method("prepare", "prepare_is_async", "prepare_transaction")?,
            commit: method("commit", "commit_is_async", "commit_transaction")?,
            abort: method("abort", "abort_is_async", "abort_transaction")?,
            list_prepared: method("list_prepared", "list_is_async", "list_prepared_transactions")?,
            name,
        })
    }

    fn deliver(
        &self,
        method: Option<&Arc<Method>>,
        ask: DeliveryAsk,
        reply: Reply<Acknowledgement>,
    ) {
        let Some(method) = method else {
            let message = format!("store '{}' has no method to be told the decision", self.name);
            return reply.send(Acknowledgement::Unknown { message });
        };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            argument: Argument::Id(ask.id),
            attachment: ask.attachment,
            timeout: ask.timeout,
            answers: Answers::Acknowledgement(reply),
        }));
    }
}

impl Participant for PythonStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: self.list_prepared.is_some(), single_writer: false }
    }

    fn missing_for(&self, _kind: CoordinationType) -> Option<&'static str> {
        let needed = [
            (&self.prepare, "prepare_transaction"),
            (&self.commit, "commit_transaction"),
            (&self.abort, "abort_transaction"),
        ];
        needed.into_iter().find(|(method, _)| method.is_none()).map(|(_, name)| name)
    }

    fn attach(&self, _cluster: &ClusterId, _name: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let Some(method) = &self.prepare else {
            let reason = format!("store '{}' has no prepare_transaction()", self.name);
            return reply.send(Vote::Abort { reason });
        };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            attachment: ask.attachment.clone(),
            timeout: ask.timeout,
            argument: Argument::Prepare(Box::new(ask)),
            answers: Answers::Vote(reply),
        }));
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.deliver(self.commit.as_ref(), ask, reply);
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.deliver(self.abort.as_ref(), ask, reply);
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let Some(method) = &self.list_prepared else { return reply.send(Ok(Vec::new())) };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            argument: Argument::Nothing,
            attachment: None,
            timeout: Duration::from_secs(30),
            answers: Answers::List(reply),
        }));
    }
}
