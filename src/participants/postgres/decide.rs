//! A PostgreSQL database as a last resource: statements and the row that decides, in one COMMIT.
//!
//! Nothing is prepared, so `max_prepared_transactions` may be 0. The statements and a last text with
//! the row's insert and COMMIT leave in one flight, unless an operation expects a number of rows,
//! which is looked at before the last text is sent. A statement that fails fails everything after it:
//! the insert stands before COMMIT in one text, fails in a failed transaction, and the rest of a
//! failed text is not run. So what is committed is everything, with the row.
//!
//! Not the port's duties (`participants/last_resource.rs`). Invariants: a refusal is given only when
//! no COMMIT was sent, or the server said that it failed; after it was sent, whatever else is seen
//! instead of an answer is unknown. Rows are written and read with `synchronous_commit` on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Statement};

use crate::crash;
use crate::db::postgres::describe;
use crate::model::ids::CoordinationId;
use crate::model::outcome::Decision;
use crate::participants::last_resource::{
    ABORTS_KEPT, DecideAsk, Deciding, RowAsk, decode_read_only, encode_read_only,
};
use crate::protocol::Standing;

use super::Inner;
use super::fencing::{self, Flush};
use super::gid::Scope;
use super::marker::last_row;
use super::pool::{Lease, Purpose};
use super::prepare::{bind_one, failed, is_fatal, rounded};
use super::session::{InFlight, all_in_order};
use super::statement::literal;
use super::values::{Parameter, text_array};
use super::voting::{FOR_EVER, Question};
use super::work::Step;

/// The table of the rows. They come and go at the rate of coordinations, as markers do.
pub(super) const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS unanimity_decisions (
    cluster_id text COLLATE "C" NOT NULL,
    coordination_id text COLLATE "C" NOT NULL,
    decision text COLLATE "C" NOT NULL CHECK (decision IN ('COMMIT', 'ABORT')),
    store_name text COLLATE "C" NOT NULL,
    read_only text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, coordination_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
"#;

const DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', true) \
                       WHERE current_setting('synchronous_commit') = 'off'";

/// How a try ended.
enum Ending {
    Committed,
    Refused(String),
    Lost(String),
    /// Nothing is kept, and the cause is what the connection remembered; worth one more try.
    Stale(String),
}

/// Commits the operations with the row.
pub(super) async fn decide(inner: &Arc<Inner>, ask: &DecideAsk) -> Deciding {
    let refused = |reason: String| Deciding::Refused { reason };
    let Some(scope) = inner.scope() else {
        return refused(format!("the PostgreSQL store '{}' was not attached", inner.name));
    };
    let work = &ask.work;
    let steps: Vec<Step<'_>> = match work.operations().map(Step::read).collect() {
        Ok(steps) => steps,
        Err(reason) => return refused(reason),
    };
    let Some(entered) = inner.running.enter(work.id()) else {
        let message = "this coordination is at work here already".to_owned();
        return Deciding::Unknown { message };
    };
    let question = Question { inner, scope: &scope, ask: work, steps: &steps, entered: &entered };
    let deadline = Instant::now() + work.timeout.min(FOR_EVER);
    let row = row(&scope, ask);
    crash::point("store_decide", scope.store.as_str());
    let mut is_second_try = false;
    loop {
        let mut lease = match question.lease(deadline).await {
            Ok(lease) => lease,
            Err(reason) => return refused(reason),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = Attempt { scope: &scope, ask, steps: &steps, left, row: &row };
        let ending = question
            .guarded(&mut lease, deadline, async |lease: &mut Lease| attempt.run(lease).await);
        match ending.await {
            Ok(Ending::Committed) => {
                crash::point("store_decided", scope.store.as_str());
                return Deciding::Committed;
            }
            Ok(Ending::Refused(reason)) => return refused(reason),
            Ok(Ending::Lost(message)) | Err(message) => return Deciding::Unknown { message },
            Ok(Ending::Stale(reason)) if is_second_try => return refused(reason),
            Ok(Ending::Stale(_)) => is_second_try = true,
        }
    }
}

/// A text that writes the row COMMIT.
fn row(scope: &Scope, ask: &DecideAsk) -> String {
    insert(scope, ask.work.id(), Decision::Commit, &encode_read_only(&ask.read_only))
}

fn insert(scope: &Scope, id: &CoordinationId, decision: Decision, read_only: &str) -> String {
    let [cluster, store, id, read_only] =
        [scope.cluster.as_str(), scope.store.as_str(), id.as_str(), read_only].map(literal);
    let decision = decision.as_str();
    format!(
        "INSERT INTO unanimity_decisions (cluster_id, coordination_id, decision, store_name, \
         read_only) VALUES ({cluster}, {id}, '{decision}', {store}, {read_only})"
    )
}

/// One try on one connection.
struct Attempt<'a> {
    scope: &'a Scope,
    ask: &'a DecideAsk,
    steps: &'a [Step<'a>],
    left: Duration,
    row: &'a str,
}

impl Attempt<'_> {
    /// Leaves the lease clean unless something may be open on its connection.
    async fn run(&self, lease: &mut Lease) -> Ending {
        let texts: Vec<&str> = self.steps.iter().map(|step| step.statement).collect();
        let mut bound = Vec::with_capacity(texts.len());
        for (step, answer) in self.steps.iter().zip(lease.session().prepare_all(&texts).await) {
            match answer {
                Ok(statement) => match bind_one(step, &statement) {
                    Ok(parameters) => bound.push((statement, parameters)),
                    Err(reason) => {
                        lease.clean();
                        return Ending::Refused(reason);
                    }
                },
                // An earlier statement may create what this one needs.
                Err(error) if !bound.is_empty() && error.as_db_error().is_some() => {
                    return self.one_by_one(lease).await;
                }
                Err(error) => {
                    if error.as_db_error().is_some() {
                        lease.clean();
                    }
                    return Ending::Refused(failed(step, &error));
                }
            }
        }
        self.in_one_flight(lease, &bound).await
    }

    async fn in_one_flight(
        &self,
        lease: &mut Lease,
        bound: &[(Statement, Vec<Parameter>)],
    ) -> Ending {
        let is_fenced = !self.ask.work.fences.is_empty();
        if is_fenced && let Err(ending) = self.open_fenced(lease).await {
            return self.undone(lease, ending).await;
        }
        let expects = self.steps.iter().any(|step| step.expect_rows.is_some());
        let (opening, closing) = (self.opening(), self.closing());
        let client = &lease.session().client;
        let mut flight: Vec<InFlight<'_, u64>> = Vec::with_capacity(bound.len() + 2);
        if !is_fenced {
            flight.push(Box::pin(async { client.batch_execute(&opening).await.map(|()| 0) }));
        }
        let before = flight.len();
        for (statement, parameters) in bound {
            flight.push(Box::pin(client.execute_raw(statement, parameters)));
        }
        if !expects {
            crash::point("store_deciding", self.scope.store.as_str());
            flight.push(Box::pin(async { client.batch_execute(&closing).await.map(|()| 0) }));
        }
        let mut answers = all_in_order(flight).await;
        let closed = if expects { None } else { answers.pop() };
        let rows = answers.split_off(before);
        if let Some(error) = answers.into_iter().find_map(Result::err) {
            return self.undone(lease, not_opened(&error, closed.as_ref())).await;
        }
        match (self.judge(rows), closed) {
            (Err(ending), _) => self.undone(lease, ending).await,
            (Ok(()), Some(closed)) => self.closed(lease, closed).await,
            (Ok(()), None) => self.close(lease).await,
        }
    }

    /// The same in as many round trips as there are statements, for those that build on each other.
    async fn one_by_one(&self, lease: &mut Lease) -> Ending {
        let opened = if self.ask.work.fences.is_empty() {
            let opened = lease.session().client.batch_execute(&self.opening()).await;
            opened.map_err(|error| not_opened(&error, None))
        } else {
            self.open_fenced(lease).await
        };
        if let Err(ending) = opened {
            return self.undone(lease, ending).await;
        }
        let client = &lease.session().client;
        let mut rows = Vec::with_capacity(self.steps.len());
        for step in self.steps {
            let answer = match client.prepare(step.statement).await {
                Ok(statement) => match bind_one(step, &statement) {
                    Ok(parameters) => client.execute_raw(&statement, &parameters).await,
                    Err(reason) => return self.undone(lease, Ending::Refused(reason)).await,
                },
                Err(error) => Err(error),
            };
            let is_failed = answer.is_err();
            rows.push(answer);
            if is_failed {
                break;
            }
        }
        match self.judge(rows) {
            Ok(()) => self.close(lease).await,
            Err(ending) => self.undone(lease, ending).await,
        }
    }

    /// Begins under locks: shows the fencing tokens, and holds on to their rows until the commit.
    async fn open_fenced(&self, lease: &mut Lease) -> Result<(), Ending> {
        let shown = &self.ask.work.fences;
        let text = format!(
            "{}{};{}",
            fencing::raise(shown, Flush::WithPrepare, rounded(self.left)),
            self.opening(),
            fencing::read(shown, true)
        );
        match fencing::judge(&lease.session().client, &text, shown).await {
            Ok(judged) => judged.map_err(Ending::Refused),
            // Nothing can be committed, because nothing asked for it.
            Err(error) if is_fatal(&error) || error.as_db_error().is_none() => {
                Err(Ending::Stale(describe(&error)))
            }
            Err(error) => Err(Ending::Refused(fencing::not_shown(&error))),
        }
    }

    fn opening(&self) -> String {
        let ms = rounded(self.left).as_millis();
        // A lock that does not come shall be told from a statement that computes too long.
        let lock_ms = (ms * 9 / 10).max(1);
        format!(
            "BEGIN;SET LOCAL lock_timeout = {lock_ms};SET LOCAL statement_timeout = {ms};{DURABLY}"
        )
    }

    fn closing(&self) -> String {
        format!("{};COMMIT", self.row)
    }

    /// Looks at what the statements did. Nothing was committed where this is an error: either the
    /// COMMIT was not sent yet, or it stands behind a statement that failed.
    fn judge(&self, rows: Vec<Result<u64, Error>>) -> Result<(), Ending> {
        for (step, answer) in self.steps.iter().zip(rows) {
            let rows = answer.map_err(|error| statement_failed(step, &error))?;
            if let Some(reason) = step.mismatch(rows) {
                return Err(Ending::Refused(reason));
            }
        }
        Ok(())
    }

    async fn close(&self, lease: &mut Lease) -> Ending {
        crash::point("store_deciding", self.scope.store.as_str());
        let closed = lease.session().client.batch_execute(&self.closing()).await;
        self.closed(lease, closed.map(|()| 0)).await
    }

    /// The last text was sent; this is its answer.
    async fn closed(&self, lease: &mut Lease, answer: Result<u64, Error>) -> Ending {
        let Err(error) = answer else {
            lease.clean();
            return Ending::Committed;
        };
        let reason = format!("the COMMIT failed: {}", describe(&error));
        // A cancel or a shutdown may have come just after it was done.
        let is_cut = error.code() == Some(&SqlState::QUERY_CANCELED);
        if is_fatal(&error) || error.as_db_error().is_none() || is_cut {
            return Ending::Lost(reason);
        }
        let is_row =
            error.as_db_error().is_some_and(|db| db.table() == Some("unanimity_decisions"));
        let ending = if is_row && error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
            Ending::Refused("a row in unanimity_decisions decides this one already".to_owned())
        } else {
            Ending::Refused(reason)
        };
        self.undone(lease, ending).await
    }

    /// Rolls back. Only a connection on which nothing is open is used again; one that ends rolls
    /// back by itself, because its COMMIT was not sent, or not run.
    async fn undone(&self, lease: &mut Lease, ending: Ending) -> Ending {
        if matches!(ending, Ending::Lost(_)) {
            return ending;
        }
        let is_clean = lease.session().client.batch_execute("ROLLBACK").await.is_ok();
        if is_clean && !matches!(ending, Ending::Stale(_)) {
            lease.clean();
        }
        ending
    }
}

/// The opening text failed. What was sent behind it ran without a transaction, or not at all.
fn not_opened(error: &Error, closed: Option<&Result<u64, Error>>) -> Ending {
    let reason = format!("the transaction could not begin: {}", describe(error));
    match closed {
        // The server let go of an idle connection, and read nothing of what came behind.
        _ if is_fatal(error) => Ending::Stale(reason),
        None => Ending::Stale(reason),
        Some(Err(closed)) if closed.as_db_error().is_some() => Ending::Refused(reason),
        Some(_) => Ending::Lost(reason),
    }
}

fn statement_failed(step: &Step<'_>, error: &Error) -> Ending {
    let reason = failed(step, error);
    // The connection was lost, and with it perhaps the answer of a COMMIT that was sent behind.
    let Some(code) = error.code().filter(|_| !is_fatal(error)) else { return Ending::Lost(reason) };
    // A cached plan that no longer fits its table, or a statement that somebody deallocated.
    let is_stale = [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME];
    if is_stale.contains(code) { Ending::Stale(reason) } else { Ending::Refused(reason) }
}

/// Writes a row ABORT unless one stands, and answers what stands.
pub(super) async fn forbid(inner: &Inner, ask: &RowAsk) -> Standing {
    if let Some(ended) = inner.running.stop(&ask.id)
        && timeout(ask.timeout, ended).await.is_err()
    {
        return Standing::Unknown;
    }
    within(inner, ask, async |client: &Client, scope: &Scope| {
        crash::point("store_forbid", scope.store.as_str());
        // At "read committed" the look sees what the insert has waited for.
        let text = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL lock_timeout = 1000;{DURABLY};\
             {} ON CONFLICT (cluster_id, coordination_id) DO NOTHING;{};COMMIT",
            insert(scope, &ask.id, Decision::Abort, "[]"),
            select(scope, &ask.id)
        );
        let row = last_row(client, &text).await?;
        crash::point("store_forbidden", scope.store.as_str());
        Ok(standing(&row))
    })
    .await
}

/// Answers what stands.
pub(super) async fn read(inner: &Inner, ask: &RowAsk) -> Standing {
    within(inner, ask, async |client: &Client, scope: &Scope| {
        Ok(standing(&last_row(client, &select(scope, &ask.id)).await?))
    })
    .await
}

async fn within(
    inner: &Inner,
    ask: &RowAsk,
    act: impl AsyncFnOnce(&Client, &Scope) -> Result<Standing, Error>,
) -> Standing {
    let work = async {
        let scope = inner.scope().ok_or("it was not attached")?;
        let mut lease = inner.pool.lease(Purpose::Delivery).await?;
        let standing = act(&lease.session().client, &scope).await.map_err(|e| describe(&e))?;
        lease.clean();
        Ok::<_, String>(standing)
    };
    let answer = timeout(ask.timeout, work).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    answer.unwrap_or_else(|trouble| {
        tracing::warn!(id = %ask.id, store = inner.name, trouble, "a decision cannot be read");
        Standing::Unknown
    })
}

/// A text that reads the row. One line always comes; a standby's says nothing, because it may lag.
fn select(scope: &Scope, id: &CoordinationId) -> String {
    let [cluster, id] = [scope.cluster.as_str(), id.as_str()].map(literal);
    format!(
        "SELECT pg_is_in_recovery(), d.decision, d.read_only FROM (VALUES (1)) AS one(line) \
         LEFT JOIN unanimity_decisions AS d ON d.cluster_id = {cluster} AND d.coordination_id = {id}"
    )
}

fn standing(row: &[Option<String>]) -> Standing {
    let [Some(is_standby), decision, read_only] = row else { return Standing::Unknown };
    match decision.as_deref().map(Decision::parse) {
        Some(Some(decision)) => {
            let read_only = decode_read_only(read_only.as_deref().unwrap_or_default());
            Standing::Decided { decision, read_only }
        }
        None if is_standby == "f" => Standing::Open,
        _ => Standing::Unknown,
    }
}

/// A text that removes the rows COMMIT of these ids.
pub(super) fn forget(scope: &Scope, ids: &[CoordinationId]) -> String {
    let ids = literal(&text_array(ids.iter().map(CoordinationId::as_str)));
    let cluster = literal(scope.cluster.as_str());
    format!(
        "DELETE FROM unanimity_decisions WHERE cluster_id = {cluster} \
         AND coordination_id = ANY ({ids}::text[]) AND decision = 'COMMIT';"
    )
}

/// Makes the table where it is missing, and removes rows ABORT that are old.
pub(super) async fn set_up(client: &Client) -> Result<(), String> {
    let there = "SELECT to_regclass('unanimity_decisions') IS NOT NULL";
    let row = last_row(client, there).await.map_err(|error| describe(&error))?;
    if row.first().and_then(Option::as_deref) != Some("t") {
        let lock = "SELECT pg_advisory_xact_lock(hashtext('unanimity_decisions'))";
        let create = format!("BEGIN;{lock};{CREATE}COMMIT");
        client.batch_execute(&create).await.map_err(|error| {
            format!(
                "its table unanimity_decisions cannot be created: {}; grant CREATE on the first \
                 schema of the search_path to the dsn's user",
                describe(&error)
            )
        })?;
    }
    let days = ABORTS_KEPT.as_secs() / 86_400;
    let old = format!(
        "DELETE FROM unanimity_decisions \
         WHERE decision = 'ABORT' AND decided_at < now() - interval '{days} days'"
    );
    client.batch_execute(&old).await.map_err(|error| describe(&error))
}
