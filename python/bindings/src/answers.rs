//! What methods of users' objects returned, taken only in the right shape and vocabulary.
//!
//! Invariant: anything else is an unknown answer whose message names object, method and what was
//! returned, never a yes.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::PyString;
use unanimity::consensus::Standing;
use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Decision, Vote};
use unanimity::model::step::StepAnswer;
use unanimity::participants::ParticipantError;

use crate::convert::to_value;

fn text_of(answer: &Bound<'_, PyAny>, attribute: &str) -> Option<String> {
    let found = answer.getattr(attribute).ok()?;
    found.cast::<PyString>().ok().map(|text| text.to_string_lossy().into_owned())
}

fn wrong(answer: &Bound<'_, PyAny>, place: &str, expected: &str) -> String {
    let shown = answer.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
    let shown: String = shown.chars().take(200).collect();
    let kind = answer.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
    format!("{place} returned the {kind} {shown}; {expected}")
}

pub(crate) fn vote_of(answer: &Bound<'_, PyAny>, place: impl Fn() -> String) -> Vote {
    let vote = answer.getattr(pyo3::intern!(answer.py(), "vote"));
    let vote = vote.ok().and_then(|vote| vote.cast_into::<PyString>().ok());
    match vote.as_ref().and_then(|vote| vote.to_str().ok()) {
        Some("COMMIT") => Vote::Commit,
        Some("READ_ONLY") => Vote::ReadOnly,
        Some("ABORT") => Vote::Abort { reason: text_of(answer, "reason").unwrap_or_default() },
        _ => {
            let expected = "return a PrepareResult whose vote is \"COMMIT\", \"ABORT\" or \
                            \"READ_ONLY\"";
            Vote::Unknown { reason: wrong(answer, &place(), expected) }
        }
    }
}

pub(crate) fn acknowledgement_of(
    answer: &Bound<'_, PyAny>,
    place: impl Fn() -> String,
) -> Acknowledgement {
    let status = answer.getattr(pyo3::intern!(answer.py(), "status"));
    let status = status.ok().and_then(|status| status.cast_into::<PyString>().ok());
    match status.as_ref().and_then(|status| status.to_str().ok()) {
        Some("SUCCESS") => Acknowledgement::Done,
        Some("FAILED") => {
            let message = text_of(answer, "error_message");
            Acknowledgement::Failed { message: message.unwrap_or_else(|| "FAILED".to_owned()) }
        }
        _ => {
            let expected = "return a result whose status is \"SUCCESS\" or \"FAILED\"";
            Acknowledgement::Unknown { message: wrong(answer, &place(), expected) }
        }
    }
}

/// The answer to a step, and what came while it was read and is for the program.
///
/// A result that cannot be written down is an unknown answer: the effect may well be there, and
/// neither "done" without its result nor "no effect" would be true.
pub(crate) fn step_answer_of(
    answer: &Bound<'_, PyAny>,
    place: impl Fn() -> String,
) -> (StepAnswer, Option<PyErr>) {
    let py = answer.py();
    let status = answer.getattr(pyo3::intern!(py, "status"));
    let status = status.ok().and_then(|status| status.cast_into::<PyString>().ok());
    let answered = match status.as_ref().and_then(|status| status.to_str().ok()) {
        Some("SUCCESS") => {
            let result = answer.getattr(pyo3::intern!(py, "result"));
            match to_value(&result.unwrap_or_else(|_| py.None().into_bound(py))) {
                Ok(result) => StepAnswer::Done { result },
                Err(mut bad) => {
                    let raised = bad.raised.take();
                    let words = bad.describe("result");
                    let message = format!("{} gave a result that is not JSON: {words}", place());
                    return (StepAnswer::Unknown { message }, raised);
                }
            }
        }
        Some("FAILED") => {
            let message = text_of(answer, "error_message");
            let message = message.unwrap_or_else(|| format!("{} answered FAILED", place()));
            let retryable = answer.getattr(pyo3::intern!(py, "retryable"));
            let retryable = retryable.and_then(|may| may.is_truthy()).unwrap_or(true);
            StepAnswer::Failed { message, retryable }
        }
        _ => {
            let expected = "return an OperationResult whose status is \"SUCCESS\" or \"FAILED\"";
            StepAnswer::Unknown { message: wrong(answer, &place(), expected) }
        }
    };
    (answered, None)
}

pub(crate) fn ids_of(
    answer: &Bound<'_, PyAny>,
    place: &str,
) -> Result<Vec<CoordinationId>, ParticipantError> {
    let names: Vec<String> = answer.extract().map_err(|_| {
        ParticipantError::new(wrong(answer, place, "return a list of transaction ids"))
    })?;
    // An id that no coordination can have was prepared by somebody else.
    Ok(names.iter().filter_map(|name| CoordinationId::new(name).ok()).collect())
}

pub(crate) fn standing_of(answer: &Bound<'_, PyAny>) -> Standing {
    if answer.is_none() {
        return Standing::Open;
    }
    let decision = answer.get_item("decision").ok();
    let decision = decision.and_then(|decision| decision.cast_into::<PyString>().ok());
    match decision.and_then(|name| Decision::parse(&name.to_string_lossy())) {
        Some(decision) => Standing::Decided { decision, read_only: read_only_in(answer) },
        None => Standing::Unknown,
    }
}

/// The stores that had nothing to commit, by the evidence that was proposed with the decision.
fn read_only_in(answer: &Bound<'_, PyAny>) -> Vec<StoreName> {
    let votes = answer.get_item("evidence").and_then(|evidence| evidence.get_item("votes"));
    let votes =
        votes.ok().and_then(|votes| votes.extract::<HashMap<String, Option<String>>>().ok());
    let read_only =
        votes.into_iter().flatten().filter(|(_, vote)| vote.as_deref() == Some("READ_ONLY"));
    read_only.filter_map(|(store, _)| StoreName::new(&store).ok()).collect()
}
