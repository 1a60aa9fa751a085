//! Brings a PostgreSQL schema's tables to the version that this engine knows, each step once.
//!
//! Not a tool for going back. The tables stand in the first schema of the search path. Invariants:
//! a step and the version that says it was done are one transaction; of several processes that
//! begin at once one applies a step and the others find it done; a higher version is left as it is.

use tokio_postgres::Client;

use super::DbError;
use super::postgres::describe;

/// The steps, in order; the n-th brings version n.
const STEPS: [&str; 1] = [include_str!("migrations/postgres/0001_locks.sql")];

/// The highest version that this engine knows.
#[expect(clippy::cast_possible_truncation, reason = "a handful of steps")]
pub const SCHEMA_KNOWN: u32 = STEPS.len() as u32;

const VERSION: &str = "SELECT version FROM unanimity_schema";

/// Held by the connection: what others did before it is seen by the transaction that begins after.
const LOCK: &str = "SELECT pg_advisory_lock(hashtextextended('unanimity_schema', 0))";
const UNLOCK: &str = "SELECT pg_advisory_unlock(hashtextextended('unanimity_schema', 0))";

const CREATE_VERSION: &str = "CREATE TABLE unanimity_schema (version integer NOT NULL); \
     INSERT INTO unanimity_schema VALUES (0)";

/// Applies what is missing. `label` names the database in errors. The client must have nothing
/// open, and is not to be used again after an error.
pub async fn migrate(client: &Client, label: &str) -> Result<(), DbError> {
    if check(client, label).await? == Some(SCHEMA_KNOWN) {
        return Ok(());
    }
    run(client, label, LOCK).await?;
    run(client, label, "BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    // Once more under the lock: somebody may have been faster.
    let found = check(client, label).await?;
    if found.is_none() {
        run(client, label, CREATE_VERSION).await?;
    }
    for step in STEPS.iter().skip(found.unwrap_or(0) as usize) {
        run(client, label, step).await?;
    }
    let done = format!("UPDATE unanimity_schema SET version = {SCHEMA_KNOWN}; COMMIT");
    run(client, label, &done).await?;
    run(client, label, UNLOCK).await
}

/// The version found; `None` where there is no table of it yet.
async fn check(client: &Client, label: &str) -> Result<Option<u32>, DbError> {
    let failed = |error: tokio_postgres::Error| open_error(label, &describe(&error));
    let there = "SELECT to_regclass('unanimity_schema') IS NOT NULL";
    if !client.query_one(there, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_one(VERSION, &[]).await.map_err(failed)?;
    let found = u32::try_from(row.get::<_, i32>(0)).unwrap_or(u32::MAX);
    if found > SCHEMA_KNOWN {
        let path = label.to_owned();
        return Err(DbError::NewerSchema { path, found, known: SCHEMA_KNOWN });
    }
    Ok(Some(found))
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
