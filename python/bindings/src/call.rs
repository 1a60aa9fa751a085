//! One call of a method of a user's object: made on the loop, answered exactly once.
//!
//! Not its running: that is a lane's, in Python. Invariants: whoever waits is told what the method
//! returned, that it raised, or that the answer is lost; a raised exception is kept for the caller
//! of the coordination, traceback and all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use unanimity::consensus::{Proposal, Standing};
use unanimity::model::ids::CoordinationId;
use unanimity::model::lock::Fence;
use unanimity::model::outcome::{Acknowledgement, Decision, Vote};
use unanimity::model::step::StepAnswer;
use unanimity::model::stream::StreamEvent;
use unanimity::model::value::Value;
use unanimity::participants::{Attachment, ExecuteAsk, ParticipantError, PrepareAsk};
use unanimity::reply::Reply;

use crate::answers::{acknowledgement_of, ids_of, standing_of, step_answer_of, vote_of};
use crate::convert::{Class, from_value};
use crate::traces::TracedCall;
use crate::{errors, streams};

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
    Execute(Box<ExecuteAsk>),
    Event(Arc<StreamEvent>),
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
    /// Whatever this makes.
    Made(MakeArguments),
    /// The other one, in a coordination that is traced.
    Traced(Box<(TracedCall, Argument)>),
}

/// Makes the positional arguments of a call.
pub(crate) type MakeArguments = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyTuple>> + Send>;

/// Is told what a method returned, or the message of what it raised.
pub(crate) type Told = Box<dyn FnOnce(Result<&Bound<'_, PyAny>, String>) + Send>;

/// Who waits for the answer of a call.
pub(crate) enum Answers {
    Vote(Reply<Vote>),
    Acknowledgement(Reply<Acknowledgement>),
    Step(Reply<StepAnswer>),
    /// Whatever it returns says that it is done.
    Applied(Reply<Acknowledgement>),
    List(Reply<Result<Vec<CoordinationId>, ParticipantError>>),
    Proposal(Reply<Proposal>),
    Standing(Reply<Standing>),
    /// Whoever can read it.
    Told(Told),
    /// Nobody; the place among those that are told is given back.
    Nobody(#[expect(dead_code, reason = "held until it is dropped")] Place),
}

/// One of the bounded number of calls that nobody waits for; free again when it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Place {
    /// A place among `most`, `None` when all are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        // Taken first and looked at afterwards: two threads cannot both get the last one.
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
    /// The call that was taken last, until it has suspended or is answered.
    fresh: Option<u64>,
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
        self.fresh = Some(self.token);
        self.calls.insert(self.token, started);
        self.token
    }

    pub(crate) fn take(&mut self, token: u64) -> Option<Started> {
        self.fresh = self.fresh.filter(|fresh| *fresh != token);
        self.calls.remove(&token)
    }

    /// From here on its lane answers for it, whatever happens.
    pub(crate) fn begun(&mut self) {
        self.fresh = None;
    }

    pub(crate) fn take_fresh(&mut self) -> Option<Started> {
        let fresh = self.fresh.take()?;
        self.calls.remove(&fresh)
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
        let (context, trace, argument) = self.argument.in_trace(context)?;
        let arguments = argument.make(py, self.attachment.as_ref(), trace.as_ref());
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
    /// The context in which the method runs, and what carries the trace on, if it is traced. That
    /// no span can be made is no reason not to call.
    fn in_trace(
        self,
        context: Bound<'_, PyAny>,
    ) -> PyResult<(Bound<'_, PyAny>, Option<Bound<'_, PyAny>>, Self)> {
        let Self::Traced(inner) = self else { return Ok((context, None, self)) };
        let (traced, argument) = *inner;
        match traced.start(&context) {
            Ok((context, trace)) => Ok((context, Some(trace), argument)),
            Err(error) if errors::ends_the_program(context.py(), &error) => Err(error),
            Err(error) => {
                tracing::warn!("no span can be made: {error}");
                Ok((context, None, argument))
            }
        }
    }

    fn make<'py>(
        self,
        py: Python<'py>,
        attachment: Option<&Attachment>,
        trace: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Arguments<'py>> {
        let arguments = match self {
            Self::Prepare(ask) => {
                (prepare_request(py, &ask, attachment, trace)?,).into_pyobject(py)?
            }
            Self::Execute(ask) => (operation_request(py, &ask, trace)?,).into_pyobject(py)?,
            Self::Traced(inner) => return inner.1.make(py, attachment, trace),
            Self::Event(event) => (streams::event(py, &event)?,).into_pyobject(py)?,
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
            Self::Made(make) => make(py)?.into_bound(py),
        };
        Ok((arguments, None))
    }
}

fn prepare_request<'py>(
    py: Python<'py>,
    ask: &PrepareAsk,
    attachment: Option<&Attachment>,
    trace: Option<&Bound<'py, PyAny>>,
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
    let (id, timeout) = (ask.id().as_str(), ask.timeout.as_secs_f64());
    match trace {
        None if ask.fences.is_empty() => CLASS.get(py)?.call1((id, operations, timeout)),
        None => CLASS.get(py)?.call1((id, operations, timeout, tokens(py, &ask.fences)?)),
        Some(trace) => {
            let tokens = tokens(py, &ask.fences)?;
            CLASS.get(py)?.call1((id, operations, timeout, tokens, trace))
        }
    }
}

fn operation_request<'py>(
    py: Python<'py>,
    ask: &ExecuteAsk,
    trace: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    static CLASS: Class = Class::new("unanimity._stores", "OperationRequest");
    let operation = ask.operation();
    let given = Caller::of(ask.attachment.as_ref());
    let body = match given.and_then(|caller| caller.operations.get(ask.step)) {
        Some(original) => original.clone_ref(py),
        None => from_value(py, &operation.body)?,
    };
    // Made anew for each call: what one method does to it is not seen by the next.
    let context = PyDict::new(py);
    for (id, result) in ask.results() {
        context.set_item(id, from_value(py, result)?)?;
    }
    let (id, timeout) = (ask.id().as_str(), ask.timeout.as_secs_f64());
    let (class, operation) = (CLASS.get(py)?, operation.id.as_str());
    match trace {
        None => class.call1((id, operation, body, ask.attempt, context, timeout)),
        Some(trace) => class.call1((id, operation, body, ask.attempt, context, timeout, trace)),
    }
}

/// By resource the highest token, with its lock's type.
fn tokens<'py>(py: Python<'py>, fences: &[Fence]) -> PyResult<Bound<'py, PyDict>> {
    static TOKEN: Class = Class::new("unanimity._stores", "FencingToken");
    let mut fences: Vec<&Fence> = fences.iter().collect();
    fences.sort_by_key(|fence| fence.token);
    let tokens = PyDict::new(py);
    for fence in fences {
        let token = TOKEN.get(py)?.call1((fence.token, fence.mode.as_str()))?;
        tokens.set_item(fence.resource.as_str(), token)?;
    }
    Ok(tokens)
}

impl Started {
    /// "store 'payments': `prepare_transaction()`".
    fn place(&self) -> String {
        format!("{}: {}()", self.method.owner, self.method.name)
    }

    /// Fails with what came while the answer was read and is for the program, such as Ctrl-C.
    pub(crate) fn returned(self, answer: &Bound<'_, PyAny>) -> PyResult<()> {
        let place = || format!("{}: {}()", self.method.owner, self.method.name);
        match self.answers {
            Answers::Vote(reply) => reply.send(vote_of(answer, place)),
            Answers::Acknowledgement(reply) => reply.send(acknowledgement_of(answer, place)),
            Answers::Step(reply) => {
                let (answer, for_the_program) = step_answer_of(answer, place);
                reply.send(answer);
                return for_the_program.map_or(Ok(()), Err);
            }
            Answers::Applied(reply) => reply.send(Acknowledgement::Done),
            Answers::List(reply) => reply.send(ids_of(answer, &place())),
            Answers::Proposal(reply) => {
                let taken = answer.is_truthy().unwrap_or(false);
                reply.send(if taken { Proposal::Taken } else { Proposal::NotTaken });
            }
            Answers::Standing(reply) => reply.send(standing_of(answer)),
            Answers::Told(told) => told(Ok(answer)),
            Answers::Nobody(_) => {}
        }
        Ok(())
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
            Answers::Step(reply) => reply.send(if is_permanent(error) {
                StepAnswer::Failed { message, retryable: false }
            } else {
                StepAnswer::Unknown { message }
            }),
            Answers::Applied(reply) => reply.send(if is_permanent(error) {
                Acknowledgement::Failed { message }
            } else {
                Acknowledgement::Unknown { message }
            }),
            Answers::List(reply) => reply.send(Err(ParticipantError::new(message))),
            Answers::Proposal(reply) => reply.send(Proposal::NotTaken),
            Answers::Standing(reply) => reply.send(Standing::Unknown),
            Answers::Told(told) => told(Err(message)),
            Answers::Nobody(_) => tracing::warn!("{message}"),
        }
    }
}

/// Whether a store said by it that there was no effect, and that another try would not help.
fn is_permanent(error: &Bound<'_, PyAny>) -> bool {
    static CLASS: Class = Class::new("unanimity._exceptions", "Permanent");
    CLASS.get(error.py()).and_then(|class| error.is_instance(class)).unwrap_or(false)
}
