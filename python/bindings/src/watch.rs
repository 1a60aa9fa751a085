//! What alert rules look at: events counted since the last look, and what is open.
//!
//! Not the rules: those are `unanimity._alert_rules`. Invariant: counting is all that happens where
//! an event arises; Python is entered for a look, never for an event.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use unanimity::engine::open_work::{Backlog, OpenWork};
use unanimity::events::EventSink;
use unanimity::model::event::CoordinationEvent;
use unanimity::model::ids::CoordinationId;
use unanimity::observe::{Beat, Pulse};

use crate::ports::PythonListeners;

/// Counts events, and passes them on to whoever listens.
pub(crate) struct Counting {
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) next: PythonListeners,
}

impl EventSink for Counting {
    fn tell(&self, event: CoordinationEvent) {
        self.pulse.note(&event);
        self.next.tell(event);
    }
}

/// Who is told events: the listeners, counted where somebody looks at the counts.
pub(crate) fn sink_of(pulse: Option<Arc<Pulse>>, listeners: PythonListeners) -> Arc<dyn EventSink> {
    match pulse {
        Some(pulse) => Arc::new(Counting { pulse, next: listeners }),
        None => Arc::new(listeners),
    }
}

/// The dict that `Reading` is made of.
pub(crate) fn look(py: Python<'_>, beat: &Beat, open: &OpenWork) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("ended", beat.ended)?;
    dict.set_item("failed", beat.failed)?;
    dict.set_item("slow", beat.slow)?;
    dict.set_item("slowest_ms", beat.slowest_ms)?;
    dict.set_item("deadlocks", beat.deadlocks)?;
    let failures: Vec<(&str, &str)> =
        beat.failures.iter().map(|failure| (failure.id.as_str(), failure.words.as_str())).collect();
    dict.set_item("failures", failures)?;
    let lost = beat.lost_majority.as_ref().map(|lost| (&lost.node, &lost.unreachable));
    dict.set_item("lost_majority", lost)?;
    dict.set_item("in_doubt", backlog(&open.in_doubt))?;
    dict.set_item("undelivered", backlog(&open.undelivered))?;
    dict.set_item("parked", backlog(&open.parked))?;
    dict.set_item("journal_fails", open.journal_fails)?;
    Ok(dict.into_any().unbind())
}

/// How many, the age of the oldest in seconds, the ids of some.
fn backlog(open: &Backlog) -> (u64, f64, Vec<&str>) {
    let ids = open.ids.iter().map(CoordinationId::as_str).collect();
    (open.count, open.oldest.as_secs_f64(), ids)
}
