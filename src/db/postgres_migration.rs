//! Brings a PostgreSQL schema's tables to the version that this engine knows, each step once.
//!
//! Not a tool for going back. The tables stand in the first schema of the search path. Invariants:
//! a step and the version that says it was done are one transaction; of several processes that
//! begin at once one applies a step and the others find it done; a higher version is left as it is.

use tokio_postgres::Client;

use super::DbError;
use super::postgres::describe;

/// A set of tables with a version of its own.
#[derive(Debug)]
pub struct Schema {
    /// The table of one row that holds the version.
    pub version_table: &'static str,
    /// The n-th brings version n.
    pub steps: &'static [&'static str],
}

/// The locks'.
pub static LOCKS: Schema = Schema {
    version_table: "unanimity_schema",
    steps: &[include_str!("migrations/postgres/0001_locks.sql")],
};

/// The event bus'.
pub static BUS: Schema = Schema {
    version_table: "unanimity_bus_schema",
    steps: &[include_str!("migrations/postgres_bus/0001_bus.sql")],
};

/// The journal's, which stand beside the locks'.
pub static JOURNAL: Schema = Schema {
    version_table: "unanimity_journal_schema",
    steps: &[include_str!("migrations/postgres_journal/0001_journal.sql")],
};

/// The highest version of the journal's tables that this engine knows.
pub const JOURNAL_SCHEMA_KNOWN: u32 = 1;

/// Tables of the journal that may stand where another program made them.
const OCCUPIED: &str = "SELECT name FROM unnest(ARRAY['coordination_transactions', \
     'coordination_operations', 'coordination_records', 'consensus_log', 'journal_meta', \
     'journal_instances']) AS name WHERE to_regclass(name) IS NOT NULL \
     UNION ALL SELECT name FROM unnest(ARRAY['distributed_locks', 'lock_wait_queue']) AS name \
     WHERE to_regclass(name) IS NOT NULL AND to_regclass('unanimity_schema') IS NULL";

/// Whether there are tables of a journal, of this version or an older one.
pub async fn has_journal(client: &Client, label: &str) -> Result<bool, DbError> {
    Ok(check(client, label, &JOURNAL).await?.is_some())
}

/// Applies what is missing of the journal's tables, and of the locks', which are part of them;
/// as [`migrate_schema`]. Tables of others are left alone.
pub async fn migrate_journal(client: &Client, label: &str) -> Result<(), DbError> {
    if check(client, label, &JOURNAL).await?.is_none() {
        let failed = |error: tokio_postgres::Error| open_error(label, &describe(&error));
        let rows = client.query(OCCUPIED, &[]).await.map_err(failed)?;
        // Another process may have made them between the two questions.
        if let Some(row) = rows.first()
            && check(client, label, &JOURNAL).await?.is_none()
        {
            let reason = format!(
                "its schema has a table '{}' that unanimity did not make; name a database, or \
                 with `options=-csearch_path%3D...` in the dsn a schema, where it does not stand",
                row.get::<_, &str>(0)
            );
            return Err(DbError::Foreign { path: label.to_owned(), reason });
        }
        migrate(client, label).await?;
    }
    migrate_schema(client, label, &JOURNAL).await
}

/// Applies what is missing of the locks' tables; as [`migrate_schema`].
pub async fn migrate(client: &Client, label: &str) -> Result<(), DbError> {
    migrate_schema(client, label, &LOCKS).await
}

/// Applies what is missing. `label` names the database in errors. The client must have nothing
/// open, and is not to be used again after an error.
pub async fn migrate_schema(client: &Client, label: &str, schema: &Schema) -> Result<(), DbError> {
    let (table, known) = (schema.version_table, schema.steps.len());
    if check(client, label, schema).await? == Some(known) {
        return Ok(());
    }
    // Held by the connection: what others did before it is seen by the transaction that begins
    // after.
    let key = format!("hashtextextended('{table}', 0)");
    run(client, label, &format!("SELECT pg_advisory_lock({key})")).await?;
    run(client, label, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    // Once more under the lock: somebody may have been faster.
    let found = check(client, label, schema).await?;
    if found.is_none() {
        let create = format!(
            "CREATE TABLE {table} (version integer NOT NULL); INSERT INTO {table} VALUES (0)"
        );
        run(client, label, &create).await?;
    }
    for step in schema.steps.iter().skip(found.unwrap_or(0)) {
        run(client, label, step).await?;
    }
    run(client, label, &format!("UPDATE {table} SET version = {known}; COMMIT")).await?;
    run(client, label, &format!("SELECT pg_advisory_unlock({key})")).await
}

/// The version found; `None` where there is no table of it yet.
async fn check(client: &Client, label: &str, schema: &Schema) -> Result<Option<usize>, DbError> {
    let failed = |error: tokio_postgres::Error| open_error(label, &describe(&error));
    let table = schema.version_table;
    let there = format!("SELECT to_regclass('{table}') IS NOT NULL");
    if !client.query_one(&there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let version = format!("SELECT version FROM {table}");
    let row = client.query_one(&version, &[]).await.map_err(failed)?;
    let found = u32::try_from(row.get::<_, i32>(0)).unwrap_or(u32::MAX);
    if found as usize > schema.steps.len() {
        let (path, known) = (label.to_owned(), u32::try_from(schema.steps.len()).unwrap_or(0));
        return Err(DbError::NewerSchema { path, found, known });
    }
    Ok(Some(found as usize))
}

async fn run(client: &Client, label: &str, text: &str) -> Result<(), DbError> {
    client.batch_execute(text).await.map_err(|error| {
        let reason = format!(
            "its tables cannot be created: {}; grant CREATE on the first schema of the \
             search_path to the dsn's user, or name a schema where nothing else stands",
            describe(&error)
        );
        open_error(label, &reason)
    })
}

fn open_error(label: &str, reason: &str) -> DbError {
    DbError::Open { path: label.to_owned(), reason: reason.to_owned() }
}
