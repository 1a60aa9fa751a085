//! A request object, read field by field. What cannot be read is said in words, with its place.
//!
//! Not the request's own check: that is the engine's. Invariant: the caller's objects are read and
//! kept, never changed.

use std::fmt::Display;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use unanimity::model::request::RequestParts;
use unanimity::model::value::Value;

use crate::convert::{BadValue, to_value};
use crate::errors;

/// Why there are no parts.
pub(crate) enum Unreadable {
    /// Whatever id there is, and what is wrong, in words.
    Refused(String, String),
    /// Ctrl-C or the like came while the caller's objects were read: that is for the program.
    Raised(PyErr),
}

/// The request's fields, and the operations as the caller gave them.
pub(crate) fn request_parts(
    request: &Bound<'_, PyAny>,
) -> Result<(RequestParts, Vec<Py<PyAny>>), Unreadable> {
    let py = request.py();
    let id = request.getattr(pyo3::intern!(py, "coordination_id")).map_err(BadField::from);
    let id = id.and_then(|id| text(&id, "coordination_id"));
    let shown = id.as_ref().map_or_else(|_| String::new(), Clone::clone);
    id.and_then(|id| fields(request, id)).map_err(|bad| match bad {
        BadField::Words(words) => Unreadable::Refused(shown, words),
        BadField::Raised(error) => Unreadable::Raised(error),
    })
}

fn fields(
    request: &Bound<'_, PyAny>,
    id: String,
) -> Result<(RequestParts, Vec<Py<PyAny>>), BadField> {
    let py = request.py();
    let kind =
        named(&request.getattr(pyo3::intern!(py, "coordination_type"))?, "coordination_type")?;
    let consistency =
        named(&request.getattr(pyo3::intern!(py, "consistency_level"))?, "consistency_level")?;
    let stores = request.getattr(pyo3::intern!(py, "participating_stores"))?;
    let stores = texts(&stores, "participating_stores")?;
    let timeout_seconds = timeout(&request.getattr(pyo3::intern!(py, "timeout_seconds"))?)?;
    let (operations, originals) = bodies(&request.getattr(pyo3::intern!(py, "operations"))?)?;
    let metadata = request.getattr(pyo3::intern!(py, "metadata"))?;
    let metadata = if metadata.is_none() {
        Value::Map(Vec::new())
    } else {
        to_value(&metadata).map_err(|bad| BadField::value(bad, "metadata"))?
    };
    let parts =
        RequestParts { id, kind, stores, operations, timeout_seconds, consistency, metadata };
    Ok((parts, originals))
}

fn bodies(given: &Bound<'_, PyAny>) -> Result<(Vec<Value>, Vec<Py<PyAny>>), BadField> {
    let Ok(list) = given.cast::<PyList>() else {
        return Err(BadField::kind("operations", given, "a list of dicts"));
    };
    let mut operations = Vec::with_capacity(list.len());
    let mut originals = Vec::with_capacity(list.len());
    for (index, operation) in list.iter().enumerate() {
        let value = to_value(&operation);
        let value = value.map_err(|bad| BadField::value(bad, &format!("operations[{index}]")))?;
        operations.push(value);
        originals.push(operation.unbind());
    }
    Ok((operations, originals))
}

/// What is wrong with a field.
enum BadField {
    Words(String),
    Raised(PyErr),
}

impl BadField {
    fn kind(field: &str, given: &Bound<'_, PyAny>, wanted: &str) -> Self {
        let kind = given.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        Self::Words(format!("{field} is a {kind}; give {wanted}"))
    }

    fn value(bad: BadValue, field: &str) -> Self {
        match bad.raised {
            Some(error) => Self::Raised(error),
            None => Self::Words(bad.describe(field)),
        }
    }
}

impl From<PyErr> for BadField {
    fn from(error: PyErr) -> Self {
        if Python::attach(|py| errors::ends_the_program(py, &error)) {
            return Self::Raised(error);
        }
        Self::Words(format!("the request cannot be read: {error}"))
    }
}

/// The field's name is put together only where something is wrong with it.
fn text(given: &Bound<'_, PyAny>, field: impl Display) -> Result<String, BadField> {
    let Ok(text) = given.cast::<PyString>() else {
        return Err(BadField::kind(&field.to_string(), given, "a str"));
    };
    let text =
        text.to_str().map_err(|_| BadField::Words(format!("{field} has lone surrogates")))?;
    Ok(text.to_owned())
}

/// A member of an enum, or its value.
fn named(given: &Bound<'_, PyAny>, field: &str) -> Result<String, BadField> {
    if given.cast::<PyString>().is_ok() {
        return text(given, field);
    }
    // The name under which an enum keeps it: `value` is a property written in Python, which costs
    // more than all the rest of the request.
    match given.getattr(pyo3::intern!(given.py(), "_value_")) {
        Ok(value) => text(&value, field),
        Err(error) if errors::ends_the_program(given.py(), &error) => Err(error.into()),
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
    items.map(|(index, item)| text(&item?, format_args!("{field}[{index}]"))).collect()
}

fn timeout(given: &Bound<'_, PyAny>) -> Result<f64, BadField> {
    use pyo3::types::{PyBool, PyFloat, PyInt};
    let is_number = given.cast::<PyInt>().is_ok() || given.cast::<PyFloat>().is_ok();
    if !is_number || given.cast::<PyBool>().is_ok() {
        return Err(BadField::kind("timeout_seconds", given, "a number of seconds"));
    }
    given.extract().map_err(BadField::from)
}
