//! Brings a database's tables to the version that this engine knows, each step once.
//!
//! Not a tool for going back. Invariants: a step and the version that says it was done are one
//! transaction; a database of a higher version, or of another program, is left as it is.

use rusqlite::{Connection, TransactionBehavior};

use super::DbError;
use super::sqlite::{APPLICATION_ID, open_error};

/// The steps, in order; the n-th brings version n.
const STEPS: [&str; 4] = [
    include_str!("migrations/sqlite/0001_journal.sql"),
    include_str!("migrations/sqlite/0002_log_in_segments.sql"),
    include_str!("migrations/sqlite/0003_steps.sql"),
    include_str!("migrations/sqlite/0004_events.sql"),
];

/// The highest version that this engine knows.
#[expect(clippy::cast_possible_truncation, reason = "a handful of steps")]
pub const SCHEMA_KNOWN: u32 = STEPS.len() as u32;

/// Applies what is missing. `path` is for error messages.
pub fn migrate(connection: &mut Connection, path: &str) -> Result<(), DbError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    if check(connection, path)? == SCHEMA_KNOWN {
        return Ok(());
    }
    // Exclusive, so that of two processes that both found it missing one waits and looks again.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(failed)?;
    let version = check(&transaction, path)?;
    for step in STEPS.iter().skip(version as usize) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    transaction.pragma_update(None, "user_version", SCHEMA_KNOWN).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// The version found, 0 for an empty database.
fn check(connection: &Connection, path: &str) -> Result<u32, DbError> {
    let number = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, u32>(0))
            .map_err(|error| open_error(path, &error))
    };
    let found = number("PRAGMA user_version")?;
    let empty = number("SELECT count(*) FROM sqlite_master")? == 0;
    if number("PRAGMA application_id")? != APPLICATION_ID && !(empty && found == 0) {
        let reason = "it is a SQLite file of another program; name another file".to_owned();
        return Err(DbError::Foreign { path: path.to_owned(), reason });
    }
    if found > SCHEMA_KNOWN {
        return Err(DbError::NewerSchema { path: path.to_owned(), found, known: SCHEMA_KNOWN });
    }
    Ok(found)
}
