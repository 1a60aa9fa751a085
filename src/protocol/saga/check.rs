//! What can be wrong with a saga's operations, found before anything runs.
//!
//! Not the request's own check (`model::request`). Invariants: what passes has no circle, at most
//! one pivot, and a way to undo every step that may be done before nothing is undone any more.

use std::time::Duration;

use crate::model::operation::Operation;
use crate::model::request::CoordinationRequest;
use crate::model::value::Value;

use super::plan::{Step, Undo};

/// How often a step is tried again where the operation does not say it.
const MAX_RETRIES: u32 = 3;

/// What is wrong with a saga. The message says which operation, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// A key has a value of the wrong type.
    #[error("operation '{operation}' has '{key}' of type {kind}; give {expected}")]
    WrongType {
        /// The operation's id.
        operation: String,
        /// The key.
        key: &'static str,
        /// The type that it has.
        kind: &'static str,
        /// The type that it needs.
        expected: &'static str,
    },
    /// A compensation that says not what to do.
    #[error(
        "operation '{operation}' has a 'compensation' without a 'type' that is a str; give \
         {{\"type\": ..., ...}}, or None if there is nothing to undo"
    )]
    CompensationWithoutType {
        /// The operation's id.
        operation: String,
    },
    /// It depends on something that is not there.
    #[error(
        "operation '{operation}' depends on '{missing}', which is no operation of this request; \
         'depends_on' takes the operation_ids of: {known}"
    )]
    UnknownDependency {
        /// The operation's id.
        operation: String,
        /// What it depends on.
        missing: String,
        /// The ids that there are.
        known: String,
    },
    /// Operations wait for each other.
    #[error(
        "operations depend on each other in a circle: {circle}; take one of them out of the \
         'depends_on' of the one before it (an operation without 'depends_on' depends on the one \
         before it in the list, one with [] on none)"
    )]
    Circle {
        /// The ids, each depending on the next, the last on the first.
        circle: String,
    },
    /// There can be one point of no return.
    #[error(
        "operations '{first}' and '{second}' are both marked as 'pivot'; a saga has one at most"
    )]
    TwoPivots {
        /// The first one's id.
        first: String,
        /// The second one's id.
        second: String,
    },
    /// A step could not be undone when the saga turns round.
    #[error(
        "operation '{operation}' may be done when the saga turns round ({until}), and nobody knows \
         how to undo it: give it a 'compensation' ({{\"type\": ..., ...}}), or \"compensation\": \
         None if there is nothing to undo"
    )]
    NoCompensation {
        /// The operation's id.
        operation: String,
        /// Until when that is possible.
        until: String,
    },
}

/// Reads the operations of a saga as steps, or says what is wrong with them.
///
/// `can_compensate` tells of an operation without a `compensation` whether its participant knows
/// how to undo it. It is asked again at recovery, where a participant that is missing counts as
/// one that can: the request was checked when it was accepted.
pub fn check(
    request: &CoordinationRequest,
    can_compensate: impl Fn(&Operation) -> bool,
) -> Result<Vec<Step>, CheckError> {
    let operations = &request.operations;
    let mut steps = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        steps.push(Step {
            depends_on: dependencies(operations, index)?,
            is_pivot: is_pivot(operation)?,
            undo: undo(operation, &can_compensate)?,
            max_retries: max_retries(operation),
            timeout: timeout(operation),
        });
    }
    check_circles(operations, &steps)?;
    check_pivot(operations, &mut steps)?;
    Ok(steps)
}

/// How often an operation is tried again.
pub(in crate::protocol) fn max_retries(operation: &Operation) -> u32 {
    let given = operation.body.get("max_retries").and_then(Value::as_int);
    given.map_or(MAX_RETRIES, |number| u32::try_from(number).unwrap_or(u32::MAX))
}

/// How long one try of an operation may take, if it says so.
pub(in crate::protocol) fn timeout(operation: &Operation) -> Option<Duration> {
    let seconds = match operation.body.get("timeout_seconds")? {
        Value::Int(number) => Duration::from_secs(u64::try_from(*number).unwrap_or(0)),
        Value::Float(number) => Duration::try_from_secs_f64(*number).unwrap_or_default(),
        _ => return None,
    };
    (!seconds.is_zero()).then_some(seconds)
}

fn wrong_type(
    operation: &Operation,
    key: &'static str,
    value: &Value,
    expected: &'static str,
) -> CheckError {
    CheckError::WrongType { operation: operation.id.clone(), key, kind: value.kind(), expected }
}

fn dependencies(operations: &[Operation], index: usize) -> Result<Vec<usize>, CheckError> {
    let operation = &operations[index];
    let expected = "a list of operation_ids, [] for none";
    let given = match operation.body.get("depends_on") {
        None | Some(Value::Null) => return Ok(index.checked_sub(1).into_iter().collect()),
        Some(Value::List(given)) => given,
        Some(other) => return Err(wrong_type(operation, "depends_on", other, expected)),
    };
    let mut found = Vec::with_capacity(given.len());
    for value in given {
        let Some(id) = value.as_text() else {
            return Err(wrong_type(operation, "depends_on", value, expected));
        };
        let Some(at) = operations.iter().position(|other| other.id == id) else {
            let known = operations.iter().map(|other| format!("'{}'", other.id));
            return Err(CheckError::UnknownDependency {
                operation: operation.id.clone(),
                missing: id.to_owned(),
                known: known.collect::<Vec<_>>().join(", "),
            });
        };
        if !found.contains(&at) {
            found.push(at);
        }
    }
    Ok(found)
}

fn is_pivot(operation: &Operation) -> Result<bool, CheckError> {
    match operation.body.get("pivot") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is_pivot)) => Ok(*is_pivot),
        Some(other) => Err(wrong_type(operation, "pivot", other, "True or False")),
    }
}

fn undo(
    operation: &Operation,
    can_compensate: impl Fn(&Operation) -> bool,
) -> Result<Undo, CheckError> {
    match operation.body.get("compensation") {
        Some(Value::Null) => Ok(Undo::Nothing),
        Some(map @ Value::Map(_)) => match map.get("type") {
            Some(Value::Text(kind)) if !kind.is_empty() => Ok(Undo::Asked),
            _ => {
                let operation = operation.id.clone();
                Err(CheckError::CompensationWithoutType { operation })
            }
        },
        Some(other) => {
            let expected = "a dict {\"type\": ..., ...}, or None if there is nothing to undo";
            Err(wrong_type(operation, "compensation", other, expected))
        }
        None if can_compensate(operation) => Ok(Undo::Asked),
        None => Ok(Undo::Impossible),
    }
}

/// Takes away, again and again, what depends on nothing that is left; a circle stays.
fn check_circles(operations: &[Operation], steps: &[Step]) -> Result<(), CheckError> {
    let mut is_left = vec![true; steps.len()];
    loop {
        let is_free =
            |at: &usize| is_left[*at] && !steps[*at].depends_on.iter().any(|other| is_left[*other]);
        let free: Vec<usize> = (0..steps.len()).filter(is_free).collect();
        if free.is_empty() {
            break;
        }
        for at in free {
            is_left[at] = false;
        }
    }
    let Some(first) = is_left.iter().position(|is_left| *is_left) else { return Ok(()) };
    // Whatever is left depends on something that is left: the way leads into a circle.
    let mut way = vec![first];
    loop {
        let last = way[way.len() - 1];
        let next = steps[last].depends_on.iter().find(|other| is_left[**other]);
        let next = *next.expect("what is left depends on something that is left");
        if let Some(begin) = way.iter().position(|at| *at == next) {
            let names = way[begin..].iter().chain([&next]);
            let names: Vec<_> = names.map(|at| format!("'{}'", operations[*at].id)).collect();
            return Err(CheckError::Circle { circle: names.join(" -> ") });
        }
        way.push(next);
    }
}

/// One pivot at most; what may be done while the saga can still turn round can be undone.
fn check_pivot(operations: &[Operation], steps: &mut [Step]) -> Result<(), CheckError> {
    let mut pivots = (0..steps.len()).filter(|at| steps[*at].is_pivot);
    let pivot = pivots.next();
    if let (Some(first), Some(second)) = (pivot, pivots.next()) {
        let (first, second) = (operations[first].id.clone(), operations[second].id.clone());
        return Err(CheckError::TwoPivots { first, second });
    }
    let after = pivot.map_or_else(Vec::new, |pivot| dependents(steps, pivot));
    for (at, step) in steps.iter().enumerate() {
        let is_free = step.is_pivot || after.contains(&at);
        if step.undo == Undo::Impossible && !is_free {
            let until = match pivot {
                Some(pivot) => format!("until the pivot '{}' is done", operations[pivot].id),
                None => "until all are done, as none is marked as 'pivot'".to_owned(),
            };
            let operation = operations[at].id.clone();
            return Err(CheckError::NoCompensation { operation, until });
        }
    }
    // "Nothing to undo" is no word of a point of no return: that it happened counts.
    if let Some(pivot) = pivot
        && steps[pivot].undo == Undo::Nothing
    {
        steps[pivot].undo = Undo::Impossible;
    }
    Ok(())
}

/// The steps that depend on this one, directly or not; itself excluded.
fn dependents(steps: &[Step], of: usize) -> Vec<usize> {
    let mut found = vec![of];
    let mut at = 0;
    while at < found.len() {
        let next = (0..steps.len()).filter(|step| steps[*step].depends_on.contains(&found[at]));
        let fresh: Vec<usize> = next.filter(|step| !found.contains(step)).collect();
        found.extend(fresh);
        at += 1;
    }
    found.remove(0);
    found
}
