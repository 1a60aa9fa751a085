//! The engine's `tracing` events on their way to Python's `logging`, in batches.
//!
//! A bounded queue and the least of a subscriber; spans are not kept. Levels and handlers are the
//! user's: the logger is "unanimity.engine", and nothing is printed here. Invariant: a full queue
//! drops the newest and counts it; nothing waits.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tracing_core::field::{Field, Visit};
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, Metadata, Subscriber, dispatcher};

use crate::bridge::Shared;

const RECORDS_MAX: usize = 4_096;

struct LogRecord {
    level: u8,
    message: String,
    fields: Vec<(&'static str, String)>,
}

struct Pending {
    records: Vec<LogRecord>,
    dropped: u64,
    bridge: Weak<Shared>,
}

static PENDING: Mutex<Pending> =
    Mutex::new(Pending { records: Vec::new(), dropped: 0, bridge: Weak::new() });

/// From now on records leave through this bridge.
pub(crate) fn send_to(bridge: &Arc<Shared>) {
    static INSTALLED: Once = Once::new();
    PENDING.lock().unwrap_or_else(PoisonError::into_inner).bridge = Arc::downgrade(bridge);
    INSTALLED.call_once(|| {
        // Fails only where somebody in this process installed one before; then that one is used.
        let _ = dispatcher::set_global_default(dispatcher::Dispatch::new(Collector));
    });
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() <= Level::INFO
            && metadata.target().starts_with("unanimity")
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let mut record = LogRecord { level, message: String::new(), fields: Vec::new() };
        event.record(&mut record);
        let bridge = {
            let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.records.len() < RECORDS_MAX {
                pending.records.push(record);
            } else {
                pending.dropped += 1;
            }
            pending.bridge.upgrade()
        };
        if let Some(bridge) = bridge {
            bridge.has_logs();
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

impl Visit for LogRecord {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), format!("{value:?}")));
        }
    }
}

/// Gives everything that waits to `logging`, on the loop's thread.
pub(crate) fn hand_over(py: Python<'_>) -> PyResult<()> {
    let (records, dropped) = {
        let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut pending.records), std::mem::take(&mut pending.dropped))
    };
    let logger = py.import("logging")?.call_method1("getLogger", ("unanimity.engine",))?;
    for record in records {
        let extra = PyDict::new(py);
        let mut message = record.message;
        for (name, value) in record.fields {
            let _ = write!(message, " {name}={value}");
            extra.set_item(format!("unanimity_{name}"), value)?;
        }
        let keywords = PyDict::new(py);
        keywords.set_item("extra", extra)?;
        logger.call_method("log", (record.level, "%s", message), Some(&keywords))?;
    }
    if dropped > 0 {
        logger.call_method1("log", (30, "%d log records of the engine were dropped", dropped))?;
    }
    Ok(())
}
