//! Pictures of the wait-for graph, drawn by the engine from plain data. Shapes only.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use unanimity::observe::Picture;

use crate::errors;

type Names = BTreeMap<String, Vec<String>>;

/// Who waits for whom as "text", "dot" or "svg". `wants` says for some what they wait for.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "extracted from Python")]
fn draw_waits(py: Python<'_>, waits: Names, wants: Names, form: &str) -> PyResult<String> {
    let picture = Picture::of(&waits, &wants);
    match form {
        "text" => Ok(picture.text()),
        "dot" => Ok(picture.dot()),
        "svg" => Ok(picture.svg()),
        _ => {
            let message = format!("form is {form:?}; use \"text\", \"dot\" or \"svg\"");
            Err(errors::exception(py, "InvalidRequest", &message, &[]))
        }
    }
}

/// The circles in it: for each knot of them one of the shortest.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "extracted from Python")]
fn wait_circles(waits: Names) -> Vec<Vec<String>> {
    let picture = Picture::of(&waits, &Names::new());
    let owned = |circle: Vec<&str>| circle.into_iter().map(str::to_owned).collect();
    picture.circles().into_iter().map(owned).collect()
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(draw_waits, module)?)?;
    module.add_function(wrap_pyfunction!(wait_circles, module)?)
}
