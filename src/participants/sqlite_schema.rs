//! Our tables in the user's SQLite file: what is staged, what was applied, fencing tokens, the
//! rows of the barrier and those that decide; these two are read and written in `sqlite_step.rs`
//! and `sqlite_decide.rs`.
//!
//! Not the rules of when. Invariants: a row of `unanimity_staged` is committed before any of its
//! statements, and goes in the same commit in which its `unanimity_applied` row comes, or by an
//! abort; at most one row is staged in a file at a time, because it is written under the lock file.

use rusqlite::{Connection, OptionalExtension, params};

use super::sqlite_decide;
use crate::model::ids::{ClusterId, CoordinationId, StoreName};

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS unanimity_staged (
        transaction_id TEXT NOT NULL,
        cluster_id TEXT NOT NULL,
        store_name TEXT NOT NULL,
        statements TEXT NOT NULL,
        staged_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, store_name, transaction_id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unanimity_applied (
        transaction_id TEXT NOT NULL,
        cluster_id TEXT NOT NULL,
        store_name TEXT NOT NULL,
        applied_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, store_name, transaction_id)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unanimity_fencing_tokens (
        resource TEXT NOT NULL,
        mode TEXT NOT NULL
            CHECK (mode IN ('intent_shared', 'intent_exclusive', 'shared', 'exclusive')),
        token INTEGER NOT NULL,
        PRIMARY KEY (resource, mode)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unanimity_barrier (
        cluster_id TEXT NOT NULL,
        store_name TEXT NOT NULL,
        coordination_id TEXT NOT NULL,
        operation_id TEXT NOT NULL,
        work TEXT NOT NULL CHECK (work IN ('execute', 'compensate')),
        result TEXT,
        recorded_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, store_name, coordination_id, operation_id, work)
    );";

/// Whose rows: two journals, or two stores of one service, may meet in one file.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) cluster: ClusterId,
    pub(super) store: StoreName,
}

/// A staged row's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StagedRow {
    pub(super) transaction: String,
    pub(super) cluster: String,
    pub(super) store: String,
}

impl StagedRow {
    /// Whether it is this owner's row of this id.
    pub(super) fn is(&self, owner: &Owner, id: &CoordinationId) -> bool {
        self.is_of(owner) && self.transaction == id.as_str()
    }

    /// Whether it is this owner's.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.cluster == owner.cluster.as_str() && self.store == owner.store.as_str()
    }
}

/// Makes the tables where they are not.
pub(super) fn create(connection: &Connection) -> rusqlite::Result<()> {
    // Asked first, because creating would wait for another process's prepared transaction.
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema
         WHERE type = 'table' AND name IN
             ('unanimity_staged', 'unanimity_applied', 'unanimity_fencing_tokens',
              'unanimity_barrier', 'unanimity_decisions')",
        [],
        |row| row.get(0),
    )?;
    if tables == 5 {
        return Ok(());
    }
    let decisions = sqlite_decide::CREATE;
    connection.execute_batch(&format!("BEGIN IMMEDIATE;{CREATE}{decisions}COMMIT;"))
}

/// The row that is staged in this file, whoever's it is.
pub(super) fn any_staged(connection: &Connection) -> rusqlite::Result<Option<StagedRow>> {
    connection
        .prepare_cached(
            "SELECT transaction_id, cluster_id, store_name FROM unanimity_staged LIMIT 1",
        )?
        .query_row([], |row| {
            Ok(StagedRow { transaction: row.get(0)?, cluster: row.get(1)?, store: row.get(2)? })
        })
        .optional()
}

/// The statements that are staged under this id.
pub(super) fn staged(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached(
            "SELECT statements FROM unanimity_staged
             WHERE cluster_id = ? AND store_name = ? AND transaction_id = ?",
        )?
        .query_row(key(owner, id), |row| row.get(0))
        .optional()
}

/// Whether this id was committed before.
pub(super) fn is_applied(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM unanimity_applied
             WHERE cluster_id = ? AND store_name = ? AND transaction_id = ?",
        )?
        .exists(key(owner, id))
}

/// Stages statements, in a commit of its own.
pub(super) fn stage(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
    statements: &str,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO unanimity_staged (transaction_id, cluster_id, store_name, statements,
                 staged_at)
             VALUES (?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))",
        )?
        .execute(params![id.as_str(), owner.cluster.as_str(), owner.store.as_str(), statements])
        .map(drop)
}

/// Takes the staged row away.
pub(super) fn unstage(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM unanimity_staged
             WHERE cluster_id = ? AND store_name = ? AND transaction_id = ?",
        )?
        .execute(key(owner, id))
        .map(drop)
}

/// Writes the marker, inside the transaction that it marks.
pub(super) fn mark_applied(
    connection: &Connection,
    owner: &Owner,
    id: &CoordinationId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO unanimity_applied (cluster_id, store_name, transaction_id,
                 applied_at)
             VALUES (?, ?, ?, strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now'))",
        )?
        .execute(key(owner, id))
        .map(drop)
}

/// Removes the markers of ids that are over everywhere.
pub(super) fn forget(
    connection: &Connection,
    owner: &Owner,
    ids: &[CoordinationId],
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM unanimity_applied
         WHERE cluster_id = ? AND store_name = ? AND transaction_id = ?",
    )?;
    for id in ids {
        statement.execute(key(owner, id))?;
    }
    sqlite_decide::forget(connection, owner, ids)
}

/// The ids that this owner has staged.
pub(super) fn list(connection: &Connection, owner: &Owner) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT transaction_id FROM unanimity_staged WHERE cluster_id = ? AND store_name = ?",
        )?
        .query_map([owner.cluster.as_str(), owner.store.as_str()], |row| row.get(0))?
        .collect()
}

fn key<'a>(owner: &'a Owner, id: &'a CoordinationId) -> [&'a str; 3] {
    [owner.cluster.as_str(), owner.store.as_str(), id.as_str()]
}
