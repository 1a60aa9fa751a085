//! Prepare: the statements, the marker and PREPARE TRANSACTION, in one flight.
//!
//! Theory of operation. When the statements are known to the connection, `BEGIN`, each statement
//! and a last text with the marker's insert and PREPARE TRANSACTION are sent without waiting in
//! between, and then their answers are taken. A statement that fails fails everything after it.
//! PREPARE TRANSACTION in a failed transaction would roll back and report success; it stands in
//! one text behind the marker's insert, which fails there, and the rest of a failed text is not
//! run. So its success means that it prepared what the marker is in.
//! Invariants: [`Ending::Refused`] means that nothing is kept; when the connection fails after
//! the first request left, or an undoing is not confirmed, the ending is [`Ending::Lost`].

use std::time::Duration;

use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Error, Statement};

use crate::model::lock::Fence;

use super::fencing::{self, Flush};
use super::gid::Gid;
use super::marker;
use super::pool::Lease;
use super::receipt;
use super::session::{InFlight, Session, all_in_order};
use super::statement::literal;
use super::values::Parameter;
use super::work::{Step, refused};
use crate::db::postgres::describe;

const ABORTED_BEFORE: &str = "this coordination was aborted or prepared in this database before";

/// How a try to prepare ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// With the transaction's number, if one was asked for.
    Prepared(Option<u64>),
    Refused(String),
    Lost(String),
    /// Nothing is kept, and the cause is what the connection remembered; worth one more try on
    /// another one.
    Stale(String),
}

/// What is to be prepared.
pub(super) struct Task<'a> {
    pub(super) id: &'a str,
    pub(super) gid: &'a Gid,
    pub(super) steps: &'a [Step<'a>],
    pub(super) fences: &'a [Fence],
    pub(super) timeout: Duration,
    /// Whether a receipt will do for a marker.
    pub(super) wants_receipt: bool,
}

/// Prepares, and leaves the lease clean unless something may be open on its connection.
pub(super) async fn run(lease: &mut Lease, task: &Task<'_>) -> Ending {
    let texts: Vec<&str> = task.steps.iter().map(|step| step.statement).collect();
    let answers = lease.session().prepare_all(&texts).await;
    let mut statements = Vec::with_capacity(answers.len());
    for (index, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(statement) => statements.push(statement),
            // An earlier statement may create what this one needs.
            Err(error) if index > 0 && error.as_db_error().is_some() => {
                return one_by_one(lease, task).await;
            }
            Err(error) => {
                if error.as_db_error().is_some() {
                    lease.clean();
                }
                return Ending::Refused(failed(&task.steps[index], &error));
            }
        }
    }
    match bind(task.steps, &statements) {
        Ok(parameters) => in_one_flight(lease, task, &statements, &parameters).await,
        Err(reason) => {
            lease.clean();
            Ending::Refused(reason)
        }
    }
}

fn bind(steps: &[Step<'_>], statements: &[Statement]) -> Result<Vec<Vec<Parameter>>, String> {
    steps.iter().zip(statements).map(|(step, statement)| bind_one(step, statement)).collect()
}

/// The parameters of one statement.
pub(super) fn bind_one(step: &Step<'_>, statement: &Statement) -> Result<Vec<Parameter>, String> {
    parameters(step.parameters, statement).map_err(|reason| refused(step.operation, &reason))
}

/// The values as the statement's parameters.
pub(super) fn parameters(
    values: &[crate::model::value::Value],
    statement: &Statement,
) -> Result<Vec<Parameter>, String> {
    let types = statement.params();
    if types.len() != values.len() {
        let (wanted, given) = (types.len(), values.len());
        return Err(format!("has {given} parameters, and its statement has {wanted}"));
    }
    let bound = values.iter().zip(types).enumerate().map(|(index, (value, of))| {
        Parameter::new(value, of).map_err(|reason| format!("has a ${} that {reason}", index + 1))
    });
    bound.collect()
}

async fn in_one_flight(
    lease: &mut Lease,
    task: &Task<'_>,
    statements: &[Statement],
    parameters: &[Vec<Parameter>],
) -> Ending {
    let is_fenced = !task.fences.is_empty();
    if is_fenced && let Some(ending) = open_fenced(lease, task).await {
        return ending;
    }
    let session = lease.session();
    let (opening, closing) = (opening(session, task.timeout), closing(task));
    let client = &session.client;
    let mut flight: Vec<InFlight<'_, u64>> = Vec::with_capacity(statements.len() + 3);
    if task.gid.is_hashed && !is_fenced {
        // A transaction of its own: it must stand before anything is prepared under the gid.
        let text = marker::remember_gid(task.gid, task.id);
        flight.push(Box::pin(async move { client.batch_execute(&text).await.map(|()| 0) }));
    }
    if !is_fenced {
        flight.push(Box::pin(async { client.batch_execute(&opening).await.map(|()| 0) }));
    }
    let before = flight.len();
    for (statement, parameters) in statements.iter().zip(parameters) {
        flight.push(Box::pin(client.execute_raw(statement, parameters)));
    }
    flight.push(Box::pin(receipt::closed(client, &closing)));
    let mut answers = all_in_order(flight).await;
    let closed = answers.pop().unwrap_or(Ok(0));
    let rows = answers.split_off(before);
    let opened = answers.into_iter().find_map(Result::err);
    judge(lease, task, opened, rows, closed).await
}

/// The same in as many round trips as there are statements, for those that build on each other.
async fn one_by_one(lease: &mut Lease, task: &Task<'_>) -> Ending {
    let is_fenced = !task.fences.is_empty();
    let opened =
        if is_fenced { open_fenced(lease, task).await } else { open_plainly(lease, task).await };
    if let Some(ending) = opened {
        return ending;
    }
    let session = lease.session();
    let mut rows = Vec::with_capacity(task.steps.len());
    for step in task.steps {
        let answer = session.client.prepare(step.statement).await;
        let answer = match answer {
            Ok(statement) => match bind_one(step, &statement) {
                Ok(parameters) => session.client.execute_raw(&statement, &parameters).await,
                Err(reason) => return undo(lease, task, false, Ending::Refused(reason)).await,
            },
            Err(error) => Err(error),
        };
        let is_failed = answer.is_err();
        rows.push(answer);
        if is_failed {
            break;
        }
    }
    let is_failed = rows.iter().any(Result::is_err);
    let closed =
        if is_failed { Ok(0) } else { receipt::closed(&session.client, &closing(task)).await };
    if is_failed {
        let step = &task.steps[rows.len() - 1];
        let error = rows.pop().and_then(Result::err);
        let ending = error.map(|error| lost_or_refused(Some(step), &error));
        return undo(lease, task, false, ending.unwrap_or(Ending::Prepared(None))).await;
    }
    judge(lease, task, None, rows, closed).await
}

/// Begins in a round trip of its own; `None` when the transaction is open.
async fn open_plainly(lease: &mut Lease, task: &Task<'_>) -> Option<Ending> {
    let session = lease.session();
    let opening = opening(session, task.timeout);
    if task.gid.is_hashed
        && let Err(error) =
            session.client.batch_execute(&marker::remember_gid(task.gid, task.id)).await
    {
        return Some(judge(lease, task, Some(error), Vec::new(), Ok(0)).await);
    }
    if let Err(error) = session.client.batch_execute(&opening).await {
        return Some(undo(lease, task, false, lost_or_refused(None, &error)).await);
    }
    session.is_marker_prepared = true;
    None
}

/// Begins under locks: shows the fencing tokens, and holds on to their rows in the transaction that
/// is prepared. `None` when that is open.
async fn open_fenced(lease: &mut Lease, task: &Task<'_>) -> Option<Ending> {
    let session = lease.session();
    if task.gid.is_hashed {
        let text = marker::remember_gid(task.gid, task.id);
        if let Err(error) = session.client.batch_execute(&text).await {
            return Some(judge(lease, task, Some(error), Vec::new(), Ok(0)).await);
        }
    }
    let text = format!(
        "{}{};{}",
        fencing::raise(task.fences, Flush::WithPrepare, rounded(task.timeout)),
        opening(session, task.timeout),
        fencing::read(task.fences, true)
    );
    match fencing::judge(&session.client, &text, task.fences).await {
        Ok(judged) => {
            session.is_marker_prepared = true;
            let reason = judged.err()?;
            Some(undo(lease, task, false, Ending::Refused(reason)).await)
        }
        // How far the text came is not known, so the connection is closed with the lease. Nothing
        // can be prepared, because nothing asked for it.
        Err(error) if is_fatal(&error) || error.as_db_error().is_none() => {
            Some(Ending::Stale(describe(&error)))
        }
        Err(error) => Some(Ending::Refused(fencing::not_shown(&error))),
    }
}

/// Looks at all answers of a flight.
async fn judge(
    lease: &mut Lease,
    task: &Task<'_>,
    opened: Option<Error>,
    rows: Vec<Result<u64, Error>>,
    closed: Result<u64, Error>,
) -> Ending {
    // A statement that was prepared by name outlives the rollback of its transaction.
    lease.session().is_marker_prepared |= opened.is_none();
    if let Some(error) = opened.as_ref().filter(|error| is_fatal(error)) {
        // The server let go of an idle connection; nothing behind this was read.
        return Ending::Stale(describe(error));
    }
    let first_error = opened.as_ref().map(|error| (None, error)).or_else(|| {
        let mut with_steps = task.steps.iter().zip(&rows);
        with_steps.find_map(|(step, answer)| Some((Some(step), answer.as_ref().err()?)))
    });
    let is_prepared = closed.is_ok();
    let number = closed.as_ref().ok().copied().filter(|_| task.wants_receipt);
    if let Some((step, error)) = first_error {
        return undo(lease, task, is_prepared, lost_or_refused(step, error)).await;
    }
    if let Err(error) = &closed {
        return undo(lease, task, false, not_closed(task, error)).await;
    }
    let mut counts = task.steps.iter().zip(rows.into_iter().flatten());
    if let Some(reason) = counts.find_map(|(step, rows)| step.mismatch(rows)) {
        return undo(lease, task, true, Ending::Refused(reason)).await;
    }
    lease.session().timeout = Some(rounded(task.timeout));
    lease.clean();
    Ending::Prepared(number)
}

/// Rolls back what a refused flight left, and says so only when that is certain.
async fn undo(lease: &mut Lease, task: &Task<'_>, is_prepared: bool, ending: Ending) -> Ending {
    if let Ending::Lost(_) = ending {
        return ending;
    }
    // Settings of the transaction's first text went back with it.
    lease.session().timeout = None;
    let text = if is_prepared {
        format!("ROLLBACK PREPARED {}", literal(&task.gid.text))
    } else {
        "ROLLBACK".to_owned()
    };
    match lease.session().client.batch_execute(&text).await {
        Ok(()) => {
            if !matches!(ending, Ending::Stale(_)) {
                lease.clean();
            }
            ending
        }
        // A connection that ends rolls its transaction back, unless it is prepared.
        Err(_) if !is_prepared => ending,
        Err(error) => Ending::Lost(format!("undoing the prepare failed: {}", describe(&error))),
    }
}

/// Sent before the statements: what this connection lacks, and BEGIN.
fn opening(session: &Session, timeout: Duration) -> String {
    let mut text = String::new();
    let timeout = rounded(timeout);
    if session.timeout != Some(timeout) {
        let ms = timeout.as_millis();
        // A lock that does not come shall be told from a statement that computes too long.
        let lock_ms = (ms * 9 / 10).max(1);
        text = format!("SET lock_timeout = {lock_ms};SET statement_timeout = {ms};");
    }
    if !session.is_marker_prepared {
        text.push_str(marker::PREPARE_INSERT);
        text.push_str(receipt::PREPARE);
    }
    text.push_str("BEGIN");
    text
}

fn closing(task: &Task<'_>) -> String {
    let gid = literal(&task.gid.text);
    let memory = if task.wants_receipt {
        receipt::take(task.gid)
    } else {
        marker::insert(task.gid, task.id)
    };
    format!("{memory};PREPARE TRANSACTION {gid}")
}

/// Timeouts in steps, so that a connection seldom needs to be told a new one. Up to a tenth
/// longer than asked for; the exact one is kept on this side.
pub(super) fn rounded(timeout: Duration) -> Duration {
    let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).clamp(10, 2_000_000_000);
    let step = 10_u64.pow(ms.ilog10() - 1);
    Duration::from_millis(ms.div_ceil(step).saturating_mul(step).min(2_000_000_000))
}

fn lost_or_refused(step: Option<&Step<'_>>, error: &Error) -> Ending {
    let reason = match step {
        Some(step) => failed(step, error),
        None => format!("PREPARE TRANSACTION failed: {}", describe(error)),
    };
    let Some(code) = error.code() else { return Ending::Lost(reason) };
    if *code == SqlState::UNIQUE_VIOLATION && is_marker(error) {
        return Ending::Refused(ABORTED_BEFORE.to_owned());
    }
    // A cached plan that no longer fits its table, or a statement that somebody deallocated.
    let is_stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
    if is_stale.contains(code) { Ending::Stale(reason) } else { Ending::Refused(reason) }
}

/// PREPARE TRANSACTION itself failed. A cancel or a shutdown may have come just after it was done.
fn not_closed(task: &Task<'_>, error: &Error) -> Ending {
    if receipt::is_shut(error, task.gid) {
        return Ending::Refused(ABORTED_BEFORE.to_owned());
    }
    if is_fatal(error) || error.code() == Some(&SqlState::QUERY_CANCELED) {
        return Ending::Lost(format!("PREPARE TRANSACTION was cut off: {}", describe(error)));
    }
    lost_or_refused(None, error)
}

/// Whether the server ended the connection with this error.
pub(super) fn is_fatal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| db.parsed_severity() != Some(Severity::Error))
}

fn is_marker(error: &Error) -> bool {
    error.as_db_error().is_some_and(|db| db.table() == Some(marker::TABLE))
}

/// What is said of a statement that failed.
pub(super) fn failed(step: &Step<'_>, error: &Error) -> String {
    refused(step.operation, &format!("failed: {}", describe(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_rounded_up_by_a_tenth_at_most() {
        for (ms, to) in [(1, 10), (11, 11), (1000, 1000), (29_950, 30_000), (30_001, 31_000)] {
            assert_eq!(rounded(Duration::from_millis(ms)), Duration::from_millis(to));
        }
        assert_eq!(rounded(Duration::MAX), Duration::from_secs(2_000_000));
    }
}
