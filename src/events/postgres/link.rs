//! One connection to the server, with the settings that the bus needs.
//!
//! Not a pool: `publisher` and `session` have one each. Invariant: a question that is not answered
//! within the patience counts as a broken connection.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row, Statement};

use super::shared::Inner;
use crate::db::DbError;
use crate::db::postgres::{Carried, describe, is_refusal};
use crate::db::postgres_migration::{BUS, migrate_schema};

/// How long an answer may take; shorter than the lease of a session.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Each statement sees what was committed before it, whatever the database's default is. The
/// tables change all the time, so what the planner believes of them is never true: an index is
/// always right.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; \
     SET default_transaction_read_only = off; SET synchronous_commit = on; \
     SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; \
     SET jit = off; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The connection is of no use any more; another one may be.
    Broken(String),
    /// The server will not have it; trying again cannot help.
    Refused(String),
}

impl Trouble {
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Broken(words) | Self::Refused(words) => words,
        }
    }
}

/// A connection.
pub(super) struct Link {
    pub(super) client: Client,
    carried: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Also when the server does not answer; what is half sent does not matter.
        self.carried.abort();
    }
}

impl Link {
    /// Opens a connection and makes what tables are missing; stirs the members when the server
    /// notifies it.
    pub(super) async fn open(inner: &Arc<Inner>) -> Result<Self, Trouble> {
        let late = || Trouble::Broken("cannot connect: it does not answer".to_owned());
        let connecting = timeout(PATIENCE, inner.server.connect());
        let (client, connection) =
            connecting.await.map_err(|_| late())?.map_err(|error| unreachable(&error))?;
        let carried = tokio::spawn(carry(connection, inner.clone()));
        let link = Self { client, carried };
        link.run(SETTINGS).await?;
        let migrated = timeout(PATIENCE, migrate_schema(&link.client, &inner.server.label, &BUS));
        migrated.await.map_err(|_| late())?.map_err(|error: DbError| {
            let words = error.to_string();
            if link.client.is_closed() { Trouble::Broken(words) } else { Trouble::Refused(words) }
        })?;
        Ok(link)
    }

    /// Runs statements without parameters.
    pub(super) async fn run(&self, text: &str) -> Result<(), Trouble> {
        patient(self.client.batch_execute(text)).await
    }

    /// Prepares a statement, for what is asked often.
    pub(super) async fn prepare(&self, text: &str) -> Result<Statement, Trouble> {
        patient(self.client.prepare(text)).await
    }

    /// Asks with parameters; `question` is a text, which is prepared each time, or a statement.
    pub(super) async fn ask<Q>(
        &self,
        question: &Q,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble>
    where
        Q: ?Sized + tokio_postgres::ToStatement,
    {
        patient(self.client.query(question, parameters)).await
    }
}

async fn patient<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Trouble> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| judged(&error)),
        Err(_) => Err(Trouble::Broken("it does not answer".to_owned())),
    }
}

/// Carries a connection.
async fn carry(mut connection: Carried, inner: Arc<Inner>) {
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        match message {
            Ok(AsyncMessage::Notification(_)) => inner.hear(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(error = %describe(&error), "a PostgreSQL connection ended");
                return;
            }
        }
    }
}

fn unreachable(error: &tokio_postgres::Error) -> Trouble {
    let words = format!(
        "cannot connect: {}; check that the server runs and accepts connections there, and that \
         the dsn's user, password and database are right",
        describe(error)
    );
    if is_refusal(error) { Trouble::Refused(words) } else { Trouble::Broken(words) }
}

/// What the server says about the question itself (a value, a limit) will be said again; deadlocks,
/// shutdowns and full disks pass.
fn judged(error: &tokio_postgres::Error) -> Trouble {
    let words = describe(error);
    let class = error.code().map_or("", |code| &code.code()[..2]);
    let is_final = is_refusal(error) || matches!(class, "22" | "23" | "42" | "54");
    if is_final { Trouble::Refused(words) } else { Trouble::Broken(words) }
}
