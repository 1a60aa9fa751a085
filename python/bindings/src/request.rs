//! A request object, read field by field. What cannot be read is said in words, with its place.
//!
//! Not the request's own check: that is the engine's. Invariant: the caller's objects are read and
//! kept, never changed.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use unanimity::model::request::RequestParts;
use unanimity::model::value::Value;

use crate::convert::{BadValue, to_value};

type Refusal = (String, String);

/// The request's fields; on trouble, whatever id there is and what is wrong.
pub(crate) fn request_parts(
    request: &Bound<'_, PyAny>,
) -> Result<(RequestParts, Vec<Py<PyAny>>), Refusal> {
    let py = request.py();
    let mut id = String::new();
    let read = || -> Result<(RequestParts, Vec<Py<PyAny>>), BadField> {
        id = text(&request.getattr(pyo3::intern!(py, "coordination_id"))?, "coordination_id")?;
        let kind =
            named(&request.getattr(pyo3::intern!(py, "coordination_type"))?, "coordination_type")?;
        let consistency =
            named(&request.getattr(pyo3::intern!(py, "consistency_level"))?, "consistency_level")?;
        let stores = request.getattr(pyo3::intern!(py, "participating_stores"))?;
        let stores = texts(&stores, "participating_stores")?;
        let timeout_seconds = timeout(&request.getattr(pyo3::intern!(py, "timeout_seconds"))?)?;
        let given = request.getattr(pyo3::intern!(py, "operations"))?;
        let Ok(list) = given.cast::<PyList>() else {
            return Err(BadField::kind("operations", &given, "a list of dicts"));
        };
        let mut operations = Vec::with_capacity(list.len());
        let mut originals = Vec::with_capacity(list.len());
        for (index, operation) in list.iter().enumerate() {
            let value = to_value(&operation);
            operations.push(value.map_err(|bad| BadField::value(&bad, "operations", index))?);
            originals.push(operation.unbind());
        }
        let metadata = request.getattr(pyo3::intern!(py, "metadata"))?;
        let metadata = if metadata.is_none() {
            Value::Map(Vec::new())
        } else {
            to_value(&metadata).map_err(|bad| BadField(bad.describe("metadata")))?
        };
        let id = id.clone();
        let parts =
            RequestParts { id, kind, stores, operations, timeout_seconds, consistency, metadata };
        Ok((parts, originals))
    };
    let mut read = read;
    let result = read();
    result.map_err(|BadField(message)| (id, message))
}

/// What is wrong with a field, in words.
struct BadField(String);

impl BadField {
    fn kind(field: &str, given: &Bound<'_, PyAny>, wanted: &str) -> Self {
        let kind = given.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        Self(format!("{field} is a {kind}; give {wanted}"))
    }

    fn value(bad: &BadValue, field: &str, index: usize) -> Self {
        Self(bad.describe(&format!("{field}[{index}]")))
    }
}

impl From<PyErr> for BadField {
    fn from(error: PyErr) -> Self {
        Self(format!("the request cannot be read: {error}"))
    }
}

fn text(given: &Bound<'_, PyAny>, field: &str) -> Result<String, BadField> {
    let Ok(text) = given.cast::<PyString>() else {
        return Err(BadField::kind(field, given, "a str"));
    };
    let text = text.to_str().map_err(|_| BadField(format!("{field} has lone surrogates")))?;
    Ok(text.to_owned())
}

/// A member of an enum, or its value.
fn named(given: &Bound<'_, PyAny>, field: &str) -> Result<String, BadField> {
    if given.cast::<PyString>().is_ok() {
        return text(given, field);
    }
    match given.getattr(pyo3::intern!(given.py(), "value")) {
        Ok(value) => text(&value, field),
        Err(_) => Err(BadField::kind(field, given, "a member of its enum, or a str")),
    }
}

fn texts(given: &Bound<'_, PyAny>, field: &str) -> Result<Vec<String>, BadField> {
    if given.cast::<PyString>().is_ok() {
        return Err(BadField::kind(field, given, "a list of str"));
    }
    let Ok(items) = given.try_iter() else {
        return Err(BadField::kind(field, given, "a list of str"));
    };
    let items = items.enumerate();
    items.map(|(index, item)| text(&item?, &format!("{field}[{index}]"))).collect()
}

fn timeout(given: &Bound<'_, PyAny>) -> Result<f64, BadField> {
    use pyo3::types::{PyBool, PyFloat, PyInt};
    let is_number = given.cast::<PyInt>().is_ok() || given.cast::<PyFloat>().is_ok();
    if !is_number || given.cast::<PyBool>().is_ok() {
        return Err(BadField::kind("timeout_seconds", given, "a number of seconds"));
    }
    given.extract().map_err(BadField::from)
}
