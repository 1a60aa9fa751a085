//! A PostgreSQL database as a last resource: statements and the row that decides, in one COMMIT.
//!
//! Nothing is prepared, so `max_prepared_transactions` may be 0. The statements and a last text
//! with the row's insert and COMMIT leave in one flight, unless an operation expects a number of
//! rows, which is looked at before the last text is sent. A statement that fails fails everything
//! after it: the insert stands before COMMIT in one text, fails in a failed transaction, and the
//! rest of a failed text is not run. So what is committed is everything, with the row.
//!
//! Not the row's other questions (`decision_row.rs`) and not the port's duties. Invariants: a
//! refusal is given only when no COMMIT was sent, or the server said that it failed; after it was
//! sent, whatever else is seen instead of an answer is unknown.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Statement};

use crate::crash;
use crate::db::postgres::describe;
use crate::model::outcome::Decision;
use crate::participants::last_resource::{DecideAsk, Deciding, encode_read_only};

use super::Inner;
use super::decision_row::{DURABLY, insert};
use super::fencing::{self, Flush};
use super::gid::Scope;
use super::pool::Lease;
use super::prepare::{bind_one, failed, is_fatal, rounded};
use super::session::{InFlight, all_in_order};
use super::values::Parameter;
use super::voting::{FOR_EVER, Question};
use super::work::Step;

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
