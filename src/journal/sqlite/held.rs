//! Rows of `distributed_locks`: the locks of coordinations that are under way, for people and for
//! other processes.
//!
//! Not the locks: those are a lock manager's, and nobody asks these rows before he grants. Written
//! with the projection, so that a coordination which ends before the tables are brought up to date
//! costs nothing. Invariants: the rows of a coordination go when its end is projected; a row's
//! token is that of the begin, also when recovery has taken the lock again since.

use rusqlite::{Connection, params};

use super::trouble::Outcome;
use crate::journal::StoredCoordination;
use crate::model::lock::LockId;
use crate::protocol::lock_plan::locks_of;

/// The column wants an end, and a lock that is held until its coordination has ended has none.
const NEVER: &str = "9999-12-31T23:59:59.999999+00:00";

/// Writes what the begin record told: `tokens` in the order of the request's locks.
pub(super) fn write(
    connection: &Connection,
    stored: &StoredCoordination,
    tokens: &[u64],
) -> Outcome<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO distributed_locks (lock_id, resource_id, lock_type, holder_id, \
             coordination_id, acquired_at, expires_at, renewed_at, metadata) \
         VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?5, ?7)",
    )?;
    let acquired_at = stored.created_at.to_rfc3339();
    for (lock, token) in locks_of(&stored.request).iter().zip(tokens) {
        statement.execute(params![
            LockId::new(&lock.resource, lock.mode, *token).as_str(),
            lock.resource.as_str(),
            lock.mode.as_str(),
            stored.request.id.as_str(),
            acquired_at,
            NEVER,
            format!("{{\"fencing_token\":{token}}}"),
        ])?;
    }
    Ok(())
}

/// The coordination has ended.
pub(super) fn remove(connection: &Connection, stored: &StoredCoordination) -> Outcome<()> {
    connection
        .prepare_cached("DELETE FROM distributed_locks WHERE coordination_id = ?1")?
        .execute([stored.request.id.as_str()])?;
    Ok(())
}
