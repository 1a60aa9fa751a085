//! What a user's lock manager is given and what it returned, taken only in the right shape.
//!
//! Invariant: anything but a granted result with a usable lock id is no lock; the message names the
//! method and what was returned.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockError, LockId, LockInfo, LockMode, RequesterId, ResourceId,
};
use unanimity::model::time::Timestamp;

use super::parts;

/// `(resource_id, lock_type, requester_id, timeout_seconds)`: whole seconds, as the interface says.
pub(super) fn acquire_arguments(
    py: Python<'_>,
    ask: &LockAsk,
    wait: Duration,
) -> PyResult<Py<PyTuple>> {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let mode = parts::mode_member(py, ask.mode)?;
    let arguments = (ask.resource.as_str(), mode, ask.requester.as_str(), seconds);
    Ok(arguments.into_pyobject(py)?.unbind())
}

pub(super) fn trouble(message: String) -> LockError {
    LockError::Unavailable { server: "lock manager".to_owned(), message }
}

/// Attribute `name` as text, where it is one.
fn text_of(answer: &Bound<'_, PyAny>, name: &str) -> Option<String> {
    let found = answer.getattr(name).ok()?;
    found.cast::<PyString>().ok().map(|text| text.to_string_lossy().into_owned())
}

fn wrong(answer: &Bound<'_, PyAny>, method: &str, expected: &str) -> String {
    let shown = answer.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
    let shown: String = shown.chars().take(200).collect();
    format!("{method}() returned {shown}; {expected}")
}

pub(super) fn grant_of(
    answer: &Bound<'_, PyAny>,
    ask: &LockAsk,
    begun: Timestamp,
    now: Timestamp,
) -> Result<Grant, LockError> {
    let expected = "return a LockAcquisitionResult";
    let acquired = answer.getattr("acquired").and_then(|acquired| acquired.is_truthy());
    let acquired = acquired.map_err(|_| trouble(wrong(answer, "acquire_lock", expected)))?;
    if !acquired {
        return Err(refusal_of(answer, ask, begun, now));
    }
    let lock_id = text_of(answer, "lock_id").filter(|id| !id.is_empty());
    let lock_id = lock_id.ok_or_else(|| {
        trouble(wrong(answer, "acquire_lock", "a result with a lock must have its lock_id"))
    })?;
    let token = answer.getattr("fencing_token").and_then(|token| token.extract::<u64>());
    Ok(Grant {
        lock_id: LockId::from_text(&lock_id),
        resource: ask.resource.clone(),
        mode: ask.mode,
        acquired_at: now,
        fencing_token: token.unwrap_or(0),
        zk_path: None,
    })
}

fn refusal_of(
    answer: &Bound<'_, PyAny>,
    ask: &LockAsk,
    begun: Timestamp,
    now: Timestamp,
) -> LockError {
    let cycle = answer.getattr("deadlock_cycle").and_then(|cycle| cycle.extract::<Vec<String>>());
    let cycle: Vec<RequesterId> =
        cycle.unwrap_or_default().iter().filter_map(|name| RequesterId::new(name).ok()).collect();
    if !cycle.is_empty() {
        return LockError::Deadlock(Box::new(Deadlock {
            victim: ask.requester.clone(),
            cycle,
            resource: ask.resource.clone(),
            detected_at: now,
        }));
    }
    let waited = now.since(begun);
    // The interface has one answer for all refusals; time tells those that waited to the end.
    if ask.timeout.is_some_and(|timeout| waited >= timeout) {
        return LockError::Timeout {
            resource: ask.resource.clone(),
            mode: ask.mode,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            blockers: "others".to_owned(),
        };
    }
    trouble(text_of(answer, "error_message").unwrap_or_else(|| "the lock was refused".to_owned()))
}

pub(super) fn infos_of(
    answer: &Bound<'_, PyAny>,
    resource: &ResourceId,
) -> Result<Vec<LockInfo>, String> {
    let bad = || wrong(answer, "check_lock_status", "return a list of LockInfo");
    let mut infos: Vec<LockInfo> = Vec::new();
    for item in answer.try_iter().map_err(|_| bad())? {
        let item = item.map_err(|_| bad())?;
        infos.push(info_of(&item, resource).ok_or_else(bad)?);
    }
    Ok(infos)
}

fn info_of(item: &Bound<'_, PyAny>, resource: &ResourceId) -> Option<LockInfo> {
    let mode = item.getattr("lock_type").ok()?;
    let mode = text_of(&mode, "value").and_then(|word| LockMode::parse(&word))?;
    let held = text_of(item, "state").is_none_or(|state| state == "held");
    let seconds = |name: &str| -> Option<Timestamp> {
        let at: f64 = item.getattr(name).ok()?.call_method0("timestamp").ok()?.extract().ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "a time, in microseconds")]
        Some(Timestamp((at * 1e6).round() as i64))
    };
    Some(LockInfo {
        resource: resource.clone(),
        mode,
        requester: RequesterId::new(&text_of(item, "requester_id")?).ok()?,
        lock_id: text_of(item, "lock_id").filter(|_| held).map(|id| LockId::from_text(&id)),
        position: item.getattr("position").and_then(|place| place.extract()).unwrap_or(0),
        since: seconds("since").unwrap_or(Timestamp(0)),
        expires_at: seconds("expires_at"),
        fencing_token: item.getattr("fencing_token").and_then(|token| token.extract()).ok(),
    })
}
