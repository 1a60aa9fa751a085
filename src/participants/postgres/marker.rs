//! The marker: a row that stands exactly when its prepared transaction was committed.
//!
//! Written inside the prepared transaction, it tells "committed before" from "never prepared".
//! A fence is a marker that an abort writes when it finds nothing prepared: a prepare that is
//! still on its way to the server then fails on the primary key, and nobody is left prepared
//! after the abort was acknowledged. A second table keeps the ids of hashed gids.
//! Where the vote's receipt is kept (`receipt`) no marker is written, and fences alone stand here.
//! Invariant: deleting a marker of a coordination that is over everywhere changes nothing.

use tokio_postgres::{Client, Error, SimpleQueryMessage, SimpleQueryRow};

use super::fencing;
use super::gid::Gid;
use super::receipt;
use super::statement::literal;
use super::step;
use super::values::text_array;
use crate::db::postgres::describe;

/// The marker's table.
pub(super) const TABLE: &str = "unanimity_prepared";

/// Made once per connection, so that a marker costs neither parsing nor planning.
pub(super) const PREPARE_INSERT: &str = "PREPARE unanimity_mark(text, text) AS \
     INSERT INTO unanimity_prepared (gid, coordination_id) VALUES ($1, $2);";

/// Rows come and go at the rate of coordinations; a vacuum that waits for a share of the table
/// or naps in between would never catch up. "C" compares bytes, which is all that is needed.
const CREATE: &str = r#"
SELECT pg_advisory_xact_lock(hashtext('unanimity_prepared'));
CREATE TABLE IF NOT EXISTS unanimity_prepared (
    gid text COLLATE "C" PRIMARY KEY,
    coordination_id text NOT NULL,
    fenced boolean NOT NULL DEFAULT false,
    prepared_at timestamptz NOT NULL DEFAULT now()
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE TABLE IF NOT EXISTS unanimity_gids (
    gid text COLLATE "C" PRIMARY KEY,
    coordination_id text NOT NULL
);
"#;

/// Looks at what the server must be able to do, and makes the tables that are missing. Answers
/// whether it can give receipts.
pub(super) async fn set_up(client: &Client, must_prepare: bool) -> Result<bool, String> {
    let facts = "SELECT current_setting('max_prepared_transactions'), pg_is_in_recovery(), \
                 to_regclass('unanimity_prepared') IS NOT NULL \
                 AND to_regclass('unanimity_gids') IS NOT NULL \
                 AND to_regclass('unanimity_fencing_tokens') IS NOT NULL \
                 AND to_regclass('unanimity_barrier') IS NOT NULL, \
                 current_setting('server_version_num')::int >= 130000 \
                 AND current_setting('default_transaction_isolation') = 'read committed'";
    let facts = first_row(client, facts).await.map_err(|error| describe(&error))?;
    let [prepared_max, is_standby, is_there, gives_receipts] = &facts[..] else {
        return Err("it did not say what it can do; is it PostgreSQL?".to_owned());
    };
    if must_prepare && prepared_max.as_deref() == Some("0") {
        return Err("max_prepared_transactions is 0, so nothing can be prepared; set \
                    max_prepared_transactions = 64 in postgresql.conf, or run \
                    ALTER SYSTEM SET max_prepared_transactions = 64, then restart the server; or \
                    give the store last_resource=True, which prepares nothing"
            .to_owned());
    }
    if is_standby.as_deref() == Some("t") {
        return Err("it is a standby, which only reads; name the primary in the dsn".to_owned());
    }
    if is_there.as_deref() != Some("t") {
        let create = format!("BEGIN;{CREATE}{}{}COMMIT", fencing::CREATE, step::CREATE);
        client.batch_execute(&create).await.map_err(|error| not_created(&error))?;
    }
    // Fences are of use for as long as a prepare may be on its way; a day is generous.
    let old = "DELETE FROM unanimity_prepared \
               WHERE fenced AND prepared_at < now() - interval '1 day'";
    client.batch_execute(old).await.map_err(|error| describe(&error))?;
    step::purge(client).await.map_err(|error| describe(&error))?;
    Ok(gives_receipts.as_deref() == Some("t"))
}

fn not_created(error: &Error) -> String {
    format!(
        "its tables unanimity_prepared, unanimity_gids, unanimity_fencing_tokens and \
         unanimity_barrier cannot be created: {}; grant CREATE on the first schema of the \
         search_path to the dsn's user",
        describe(error)
    )
}

/// A text that writes the marker.
pub(super) fn insert(gid: &Gid, id: &str) -> String {
    format!("EXECUTE unanimity_mark({}, {})", literal(&gid.text), literal(id))
}

/// A text that keeps the id of a hashed gid.
pub(super) fn remember_gid(gid: &Gid, id: &str) -> String {
    format!(
        "INSERT INTO unanimity_gids VALUES ({}, {}) ON CONFLICT (gid) DO NOTHING",
        literal(&gid.text),
        literal(id)
    )
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    None,
    Committed,
    Fenced,
}

/// Reads the marker.
pub(super) async fn read(client: &Client, gid: &Gid) -> Result<Mark, Error> {
    let text = format!("SELECT fenced FROM unanimity_prepared WHERE gid = {}", literal(&gid.text));
    Ok(mark(&first_row(client, &text).await?))
}

/// Writes a fence, and reads what stands. Waits shortly for a prepare that is under way.
pub(super) async fn fence(client: &Client, gid: &Gid, id: &str) -> Result<Mark, Error> {
    let (gid, id) = (literal(&gid.text), literal(id));
    let text = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL lock_timeout = 1000;{};\
         INSERT INTO unanimity_prepared (gid, coordination_id, fenced) \
         VALUES ({gid}, {id}, true) ON CONFLICT (gid) DO NOTHING;\
         SELECT fenced FROM unanimity_prepared WHERE gid = {gid};COMMIT",
        receipt::shut(&gid)
    );
    Ok(mark(&last_row(client, &text).await?))
}

/// Deletes markers, with what `also` says. A crash may bring some back, which is harmless, so
/// nobody waits for the disk.
pub(super) async fn delete(client: &Client, gids: &[Gid], also: &str) -> Result<(), Error> {
    let all = literal(&text_array(gids.iter().map(|gid| gid.text.as_str())));
    let mut text = format!(
        "BEGIN;SET LOCAL synchronous_commit = off;\
         DELETE FROM unanimity_prepared WHERE gid = ANY ({all}::text[]);"
    );
    let mut hashed = gids.iter().filter(|gid| gid.is_hashed).map(|gid| gid.text.as_str());
    if let Some(first) = hashed.next() {
        let hashed = literal(&text_array(std::iter::once(first).chain(hashed)));
        text.push_str("DELETE FROM unanimity_gids WHERE gid = ANY (");
        text.push_str(&hashed);
        text.push_str("::text[]);");
    }
    text.push_str(also);
    text.push_str("COMMIT");
    client.batch_execute(&text).await
}

fn mark(row: &[Option<String>]) -> Mark {
    match row.first().and_then(Option::as_deref) {
        None => Mark::None,
        Some("t") => Mark::Fenced,
        Some(_) => Mark::Committed,
    }
}

/// The first row of a text's answers; empty if there is none.
async fn first_row(client: &Client, text: &str) -> Result<Vec<Option<String>>, Error> {
    let answers = client.simple_query(text).await?;
    Ok(columns(answers.iter().find_map(row)))
}

/// The last one.
pub(super) async fn last_row(client: &Client, text: &str) -> Result<Vec<Option<String>>, Error> {
    let answers = client.simple_query(text).await?;
    Ok(columns(answers.iter().rev().find_map(row)))
}

fn row(answer: &SimpleQueryMessage) -> Option<&SimpleQueryRow> {
    match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    }
}

fn columns(row: Option<&SimpleQueryRow>) -> Vec<Option<String>> {
    row.map_or_else(Vec::new, |row| {
        (0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()
    })
}
