//! A user's consensus service, event bus, metrics collector and alerting service as ports.
//!
//! Only the methods of the original interfaces are called. Invariants: a bus, a collector or an
//! alerting service that raises, hangs or is slow changes no outcome; what waits for a bus is
//! bounded, and what is dropped is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use unanimity::consensus::{Consensus, Proposal, Standing};
use unanimity::events::EventSink;
use unanimity::model::event::CoordinationEvent;
use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::Decision;
use unanimity::model::value::Value;
use unanimity::observe::{Alert, Alerting};
use unanimity::reply::Reply;

use crate::bridge::{Item, Shared};
use crate::call::{Answers, Argument, Call, Method, Place};

/// How long a consensus service may take for an answer before it counts as lost.
const CONSENSUS_WAIT: Duration = Duration::from_secs(10);
/// How many events may be on their way to a bus, and how many alerts.
const EVENTS_MAX: usize = 10_000;
/// How long a bus or an alerting service may take for one event.
const TELL_WAIT: Duration = Duration::from_secs(10);

/// The bound method of that name, and whether a call of it gives a coroutine.
pub(crate) fn method(
    object: &Bound<'_, PyAny>,
    owner: &str,
    name: &'static str,
) -> PyResult<Arc<Method>> {
    let callable = object.getattr(name)?;
    let stores = object.py().import("unanimity._stores")?;
    let is_async = stores.call_method1("is_async", (&callable,))?.is_truthy()?;
    Ok(Arc::new(Method { callable: callable.unbind(), is_async, owner: owner.to_owned(), name }))
}

pub(crate) struct PythonConsensus {
    bridge: Arc<Shared>,
    propose: Arc<Method>,
    read: Arc<Method>,
}

impl PythonConsensus {
    pub(crate) fn adapt(bridge: &Arc<Shared>, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let owner = "consensus service";
        Ok(Self {
            bridge: Arc::clone(bridge),
            propose: method(object, owner, "propose_coordination_decision")?,
            read: method(object, owner, "get_consensus_status")?,
        })
    }
}

impl Consensus for PythonConsensus {
    fn propose(
        &self,
        id: &CoordinationId,
        decision: Decision,
        evidence: Value,
        reply: Reply<Proposal>,
    ) {
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(&self.propose),
            argument: Argument::Proposal { id: id.clone(), decision, evidence },
            attachment: None,
            timeout: CONSENSUS_WAIT,
            answers: Answers::Proposal(reply),
        }));
    }

    fn read(&self, id: &CoordinationId, reply: Reply<Standing>) {
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(&self.read),
            argument: Argument::Id(id.clone()),
            attachment: None,
            timeout: CONSENSUS_WAIT,
            answers: Answers::Standing(reply),
        }));
    }
}

/// A bus and a collector together: both are told the same events.
pub(crate) struct PythonListeners {
    bridge: Arc<Shared>,
    publish: Option<Arc<Method>>,
    metrics: Option<Arc<Py<PyAny>>>,
    /// How many events are on their way to the bus.
    under_way: Arc<AtomicUsize>,
    dropped: AtomicU64,
}

impl PythonListeners {
    pub(crate) fn adapt(
        bridge: &Arc<Shared>,
        bus: Option<&Bound<'_, PyAny>>,
        metrics: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Self>> {
        if bus.is_none() && metrics.is_none() {
            return Ok(None);
        }
        let publish = bus.map(|bus| method(bus, "event bus", "publish_event")).transpose()?;
        let metrics = metrics.map(|metrics| Arc::new(metrics.clone().unbind()));
        let under_way = Arc::new(AtomicUsize::new(0));
        let (bridge, dropped) = (Arc::clone(bridge), AtomicU64::new(0));
        Ok(Some(Self { bridge, publish, metrics, under_way, dropped }))
    }
}

impl EventSink for PythonListeners {
    fn tell(&self, event: CoordinationEvent) {
        if let Some(metrics) = &self.metrics {
            let (metrics, event) = (Arc::clone(metrics), event.clone());
            self.bridge.push(Item::Run(Box::new(move |py| count(metrics.bind(py), &event))));
        }
        if let Some(publish) = &self.publish {
            let Some(place) = Place::take(&self.under_way, EVENTS_MAX) else {
                return self.note_dropped();
            };
            self.bridge.push(Item::Call(Call {
                method: Arc::clone(publish),
                argument: Argument::Map(event.to_value()),
                attachment: None,
                timeout: TELL_WAIT,
                answers: Answers::Nobody(place),
            }));
        }
    }
}

impl PythonListeners {
    /// The bus is too slow, or hangs. Said for the first one, then ever more seldom.
    fn note_dropped(&self) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "the event bus is too slow; events are dropped");
        }
    }
}

/// The metrics of the original design, by their names.
fn count(metrics: &Bound<'_, PyAny>, event: &CoordinationEvent) -> PyResult<()> {
    let py = metrics.py();
    let increment = |name: &str, label: &str, value: &str| -> PyResult<()> {
        let labels = PyDict::new(py);
        labels.set_item(label, value)?;
        let keywords = PyDict::new(py);
        keywords.set_item("labels", labels)?;
        metrics.call_method("increment_counter", (name,), Some(&keywords)).map(drop)
    };
    match event {
        CoordinationEvent::Started { kind, .. } => {
            increment("coordination_transactions_started_total", "type", kind.as_str())
        }
        CoordinationEvent::Completed { success, duration_ms, .. } => {
            let success = if *success { "True" } else { "False" };
            increment("coordination_transactions_completed_total", "success", success)?;
            let seconds = Duration::from_millis(*duration_ms).as_secs_f64();
            let name = "coordination_transaction_duration_seconds";
            metrics.call_method1("record_histogram", (name, seconds)).map(drop)
        }
        CoordinationEvent::Deadlock(_) => {
            let name = "coordination_deadlocks_detected_total";
            metrics.call_method1("increment_counter", (name,)).map(drop)
        }
        CoordinationEvent::Partition { .. } => {
            let name = "coordination_partitions_detected_total";
            metrics.call_method1("increment_counter", (name,)).map(drop)
        }
        _ => Ok(()),
    }
}

pub(crate) struct PythonAlerting {
    bridge: Arc<Shared>,
    send: Arc<Method>,
    under_way: Arc<AtomicUsize>,
}

impl PythonAlerting {
    pub(crate) fn adapt(bridge: &Arc<Shared>, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let send = method(object, "alerting service", "send_alert")?;
        let under_way = Arc::new(AtomicUsize::new(0));
        Ok(Self { bridge: Arc::clone(bridge), send, under_way })
    }
}

impl Alerting for PythonAlerting {
    fn raise(&self, alert: Alert) {
        let entry = |key: &str, value: Value| (key.to_owned(), value);
        let id = Value::from(alert.coordination.as_str());
        // One that finds no place is in the log all the same.
        self.send(Value::Map(vec![
            entry("severity", alert.severity.as_str().into()),
            entry("title", Value::Text(alert.title)),
            entry("message", Value::Text(alert.message)),
            entry("details", Value::Map(vec![entry("coordination_id", id)])),
        ]));
    }
}

impl PythonAlerting {
    /// Sends an alert by its keywords; whether there was a place for it.
    pub(crate) fn send(&self, keywords: Value) -> bool {
        let Some(place) = Place::take(&self.under_way, EVENTS_MAX) else { return false };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(&self.send),
            argument: Argument::Keywords(keywords),
            attachment: None,
            timeout: TELL_WAIT,
            answers: Answers::Nobody(place),
        }));
        true
    }
}
