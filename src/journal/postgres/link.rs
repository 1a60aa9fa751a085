//! One connection to the server, with the settings that the journal needs; what its errors mean.
//!
//! Not a pool: writer, reader and session have one each. Invariants: a question that is not
//! answered within the patience counts as a broken connection; a commit waits for the server's
//! disk.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, ToStatement};

use crate::db::postgres::{Server, carry, describe, is_refusal};
use crate::journal::JournalError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Each statement sees what was committed before it. Who does not wait for the disk is made to; who
/// waits for standbys as well goes on to.
const SETTINGS: &str = "SET default_transaction_isolation = 'read committed'; \
     SET default_transaction_read_only = off; SET jit = off; \
     SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// What the planner believes of tables that change all the time is never true: an index is always
/// right. For connections that ask by keys only.
const BY_KEYS: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; \
     SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off";

/// Why something did not come about.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The connection or the server is of no use now; later it may be.
    Broken(String),
    /// The server will not have this user, or its tables are not there: somebody must mend it.
    Refused(String),
    /// The server cannot keep what a caller gave.
    Data(String),
    /// A row is not as it was believed to be.
    Conflict,
    /// Two got into each other's way; nothing was done.
    Again,
    /// A row does not say what we wrote.
    Row(String),
}

pub(super) type Outcome<T> = Result<T, Trouble>;

impl Trouble {
    /// In the port's words. `label` names server and database.
    pub(super) fn at(&self, label: &str) -> JournalError {
        let path = label.to_owned();
        let reason = match self {
            Self::Row(found) => {
                let reason = format!("{found}; stop the service and restore it from a backup");
                return JournalError::Damaged { path, reason };
            }
            Self::Broken(words) => format!(
                "{words}; check that the server runs and can be reached; it goes on by itself"
            ),
            Self::Refused(words) => {
                format!("{words}; mend it there, and it goes on by itself")
            }
            Self::Data(words) => format!("the server cannot keep it: {words}; change the request"),
            Self::Conflict | Self::Again => {
                "others write the same at this moment; try again".to_owned()
            }
        };
        JournalError::Unavailable { path, reason }
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
    /// Opens a connection.
    pub(super) async fn open(server: &Server) -> Outcome<Self> {
        let late = || Trouble::Broken("cannot connect: the server does not answer".to_owned());
        let connecting = timeout(PATIENCE, server.connect());
        let (client, connection) =
            connecting.await.map_err(|_| late())?.map_err(|error| unreachable(&error))?;
        let link = Self { client, carried: tokio::spawn(carry(connection)) };
        patient(link.client.batch_execute(SETTINGS)).await?;
        Ok(link)
    }

    /// Opens a connection that asks by keys only.
    pub(super) async fn open_by_keys(server: &Server) -> Outcome<Self> {
        let link = Self::open(server).await?;
        link.run(BY_KEYS).await?;
        Ok(link)
    }

    /// Asks; `question` is a text, which is prepared each time, or a statement.
    pub(super) async fn ask<Q>(
        &self,
        question: &Q,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Outcome<Vec<Row>>
    where
        Q: ?Sized + ToStatement,
    {
        patient(self.client.query(question, parameters)).await
    }

    /// Runs statements without parameters.
    pub(super) async fn run(&self, text: &str) -> Outcome<()> {
        patient(self.client.batch_execute(text)).await
    }

    /// Whether a crash of the server may lose what it acknowledged.
    pub(super) async fn is_unsafe(&self) -> Outcome<bool> {
        let rows = self.ask("SELECT current_setting('fsync') = 'off'", &[]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn patient<T>(
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Outcome<T> {
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| judged(&error)),
        Err(_) => Err(Trouble::Broken("the server does not answer".to_owned())),
    }
}

fn unreachable(error: &tokio_postgres::Error) -> Trouble {
    let words = format!("cannot connect: {}", describe(error));
    if is_refusal(error) {
        return Trouble::Refused(format!(
            "{words}; the dsn's user, password and database must be right"
        ));
    }
    Trouble::Broken(words)
}

fn judged(error: &tokio_postgres::Error) -> Trouble {
    let code = error.code().map_or("", |code| code.code());
    let words = describe(error);
    match code {
        "UJ001" | "23505" => Trouble::Conflict,
        "40001" | "40P01" => Trouble::Again,
        "25006" => {
            Trouble::Broken(format!("{words}: it is a standby; name the primary in the dsn"))
        }
        _ if is_refusal(error) => {
            let needs = "the dsn's user needs SELECT, INSERT, UPDATE and DELETE on the journal's \
                         tables and USAGE on their schema";
            Trouble::Refused(format!("{words}: {needs}"))
        }
        _ => match code.get(..2) {
            Some("22" | "23" | "54") => Trouble::Data(words),
            Some("42") => Trouble::Refused(words),
            _ => Trouble::Broken(words),
        },
    }
}
