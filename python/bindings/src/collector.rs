//! A user's metrics collector: told the original design's metrics of each event, in batches.
//!
//! Not our own collector, which reads what the engine counts when it is asked (`numbers`). Where
//! events arise they are only kept; the loop's drain takes all that there are by one entry into
//! Python. Invariants: what waits is bounded; a collector that raises changes nothing and is logged
//! once; only the methods of the original design are called, as that calls them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use unanimity::model::event::CoordinationEvent;
use unanimity::observe::metrics::{
    COMPLETED, DEADLOCKS, DURATION, FAILED, Metric, PARTITIONS, STARTED,
};

use crate::bridge::{Item, Shared};
use crate::errors;

/// How many calls may wait for the loop.
const WAITING_MAX: usize = 20_000;

/// One call.
enum Call {
    Increment { metric: &'static Metric, label: Option<&'static str> },
    Record { metric: &'static Metric, seconds: f64 },
}

pub(crate) struct Collector {
    bridge: Arc<Shared>,
    object: Py<PyAny>,
    waiting: Mutex<Vec<Call>>,
    dropped: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Collector {
    pub(crate) fn new(bridge: &Arc<Shared>, object: &Bound<'_, PyAny>) -> Self {
        Self {
            bridge: Arc::clone(bridge),
            object: object.clone().unbind(),
            waiting: Mutex::default(),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Keeps what is to be told of an event. Never waits, and never enters Python.
    pub(crate) fn note(self: &Arc<Self>, event: &CoordinationEvent) {
        match event {
            CoordinationEvent::Started { kind, .. } => self.add(&STARTED, Some(kind.as_str())),
            CoordinationEvent::Completed { success, duration_ms, .. } => {
                self.add(&COMPLETED, Some(if *success { "True" } else { "False" }));
                let seconds = Duration::from_millis(*duration_ms).as_secs_f64();
                self.keep(Call::Record { metric: &DURATION, seconds });
            }
            CoordinationEvent::Failed { .. } => self.add(&FAILED, None),
            CoordinationEvent::Deadlock(_) => self.add(&DEADLOCKS, None),
            CoordinationEvent::Partition { .. } => self.add(&PARTITIONS, None),
            _ => {}
        }
    }

    fn add(self: &Arc<Self>, metric: &'static Metric, label: Option<&'static str>) {
        self.keep(Call::Increment { metric, label });
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Call>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, call: Call) {
        let mut waiting = self.waiting();
        if waiting.len() >= WAITING_MAX {
            drop(waiting);
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "the loop is too slow for the metrics collector");
            }
            return;
        }
        waiting.push(call);
        let is_first = waiting.len() == 1;
        drop(waiting);
        if is_first {
            self.announce();
        }
    }

    fn announce(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.bridge.push(Item::Run(Box::new(move |py| this.hand_over(py))));
    }

    /// Tells everything that waits, on the loop's thread. Fails only with what ends the program;
    /// the rest is told after it, should the loop go on.
    fn hand_over(self: &Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let calls = std::mem::take(&mut *self.waiting());
        let object = self.object.bind(py);
        let mut calls = calls.into_iter();
        while let Some(call) = calls.next() {
            let Err(error) = errors::guarded(py, || tell(object, &call)) else { continue };
            if errors::ends_the_program(py, &error) {
                let rest: Vec<Call> = calls.chain(std::mem::take(&mut *self.waiting())).collect();
                if !rest.is_empty() {
                    *self.waiting() = rest;
                    self.announce();
                }
                return Err(error);
            }
            if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!("the metrics collector raised {error}; this is said once");
            }
        }
        Ok(())
    }
}

fn tell(object: &Bound<'_, PyAny>, call: &Call) -> PyResult<()> {
    let py = object.py();
    match call {
        Call::Record { metric, seconds } => {
            object.call_method1("record_histogram", (metric.name, seconds)).map(drop)
        }
        Call::Increment { metric, label: None } => {
            object.call_method1("increment_counter", (metric.name,)).map(drop)
        }
        Call::Increment { metric, label: Some(value) } => {
            let (labels, keywords) = (PyDict::new(py), PyDict::new(py));
            labels.set_item(metric.labels[0], value)?;
            keywords.set_item("labels", labels)?;
            object.call_method("increment_counter", (metric.name,), Some(&keywords)).map(drop)
        }
    }
}
