//! Stored coordinations, statuses and results as Python objects. Shapes only.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use unanimity::engine::RecoveryReport;
use unanimity::engine::dead_letters::DeadLetter;
use unanimity::journal::{HistoryFilter, JournalStatus, StoredCoordination};
use unanimity::model::ids::{InstanceId, StoreName};
use unanimity::model::outcome::{
    CoordinationResult, Decision, Outcome, OutcomeKind, StoreSummary, TransactionState,
};
use unanimity::model::request::CoordinationType;
use unanimity::model::step::StepSummary;
use unanimity::model::time::Timestamp;

use crate::convert::{Class, from_value};

/// The public result object. `cause`: the exception that a store raised on the way.
pub(crate) fn result(
    py: Python<'_>,
    result: &CoordinationResult,
    cause: Option<&Py<PyAny>>,
) -> PyResult<Py<PyAny>> {
    static CLASS: Class = Class::new("unanimity._types", "CoordinationResult");
    let stores: Vec<&str> = result.stores.iter().map(StoreName::as_str).collect();
    let outcome = &result.outcome;
    let made = CLASS.get(py)?.call1((
        result.id.as_str(),
        outcome.is_success(),
        state(py, outcome.state)?,
        outcome.message.as_deref(),
        result.duration_ms,
        stores,
        outcome.operations_completed,
        outcome.operations_failed,
        outcome.code.as_deref(),
    ))?;
    if let Some(cause) = cause {
        made.setattr(pyo3::intern!(py, "_cause"), cause)?;
    }
    Ok(made.unbind())
}

/// The member of the public enum.
fn state(py: Python<'_>, state: TransactionState) -> PyResult<Py<PyAny>> {
    static COMMITTED: Class = Class::new("unanimity._types", "TransactionState");
    static MEMBERS: pyo3::sync::PyOnceLock<Vec<Py<PyAny>>> = pyo3::sync::PyOnceLock::new();
    let members = MEMBERS.get_or_try_init(py, || {
        let class = COMMITTED.get(py)?;
        let member = |state: TransactionState| class.call1((state.as_str(),)).map(Bound::unbind);
        TransactionState::ALL.into_iter().map(member).collect::<PyResult<Vec<_>>>()
    })?;
    let index = TransactionState::ALL.iter().position(|known| *known == state);
    Ok(members[index.expect("ALL has every state")].clone_ref(py))
}

pub(crate) fn report(py: Python<'_>, report: &RecoveryReport) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("committed", &report.committed)?;
    dict.set_item("aborted", &report.aborted)?;
    dict.set_item("resumed", &report.resumed)?;
    dict.set_item("compensated", &report.compensated)?;
    dict.set_item("in_doubt", &report.in_doubt)?;
    Ok(dict.into_any().unbind())
}

/// Everything about one coordination, as the dict that `CoordinationRecord` is made of.
pub(crate) fn stored(py: Python<'_>, stored: &StoredCoordination) -> PyResult<Py<PyAny>> {
    let request = &stored.request;
    let dict = PyDict::new(py);
    dict.set_item("coordination_id", request.id.as_str())?;
    dict.set_item("coordination_type", request.kind.as_str())?;
    dict.set_item("state", stored.state.as_str())?;
    let names: Vec<&str> = request.stores.iter().map(StoreName::as_str).collect();
    dict.set_item("participating_stores", names)?;
    let operations = PyList::empty(py);
    for operation in &request.operations {
        let body = from_value(py, &operation.body)?.into_bound(py);
        body.set_item("operation_id", &operation.id)?;
        operations.append(body)?;
    }
    dict.set_item("operations", operations)?;
    dict.set_item("timeout_seconds", request.timeout.as_secs_f64())?;
    dict.set_item("consistency_level", request.consistency.as_str())?;
    dict.set_item("metadata", from_value(py, &request.metadata)?)?;
    dict.set_item("owner", stored.owner.as_str())?;
    dict.set_item("epoch", stored.epoch)?;
    dict.set_item("decision", stored.decision.map(Decision::as_str))?;
    let reason = stored.reason.as_ref().map(|reason| {
        let shown = PyDict::new(py);
        shown.set_item("code", &reason.code)?;
        shown.set_item("message", &reason.message)?;
        PyResult::Ok(shown)
    });
    dict.set_item("reason", reason.transpose()?)?;
    dict.set_item("outcome", stored.outcome.as_ref().map(|o| outcome(py, o)).transpose()?)?;
    // Before the end, what the records say of it: a contrary word, the reason of an abort.
    let ended = stored.outcome.as_ref().map(|outcome| outcome.message.clone());
    let message = ended.unwrap_or_else(|| stored.reason.as_ref().map(|r| r.message.clone()));
    dict.set_item("error_message", message)?;
    let stores = PyList::empty(py);
    for store in &stored.stores {
        stores.append(summary(py, store)?)?;
    }
    dict.set_item("stores", stores)?;
    let steps = PyList::empty(py);
    for step in &stored.steps {
        steps.append(self::step(py, step)?)?;
    }
    dict.set_item("steps", steps)?;
    dict.set_item("created_at", stored.created_at.0)?;
    dict.set_item("updated_at", stored.updated_at.0)?;
    dict.set_item("completed_at", stored.completed_at.map(|at| at.0))?;
    Ok(dict.into_any().unbind())
}

fn outcome<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("kind", outcome_name(outcome.kind))?;
    dict.set_item("success", outcome.is_success())?;
    dict.set_item("state", outcome.state.as_str())?;
    dict.set_item("code", outcome.code.as_deref())?;
    dict.set_item("message", outcome.message.as_deref())?;
    dict.set_item("operations_completed", outcome.operations_completed)?;
    dict.set_item("operations_failed", outcome.operations_failed)?;
    Ok(dict)
}

/// The value of the public enum `Outcome`.
pub(crate) fn outcome_name(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Committed => "committed",
        OutcomeKind::Aborted => "aborted",
        OutcomeKind::Unknown => "unknown",
        OutcomeKind::Heuristic => "heuristic",
        OutcomeKind::Refused => "refused",
    }
}

fn summary<'py>(py: Python<'py>, store: &StoreSummary) -> PyResult<Bound<'py, PyDict>> {
    let micros = |at: Option<Timestamp>| at.map(|at| at.0);
    let dict = PyDict::new(py);
    dict.set_item("store", store.store.as_str())?;
    dict.set_item("vote", store.vote.as_deref())?;
    dict.set_item("note", store.note.as_deref())?;
    dict.set_item("prepare_asked_at", micros(store.prepare_asked_at))?;
    dict.set_item("voted_at", micros(store.voted_at))?;
    dict.set_item("delivery_asked_at", micros(store.delivery_asked_at))?;
    dict.set_item("acknowledged_at", micros(store.acknowledged_at))?;
    dict.set_item("attempts", store.attempts)?;
    Ok(dict)
}

fn step<'py>(py: Python<'py>, step: &StepSummary) -> PyResult<Bound<'py, PyDict>> {
    let micros = |at: Option<Timestamp>| at.map(|at| at.0);
    let dict = PyDict::new(py);
    dict.set_item("operation_id", &step.operation_id)?;
    dict.set_item("state", step.state.as_str())?;
    dict.set_item("attempts", step.attempts)?;
    dict.set_item("compensation_attempts", step.compensation_attempts)?;
    dict.set_item("result", step.result.as_ref().map(|r| from_value(py, r)).transpose()?)?;
    dict.set_item("note", step.note.as_deref())?;
    dict.set_item("started_at", micros(step.started_at))?;
    dict.set_item("completed_at", micros(step.completed_at))?;
    dict.set_item("compensation_started_at", micros(step.compensation_started_at))?;
    dict.set_item("compensated_at", micros(step.compensated_at))?;
    Ok(dict)
}

/// Parked steps, as the dicts that `DeadLetter` is made of.
pub(crate) fn dead_letters(py: Python<'_>, letters: &[DeadLetter]) -> PyResult<Py<PyAny>> {
    let rows = PyList::empty(py);
    for letter in letters {
        let dict = PyDict::new(py);
        dict.set_item("coordination_id", letter.coordination.as_str())?;
        dict.set_item("operation_id", &letter.operation_id)?;
        dict.set_item("store", letter.store.as_str())?;
        dict.set_item("operation_type", &letter.kind)?;
        dict.set_item("work", letter.work.as_str())?;
        dict.set_item("attempts", letter.attempts)?;
        dict.set_item("error_message", &letter.message)?;
        dict.set_item("parked_at", letter.parked_at.0)?;
        rows.append(dict)?;
    }
    Ok(rows.into_any().unbind())
}

pub(crate) fn list(py: Python<'_>, found: &[StoredCoordination]) -> PyResult<Py<PyAny>> {
    let rows = PyList::empty(py);
    for coordination in found {
        rows.append(stored(py, coordination)?)?;
    }
    Ok(rows.into_any().unbind())
}

pub(crate) fn status(py: Python<'_>, status: &JournalStatus) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("location", &status.location)?;
    dict.set_item("engine", &status.engine)?;
    dict.set_item("schema", status.schema)?;
    let states = PyDict::new(py);
    for state in TransactionState::ALL {
        states.set_item(state.as_str(), status.states.get(&state).copied().unwrap_or(0))?;
    }
    dict.set_item("states", states)?;
    let alive: Vec<&str> = status.instances_alive.iter().map(InstanceId::as_str).collect();
    dict.set_item("instances_alive", alive)?;
    dict.set_item("bytes", status.space.map(|space| space.bytes))?;
    dict.set_item("bytes_free", status.space.map(|space| space.free))?;
    Ok(dict.into_any().unbind())
}

/// The filter that `_records.history_filter` made: checked there, so only shapes here.
pub(crate) fn filter(filter: &Bound<'_, PyDict>) -> PyResult<HistoryFilter> {
    let item = |key: &str| filter.get_item(key).map(|found| found.filter(|value| !value.is_none()));
    let states: Vec<String> = item("states")?.map_or(Ok(Vec::new()), |s| s.extract())?;
    let kind: Option<String> = item("coordination_type")?.map(|kind| kind.extract()).transpose()?;
    let since: Option<i64> = item("since")?.map(|since| since.extract()).transpose()?;
    let until: Option<i64> = item("until")?.map(|until| until.extract()).transpose()?;
    Ok(HistoryFilter {
        states: states.iter().filter_map(|name| TransactionState::parse(name)).collect(),
        kind: kind.and_then(|name| CoordinationType::parse(&name)),
        store: item("store")?.map(|store| store.extract()).transpose()?,
        since: since.map(Timestamp),
        until: until.map(Timestamp),
        open: item("open")?.map_or(Ok(false), |open| open.extract())?,
        limit: item("limit")?.map_or(Ok(100), |limit| limit.extract())?,
    })
}
