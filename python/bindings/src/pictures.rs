//! Pictures of the wait-for graph and of sagas, drawn by the engine from plain data. Shapes only.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use unanimity::model::step::StepState;
use unanimity::observe::{Picture, StepBox, StepPicture};

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

/// A step's name, its lines, its state and the same in words, and whether it is the pivot.
type Step = (String, Vec<String>, Option<String>, Vec<String>, bool);

/// The steps of a saga as SVG; edges are pairs of indexes, in no circle.
#[pyfunction]
fn draw_steps(
    py: Python<'_>,
    title: String,
    note: String,
    steps: Vec<Step>,
    edges: Vec<(usize, usize)>,
) -> PyResult<String> {
    let step = |(name, lines, state, said, is_pivot): Step| {
        let state = state.map(|state| state_of(py, &state)).transpose()?;
        PyResult::Ok(StepBox { name, lines, state, said, is_pivot })
    };
    let boxes: Vec<StepBox> = steps.into_iter().map(step).collect::<PyResult<_>>()?;
    if let Some((from, to)) = edges.iter().find(|(from, to)| (*from).max(*to) >= boxes.len()) {
        let message = format!("there are {} steps, and an edge from {from} to {to}", boxes.len());
        return Err(errors::exception(py, "InvalidRequest", &message, &[]));
    }
    Ok(StepPicture { title, note, boxes, edges }.svg())
}

fn state_of(py: Python<'_>, name: &str) -> PyResult<StepState> {
    let known = [
        StepState::Pending,
        StepState::Executing,
        StepState::Completed,
        StepState::Failed,
        StepState::Compensating,
        StepState::Compensated,
        StepState::Parked,
    ];
    known.into_iter().find(|state| state.as_str() == name).ok_or_else(|| {
        let message = format!("{name:?} is no state of a step");
        errors::exception(py, "InvalidRequest", &message, &[])
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(draw_waits, module)?)?;
    module.add_function(wrap_pyfunction!(draw_steps, module)?)?;
    module.add_function(wrap_pyfunction!(wait_circles, module)?)
}
