//! Errors of the engine as exceptions of `unanimity._exceptions`, panics included.
//!
//! A mapping, nothing else. Invariant: what leaves here is an ordinary `Exception`.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};
use unanimity::engine::EngineError;
use unanimity::events::EventBusError;
use unanimity::journal::JournalError;
use unanimity::participants::ParticipantError;

fn module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let module =
        MODULE.get_or_try_init(py, || py.import("unanimity._exceptions").map(Bound::unbind))?;
    Ok(module.bind(py))
}

/// An exception of that class, with a stable code.
pub(crate) fn exception(
    py: Python<'_>,
    class: &str,
    message: &str,
    details: &[(&str, &str)],
) -> PyErr {
    let made = module(py).and_then(|module| {
        let keywords = PyDict::new(py);
        for (key, value) in details {
            keywords.set_item(key, value)?;
        }
        module.getattr(class)?.call((message,), Some(&keywords))
    });
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

/// Does `work`; a panic in it, which is a mistake of ours, becomes an `InternalError`. The panic
/// itself was logged when it happened (`logging`).
pub(crate) fn guarded<T>(py: Python<'_>, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    // What `work` has changed is ours, behind locks that are taken in spite of a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = EngineError::Internal { message: panic_words(panic.as_ref()).to_owned() };
        Err(of_engine(py, &message))
    })
}

/// Does `work` where Python is not; a panic in it is given back as its words.
pub(crate) fn unpanicked<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_words(panic.as_ref()).to_owned())
}

pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

/// Whether this is meant for whoever runs the loop, and not for who happens to run in it.
pub(crate) fn ends_the_program(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyKeyboardInterrupt>(py) || error.is_instance_of::<PySystemExit>(py)
}

pub(crate) fn of_engine(py: Python<'_>, error: &EngineError) -> PyErr {
    let message = error.to_string();
    match error {
        EngineError::Closed => exception(py, "ServiceClosed", &message, &[]),
        EngineError::Journal(error) => of_journal(py, error),
        EngineError::Store { store, .. } => {
            exception(py, "StoreError", &message, &[("store", store)])
        }
        EngineError::NotFound { id } => {
            let details = [("code", "request.not_found"), ("coordination_id", id.as_str())];
            exception(py, "InvalidRequest", &message, &details)
        }
        EngineError::CannotResolve { id, .. } => {
            let details = [("code", "request.cannot_resolve"), ("coordination_id", id.as_str())];
            exception(py, "InvalidRequest", &message, &details)
        }
        EngineError::CannotProject { store, .. } => {
            let details = [("code", "request.cannot_project"), ("store", store.as_str())];
            exception(py, "InvalidRequest", &message, &details)
        }
        EngineError::CannotRedrive { .. } => {
            let details = [("code", "request.cannot_redrive")];
            exception(py, "InvalidRequest", &message, &details)
        }
        _ => exception(py, "InternalError", &message, &[]),
    }
}

pub(crate) fn of_journal(py: Python<'_>, error: &JournalError) -> PyErr {
    let code = match error {
        JournalError::Open { .. } => "journal.open",
        JournalError::Foreign { .. } => "journal.foreign",
        JournalError::Damaged { .. } => "journal.damaged",
        JournalError::NewerSchema { .. } => "journal.newer_schema",
        JournalError::Closed => "journal.closed",
        _ => "journal.unavailable",
    };
    exception(py, "JournalError", &error.to_string(), &[("code", code)])
}

pub(crate) fn of_event_bus(py: Python<'_>, error: &EventBusError) -> PyErr {
    let code = match error {
        EventBusError::Refused { .. } => "events.refused",
        EventBusError::Closed => "events.closed",
        _ => "events.unavailable",
    };
    exception(py, "EventBusError", &error.to_string(), &[("code", code)])
}

pub(crate) fn of_store(py: Python<'_>, store: &str, error: &ParticipantError) -> PyErr {
    exception(py, "StoreError", &error.message, &[("store", store)])
}
