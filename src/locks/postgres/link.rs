//! One connection to the server, with the settings and statements that locks need.
//!
//! Not a pool and not a session: `lane`, `session` and `watch` have one each. Invariant: a
//! question that is not answered within the patience counts as a broken connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::shared::Inner;
use crate::db::postgres::{Carried, carry, describe, is_refusal};

/// Each statement sees what was committed before it, whatever the database's default is. The
/// tables are small and change all the time, so what the planner believes of them is never true:
/// an index is always right, and a plain scan of it marks the dead rows that it met.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; \
     SET default_transaction_read_only = off; SET synchronous_commit = on; \
     SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; \
     SET jit = off; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// Why something did not come about.
pub(super) enum Trouble {
    /// The connection is of no use any more; another one may be.
    Broken(String),
    /// Trying again cannot help.
    Refused(String),
    /// The session that the question named is over.
    SessionOver,
}

/// A connection.
pub(super) struct Link {
    pub(super) client: Client,
    carried: JoinHandle<()>,
    patience: Duration,
    batch: Option<Statement>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Also when the server does not answer; what is half sent does not matter.
        self.carried.abort();
    }
}

impl Link {
    /// Opens a connection; `carried` does its work until it ends.
    pub(super) async fn open(
        inner: &Arc<Inner>,
        carried: impl FnOnce(Carried) -> JoinHandle<()>,
    ) -> Result<Self, Trouble> {
        let patience = inner.options.session_timeout / 2;
        let late = || Trouble::Broken("cannot connect: it does not answer".to_owned());
        let connecting = timeout(patience, inner.server.connect());
        let (client, connection) =
            connecting.await.map_err(|_| late())?.map_err(|error| unreachable(&error))?;
        let link = Self { client, carried: carried(connection), patience, batch: None };
        link.run(SETTINGS).await?;
        Ok(link)
    }

    /// Opens a connection that only answers.
    pub(super) async fn open_plain(inner: &Arc<Inner>) -> Result<Self, Trouble> {
        Self::open(inner, |connection| tokio::spawn(carry(connection))).await
    }

    /// Runs statements without parameters.
    pub(super) async fn run(&self, text: &str) -> Result<(), Trouble> {
        self.patient(self.client.batch_execute(text)).await
    }

    /// Asks with parameters. The driver prepares the text each time; for what is rare.
    pub(super) async fn ask(
        &self,
        text: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        self.patient(self.client.query(text, parameters)).await
    }

    /// Asks for a batch; its statement is prepared once.
    pub(super) async fn ask_batch(
        &mut self,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Trouble> {
        let text = "SELECT * FROM unanimity_lock_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
                    $11, $12, $13, $14, $15, $16, $17)";
        let statement = match &self.batch {
            Some(statement) => statement.clone(),
            None => self.patient(self.client.prepare(text)).await?,
        };
        self.batch = Some(statement.clone());
        self.patient(self.client.query(&statement, parameters)).await
    }

    async fn patient<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Trouble> {
        match timeout(self.patience, answer).await {
            Ok(answer) => answer.map_err(|error| judged(&error)),
            Err(_) => Err(Trouble::Broken("it does not answer".to_owned())),
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

fn judged(error: &tokio_postgres::Error) -> Trouble {
    if error.code().is_some_and(|code| code.code() == "UL001") {
        return Trouble::SessionOver;
    }
    if is_refusal(error) {
        return Trouble::Refused(describe(error));
    }
    Trouble::Broken(describe(error))
}
