//! Steps: one operation and its row of the barrier, in one transaction of PostgreSQL's.
//!
//! Theory of operation. A first text begins, takes an advisory lock of the transaction under the
//! operation's name, and reads its rows; then the statement runs; a last text writes the rows and
//! commits. Two that ask for one operation go one after the other by that lock, and where a
//! transaction looks at an older state than the lock promises (REPEATABLE READ), the primary key
//! of the rows fails it. Not the barrier's rules (`barrier.rs`).
//!
//! Invariants: before the last text is sent nothing can be committed, so every failure until then
//! had no effect; after it an answer that does not come is unknown. What others have prepared is
//! protected by its own row locks, for which a step waits no longer than its timeout.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement};

use crate::crash;
use crate::db::postgres::describe;
use crate::model::operation::Operation;
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::participants::ExecuteAsk;
use crate::participants::barrier::{self, Standing, Verdict};

use super::Inner;
use super::fetch::values_of;
use super::gid::Scope;
use super::pool::{Lease, Purpose};
use super::prepare::{parameters, rounded};
use super::statement::literal;
use super::values::is_readable;
use super::work::Step;

/// The table of the rows.
pub(super) const TABLE: &str = "unanimity_barrier";

/// Rows come in the order of time, so a small index by ranges of pages finds the old ones.
pub(super) const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS unanimity_barrier (
    cluster_id text COLLATE "C" NOT NULL,
    store_name text COLLATE "C" NOT NULL,
    coordination_id text COLLATE "C" NOT NULL,
    operation_id text COLLATE "C" NOT NULL,
    work text COLLATE "C" NOT NULL CHECK (work IN ('execute', 'compensate')),
    result text,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, store_name, coordination_id, operation_id, work)
);
CREATE INDEX IF NOT EXISTS unanimity_barrier_recorded_at
    ON unanimity_barrier USING brin (recorded_at);
"#;

/// Keeps a sum of times inside what clocks can say.
const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);
/// How many connections are tried when what they remember is outdated.
const TRIES: u32 = 3;

/// How one try ended.
enum Ending {
    Answer(StepAnswer),
    /// Nothing was done, and the cause is what the connection remembered.
    Stale(StepAnswer),
}

/// Does a step, or finds that it was done.
pub(super) async fn step(inner: &Arc<Inner>, scope: &Scope, ask: &ExecuteAsk) -> StepAnswer {
    let deadline = Instant::now() + ask.timeout.min(FOR_EVER);
    let place = &inner.pool.server.label;
    let mut tries = 0;
    loop {
        tries += 1;
        let mut lease = match timeout_at(deadline, inner.pool.lease(Purpose::Work)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(reason)) => return barrier::try_again(reason),
            Err(_) => {
                return barrier::try_again(format!(
                    "no connection to {place} was free or could be opened in time; raise \
                     max_connections or the timeout"
                ));
            }
        };
        let is_commit_sent = AtomicBool::new(false);
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = Attempt { scope, ask, left, is_commit_sent: &is_commit_sent };
        match timeout_at(deadline, attempt.run(&mut lease)).await {
            Ok(Ending::Answer(answer)) => return answer,
            Ok(Ending::Stale(answer)) if tries == TRIES => return answer,
            Ok(Ending::Stale(_)) => lease.spoil(),
            Err(_) if is_commit_sent.load(Ordering::Relaxed) => {
                return barrier::unknown(format!("{place} did not answer the COMMIT in time"));
            }
            // The connection is closed with the lease, which rolls back.
            Err(_) => return barrier::try_again(format!("{place} did not answer in time")),
        }
    }
}

/// Removes a portion of the rows that are old.
pub(super) async fn purge(client: &Client) -> Result<(), Error> {
    let (days, most) = (barrier::KEPT.as_secs() / 86_400, barrier::PURGED_MAX);
    let text = format!(
        "DELETE FROM unanimity_barrier WHERE ctid = ANY (ARRAY (SELECT ctid FROM \
         unanimity_barrier WHERE recorded_at < now() - interval '{days} days' LIMIT {most}))"
    );
    client.batch_execute(&text).await
}

/// One try on one connection.
struct Attempt<'a> {
    scope: &'a Scope,
    ask: &'a ExecuteAsk,
    left: Duration,
    is_commit_sent: &'a AtomicBool,
}

impl Attempt<'_> {
    /// Leaves the lease clean unless something may be open on its connection.
    async fn run(&self, lease: &mut Lease) -> Ending {
        crash::point("store_step", self.scope.store.as_str());
        let opened = self.open(&lease.session().client).await;
        let standing = match opened {
            Ok(standing) => standing,
            Err(error) if is_lost(&error) => {
                return Ending::Stale(barrier::try_again(self.failed(&error)));
            }
            Err(error) => return self.roll_back(lease, self.judge(&error)).await,
        };
        let performed = match standing.judge(self.ask.work) {
            Verdict::Answer(answer) => Err(Ending::Answer(answer)),
            Verdict::RecordEmpty => Ok((Standing::emptied(), Value::Null)),
            Verdict::Perform => self.perform(lease, &standing).await,
        };
        let ended = match performed {
            Ok((after, result)) => self.close(lease, &standing, &after, result).await,
            Err(ending) => Err(ending),
        };
        match ended {
            Ok(answer) => {
                lease.clean();
                Ending::Answer(answer)
            }
            Err(ending) => self.roll_back(lease, ending).await,
        }
    }

    /// Begins, and reads the rows once nobody else is at this operation.
    async fn open(&self, client: &Client) -> Result<Standing, Error> {
        let ms = rounded(self.left).as_millis();
        // A lock that does not come shall be told from a statement that computes too long.
        let lock_ms = (ms * 9 / 10).max(1);
        let [cluster, store, coordination, operation] = self.key();
        let name = literal(&self.key_text());
        let text = format!(
            "BEGIN;SET LOCAL lock_timeout = {lock_ms};SET LOCAL statement_timeout = {ms};\
             SELECT set_config('synchronous_commit', 'on', true) \
             WHERE current_setting('synchronous_commit') = 'off';\
             SELECT pg_advisory_xact_lock(hashtextextended({name}, 0));\
             SELECT work, result, 0 FROM unanimity_barrier WHERE cluster_id = {cluster} \
             AND store_name = {store} AND coordination_id = {coordination} \
             AND operation_id = {operation}"
        );
        let mut standing = Standing::default();
        for answer in client.simple_query(&text).await? {
            // The rows of the other two have one column.
            if let SimpleQueryMessage::Row(row) = answer
                && row.len() == 3
            {
                standing.take_row(row.get(0).unwrap_or_default(), row.get(1));
            }
        }
        Ok(standing)
    }

    async fn perform(
        &self,
        lease: &mut Lease,
        standing: &Standing,
    ) -> Result<(Standing, Value), Ending> {
        let name = barrier::name_of(self.ask);
        let result = match standing.operation(self.ask) {
            Ok(Some(operation)) => self.execute(lease, &operation).await?,
            Ok(None) => Value::Null,
            Err(what) => return Err(refused(format!("{name} {what}"))),
        };
        Ok((standing.with(self.ask.work, result.clone()), result))
    }

    async fn execute(&self, lease: &mut Lease, operation: &Operation) -> Result<Value, Ending> {
        let refuse = |what: String| refused(barrier::of_work(self.ask, what));
        let task = Step::read(operation).map_err(refuse)?;
        let name = barrier::name_of(self.ask);
        let prepared = lease.session().prepare_all(&[task.statement]).await.pop();
        let statement = match prepared {
            Some(Ok(statement)) => statement,
            Some(Err(error)) => return Err(self.judge(&error)),
            None => return Err(refused(format!("{name} was not prepared"))),
        };
        if let Some(column) = statement.columns().iter().find(|c| !is_readable(c.type_())) {
            let (column, of) = (column.name(), column.type_().name());
            return Err(refused(format!(
                "{name} returns the column '{column}' of type {of}, which cannot be read; write \
                 {column}::text"
            )));
        }
        let bound = parameters(task.parameters, &statement)
            .map_err(|reason| refused(format!("{name} {reason}")))?;
        let client = &lease.session().client;
        let stream = client.query_raw(&statement, &bound).await.map_err(|e| self.judge(&e))?;
        let mut stream = pin!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await.map_err(|error| self.judge(&error))? {
            if rows.len() == barrier::ROWS_MAX {
                return Err(refused(format!("{name} is refused: {}", barrier::too_many_rows())));
            }
            let values = values_of(&row, &statement)
                .map_err(|reason| refused(format!("{name} is refused: it {reason}")))?;
            rows.push(named(&statement, values));
        }
        let affected = stream.rows_affected().unwrap_or(0);
        if let Some(reason) = task.mismatch(affected) {
            return Err(refuse(reason));
        }
        let has_columns = !statement.columns().is_empty();
        let affected = i64::try_from(affected).unwrap_or(i64::MAX);
        Ok(barrier::sql_result(affected, has_columns.then_some(rows)))
    }

    /// Writes the rows that are not there yet, and commits.
    async fn close(
        &self,
        lease: &mut Lease,
        standing: &Standing,
        after: &Standing,
        result: Value,
    ) -> Result<StepAnswer, Ending> {
        let text = self
            .closing(standing, after)
            .map_err(|what| refused(format!("{}: {what}", barrier::name_of(self.ask))))?;
        crash::point("store_step_done", self.scope.store.as_str());
        self.is_commit_sent.store(true, Ordering::Relaxed);
        match lease.session().client.batch_execute(&text).await {
            Ok(()) => {
                crash::point("store_step_committed", self.scope.store.as_str());
                Ok(StepAnswer::Done { result })
            }
            // A cancel or a shutdown may have come just after it was done.
            Err(error) if is_lost(&error) || error.code() == Some(&SqlState::QUERY_CANCELED) => {
                let what = format!("the COMMIT was cut off: {}", describe(&error));
                Err(Ending::Answer(barrier::unknown(what)))
            }
            Err(error) => Err(self.judge(&error)),
        }
    }

    fn closing(&self, standing: &Standing, after: &Standing) -> Result<String, String> {
        let [cluster, store, coordination, operation] = self.key();
        let mut text = String::new();
        for (work, result) in after.rows() {
            if standing.rows().any(|(there, _)| there == work) {
                continue;
            }
            let result = match result {
                Some(result) => literal(&barrier::encode(result)?),
                None => "NULL".to_owned(),
            };
            let work = work.as_str();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "INSERT INTO {TABLE} (cluster_id, store_name, coordination_id, operation_id, \
                 work, result) VALUES ({cluster}, {store}, {coordination}, {operation}, '{work}', \
                 {result});"
            );
        }
        text.push_str("COMMIT");
        Ok(text)
    }

    /// Undoes what is open; only a connection on which nothing is open is used again.
    async fn roll_back(&self, lease: &mut Lease, ending: Ending) -> Ending {
        if lease.session().client.batch_execute("ROLLBACK").await.is_ok() {
            lease.clean();
        }
        ending
    }

    /// What an error of the server's, before anything was committed, says of the step.
    fn judge(&self, error: &Error) -> Ending {
        let message = self.failed(error);
        let Some(code) = error.code() else { return Ending::Answer(barrier::try_again(message)) };
        // A cached plan that no longer fits its table, or a statement that somebody deallocated.
        let stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
        if stale.contains(code) {
            return Ending::Stale(barrier::failed(message));
        }
        let is_ours = error.as_db_error().is_some_and(|db| db.table() == Some(TABLE));
        if is_passing(code) || (is_ours && *code == SqlState::UNIQUE_VIOLATION) {
            return Ending::Answer(barrier::try_again(message));
        }
        Ending::Answer(barrier::failed(message))
    }

    fn failed(&self, error: &Error) -> String {
        format!("{} failed: {}", barrier::name_of(self.ask), describe(error))
    }

    fn key(&self) -> [String; 4] {
        let (cluster, store) = (self.scope.cluster.as_str(), self.scope.store.as_str());
        [cluster, store, self.ask.id().as_str(), &self.ask.operation().id].map(literal)
    }

    /// Names under one lock that are not one operation's only wait for each other needlessly.
    fn key_text(&self) -> String {
        let (cluster, store) = (self.scope.cluster.as_str(), self.scope.store.as_str());
        format!("unanimity {cluster} {store} {} {}", self.ask.id(), self.ask.operation().id)
    }
}

fn refused(message: String) -> Ending {
    Ending::Answer(barrier::failed(message))
}

fn named(statement: &Statement, values: Vec<Value>) -> Value {
    let names = statement.columns().iter().map(|column| column.name().to_owned());
    Value::Map(names.zip(values).collect())
}

/// Whether the connection ended, by the server's word or without one.
fn is_lost(error: &Error) -> bool {
    match error.as_db_error() {
        Some(db) => db.parsed_severity() != Some(Severity::Error),
        None => true,
    }
}

/// Whether another try of the same may meet something else: a lost connection, a serialization
/// failure or deadlock, a lack of resources, a cancel or shutdown, a lock that did not come.
fn is_passing(code: &SqlState) -> bool {
    let passing = ["08", "40", "53", "57"];
    let others = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::OBJECT_IN_USE,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    passing.contains(&code.code().get(..2).unwrap_or_default()) || others.contains(code)
}
