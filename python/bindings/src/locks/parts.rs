//! The words of locks to Python and back: names, modes, times, grants, refusals.
//!
//! Invariant: what cannot be used is refused with the argument's name and what to give instead; a
//! refusal that is an answer (time up, deadlock) is told apart from trouble, which is raised.

use std::time::Duration;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyInt, PyList, PyString};
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockError, LockInfo, LockMode, RequesterId, ResourceId, WaitForGraph,
};
use unanimity::model::time::Timestamp;

use super::Bounds;
use crate::convert::Class;
use crate::errors;

static RESULT: Class = Class::new("unanimity._locks", "LockAcquisitionResult");
static ACTIVE: Class = Class::new("unanimity._locks", "ActiveLock");
static INFO: Class = Class::new("unanimity._locks", "LockInfo");
static DEADLOCK: Class = Class::new("unanimity._locks", "Deadlock");

/// Resource, lock type, requester, as the caller gave them.
pub(crate) type Names<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

pub(crate) fn ask(
    bounds: &Bounds,
    (resource_id, mode, requester_id): &Names<'_>,
    timeout: &Bound<'_, PyAny>,
    lease: Option<f64>,
) -> PyResult<LockAsk> {
    let own_lease = lease.map(|seconds| self::lease(mode.py(), seconds)).transpose()?;
    Ok(LockAsk {
        resource: resource(resource_id)?,
        mode: self::mode(mode)?,
        requester: requester(requester_id)?,
        timeout: self::timeout(bounds, timeout)?,
        lease: own_lease.or(bounds.lease),
        working_since: None,
        is_protected: false,
        coordination: None,
    })
}

pub(crate) fn invalid(py: Python<'_>, message: &str) -> PyErr {
    errors::exception(py, "InvalidRequest", message, &[("code", "lock.invalid")])
}

/// A manager that cannot be made as it was asked for.
pub(super) fn misfit(py: Python<'_>, error: &LockError) -> PyErr {
    errors::exception(py, "ConfigError", &error.to_string(), &[])
}

/// A str, or the complaint that it is none.
pub(crate) fn text<'a>(object: &'a Bound<'_, PyAny>, what: &str) -> PyResult<&'a str> {
    let Ok(text) = object.cast::<PyString>() else {
        let kind = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{what} is a {kind}; give a str")));
    };
    text.to_str().map_err(|_| {
        invalid(object.py(), &format!("{what} has lone surrogates, which UTF-8 cannot hold"))
    })
}

pub(crate) fn resource(object: &Bound<'_, PyAny>) -> PyResult<ResourceId> {
    ResourceId::new(text(object, "resource_id")?)
        .map_err(|error| invalid(object.py(), &format!("resource_id cannot be used: {error}")))
}

pub(crate) fn requester(object: &Bound<'_, PyAny>) -> PyResult<RequesterId> {
    RequesterId::new(text(object, "requester_id")?)
        .map_err(|error| invalid(object.py(), &format!("requester_id cannot be used: {error}")))
}

/// The members of the public enum, in the order of `LockMode::ALL`.
fn members(py: Python<'_>) -> PyResult<&[Py<PyAny>]> {
    static MEMBERS: PyOnceLock<Vec<Py<PyAny>>> = PyOnceLock::new();
    static TYPE: Class = Class::new("unanimity._types", "LockType");
    let members = MEMBERS.get_or_try_init(py, || {
        let class = TYPE.get(py)?;
        let member = |mode: LockMode| class.call1((mode.as_str(),)).map(Bound::unbind);
        LockMode::ALL.into_iter().map(member).collect::<PyResult<Vec<_>>>()
    })?;
    Ok(members)
}

pub(super) fn mode(object: &Bound<'_, PyAny>) -> PyResult<LockMode> {
    let py = object.py();
    let known = members(py)?.iter().position(|member| member.is(object));
    if let Some(index) = known {
        return Ok(LockMode::ALL[index]);
    }
    // Any object with the right word serves: another enum, or the word itself.
    let word = object.getattr(pyo3::intern!(py, "value")).unwrap_or_else(|_| object.clone());
    let found = word.cast::<PyString>().ok().and_then(|word| LockMode::parse(word.to_str().ok()?));
    found.ok_or_else(|| {
        let shown = object.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
        let words: Vec<&str> = LockMode::ALL.map(LockMode::as_str).into();
        let message = format!("lock_type is {shown}; give a LockType, or one of {words:?}");
        if word.is_instance_of::<PyString>() {
            invalid(py, &message)
        } else {
            PyTypeError::new_err(message)
        }
    })
}

pub(crate) fn mode_member(py: Python<'_>, mode: LockMode) -> PyResult<Py<PyAny>> {
    let index = LockMode::ALL.iter().position(|known| *known == mode);
    Ok(members(py)?[index.expect("ALL has every mode")].clone_ref(py))
}

/// None is without an end of its own; whatever is asked, the manager's bound stands.
fn timeout(bounds: &Bounds, object: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    if object.is_none() {
        return Ok(bounds.wait_max);
    }
    let py = object.py();
    let refuse = || {
        let shown = object.repr().map_or_else(|_| "?".into(), |shown| shown.to_string());
        format!("timeout_seconds is {shown}; give a number from 0, or None for no end")
    };
    if object.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(refuse()));
    }
    let seconds: f64 = object.extract().map_err(|_| PyTypeError::new_err(refuse()))?;
    if seconds.is_nan() || seconds < 0.0 {
        return Err(invalid(py, &refuse()));
    }
    // What no clock can count is without an end.
    let asked = Duration::try_from_secs_f64(seconds).ok();
    Ok(match (asked, bounds.wait_max) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, most) => asked.or(most),
    })
}

pub(crate) fn lease(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    let lease = Duration::try_from_secs_f64(seconds).ok().filter(|lease| !lease.is_zero());
    lease.ok_or_else(|| {
        invalid(py, &format!("lease_seconds is {seconds}; give a number greater than 0"))
    })
}

/// For each wish, its place in the canonical order.
pub(crate) fn order(asks: &[LockAsk]) -> Vec<usize> {
    let mut sorted: Vec<usize> = (0..asks.len()).collect();
    sorted.sort_by(|a, b| {
        let key = |index: &usize| (&asks[*index].resource, asks[*index].mode);
        key(a).cmp(&key(b))
    });
    let mut places = vec![0; asks.len()];
    for (place, index) in sorted.into_iter().enumerate() {
        places[index] = place;
    }
    places
}

/// A time as an aware datetime.
fn moment(py: Python<'_>, at: Timestamp) -> PyResult<Bound<'_, PyAny>> {
    static MAKE: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();
    let (make, utc) = MAKE.get_or_try_init(py, || {
        let module = py.import("datetime")?;
        let utc = module.getattr("timezone")?.getattr("utc")?.unbind();
        PyResult::Ok((module.getattr("datetime")?.getattr("fromtimestamp")?.unbind(), utc))
    })?;
    // A double holds microseconds exactly for two centuries more.
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^53 microseconds")]
    let seconds = at.0 as f64 / 1e6;
    make.bind(py).call1((seconds, utc))
}

pub(crate) fn granted(py: Python<'_>, grant: &Grant) -> PyResult<Py<PyAny>> {
    let made = RESULT.get(py)?.call1((
        true,
        grant.lock_id.as_str(),
        moment(py, grant.acquired_at)?,
        py.None(),
        grant.fencing_token,
    ))?;
    Ok(made.unbind())
}

/// Time up and deadlock are answers; everything else is raised.
pub(crate) fn refused(py: Python<'_>, error: &LockError) -> PyResult<Py<PyAny>> {
    let cycle = match error {
        LockError::Timeout { .. } => None,
        LockError::Deadlock(deadlock) => Some(names(&deadlock.cycle)),
        _ => return Err(raised(py, error)),
    };
    let none = py.None();
    let made = RESULT.get(py)?.call1((false, &none, &none, error.to_string(), &none, cycle))?;
    Ok(made.unbind())
}

/// An `ActiveLock`, or None.
pub(crate) fn active_if_held(
    py: Python<'_>,
    held: Option<(Grant, RequesterId)>,
) -> PyResult<Py<PyAny>> {
    held.map_or_else(|| Ok(py.None()), |(grant, requester)| active(py, &grant, &requester))
}

pub(crate) fn active(
    py: Python<'_>,
    grant: &Grant,
    requester: &RequesterId,
) -> PyResult<Py<PyAny>> {
    let made = ACTIVE.get(py)?.call1((
        grant.lock_id.as_str(),
        grant.resource.as_str(),
        mode_member(py, grant.mode)?,
        requester.as_str(),
        moment(py, grant.acquired_at)?,
        grant.fencing_token,
        grant.zk_path.as_deref(),
    ))?;
    Ok(made.unbind())
}

pub(crate) fn active_many(
    py: Python<'_>,
    grants: &[Grant],
    order: &[usize],
    requester: &RequesterId,
) -> PyResult<Py<PyAny>> {
    let mut sorted: Vec<&Grant> = grants.iter().collect();
    sorted.sort_by(|a, b| (&a.resource, a.mode).cmp(&(&b.resource, b.mode)));
    let list = PyList::empty(py);
    for place in order {
        let grant = sorted.get(*place).ok_or_else(|| {
            errors::exception(py, "InternalError", "a lock of several was not granted", &[])
        })?;
        list.append(active(py, grant, requester)?)?;
    }
    Ok(list.into_any().unbind())
}

/// Trouble with locks as an exception.
pub(crate) fn raised(py: Python<'_>, error: &LockError) -> PyErr {
    let message = error.to_string();
    match error {
        LockError::Timeout { .. } => errors::exception(py, "LockTimeout", &message, &[]),
        LockError::Deadlock(deadlock) => {
            let raised = errors::exception(py, "DeadlockDetected", &message, &[]);
            let told = raised.value(py).setattr("deadlock_cycle", names(&deadlock.cycle));
            told.map_or_else(|error| error, |()| raised)
        }
        LockError::Lost { lock_id, .. } => {
            let raised = errors::exception(py, "LockLost", &message, &[]);
            let told = raised.value(py).setattr("lock_id", lock_id.as_str());
            told.map_or_else(|error| error, |()| raised)
        }
        LockError::Invalid { .. } => invalid(py, &message),
        _ => {
            let code = match error {
                LockError::Closed => "lock.closed",
                LockError::Cancelled => "lock.cancelled",
                LockError::Unavailable { .. } => "lock.unavailable",
                _ => "lock.failed",
            };
            errors::exception(py, "LockError", &message, &[("code", code)])
        }
    }
}

fn names(cycle: &[RequesterId]) -> Vec<&str> {
    cycle.iter().map(RequesterId::as_str).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "one of several that may fail")]
pub(crate) fn truth(py: Python<'_>, answer: bool) -> PyResult<Py<PyAny>> {
    Ok(PyBool::new(py, answer).to_owned().into_any().unbind())
}

pub(crate) fn truth_of(py: Python<'_>, answer: Result<bool, LockError>) -> PyResult<Py<PyAny>> {
    answer.map_err(|error| raised(py, &error)).and_then(|answer| truth(py, answer))
}

pub(crate) fn count(py: Python<'_>, answer: usize) -> PyResult<Py<PyAny>> {
    let count: Bound<'_, PyInt> = answer.into_pyobject(py)?;
    Ok(count.into_any().unbind())
}

pub(crate) fn infos(py: Python<'_>, infos: Vec<LockInfo>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for info in infos {
        list.append(INFO.get(py)?.call1((
            info.resource.as_str(),
            mode_member(py, info.mode)?,
            info.requester.as_str(),
            info.state(),
            info.lock_id.as_ref().map(unanimity::locks::LockId::as_str),
            info.position,
            moment(py, info.since)?,
            info.expires_at.map(|at| moment(py, at)).transpose()?,
            info.fencing_token,
        ))?)?;
    }
    Ok(list.into_any().unbind())
}

pub(crate) fn graph(py: Python<'_>, graph: WaitForGraph) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    for (waiter, blockers) in &graph {
        dict.set_item(waiter.as_str(), names(blockers))?;
    }
    Ok(dict.into_any().unbind())
}

pub(crate) fn deadlocks(py: Python<'_>, deadlocks: &[Deadlock]) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for deadlock in deadlocks {
        list.append(DEADLOCK.get(py)?.call1((
            deadlock.victim.as_str(),
            names(&deadlock.cycle),
            deadlock.resource.as_str(),
            moment(py, deadlock.detected_at)?,
        ))?)?;
    }
    Ok(list.into_any().unbind())
}
