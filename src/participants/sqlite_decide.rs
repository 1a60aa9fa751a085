//! A SQLite file as a last resource: statements and the row that decides, in one commit of SQLite.
//!
//! Not the port's duties (`last_resource.rs`) and not the queue (`sqlite_writer.rs`): a decide
//! takes the writer's place in its turn, as a prepare does, and gives it back at once. Invariants:
//! nothing is committed while something is prepared in the file, here or by a process that died;
//! statements and row are one commit; the first row of an id stands.

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::last_resource::{ABORTS_KEPT, DecideAsk, Deciding, decode_read_only, encode_read_only};
use super::sqlite_ending::FORGET_MAX;
use super::sqlite_fence::{self, Trouble as FenceTrouble};
use super::sqlite_schema::{self as schema, Owner};
use super::sqlite_statement::Statement;
use super::sqlite_writer::{Writer, is_busy};
use crate::crash;
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::Decision;
use crate::protocol::Standing;

/// The table of the rows.
pub(super) const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS unanimity_decisions (
        cluster_id TEXT NOT NULL,
        coordination_id TEXT NOT NULL,
        decision TEXT NOT NULL CHECK (decision IN ('COMMIT', 'ABORT')),
        store_name TEXT NOT NULL,
        read_only TEXT NOT NULL,
        decided_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, coordination_id)
    ) WITHOUT ROWID;";

/// Why a decide did not come to its commit.
enum Stop {
    /// It rolled back, and will do so again.
    Refused(String),
    /// SQLite's word, before anything was committed.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<FenceTrouble> for Stop {
    fn from(trouble: FenceTrouble) -> Self {
        match trouble {
            FenceTrouble::Refused(refusal) => Self::Refused(refusal.to_string()),
            FenceTrouble::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

impl Writer {
    /// Decides with the place lock held; `None` when it must wait.
    pub(super) fn decide(&mut self, ask: &DecideAsk, statements: &[Statement]) -> Option<Deciding> {
        match self.is_clear() {
            Err(error) => return Some(Deciding::Refused { reason: self.describe(&error) }),
            Ok(false) => return None,
            Ok(true) => {}
        }
        crash::point("store_decide", self.owner.store.as_str());
        let over = self.forgotten.len().min(FORGET_MAX);
        let done = self.open_decision(ask, statements, over);
        let answer = match done {
            Ok(()) => self.commit_decision(over),
            Err(Stop::Refused(reason)) => Some(Deciding::Refused { reason }),
            Err(Stop::Sqlite(error)) if is_busy(&error) => {
                self.blame_outsider();
                None
            }
            Err(Stop::Sqlite(error)) => Some(Deciding::Refused { reason: self.describe(&error) }),
        };
        self.roll_back();
        answer
    }

    /// Everything up to the commit. What is left open by it is to be rolled back.
    fn open_decision(
        &self,
        ask: &DecideAsk,
        statements: &[Statement],
        over: usize,
    ) -> Result<(), Stop> {
        let id = ask.work.id();
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        if let Standing::Decided { decision, .. } = read(&self.connection, &self.owner, id)? {
            let decision = decision.as_str();
            return Err(Stop::Refused(format!(
                "a row says {decision} of this coordination already"
            )));
        }
        if !ask.work.fences.is_empty() {
            sqlite_fence::check_and_remember(&self.connection, &ask.work.fences)?;
        }
        self.apply(id, statements).map_err(Stop::Refused)?;
        write(&self.connection, &self.owner, id, Decision::Commit, &ask.read_only)?;
        schema::forget(&self.connection, &self.owner, &self.forgotten[..over])?;
        Ok(())
    }

    fn commit_decision(&mut self, over: usize) -> Option<Deciding> {
        crash::point("store_deciding", self.owner.store.as_str());
        match self.connection.execute_batch("COMMIT") {
            Ok(()) => {
                crash::point("store_decided", self.owner.store.as_str());
                self.forgotten.drain(..over);
                Some(Deciding::Committed)
            }
            Err(error) if is_busy(&error) => {
                self.blame_outsider();
                None
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Some(Deciding::Refused { reason: self.describe(&error) })
            }
            // How much of it reached the disk is not known; the row will tell.
            Err(error) => Some(Deciding::Unknown { message: self.describe(&error) }),
        }
    }

    /// Writes a row ABORT, with the place lock held, unless one stands; `None` when it must wait.
    pub(super) fn forbid(&mut self, id: &CoordinationId) -> Option<Standing> {
        crash::point("store_forbid", self.owner.store.as_str());
        match write(&self.connection, &self.owner, id, Decision::Abort, &[]) {
            Ok(()) => {
                crash::point("store_forbidden", self.owner.store.as_str());
                Some(self.row(id))
            }
            Err(error) if is_busy(&error) => {
                self.blame_outsider();
                None
            }
            Err(error) => {
                tracing::warn!(%id, trouble = self.describe(&error), "a row ABORT is not written");
                Some(Standing::Unknown)
            }
        }
    }

    /// What stands.
    pub(super) fn row(&self, id: &CoordinationId) -> Standing {
        read(&self.connection, &self.owner, id).unwrap_or_else(|error| {
            tracing::warn!(%id, trouble = self.describe(&error), "a decision cannot be read");
            Standing::Unknown
        })
    }

    /// Rows too many are harmless, so it may fail.
    pub(super) fn purge_aborts(&self) {
        let days = ABORTS_KEPT.as_secs() / 86_400;
        let purged = self.connection.execute(
            "DELETE FROM unanimity_decisions WHERE decision = 'ABORT'
                 AND decided_at < strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', ?)",
            [format!("-{days} days")],
        );
        if let Err(error) = purged {
            tracing::debug!(%error, "old rows of unanimity_decisions could not be purged yet");
        }
    }
}

fn read(connection: &Connection, owner: &Owner, id: &CoordinationId) -> rusqlite::Result<Standing> {
    let found: Option<(String, String)> = connection
        .prepare_cached(
            "SELECT decision, read_only FROM unanimity_decisions
             WHERE cluster_id = ? AND coordination_id = ?",
        )?
        .query_row([owner.cluster.as_str(), id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let standing = found.and_then(|(decision, read_only)| {
        let decision = Decision::parse(&decision)?;
        Some(Standing::Decided { decision, read_only: decode_read_only(&read_only) })
    });
    Ok(standing.unwrap_or(Standing::Open))
}

/// Writes a row, unless one stands.
fn write(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
    decision: Decision,
    read_only: &[StoreName],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO unanimity_decisions (cluster_id, coordination_id, decision, store_name,
                 read_only, decided_at)
             VALUES (?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            owner.cluster.as_str(),
            id.as_str(),
            decision.as_str(),
            owner.store.as_str(),
            encode_read_only(read_only)
        ])
        .map(drop)
}

/// Removes the rows COMMIT of ids that are over everywhere.
pub(super) fn forget(
    connection: &Connection,
    owner: &Owner,
    ids: &[CoordinationId],
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM unanimity_decisions
         WHERE cluster_id = ? AND coordination_id = ? AND decision = 'COMMIT'",
    )?;
    for id in ids {
        statement.execute([owner.cluster.as_str(), id.as_str()])?;
    }
    Ok(())
}
