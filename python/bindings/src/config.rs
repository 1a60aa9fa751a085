//! The configuration as Python sees it: what was read, or everything that is wrong with it.
//!
//! Converts and passes on. Invariant: what is for people has its secrets hidden before it comes
//! here; the values themselves go to the program alone.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use unanimity::config::{self, Config, Origin, Problem, Setting, Sources};
use unanimity::model::value::Value;

use crate::convert::{from_value, to_value};
use crate::errors;

/// Reads the sources: the settings, and the problems; one of the two is empty.
#[pyfunction]
fn read_config(
    py: Python<'_>,
    file: Option<PathBuf>,
    mapping: Option<&Bound<'_, PyDict>>,
    environment: BTreeMap<String, String>,
    arguments: Option<&Bound<'_, PyDict>>,
) -> PyResult<(Py<PyList>, Py<PyList>)> {
    let mapping = mapping.map(|given| value(given, "config")).transpose()?;
    let arguments = arguments.map(|given| value(given, "arguments")).transpose()?;
    let read = py.detach(|| {
        let sources = Sources {
            file: file.as_deref(),
            mapping: mapping.as_ref(),
            environment: Some(&environment),
            arguments: arguments.as_ref(),
        };
        errors::unpanicked(|| Config::read(sources))
    });
    let (settings, problems) = (PyList::empty(py), PyList::empty(py));
    match read.map_err(|panic| errors::exception(py, "InternalError", &panic, &[]))? {
        Ok(config) => {
            for setting in config.settings() {
                settings.append(described(py, setting)?)?;
            }
        }
        Err(found) => {
            for problem in &found.0 {
                problems.append(problem_row(problem))?;
            }
        }
    }
    Ok((settings.unbind(), problems.unbind()))
}

fn value(given: &Bound<'_, PyDict>, what: &str) -> PyResult<Value> {
    to_value(given.as_any()).map_err(|bad| match bad.raised {
        Some(raised) => raised,
        None => errors::exception(given.py(), "ConfigError", &bad.describe(what), &[]),
    })
}

/// Key, value, value for people, where from, its line, the file that holds it.
type Row = (&'static str, Py<PyAny>, Py<PyAny>, String, Option<usize>, Option<String>);

fn described(py: Python<'_>, setting: &Setting) -> PyResult<Row> {
    let (source, line) = place(&setting.origin);
    let (value, shown) = (from_value(py, &setting.value)?, from_value(py, &setting.shown())?);
    Ok((setting.key.path, value, shown, source, line, setting.through.clone()))
}

/// Where, its line, the key, what is wrong, how to mend it, all of it in one line.
fn problem_row(problem: &Problem) -> (String, Option<usize>, &str, &str, &str, String) {
    let (source, line) = place(&problem.origin);
    (source, line, &problem.key, &problem.message, &problem.hint, problem.to_string())
}

fn place(origin: &Origin) -> (String, Option<usize>) {
    match origin {
        Origin::File { name, line } => (name.clone(), (*line > 0).then_some(*line)),
        other => (other.to_string(), None),
    }
}

/// Of every key: its name, and its variable.
#[pyfunction]
fn config_keys() -> Vec<(&'static str, String)> {
    config::KEYS.iter().map(|key| (key.path, key.variable())).collect()
}

/// The JSON schema of a file, as text.
#[pyfunction]
fn config_schema() -> String {
    config::json_schema().to_string()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read_config, module)?)?;
    module.add_function(wrap_pyfunction!(config_keys, module)?)?;
    module.add_function(wrap_pyfunction!(config_schema, module)?)
}
