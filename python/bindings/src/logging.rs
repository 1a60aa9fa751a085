//! The engine's `tracing` events on their way to Python's `logging`, in batches.
//!
//! A bounded queue and the least of a subscriber; spans are not kept. Levels and handlers are the
//! user's: the logger is "unanimity.engine", and nothing is printed here. Invariants: a full queue
//! drops the newest and counts it; nothing waits; every record has a `coordination_id`, a `store`
//! and a `code`, `None` where it is about none, so that a format may name them.

use std::fmt::{self, Debug, Display, Formatter, Write as _};
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tracing_core::field::Visit;
use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Event, Level, Metadata, Subscriber, dispatcher};

use crate::bridge::Shared;

const RECORDS_MAX: usize = 4_096;

/// Fields that every record has in `extra`, and how they are called there.
const COMMON: [(&str, &str); 3] =
    [("coordination", "coordination_id"), ("store", "store"), ("code", "code")];
/// How many were dropped since the process began.
static DROPPED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

struct LogRecord {
    level: u8,
    target: &'static str,
    message: Option<String>,
    fields: Vec<(&'static str, Field)>,
}

/// A field's value, as `extra` has it.
enum Field {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

impl Display for Field {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => formatter.write_str(text),
            Self::Int(number) => write!(formatter, "{number}"),
            Self::Float(number) => write!(formatter, "{number}"),
            Self::Bool(truth) => write!(formatter, "{truth}"),
        }
    }
}

pub(crate) struct Pending {
    records: Vec<LogRecord>,
    dropped: u64,
    bridge: Weak<Shared>,
}

impl Pending {
    /// In a forked child: these are the parent's, and its loop is not here.
    pub(crate) fn forget(&mut self) {
        self.records.clear();
        self.dropped = 0;
        self.bridge = Weak::new();
    }
}

static PENDING: Mutex<Pending> =
    Mutex::new(Pending { records: Vec::new(), dropped: 0, bridge: Weak::new() });

/// Held for a moment only, and never while Python or user code runs.
pub(crate) fn pending() -> MutexGuard<'static, Pending> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on records leave through this bridge.
pub(crate) fn send_to(bridge: &Arc<Shared>) {
    pending().bridge = Arc::downgrade(bridge);
}

/// Makes panics records of the log, instead of words on stderr, and starts gathering records.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        // Fails only where somebody in this process installed one before; then that one is used.
        let _ = dispatcher::set_global_default(dispatcher::Dispatch::new(Collector));
        // The hook is that of this module's own copy of the standard library, nobody else's.
        panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let words = panic.payload();
            let text = words.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| words.downcast_ref::<&str>().copied()).unwrap_or("?");
            tracing::error!(place, "a mistake of unanimity, please report it: {text}");
        }));
    });
}

struct Collector;

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The engine's, and this module's own.
        let target = metadata.target();
        metadata.is_event()
            && *metadata.level() <= Level::INFO
            && (target.starts_with("unanimity") || target.starts_with(env!("CARGO_CRATE_NAME")))
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
        let target = event.metadata().target();
        let mut record = LogRecord { level, target, message: None, fields: Vec::new() };
        event.record(&mut record);
        let bridge = {
            let mut pending = pending();
            if pending.records.len() < RECORDS_MAX {
                pending.records.push(record);
            } else {
                pending.dropped += 1;
                DROPPED.fetch_add(1, Ordering::Relaxed);
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
    fn record_debug(&mut self, field: &tracing_core::Field, value: &dyn Debug) {
        // The text comes first; a field that is called so too comes after it.
        if field.name() == "message" && self.message.is_none() {
            self.message = Some(format!("{value:?}"));
        } else {
            self.fields.push((field.name(), Field::Text(format!("{value:?}"))));
        }
    }

    fn record_str(&mut self, field: &tracing_core::Field, value: &str) {
        self.fields.push((field.name(), Field::Text(value.to_owned())));
    }

    fn record_i64(&mut self, field: &tracing_core::Field, value: i64) {
        self.fields.push((field.name(), Field::Int(value)));
    }

    fn record_u64(&mut self, field: &tracing_core::Field, value: u64) {
        self.fields.push((field.name(), Field::Int(i64::try_from(value).unwrap_or(i64::MAX))));
    }

    fn record_f64(&mut self, field: &tracing_core::Field, value: f64) {
        self.fields.push((field.name(), Field::Float(value)));
    }

    fn record_bool(&mut self, field: &tracing_core::Field, value: bool) {
        self.fields.push((field.name(), Field::Bool(value)));
    }
}

/// Gives everything that waits to `logging`, on a thread of Python's.
pub(crate) fn hand_over(py: Python<'_>) -> PyResult<()> {
    let (records, dropped) = {
        let mut pending = pending();
        (std::mem::take(&mut pending.records), std::mem::take(&mut pending.dropped))
    };
    if records.is_empty() && dropped == 0 {
        return Ok(());
    }
    let logger = py.import("logging")?.call_method1("getLogger", ("unanimity.engine",))?;
    for record in records {
        log(&logger, record)?;
    }
    if dropped > 0 {
        let message = "records of the engine's log were dropped".to_owned();
        let dropped = Field::Int(i64::try_from(dropped).unwrap_or(i64::MAX));
        let fields = vec![("dropped", dropped)];
        let target = module_path!();
        log(&logger, LogRecord { level: 30, target, message: Some(message), fields })?;
    }
    Ok(())
}

/// One record: its fields are in the text for people, and in `extra` for programs.
fn log(logger: &Bound<'_, PyAny>, record: LogRecord) -> PyResult<()> {
    let extra = PyDict::new(logger.py());
    extra.set_item("unanimity_target", record.target)?;
    for (name, public) in COMMON {
        let field = record.fields.iter().find(|(known, _)| *known == name);
        extra.set_item(public, field.map(|(_, value)| value.to_string()))?;
    }
    let mut message = record.message.unwrap_or_default();
    for (name, value) in record.fields {
        let _ = write!(message, " {name}={value}");
        let key = format!("unanimity_{name}");
        match value {
            Field::Text(text) => extra.set_item(key, text),
            Field::Int(number) => extra.set_item(key, number),
            Field::Float(number) => extra.set_item(key, number),
            Field::Bool(truth) => extra.set_item(key, truth),
        }?;
    }
    let keywords = PyDict::new(logger.py());
    keywords.set_item("extra", extra)?;
    logger.call_method("log", (record.level, "%s", message), Some(&keywords)).map(drop)
}
