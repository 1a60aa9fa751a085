//! Streams of events as Python asks for them: conversion and passing on.
//!
//! Not their order (the journal) and not the projections (the engine). Invariant: every event that
//! Python sees is made by `unanimity._streams.event_of`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyList;
use unanimity::journal::streams::Projection;
use unanimity::model::ids::{StoreName, StreamId};
use unanimity::model::stream::{Snapshot, StreamEvent};
use unanimity::model::time::Timestamp;

use crate::bridge::Shared;
use crate::convert::{Class, from_value, to_value};
use crate::coordinator::answer_to;
use crate::errors;
use crate::runtime::Engine;

/// The streams of a coordinator's journal.
#[pyclass(frozen)]
pub(crate) struct Streams {
    bridge: Arc<Shared>,
    engine: Arc<OnceLock<Arc<Engine>>>,
}

/// An event, as stores and callers see it.
pub(crate) fn event<'py>(py: Python<'py>, event: &StreamEvent) -> PyResult<Bound<'py, PyAny>> {
    static MAKE: Class = Class::new("unanimity._streams", "event_of");
    MAKE.get(py)?.call1((
        event.stream.as_str(),
        event.version,
        event.kind.as_str(),
        from_value(py, &event.data)?,
        from_value(py, &event.metadata)?,
        event.position,
        event.recorded_at.0,
    ))
}

pub(crate) fn events(py: Python<'_>, found: &[StreamEvent]) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for one in found {
        list.append(event(py, one)?)?;
    }
    Ok(list.into_any().unbind())
}

fn snapshot(py: Python<'_>, found: Option<&Snapshot>) -> PyResult<Py<PyAny>> {
    let Some(found) = found else { return Ok(py.None()) };
    let state = from_value(py, &found.state)?;
    let row = (found.version, state, found.taken_at.0).into_pyobject(py)?;
    Ok(row.into_any().unbind())
}

/// Rows of what `ProjectionRecord` is made of.
fn projections(py: Python<'_>, found: &[Projection]) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for one in found {
        let parked = one.parked.as_ref();
        list.append((
            one.store.as_str(),
            one.position,
            parked.map(|parked| parked.position),
            parked.map(|parked| parked.message.as_str()),
        ))?;
    }
    Ok(list.into_any().unbind())
}

impl Streams {
    pub(crate) fn new(bridge: &Arc<Shared>, engine: &Arc<OnceLock<Arc<Engine>>>) -> Self {
        Self { bridge: Arc::clone(bridge), engine: Arc::clone(engine) }
    }

    fn engine(&self, py: Python<'_>) -> PyResult<&Arc<Engine>> {
        self.engine.get().ok_or_else(|| {
            errors::exception(py, "ServiceClosed", "the service is not started", &[])
        })
    }
}

pub(crate) fn stream_id(py: Python<'_>, id: &str) -> PyResult<StreamId> {
    StreamId::new(id).map_err(|error| invalid(py, &format!("stream_id cannot be used: {error}")))
}

fn invalid(py: Python<'_>, message: &str) -> PyErr {
    errors::exception(py, "InvalidRequest", message, &[])
}

#[pymethods]
impl Streams {
    fn read(
        &self,
        py: Python<'_>,
        stream: &str,
        from_version: u64,
        limit: usize,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let stream = stream_id(py, stream)?;
        let reply =
            answer_to(&self.bridge, future, |py, found: Vec<StreamEvent>| events(py, &found));
        self.engine(py)?.read_stream(stream, from_version, limit, reply);
        Ok(())
    }

    /// Events behind a position, as soon as there are any, or none after `patience` seconds.
    fn next_events(
        &self,
        py: Python<'_>,
        after: u64,
        limit: usize,
        patience: f64,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let patience = Duration::try_from_secs_f64(patience).unwrap_or_default();
        let reply =
            answer_to(&self.bridge, future, |py, found: Vec<StreamEvent>| events(py, &found));
        self.engine(py)?.next_events(after, limit, patience, reply);
        Ok(())
    }

    fn version(&self, py: Python<'_>, stream: &str, future: Py<PyAny>) -> PyResult<()> {
        let stream = stream_id(py, stream)?;
        let reply = answer_to(&self.bridge, future, |py, version: u64| {
            Ok(version.into_pyobject(py)?.into_any().unbind())
        });
        self.engine(py)?.stream_version(stream, reply);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the Python method's parameters")]
    fn save_snapshot(
        &self,
        py: Python<'_>,
        stream: &str,
        version: u64,
        state: &Bound<'_, PyAny>,
        taken_at: i64,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let state = to_value(state).map_err(|mut bad| {
            bad.raised.take().unwrap_or_else(|| invalid(py, &bad.describe("state")))
        })?;
        let (stream, taken_at) = (stream_id(py, stream)?, Timestamp(taken_at));
        let reply = answer_to(&self.bridge, future, |py, kept: bool| {
            Ok(kept.into_pyobject(py)?.to_owned().into_any().unbind())
        });
        let snapshot = Snapshot { stream, version, state, taken_at };
        self.engine(py)?.save_snapshot(snapshot, reply);
        Ok(())
    }

    /// Version, state and time of the snapshot.
    fn load_snapshot(&self, py: Python<'_>, stream: &str, future: Py<PyAny>) -> PyResult<()> {
        let stream = stream_id(py, stream)?;
        let reply = answer_to(&self.bridge, future, |py, found: Option<Snapshot>| {
            snapshot(py, found.as_ref())
        });
        self.engine(py)?.load_snapshot(stream, reply);
        Ok(())
    }

    fn projections(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        let reply =
            answer_to(&self.bridge, future, |py, found: Vec<Projection>| projections(py, &found));
        self.engine(py)?.projections(reply);
        Ok(())
    }

    fn rebuild(&self, py: Python<'_>, store: &str, future: Py<PyAny>) -> PyResult<()> {
        let store = StoreName::new(store)
            .map_err(|error| invalid(py, &format!("store_name cannot be used: {error}")))?;
        let reply = answer_to(&self.bridge, future, |py, count: u64| {
            Ok(count.into_pyobject(py)?.into_any().unbind())
        });
        self.engine(py)?.rebuild_projection(store, reply);
        Ok(())
    }
}
