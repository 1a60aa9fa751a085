//! The fencing tokens that a SQLite file was shown, checked and remembered in one commit of it.
//!
//! Not the rule (`protocol/fence.rs`). Nobody who is prepared needs to be looked for: whoever asks
//! here has the writer's place, so nothing else is prepared in the file. The rows belong to no
//! journal: services of several journals may share a lock manager and a file. Invariants: without
//! tokens nothing is read or written; a row stays for as long as the file, because nobody can
//! know how late a stopped process comes.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};

use crate::model::lock::{Fence, LockMode, ResourceId};
use crate::protocol::fence::{self, FenceMemory, Refusal};

/// Why nothing was committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Does `also` in the commit that remembers these tokens, or nothing where one of them is refused.
pub(super) fn guarded(
    connection: &Connection,
    shown: &[Fence],
    also: impl FnOnce() -> rusqlite::Result<()>,
) -> Result<(), Trouble> {
    if shown.is_empty() {
        return Ok(also()?);
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let done = check_and_remember(connection, shown)
        .and_then(|()| Ok(also()?))
        .and_then(|()| Ok(connection.execute_batch("COMMIT")?));
    if done.is_err() && !connection.is_autocommit() {
        // It can only fail by having been rolled back already.
        let _ = connection.execute_batch("ROLLBACK");
    }
    done
}

/// Checks and remembers inside whatever transaction is open.
pub(super) fn check_and_remember(connection: &Connection, shown: &[Fence]) -> Result<(), Trouble> {
    let mut remembered = BTreeMap::new();
    for resource in fence::highest(shown).into_keys() {
        let memory = read(connection, &resource)?;
        remembered.insert(resource, memory);
    }
    let raised = fence::check(shown, |resource| remembered.get(resource))?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO unanimity_fencing_tokens (resource, mode, token) VALUES (?, ?, ?)
         ON CONFLICT (resource, mode) DO UPDATE SET token = excluded.token",
    )?;
    for (resource, memory) in &raised {
        for (mode, token) in memory.tokens() {
            // All 64 bits are kept, though SQLite shows the highest tokens as negative numbers.
            let token = token.cast_signed();
            statement.execute(params![resource.as_str(), mode.as_str(), token])?;
        }
    }
    Ok(())
}

fn read(connection: &Connection, resource: &ResourceId) -> rusqlite::Result<FenceMemory> {
    let mut memory = FenceMemory::default();
    let mut statement = connection
        .prepare_cached("SELECT mode, token FROM unanimity_fencing_tokens WHERE resource = ?")?;
    let mut rows = statement.query([resource.as_str()])?;
    while let Some(row) = rows.next()? {
        let (mode, token): (String, i64) = (row.get(0)?, row.get(1)?);
        // The table has no other words.
        if let Some(mode) = LockMode::parse(&mode) {
            memory.raise(mode, token.cast_unsigned());
        }
    }
    Ok(memory)
}
