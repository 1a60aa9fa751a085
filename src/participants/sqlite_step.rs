//! Steps in a SQLite file: one operation and its row of the barrier, in one commit of SQLite.
//!
//! Not the barrier's rules (`barrier.rs`) and not the queue (`sqlite_writer.rs`): a step takes the
//! writer's place in its turn, as a prepare does, and gives it back at once. Invariants: nothing is
//! done while something is prepared in the file, here or by a process that died; what is not
//! committed is rolled back before it is answered.

use rusqlite::{Connection, ErrorCode, params, params_from_iter};

use super::ExecuteAsk;
use super::barrier::{self, Standing, Verdict};
use super::sqlite_schema::Owner;
use super::sqlite_statement::{self as statement, Statement};
use super::sqlite_writer::{Writer, is_busy};
use crate::crash;
use crate::model::step::{StepAnswer, Work};
use crate::model::value::Value;

impl Writer {
    /// Does a step, with the place lock held; `None` when it must wait.
    pub(super) fn step(&mut self, ask: &ExecuteAsk) -> Option<StepAnswer> {
        match self.is_clear() {
            Err(error) => return Some(barrier::try_again(self.describe(&error))),
            Ok(false) => return None,
            Ok(true) => {}
        }
        crash::point("store_step", self.owner.store.as_str());
        let done = self.step_in_a_transaction(ask);
        self.roll_back();
        match done {
            Ok(answer) => Some(answer),
            Err(error) if is_busy(&error) => {
                self.blame_outsider();
                None
            }
            Err(error) => Some(barrier::try_again(self.describe(&error))),
        }
    }

    /// What is left open by it is to be rolled back. An error says that nothing was done.
    fn step_in_a_transaction(&mut self, ask: &ExecuteAsk) -> rusqlite::Result<StepAnswer> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let standing = read(&self.connection, &self.owner, ask)?;
        let (after, answer) = match standing.judge(ask.work) {
            Verdict::Answer(answer) => return Ok(answer),
            Verdict::RecordEmpty => (Standing::emptied(), barrier::done(&Value::Null)),
            Verdict::Perform => match perform(&self.connection, ask, &standing) {
                Ok(result) => {
                    let answer = barrier::done(&result);
                    (standing.with(ask.work, result), answer)
                }
                Err(trouble) => return self.not_performed(ask, trouble),
            },
        };
        // A trigger's RAISE(ROLLBACK) may have ended the transaction under our hands.
        if self.connection.is_autocommit() {
            let name = barrier::name_of(ask);
            return Ok(barrier::failed(format!("{name}: the statement ended the transaction")));
        }
        if let Err(what) = write(&self.connection, &self.owner, ask, &after)? {
            return Ok(barrier::failed(format!("{}: {what}", barrier::name_of(ask))));
        }
        self.purge_now_and_then()?;
        crash::point("store_step_done", self.owner.store.as_str());
        self.commit_step(ask, answer)
    }

    fn not_performed(&self, ask: &ExecuteAsk, trouble: Trouble) -> rusqlite::Result<StepAnswer> {
        let name = barrier::name_of(ask);
        match trouble {
            Trouble::Refused(what) => Ok(barrier::failed(format!("{name} {what}"))),
            Trouble::Sqlite(error) if may_pass(&error) => Err(error),
            Trouble::Sqlite(error) => {
                Ok(barrier::failed(format!("{name}: {}", self.describe(&error))))
            }
        }
    }

    fn commit_step(&self, ask: &ExecuteAsk, answer: StepAnswer) -> rusqlite::Result<StepAnswer> {
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => {
                crash::point("store_step_committed", self.owner.store.as_str());
                Ok(answer)
            }
            Err(error) if is_busy(&error) => Err(error),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                let what = self.describe(&error);
                Ok(barrier::failed(format!("{}: {what}", barrier::name_of(ask))))
            }
            // How much of it reached the disk is not known; the next start will tell.
            Err(error) => Ok(barrier::unknown(self.describe(&error))),
        }
    }

    fn purge_now_and_then(&mut self) -> rusqlite::Result<()> {
        self.steps += 1;
        if self.steps < barrier::PURGE_EVERY {
            return Ok(());
        }
        self.steps = 0;
        purge(&self.connection)
    }

    /// Purges a portion, with the place lock held. Rows too many are harmless, so it may fail.
    pub(super) fn purge_at_start(&self) {
        if let Err(error) = purge(&self.connection) {
            tracing::debug!(%error, "old rows of unanimity_barrier could not be purged yet");
        }
    }
}

/// Why an operation was not performed.
enum Trouble {
    Refused(String),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Whether another try of the same may meet something else.
fn may_pass(error: &rusqlite::Error) -> bool {
    let passing = [
        ErrorCode::DatabaseBusy,
        ErrorCode::DatabaseLocked,
        ErrorCode::DiskFull,
        ErrorCode::OutOfMemory,
        ErrorCode::SystemIoFailure,
        ErrorCode::OperationInterrupted,
    ];
    error.sqlite_error_code().is_some_and(|code| passing.contains(&code))
}

fn perform(
    connection: &Connection,
    ask: &ExecuteAsk,
    standing: &Standing,
) -> Result<Value, Trouble> {
    let operation = match standing.operation(ask) {
        Ok(Some(operation)) => operation,
        Ok(None) => return Ok(Value::Null),
        Err(what) => return Err(Trouble::Refused(what)),
    };
    let statement = statement::read_statement(&operation).map_err(Trouble::Refused)?;
    run(connection, &statement)
}

/// Runs a statement, with what it returns.
fn run(connection: &Connection, statement: &Statement) -> Result<Value, Trouble> {
    let before = connection.total_changes();
    let mut prepared = connection.prepare_cached(&statement.text)?;
    let is_read_only = prepared.readonly();
    let columns = statement::columns_of(&prepared);
    let parameters = params_from_iter(statement::bindings(&statement.parameters));
    let mut found = prepared.query(parameters)?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        if rows.len() == barrier::ROWS_MAX {
            return Err(Trouble::Refused(format!("is refused: {}", barrier::too_many_rows())));
        }
        let values = statement::values_of(row, &columns)
            .map_err(|what| Trouble::Refused(format!("is refused: {what}")))?;
        rows.push(Value::Map(columns.iter().cloned().zip(values).collect()));
    }
    drop(found);
    let read = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let affected = if is_read_only { read } else { statement::changes_since(connection, before) };
    if let Some(expected) = statement.expect_rows.filter(|expected| *expected != affected) {
        return Err(Trouble::Refused(format!(
            "is refused: expect_rows is {expected}, but it was {affected}"
        )));
    }
    Ok(barrier::sql_result(affected, (!columns.is_empty()).then_some(rows)))
}

fn key<'a>(owner: &'a Owner, ask: &'a ExecuteAsk) -> [&'a str; 4] {
    let (cluster, store) = (owner.cluster.as_str(), owner.store.as_str());
    [cluster, store, ask.id().as_str(), &ask.operation().id]
}

/// Reads the rows of an operation.
fn read(connection: &Connection, owner: &Owner, ask: &ExecuteAsk) -> rusqlite::Result<Standing> {
    let mut statement = connection.prepare_cached(
        "SELECT work, result FROM unanimity_barrier WHERE cluster_id = ? AND store_name = ?
             AND coordination_id = ? AND operation_id = ?",
    )?;
    let mut rows = statement.query(key(owner, ask))?;
    let mut standing = Standing::default();
    while let Some(row) = rows.next()? {
        let (work, result): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        standing.take_row(&work, result.as_deref());
    }
    Ok(standing)
}

/// Writes the rows that are not there yet; inside is why a result cannot be written.
fn write(
    connection: &Connection,
    owner: &Owner,
    ask: &ExecuteAsk,
    standing: &Standing,
) -> rusqlite::Result<Result<(), String>> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO unanimity_barrier (cluster_id, store_name, coordination_id, operation_id, work,
             result, recorded_at)
         VALUES (?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))
         ON CONFLICT DO NOTHING",
    )?;
    let [cluster, store, coordination, operation] = key(owner, ask);
    for (work, result) in standing.rows() {
        let result = match result.map(barrier::encode).transpose() {
            Ok(result) => result,
            Err(what) => return Ok(Err(what)),
        };
        let work: &str = Work::as_str(work);
        statement.execute(params![cluster, store, coordination, operation, work, result])?;
    }
    Ok(Ok(()))
}

/// Removes a portion of the rows that are old. Rows stand in the order in which they came, so those
/// at the front are the oldest.
fn purge(connection: &Connection) -> rusqlite::Result<()> {
    let days = barrier::KEPT.as_secs() / 86_400;
    connection
        .prepare_cached(
            "DELETE FROM unanimity_barrier WHERE rowid IN
                 (SELECT rowid FROM unanimity_barrier ORDER BY rowid LIMIT ?)
             AND recorded_at < strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', ?)",
        )?
        .execute(params![barrier::PURGED_MAX, format!("-{days} days")])
        .map(drop)
}
