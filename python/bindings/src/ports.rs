//! A user's consensus service, event bus and alerting service as ports; who is told events.
//!
//! Only the methods of the original interfaces are called. Invariants: a bus, a collector or an
//! alerting service that raises, hangs or is slow changes no outcome; what waits for a bus is
//! bounded, and what is dropped is logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::consensus::{Consensus, Proposal, Standing};
use unanimity::events::EventSink;
use unanimity::model::event::CoordinationEvent;
use unanimity::model::ids::CoordinationId;
use unanimity::model::lock::Deadlock;
use unanimity::model::outcome::Decision;
use unanimity::model::value::Value;
use unanimity::observe::{Alert, Alerting, Severity, Tally};
use unanimity::reply::Reply;

use crate::bridge::{Item, Shared};
use crate::call::{Answers, Argument, Call, Method, Place};
use crate::collector::Collector;

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

/// What became of the events that a service told.
#[derive(Default)]
pub(crate) struct Told {
    /// How many events are on their way to the bus.
    pub(crate) under_way: Arc<AtomicUsize>,
    /// How many found no place there.
    pub(crate) dropped: AtomicU64,
    /// How often the bus raised.
    pub(crate) bus_errors: AtomicU64,
    collector: Option<Arc<Collector>>,
}

impl Told {
    /// How often the collector raised.
    pub(crate) fn collector_errors(&self) -> u64 {
        self.collector.as_ref().map_or(0, |collector| collector.errors.load(Ordering::Relaxed))
    }
}

/// Who is told events: our own counters, a bus, a collector and an alerting service.
pub(crate) struct PythonListeners {
    bridge: Arc<Shared>,
    tally: Arc<Tally>,
    publish: Option<Arc<Method>>,
    alerting: Option<Arc<PythonAlerting>>,
    told: Arc<Told>,
}

impl PythonListeners {
    pub(crate) fn adapt(
        bridge: &Arc<Shared>,
        tally: &Arc<Tally>,
        bus: Option<&Bound<'_, PyAny>>,
        metrics: Option<&Bound<'_, PyAny>>,
        alerting: Option<Arc<PythonAlerting>>,
    ) -> PyResult<Self> {
        let publish = bus.map(|bus| method(bus, "event bus", "publish_event")).transpose()?;
        let collector = metrics.map(|metrics| Arc::new(Collector::new(bridge, metrics)));
        let (bridge, tally) = (Arc::clone(bridge), Arc::clone(tally));
        let told = Arc::new(Told { collector, ..Told::default() });
        Ok(Self { bridge, tally, publish, alerting, told })
    }

    pub(crate) fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told)
    }
}

impl EventSink for PythonListeners {
    fn tell(&self, event: CoordinationEvent) {
        self.tally.note(&event);
        if let Some(collector) = &self.told.collector {
            collector.note(&event);
        }
        if let (Some(alerting), CoordinationEvent::Deadlock(deadlock)) = (&self.alerting, &event) {
            alerting.send(deadlock_alert(deadlock));
        }
        if let Some(publish) = &self.publish {
            self.publish(publish, &event);
        }
    }
}

impl PythonListeners {
    fn publish(&self, publish: &Arc<Method>, event: &CoordinationEvent) {
        let Some(place) = Place::take(&self.told.under_way, EVENTS_MAX) else {
            return self.note_dropped();
        };
        let told = Arc::clone(&self.told);
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(publish),
            argument: Argument::Map(event.to_value()),
            attachment: None,
            timeout: TELL_WAIT,
            answers: Answers::Told(Box::new(move |answer| {
                drop(place);
                if let Err(message) = answer {
                    told.bus_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!("{message}");
                }
            })),
        }));
    }

    /// The bus is too slow, or hangs. Said for the first one, then ever more seldom.
    fn note_dropped(&self) {
        let dropped = self.told.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "the event bus is too slow; events are dropped");
        }
    }
}

/// The original design's alert of a deadlock.
fn deadlock_alert(deadlock: &Deadlock) -> Value {
    let entry = |key: &str, value: Value| (key.to_owned(), value);
    let cycle = deadlock.cycle.iter().map(|name| name.as_str().into()).collect();
    let message = format!("Deadlock detected, aborting transaction: {}", deadlock.victim);
    Value::Map(vec![
        entry("severity", Severity::Medium.as_str().into()),
        entry("title", "Deadlock Detected".into()),
        entry("message", Value::Text(message)),
        entry("details", Value::Map(vec![entry("deadlock_cycle", Value::List(cycle))])),
    ])
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
