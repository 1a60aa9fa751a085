//! Observations of traced coordinations on their way to `_tracing.py`, in batches.
//!
//! Not the making of spans, which is Python's, and no thread waits for it. What is told of a
//! coordination that nobody traces costs one look into a set. Which are traced is Python's to say
//! for requests of this process; what comes another way (left open by a process before, a stop of
//! a choreographed saga, a store's outbox) is decided here, by its metadata or by its share.
//! Invariants: nothing here attaches to the interpreter on a thread of ours; both the set and what
//! waits are bounded, and what is dropped is counted and logged.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::exceptions::PyReferenceError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use unanimity::model::ids::CoordinationId;
use unanimity::model::request::CoordinationRequest;
use unanimity::model::trace::{is_sampled, trace_notes, traceparent};
use unanimity::model::value::Value;
use unanimity::observe::{Act, Ending, Observation, Observer};

use crate::bridge::{Bridge, Item, Shared};
use crate::{errors, records};

/// How many coordinations may be traced at once.
const FOLLOWED_MAX: usize = 20_000;
/// How many observations may wait for the loop.
const WAITING_MAX: usize = 65_536;

/// Something that was told, ready to cross.
struct Told {
    act: &'static str,
    coordination: CoordinationId,
    /// Nanoseconds since the epoch.
    began_ns: u64,
    ended_ns: u64,
    ending: &'static str,
    code: String,
    message: String,
    details: Vec<(&'static str, Detail)>,
}

enum Detail {
    Text(String),
    Number(u64),
    Truth(bool),
}

#[derive(Default)]
struct Waiting {
    told: Vec<Told>,
    dropped: u64,
}

/// The engine's end: an observer that keeps what Python wants to hear.
pub(crate) struct Traces {
    bridge: Arc<Shared>,
    /// A weak proxy: whoever makes the spans also holds us.
    spans: Py<PyAny>,
    rate: f64,
    followed: Mutex<HashSet<CoordinationId>>,
    waiting: Mutex<Waiting>,
    this: std::sync::Weak<Self>,
}

/// Nanoseconds since the epoch, by the system's clock, as the spans of everybody else.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// From 0 to 1, the same for an id in every process (FNV-1a, and then mixed as splitmix64 does,
/// because ids that differ at their end only would be neighbours).
fn share_of(id: &CoordinationId) -> f64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut mixed = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, step);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((mixed ^ (mixed >> 31)) >> 32).expect("32 bits are left");
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

impl Traces {
    fn followed(&self) -> MutexGuard<'_, HashSet<CoordinationId>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn follows(&self, id: &CoordinationId) -> bool {
        self.followed().contains(id)
    }

    /// Whether the share of traces that are kept has this one.
    fn samples(&self, id: &CoordinationId) -> bool {
        share_of(id) < self.rate
    }

    /// A request that nobody asked for here: its trace says whether it is sampled, or its share.
    fn samples_request(&self, request: &CoordinationRequest) -> bool {
        let parent = traceparent(&request.metadata);
        parent.map_or_else(|| self.samples(&request.id), is_sampled)
    }

    fn follow(&self, id: &CoordinationId) -> bool {
        let mut followed = self.followed();
        followed.len() < FOLLOWED_MAX && followed.insert(id.clone())
    }

    fn wants(&self, of: &Observation<'_>) -> bool {
        match &of.act {
            Act::Began { request, .. } => {
                self.follows(of.coordination)
                    || (self.samples_request(request) && self.follow(of.coordination))
            }
            Act::Ended { .. } => self.followed().remove(of.coordination),
            _ => self.follows(of.coordination),
        }
    }

    fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        let Waiting { told, dropped } = std::mem::take(&mut *self.waiting());
        if dropped > 0 {
            tracing::warn!(dropped, "the loop is too slow for the spans: some are missing");
        }
        let batch = PyList::empty(py);
        for told in told {
            batch.append(told.into_tuple(py)?)?;
        }
        match self.spans.call_method1(py, pyo3::intern!(py, "take"), (batch,)) {
            Err(error) if error.is_instance_of::<PyReferenceError>(py) => Ok(()),
            taken => taken.map(drop),
        }
    }
}

impl Observer for Traces {
    fn observe(&self, of: &Observation<'_>) {
        if !self.wants(of) {
            return;
        }
        let told = Told::of(of);
        let mut waiting = self.waiting();
        if waiting.told.len() >= WAITING_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.told.push(told);
        let is_first = waiting.told.len() == 1;
        drop(waiting);
        if let (true, Some(this)) = (is_first, self.this.upgrade()) {
            self.bridge.push(Item::Run(Box::new(move |py| this.hand_over(py))));
        }
    }
}

impl Told {
    fn of(of: &Observation<'_>) -> Self {
        // Ended now: the engine's own clock does not follow the system's when that is set.
        let ended_ns = now_ns();
        let took = u64::try_from(of.duration.as_nanos()).unwrap_or(u64::MAX);
        let (code, message) = match of.ending {
            Ending::Done => ("", ""),
            Ending::Refused { code, message } | Ending::Unknown { code, message } => {
                (code, message)
            }
        };
        let (act, mut details) = act_of(&of.act);
        details.push(("type", Detail::Text(of.kind.as_str().to_owned())));
        Self {
            act,
            coordination: of.coordination.clone(),
            began_ns: ended_ns.saturating_sub(took),
            ended_ns,
            ending: of.ending.as_str(),
            code: code.to_owned(),
            message: message.to_owned(),
            details,
        }
    }

    fn into_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let details = PyDict::new(py);
        for (name, detail) in self.details {
            match detail {
                Detail::Text(text) => details.set_item(name, text),
                Detail::Number(number) => details.set_item(name, number),
                Detail::Truth(truth) => details.set_item(name, truth),
            }?;
        }
        let id = self.coordination.as_str();
        let times = (self.began_ns, self.ended_ns);
        let ending = (self.ending, self.code, self.message);
        let told = (self.act, id, times.0, times.1, ending.0, ending.1, ending.2, details);
        Ok(told.into_pyobject(py)?.into_any())
    }
}

fn act_of(act: &Act<'_>) -> (&'static str, Vec<(&'static str, Detail)>) {
    let text = |words: &str| Detail::Text(words.to_owned());
    match act {
        Act::Began { request, is_resumed } => {
            let notes = trace_notes(&request.metadata).filter_map(|(key, value)| {
                let key = if key == "traceparent" { "traceparent" } else { "tracestate" };
                value.as_text().map(|words| (key, text(words)))
            });
            ("began", notes.chain([("is_resumed", Detail::Truth(*is_resumed))]).collect())
        }
        Act::Locks { count } => {
            ("locks", vec![("count", Detail::Number(u64::try_from(*count).unwrap_or(u64::MAX)))])
        }
        Act::Record { kind } => ("record", vec![("kind", text(kind))]),
        Act::Propose { decision } => ("propose", vec![("decision", text(decision.as_str()))]),
        Act::ReadDecision => ("read_decision", Vec::new()),
        Act::Call { call, store, operation, attempt } => {
            let mut details = vec![("call", text(call.as_str())), ("store", text(store.as_str()))];
            details.extend(operation.map(|operation| ("operation", text(operation))));
            details.extend(attempt.map(|attempt| ("attempt", Detail::Number(attempt.into()))));
            ("call", details)
        }
        Act::Ended { outcome, .. } => {
            let (word, state) = (records::outcome_name(outcome.kind), outcome.state.as_str());
            ("ended", vec![("outcome", text(word)), ("state", text(state))])
        }
        // A word that is newer than this list.
        _ => ("other", Vec::new()),
    }
}

/// A call of a store's method that belongs to a traced coordination.
pub(crate) struct TracedCall {
    traces: Arc<Traces>,
    coordination: CoordinationId,
    call: &'static str,
    store: String,
    operation: Option<String>,
    asked_ns: u64,
}

impl TracedCall {
    /// `None` where the coordination is not traced.
    pub(crate) fn of(
        traces: Option<&Arc<Traces>>,
        coordination: &CoordinationId,
        call: &'static str,
        store: &str,
        operation: Option<&str>,
    ) -> Option<Self> {
        let traces = traces.filter(|traces| traces.follows(coordination))?;
        Some(Self {
            traces: Arc::clone(traces),
            coordination: coordination.clone(),
            call,
            store: store.to_owned(),
            operation: operation.map(str::to_owned),
            asked_ns: now_ns(),
        })
    }

    /// The context in which the method runs, with its span in it, and what carries the trace on.
    pub(crate) fn start<'py>(
        &self,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let py = context.py();
        // What was told before has been made spans of before this one is begun.
        self.traces.hand_over(py)?;
        let spans = self.traces.spans.bind(py);
        let (id, operation) = (self.coordination.as_str(), self.operation.as_deref());
        let asked = (context, id, self.call, self.store.as_str(), operation, self.asked_ns);
        spans.call_method1(pyo3::intern!(py, "call_starts"), asked)?.extract()
    }
}

/// What Python holds of [`Traces`].
#[pyclass(frozen)]
pub(crate) struct Tracer(pub(crate) Arc<Traces>);

#[pymethods]
impl Tracer {
    #[new]
    fn new(bridge: &Bound<'_, Bridge>, spans: Py<PyAny>, rate: f64) -> Self {
        let bridge = Arc::clone(&bridge.get().shared);
        let (followed, waiting) = (Mutex::default(), Mutex::default());
        Self(Arc::new_cyclic(|this| Traces {
            bridge,
            spans,
            rate,
            followed,
            waiting,
            this: this.clone(),
        }))
    }

    /// Whether the share of traces that are kept has this coordination.
    fn samples(&self, coordination_id: &str) -> bool {
        CoordinationId::new(coordination_id).is_ok_and(|id| self.0.samples(&id))
    }

    /// From now on everything of it is told; false where it is told already, or cannot be.
    fn follow(&self, coordination_id: &str) -> bool {
        CoordinationId::new(coordination_id).is_ok_and(|id| self.0.follow(&id))
    }

    /// Nothing of it is told any more.
    fn forget(&self, py: Python<'_>, coordination_id: &str) -> PyResult<()> {
        errors::guarded(py, || {
            if let Ok(id) = CoordinationId::new(coordination_id) {
                self.0.followed().remove(&id);
            }
            Ok(())
        })
    }

    /// Hands over what waits, at once.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.0.hand_over(py)
    }
}

/// Puts the trace's entries into a request's metadata; a trace that its caller named stays.
pub(crate) fn put_notes(metadata: &mut Value, notes: Vec<(String, String)>) {
    let is_named = trace_notes(metadata).next().is_some();
    if let (false, Value::Map(entries)) = (is_named, metadata) {
        entries.extend(notes.into_iter().map(|(key, words)| (key, Value::Text(words))));
    }
}

/// The trace's entries for a request's metadata, as Python carries them.
pub(crate) fn notes_of(carrier: &Bound<'_, PyDict>) -> PyResult<Vec<(String, String)>> {
    let mut notes = Vec::with_capacity(carrier.len());
    for (key, value) in carrier {
        notes.push((key.extract()?, value.cast_into::<PyString>()?.to_str()?.to_owned()));
    }
    Ok(notes)
}
