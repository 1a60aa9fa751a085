//! Python values to the engine's and back. Nothing is guessed: what JSON (and bytes) cannot say is
//! refused with the path to it.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple,
};
use unanimity::model::value::Value;

use crate::errors;

/// How deep lists and dicts may be nested.
const DEPTH_MAX: usize = 64;

/// Where in a value something is wrong, and what.
pub(crate) struct BadValue {
    path: String,
    trouble: String,
    /// What came while it was read and is for the program, such as Ctrl-C.
    pub(crate) raised: Option<PyErr>,
}

impl BadValue {
    fn new(trouble: impl Into<String>) -> Self {
        Self { path: String::new(), trouble: trouble.into(), raised: None }
    }

    fn inside(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }

    /// `operations[1]['value'] is a set; ...`.
    pub(crate) fn describe(&self, root: &str) -> String {
        format!("{root}{} {}", self.path, self.trouble)
    }
}

impl From<PyErr> for BadValue {
    fn from(error: PyErr) -> Self {
        let mut bad = Self::new(format!("cannot be read: {error}"));
        let is_for_the_program = Python::attach(|py| errors::ends_the_program(py, &error));
        bad.raised = is_for_the_program.then_some(error);
        bad
    }
}

pub(crate) fn to_value(object: &Bound<'_, PyAny>) -> Result<Value, BadValue> {
    value_at(object, 0)
}

fn value_at(object: &Bound<'_, PyAny>, depth: usize) -> Result<Value, BadValue> {
    if let Ok(text) = object.cast::<PyString>() {
        return match text.to_str() {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(BadValue::new("is a str with lone surrogates, which UTF-8 cannot hold")),
        };
    }
    if let Ok(truth) = object.cast::<PyBool>() {
        return Ok(Value::Bool(truth.is_true()));
    }
    if object.cast::<PyInt>().is_ok() {
        let number = object.extract::<i64>();
        return number
            .map(Value::Int)
            .map_err(|_| BadValue::new("is an int of more than 64 bits; give it as a str"));
    }
    if let Ok(number) = object.cast::<PyFloat>() {
        let number = number.value();
        if number.is_finite() {
            return Ok(Value::Float(number));
        }
        return Err(BadValue::new(format!("is {number}, which JSON cannot hold")));
    }
    if object.is_none() {
        return Ok(Value::Null);
    }
    if depth == DEPTH_MAX {
        return Err(BadValue::new(format!("is nested deeper than {DEPTH_MAX} levels")));
    }
    collection_at(object, depth)
}

fn collection_at(object: &Bound<'_, PyAny>, depth: usize) -> Result<Value, BadValue> {
    if let Ok(dict) = object.cast::<PyDict>() {
        let mut entries = Vec::with_capacity(dict.len());
        for (key, value) in dict {
            let Ok(name) = key.cast::<PyString>() else {
                let kind = key.get_type().name()?.to_string();
                return Err(BadValue::new(format!("has a key of type {kind}; give str keys")));
            };
            let name =
                name.to_str().map_err(|_| BadValue::new("has a key with lone surrogates"))?;
            let value =
                value_at(&value, depth + 1).map_err(|bad| bad.inside(&format!("['{name}']")))?;
            entries.push((name.to_owned(), value));
        }
        return Ok(Value::Map(entries));
    }
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(Value::Bytes(bytes.as_bytes().to_vec()));
    }
    if let Ok(bytes) = object.cast::<PyByteArray>() {
        return Ok(Value::Bytes(bytes.to_vec()));
    }
    if object.cast::<PyList>().is_ok() || object.cast::<PyTuple>().is_ok() {
        let mut values = Vec::with_capacity(object.len()?);
        for (index, item) in object.try_iter()?.enumerate() {
            let value =
                value_at(&item?, depth + 1).map_err(|bad| bad.inside(&format!("[{index}]")))?;
            values.push(value);
        }
        return Ok(Value::List(values));
    }
    let kind = object.get_type().name()?.to_string();
    Err(BadValue::new(format!(
        "is a {kind}; give None, bool, int, float, str, bytes, or lists and dicts of these"
    )))
}

pub(crate) fn from_value(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    Ok(match value {
        Value::Null => py.None(),
        Value::Bool(truth) => PyBool::new(py, *truth).to_owned().into_any().unbind(),
        Value::Int(number) => number.into_pyobject(py)?.into_any().unbind(),
        Value::Float(number) => number.into_pyobject(py)?.into_any().unbind(),
        Value::Text(text) => PyString::new(py, text).into_any().unbind(),
        Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any().unbind(),
        Value::List(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(from_value(py, value)?)?;
            }
            list.into_any().unbind()
        }
        Value::Map(entries) => {
            let dict = PyDict::new(py);
            for (key, value) in entries {
                dict.set_item(key, from_value(py, value)?)?;
            }
            dict.into_any().unbind()
        }
    })
}

/// A class of the Python package, looked up once.
pub(crate) struct Class {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<Py<PyAny>>,
}

impl Class {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, found: PyOnceLock::new() }
    }

    pub(crate) fn get<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
        let class = self.found.get_or_try_init(py, || {
            py.import(self.module)?.getattr(self.name).map(Bound::unbind)
        })?;
        Ok(class.bind(py))
    }
}
