//! Rows of `journal_log`: written in one statement for many, read back in order.
//!
//! Not who may write what (judge). Invariants: a row's position is given by the writer while it
//! holds the write lock, one above every position ever given; rows are never changed.

use std::sync::LazyLock;

use rusqlite::{Connection, Row as SqlRow, Statement};

use super::trouble::{Outcome, Trouble};
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::record::Record;
use crate::model::time::Timestamp;

/// Rows of one statement: one statement for each row costs more than the rows themselves.
const BULK: usize = 32;
/// Values of a row beside the owner, which is one for all rows of a statement.
const VALUES: usize = 6;
/// A tiny record is smaller, a usual request is not much bigger.
const BODY_BYTES: usize = 512;

static INSERT_BULK: LazyLock<String> = LazyLock::new(|| insert_statement(BULK));
static INSERT_ONE: LazyLock<String> = LazyLock::new(|| insert_statement(1));

fn insert_statement(rows: usize) -> String {
    let row = |index: usize| {
        let value = |nth: usize| format!("?{}", 2 + index * VALUES + nth);
        format!("({},?1)", (0..VALUES).map(value).collect::<Vec<_>>().join(","))
    };
    let values = (0..rows).map(row).collect::<Vec<_>>().join(",");
    format!(
        "INSERT INTO journal_log \
         (position, coordination_id, kind, epoch, recorded_at, body, owner) VALUES {values}"
    )
}

/// A row on its way in.
pub(super) struct Row {
    pub(super) position: i64,
    pub(super) id: CoordinationId,
    pub(super) kind: &'static str,
    pub(super) epoch: u32,
    pub(super) at: Timestamp,
    pub(super) body: String,
}

impl Row {
    pub(super) fn new(
        position: i64,
        id: &CoordinationId,
        epoch: u32,
        at: Timestamp,
        record: &Record,
    ) -> Outcome<Self> {
        let mut bytes = Vec::with_capacity(BODY_BYTES);
        serde_json::to_writer(&mut bytes, record)
            .map_err(|error| Trouble::Row(format!("a record cannot be written: {error}")))?;
        let body = String::from_utf8(bytes).expect("serde_json writes UTF-8");
        Ok(Self { position, id: id.clone(), kind: record.kind(), epoch, at, body })
    }
}

/// Writes rows, inside the caller's transaction.
pub(super) fn insert(connection: &Connection, owner: &InstanceId, rows: &[Row]) -> Outcome<()> {
    let bulks = rows.chunks_exact(BULK);
    let rest = bulks.remainder();
    if rows.len() >= BULK {
        let mut statement = connection.prepare_cached(&INSERT_BULK)?;
        for bulk in bulks {
            insert_with(&mut statement, owner, bulk)?;
        }
    }
    let mut statement = connection.prepare_cached(&INSERT_ONE)?;
    for row in rest {
        insert_with(&mut statement, owner, std::slice::from_ref(row))?;
    }
    Ok(())
}

fn insert_with(statement: &mut Statement<'_>, owner: &InstanceId, rows: &[Row]) -> Outcome<()> {
    statement.raw_bind_parameter(1, owner.as_str())?;
    for (index, row) in rows.iter().enumerate() {
        let first = 2 + index * VALUES;
        statement.raw_bind_parameter(first, row.position)?;
        statement.raw_bind_parameter(first + 1, row.id.as_str())?;
        statement.raw_bind_parameter(first + 2, row.kind)?;
        statement.raw_bind_parameter(first + 3, row.epoch)?;
        statement.raw_bind_parameter(first + 4, row.at.0)?;
        statement.raw_bind_parameter(first + 5, row.body.as_str())?;
    }
    statement.raw_execute()?;
    Ok(())
}

/// A row read back.
pub(super) struct Entry {
    pub(super) position: i64,
    pub(super) id: CoordinationId,
    pub(super) at: Timestamp,
    pub(super) record: Record,
}

/// The rows after a position, in order.
pub(super) fn read_after(connection: &Connection, position: i64) -> Outcome<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, coordination_id, recorded_at, body FROM journal_log \
         WHERE position > ?1 ORDER BY position",
    )?;
    let mut rows = statement.query([position])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(read_row(row)?);
    }
    Ok(entries)
}

/// The rows at these positions.
pub(super) fn read_at(connection: &Connection, positions: &[i64]) -> Outcome<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, coordination_id, recorded_at, body FROM journal_log WHERE position = ?1",
    )?;
    let mut entries = Vec::with_capacity(positions.len());
    for position in positions {
        let mut rows = statement.query([position])?;
        if let Some(row) = rows.next()? {
            entries.push(read_row(row)?);
        }
    }
    Ok(entries)
}

fn read_row(row: &SqlRow<'_>) -> Outcome<Entry> {
    let position: i64 = row.get(0)?;
    let id = CoordinationId::new(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)
        .map_err(|error| Trouble::Row(format!("row {position} of journal_log: {error}")))?;
    let body = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
    let record = serde_json::from_str(body)
        .map_err(|error| Trouble::Row(format!("row {position} of journal_log: {error}")))?;
    Ok(Entry { position, id, at: Timestamp(row.get(2)?), record })
}

/// Removes rows, given in ascending order, by runs: finished coordinations leave long ones.
pub(super) fn delete(connection: &Connection, positions: &[i64]) -> Outcome<()> {
    let mut statement =
        connection.prepare_cached("DELETE FROM journal_log WHERE position BETWEEN ?1 AND ?2")?;
    for run in positions.chunk_by(|before, after| before + 1 == *after) {
        if let [first, ..] = run {
            statement.execute([*first, *run.last().unwrap_or(first)])?;
        }
    }
    Ok(())
}

/// The highest position ever given.
pub(super) fn tail(connection: &Connection) -> Outcome<i64> {
    let tail = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'journal_log'")?
        .query_row([], |row| row.get(0));
    match tail {
        Ok(tail) => Ok(tail),
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Up to which position the tables are complete.
pub(super) fn watermark(connection: &Connection) -> Outcome<i64> {
    let text: String = connection
        .prepare_cached("SELECT value FROM journal_meta WHERE key = 'watermark'")?
        .query_row([], |row| row.get(0))?;
    text.parse().map_err(|error| Trouble::Row(format!("the watermark {text:?}: {error}")))
}

/// Says that the tables are complete up to there.
pub(super) fn set_watermark(connection: &Connection, position: i64) -> Outcome<()> {
    connection
        .prepare_cached("UPDATE journal_meta SET value = ?1 WHERE key = 'watermark'")?
        .execute([position.to_string()])?;
    Ok(())
}
