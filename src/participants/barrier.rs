//! The barrier of steps: what of an operation was done or undone here before, and what follows.
//!
//! Pure; each native store keeps the rows its own way, in the very transaction of the effect. For
//! each operation of a coordination there are at most two rows, one for each [`Work`]. They answer
//! three things that happen when questions are repeated and overtake each other:
//!
//! - *Duplicates*: work whose row stands is not done again; the row has the first result.
//! - *Empty compensation*: the undoing comes, and the operation was never done (its question got
//!   lost, or failed, or is still on its way). There is nothing to undo. Both rows are written.
//! - *The late operation*: it comes after that, finds its row without a result, and is refused;
//!   nobody would ever undo it.
//!
//! Invariants: a row is durable exactly when its effect is; an operation that failed leaves no
//! row; a row stands for [`KEPT`], far longer than any question is repeated or late.

use std::time::Duration;

use super::ExecuteAsk;
use super::result_reference;
use crate::model::operation::Operation;
use crate::model::request::CoordinationType;
use crate::model::step::{StepAnswer, Work};
use crate::model::value::Value;

/// How long a row stands at least.
pub(super) const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How many rows that are older go with one portion.
pub(super) const PURGED_MAX: u32 = 256;
/// After how many steps a portion goes.
pub(super) const PURGE_EVERY: u32 = 256;
/// The most rows that a statement may give as its result.
pub(super) const ROWS_MAX: usize = 1_000;
/// The longest result, as JSON.
const RESULT_BYTES_MAX: usize = 1 << 20;

/// The row of an operation that was asked to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Executed {
    /// It was, with this result.
    Done(Value),
    /// It never was, and never will be.
    Never,
}

/// The rows of one operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Standing {
    /// Of [`Work::Execute`].
    pub(super) executed: Option<Executed>,
    /// Of [`Work::Compensate`], with what the undoing gave.
    pub(super) undone: Option<Value>,
}

/// What follows from the rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// This answer, and nothing is written.
    Answer(StepAnswer),
    /// The work is done, and its row is written with it.
    Perform,
    /// Nothing is done, and both rows are written.
    RecordEmpty,
}

impl Standing {
    /// Judges a question.
    pub(super) fn judge(&self, work: Work) -> Verdict {
        match (work, &self.executed, &self.undone) {
            (Work::Execute, Some(Executed::Done(result)), None)
            | (Work::Compensate, _, Some(result)) => Verdict::Answer(done(result)),
            (Work::Execute, _, Some(_)) | (Work::Execute, Some(Executed::Never), None) => {
                Verdict::Answer(failed("already compensated"))
            }
            (Work::Execute, None, None) | (Work::Compensate, Some(Executed::Done(_)), None) => {
                Verdict::Perform
            }
            (Work::Compensate, Some(Executed::Never) | None, None) => Verdict::RecordEmpty,
        }
    }

    /// With the row that tells of work that was done now.
    pub(super) fn with(&self, work: Work, result: Value) -> Self {
        let mut after = self.clone();
        match work {
            Work::Execute => after.executed = Some(Executed::Done(result)),
            Work::Compensate => after.undone = Some(result),
        }
        after
    }

    /// With the rows of an empty compensation.
    pub(super) fn emptied() -> Self {
        Self { executed: Some(Executed::Never), undone: Some(Value::Null) }
    }

    /// The rows that stand, with their results; one without says that it was never done.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Work, Option<&Value>)> {
        let executed = self.executed.as_ref().map(|executed| match executed {
            Executed::Done(result) => (Work::Execute, Some(result)),
            Executed::Never => (Work::Execute, None),
        });
        let undone = self.undone.as_ref().map(|result| (Work::Compensate, Some(result)));
        executed.into_iter().chain(undone)
    }

    /// Takes in a row as a store keeps it. A result that cannot be read counts as none, so that
    /// work which was done is not done again.
    pub(super) fn take_row(&mut self, work: &str, result: Option<&str>) {
        self.take_value(work, result.map(|json| Value::from_json(json).unwrap_or_default()));
    }

    /// The same with a result that was read.
    pub(super) fn take_value(&mut self, work: &str, result: Option<Value>) {
        if work == Work::Compensate.as_str() {
            self.undone = Some(result.unwrap_or_default());
        } else {
            self.executed = Some(result.map_or(Executed::Never, Executed::Done));
        }
    }

    /// What is to be performed, its references resolved; `None` where there is nothing to undo.
    /// What is wrong with it is said without its name.
    pub(super) fn operation(&self, ask: &ExecuteAsk) -> Result<Option<Operation>, String> {
        let operation = ask.operation();
        let mut results: Vec<(&str, &Value)> = ask.results().collect();
        if ask.work == Work::Execute {
            let body = result_reference::resolve_operation(&operation.body, &results);
            return Ok(Some(Operation { body: body?, ..operation.clone() }));
        }
        let body = match operation.body.get("compensation") {
            Some(Value::Null) => return Ok(None),
            Some(body @ Value::Map(_)) => body,
            Some(other) => {
                let kind = other.kind();
                return Err(format!("is of type {kind}; give a dict, or None"));
            }
            None => return Err("is not given; give a dict, or None".to_owned()),
        };
        // The answer to the operation may have got lost, and its result with it; it stands here.
        if let Some(Executed::Done(own)) = &self.executed
            && results.iter().all(|(id, _)| *id != operation.id)
        {
            results.push((&operation.id, own));
        }
        let kind = body.get("type").and_then(Value::as_text);
        let kind = kind.ok_or("has no 'type' that is a str")?.to_owned();
        let body = result_reference::resolve_operation(body, &results)?;
        let (id, store) = (operation.id.clone(), operation.store.clone());
        Ok(Some(Operation { id, store, kind, body }))
    }
}

/// What messages call the work.
pub(super) fn name_of(ask: &ExecuteAsk) -> String {
    match ask.work {
        Work::Execute => format!("operation '{}'", ask.operation().id),
        Work::Compensate => format!("the compensation of operation '{}'", ask.operation().id),
    }
}

/// A message that begins with the operation's name, as the key-value stores word it.
pub(super) fn of_work(ask: &ExecuteAsk, message: String) -> String {
    match ask.work {
        Work::Execute => message,
        Work::Compensate => format!("the compensation of {message}"),
    }
}

/// The answer for work that was done.
pub(super) fn done(result: &Value) -> StepAnswer {
    StepAnswer::Done { result: result.clone() }
}

/// The answer for work that had no effect and would have none again.
pub(super) fn failed(message: impl Into<String>) -> StepAnswer {
    StepAnswer::Failed { message: message.into(), retryable: false }
}

/// The answer for work that had no effect now.
pub(super) fn try_again(message: impl Into<String>) -> StepAnswer {
    StepAnswer::Failed { message: message.into(), retryable: true }
}

/// The answer where the effect may be there or not.
pub(super) fn unknown(message: impl Into<String>) -> StepAnswer {
    StepAnswer::Unknown { message: message.into() }
}

/// A result as its row keeps it, or why it is too long.
pub(super) fn encode(result: &Value) -> Result<String, String> {
    let json = result.to_json();
    if json.len() > RESULT_BYTES_MAX {
        return Err(format!(
            "its result has {} bytes as JSON, and {RESULT_BYTES_MAX} are the most; return less, \
             such as the keys alone",
            json.len()
        ));
    }
    Ok(json)
}

/// Why a statement's rows are too many.
pub(super) fn too_many_rows() -> String {
    format!("it gives more than {ROWS_MAX} rows as its result; return fewer, or count them")
}

/// What an SQL statement gives to later operations: `rows_affected`, and its `rows`, each a map by
/// the columns' names, if it returns any.
pub(super) fn sql_result(affected: i64, rows: Option<Vec<Value>>) -> Value {
    let mut entries = vec![("rows_affected".to_owned(), Value::Int(affected))];
    if let Some(rows) = rows {
        entries.push(("rows".to_owned(), Value::List(rows)));
    }
    Value::Map(entries)
}

/// What an operation on a key gives to later ones: whether the key had a value before.
pub(super) fn key_result(existed: bool) -> Value {
    Value::Map(vec![("existed".to_owned(), Value::Bool(existed))])
}

/// What a native store lacks for coordinations of this type.
pub(super) fn missing_for(kind: CoordinationType) -> Option<&'static str> {
    (kind == CoordinationType::EventSourcing).then_some("apply_event")
}

/// Whether an operation's compensation is `None`, or a map whose type is one of these and that has
/// the entry which the type needs.
pub(super) fn can_compensate(operation: &Operation, kinds: &[&str], needs: &str) -> bool {
    match operation.body.get("compensation") {
        Some(Value::Null) => true,
        Some(body @ Value::Map(_)) => {
            let kind = body.get("type").and_then(Value::as_text);
            kind.is_some_and(|kind| kinds.contains(&kind)) && body.get(needs).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(executed: Option<Executed>, undone: Option<Value>) -> Standing {
        Standing { executed, undone }
    }

    #[test]
    fn every_pair_of_rows_has_its_verdict() {
        let one = || Some(Executed::Done(1.into()));
        let never = || Some(Executed::Never);
        let late = || Verdict::Answer(failed("already compensated"));
        let again = |result: i64| Verdict::Answer(done(&result.into()));
        let cases = [
            (standing(None, None), Verdict::Perform, Verdict::RecordEmpty),
            (standing(one(), None), again(1), Verdict::Perform),
            (standing(never(), None), late(), Verdict::RecordEmpty),
            (standing(one(), Some(2.into())), late(), again(2)),
            (standing(never(), Some(2.into())), late(), again(2)),
            (standing(None, Some(2.into())), late(), again(2)),
        ];
        for (standing, execute, compensate) in cases {
            assert_eq!(standing.judge(Work::Execute), execute, "{standing:?}");
            assert_eq!(standing.judge(Work::Compensate), compensate, "{standing:?}");
        }
    }

    #[test]
    fn a_result_that_is_too_long_is_refused() {
        assert_eq!(encode(&Value::Null).as_deref(), Ok("null"));
        let long = Value::Text("x".repeat(RESULT_BYTES_MAX));
        assert!(encode(&long).unwrap_err().contains("1048576 are the most"));
    }
}
