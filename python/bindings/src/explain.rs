//! What would be done with a request, as plain tuples for the package's own classes.
//!
//! Converts and passes on. Invariant: nothing is asked of any store.

use pyo3::prelude::*;
use unanimity::engine;
use unanimity::engine::explain::StorePart;

use crate::errors;
use crate::request::{Unreadable, request_parts};

/// `(plan, why, [(store, role, operations)], [lock])`, or `InvalidRequest` with the refusal.
pub(crate) fn explain(
    py: Python<'_>,
    engine: &engine::Coordinator,
    request: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    let refused = |message: &str| errors::exception(py, "InvalidRequest", message, &[]);
    let (parts, _) = request_parts(request).map_err(|unreadable| match unreadable {
        Unreadable::Raised(error) => error,
        Unreadable::Refused(_, message) => refused(&message),
    })?;
    let plan = engine.explain(parts).map_err(|would| refused(&would.message))?;
    let part = |part: &StorePart| (part.store.as_str().to_owned(), part.role, part.operations);
    let stores: Vec<(String, &str, usize)> = plan.stores.iter().map(part).collect();
    let told = (plan.plan, plan.why, stores, plan.locks);
    Ok(told.into_pyobject(py)?.into_any().unbind())
}
