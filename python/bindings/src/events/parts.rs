//! The words of event buses to Python and back: events, wishes, parked events.
//!
//! Invariant: an event is kept as the caller gave it, with its id added; what cannot be used is
//! refused with the key's name and what to give instead.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use unanimity::events::{BusEvent, EventBusError, ParkedEvent, SubscribeAsk};
use unanimity::model::value::Value;

use super::subscription::PythonHandler;
use crate::bridge::Shared;
use crate::call::Method;
use crate::convert::{Class, from_value, to_value};
use crate::errors;

/// What a handler may take on the loop beyond its own time, before its answer counts as lost: the
/// loop cancels it in time, unless something else keeps the loop busy.
const LOOP_MARGIN: Duration = Duration::from_secs(10);

fn invalid(py: Python<'_>, message: &str) -> PyErr {
    errors::exception(py, "InvalidRequest", message, &[("code", "events.invalid")])
}

/// A bus that cannot be made as it was asked for.
pub(super) fn misfit(py: Python<'_>, error: &EventBusError) -> PyErr {
    errors::exception(py, "ConfigError", &error.to_string(), &[])
}

/// Seconds that Python has checked.
pub(super) fn time(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| errors::exception(py, "ConfigError", &error.to_string(), &[]))
}

/// An event from its dict. Read are "type" (required), "event_id" (else one is minted) and
/// "stream" (else "coordination_id", else the type).
pub(super) fn event(given: &Bound<'_, PyAny>) -> PyResult<BusEvent> {
    let py = given.py();
    if given.cast::<PyDict>().is_err() {
        let kind = given.get_type().name()?;
        return Err(PyTypeError::new_err(format!("event is a {kind}; give a dict")));
    }
    let body = to_value(given).map_err(|bad| {
        let message = bad.describe("event");
        bad.raised.unwrap_or_else(|| invalid(py, &message))
    })?;
    let Some(kind) = text(py, &body, "type")? else {
        return Err(invalid(py, "event['type'] is missing; give a str"));
    };
    let id = match text(py, &body, "event_id")? {
        Some(id) => id,
        None => mint(py)?,
    };
    let stream = match text(py, &body, "stream")? {
        Some(stream) => stream,
        None => text(py, &body, "coordination_id").unwrap_or(None).unwrap_or_else(|| kind.clone()),
    };
    Ok(BusEvent { body: with_id(body, &id), id, kind, stream })
}

fn text(py: Python<'_>, body: &Value, key: &str) -> PyResult<Option<String>> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(Value::Text(_)) => Err(invalid(py, &format!("event['{key}'] is empty"))),
        Some(other) => {
            let kind = other.kind();
            Err(invalid(py, &format!("event['{key}'] is a {kind}; give a str")))
        }
    }
}

fn mint(py: Python<'_>) -> PyResult<String> {
    static MINT: Class = Class::new("unanimity._ids", "mint");
    MINT.get(py)?.call0()?.extract()
}

fn with_id(body: Value, id: &str) -> Value {
    let Value::Map(mut entries) = body else { return body };
    entries.retain(|(key, _)| key != "event_id");
    entries.push(("event_id".to_owned(), Value::from(id)));
    Value::Map(entries)
}

pub(super) fn subscribe_ask(
    home: &Arc<Shared>,
    (kind, group): (Option<String>, Option<String>),
    handler: &Bound<'_, PyAny>,
    (attempts_max, in_flight_max, seconds): (u32, usize, f64),
) -> PyResult<SubscribeAsk> {
    let py = handler.py();
    let stores = py.import("unanimity._stores")?;
    let is_async = stores.call_method1("is_async", (handler,))?.is_truthy()?;
    let owner = format!("the subscription to {:?}", kind.as_deref().unwrap_or("*"));
    let callable = handler.clone().unbind();
    let method = Arc::new(Method { callable, is_async, owner, name: "handler" });
    let timeout = time(py, seconds)?;
    let handler = Arc::new(PythonHandler { bridge: Arc::clone(home), method, timeout });
    let timeout = timeout.saturating_add(LOOP_MARGIN);
    Ok(SubscribeAsk { kind, group, handler, attempts_max, in_flight_max, timeout })
}

pub(super) fn truth(py: Python<'_>, truth: bool) -> PyResult<Py<PyAny>> {
    Ok(truth.into_pyobject(py)?.to_owned().into_any().unbind())
}

/// As tuples, for `ParkedEvent.from_engine`.
pub(super) fn parked_events(py: Python<'_>, parked: &[ParkedEvent]) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for one in parked {
        let event = from_value(py, &one.event.body)?;
        let ParkedEvent { event: BusEvent { id, .. }, group, attempts, message, parked_at } = one;
        list.append((event, id, group, attempts, message, parked_at.0))?;
    }
    Ok(list.into_any().unbind())
}
