//! Brings a database's tables to the version that this engine knows, each step once.
//!
//! Not a tool for going back. Invariants: a step and the version that says it was done are one
//! transaction; a database of a higher version, or of another program, is left as it is.

use rusqlite::{Connection, TransactionBehavior};

use super::DbError;
use super::sqlite::{APPLICATION_ID, open_error};

/// The steps, in order; the n-th brings version n.
const STEPS: [&str; 5] = [
    include_str!("migrations/sqlite/0001_journal.sql"),
    include_str!("migrations/sqlite/0002_log_in_segments.sql"),
    include_str!("migrations/sqlite/0003_steps.sql"),
    include_str!("migrations/sqlite/0004_events.sql"),
    include_str!("migrations/sqlite/0005_lists.sql"),
];

/// The highest version that this engine knows.
#[expect(clippy::cast_possible_truncation, reason = "a handful of steps")]
pub const SCHEMA_KNOWN: u32 = STEPS.len() as u32;

/// A kind of file of ours: how it says what it is, and the steps of its tables.
#[derive(Debug)]
pub struct Schema {
    /// What SQLite's header holds for it.
    pub application_id: u32,
    /// The n-th brings version n.
    pub steps: &'static [&'static str],
}

/// A journal.
pub static JOURNAL: Schema = Schema { application_id: APPLICATION_ID, steps: &STEPS };

/// A durable event bus; "unab".
pub static BUS: Schema = Schema {
    application_id: 0x756e_6162,
    steps: &[include_str!("migrations/bus_sqlite/0001_bus.sql")],
};

impl Schema {
    /// The highest version that this engine knows.
    #[expect(clippy::cast_possible_truncation, reason = "a handful of steps")]
    pub const fn known(&self) -> u32 {
        self.steps.len() as u32
    }
}

/// Applies what is missing. `path` is for error messages.
pub fn migrate(connection: &mut Connection, path: &str, schema: &Schema) -> Result<(), DbError> {
    let failed = |error: rusqlite::Error| open_error(path, &error);
    if check(connection, path, schema)? == schema.known() {
        return Ok(());
    }
    // Exclusive, so that of two processes that both found it missing one waits and looks again.
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Exclusive).map_err(failed)?;
    let version = check(&transaction, path, schema)?;
    for step in schema.steps.iter().skip(version as usize) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "application_id", schema.application_id).map_err(failed)?;
    transaction.pragma_update(None, "user_version", schema.known()).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// The version found, 0 for an empty database.
fn check(connection: &Connection, path: &str, schema: &Schema) -> Result<u32, DbError> {
    let number = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, u32>(0))
            .map_err(|error| open_error(path, &error))
    };
    let found = number("PRAGMA user_version")?;
    let empty = number("SELECT count(*) FROM sqlite_master")? == 0;
    if number("PRAGMA application_id")? != schema.application_id && !(empty && found == 0) {
        let reason = "it is a SQLite file of another program; name another file".to_owned();
        return Err(DbError::Foreign { path: path.to_owned(), reason });
    }
    if found > schema.known() {
        let (path, known) = (path.to_owned(), schema.known());
        return Err(DbError::NewerSchema { path, found, known });
    }
    Ok(found)
}
