//! Records as bytes of the log, and as rows of `journal_log`.
//!
//! Not who may write what (judge), and not the files (`db::segments`). The log's segments are the
//! truth up to the moment; rows of `journal_log` are the records of open coordinations that are
//! so old that their segments may go. Invariants: a position is given by the writer while it holds
//! the log's lock, one above every position ever given; rows are never changed.

use rusqlite::{Connection, Row as SqlRow};

use super::trouble::{Outcome, Trouble};
use crate::journal::Append;
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::record::Record;
use crate::model::time::Timestamp;

/// Bytes of a payload before the id: epoch, time, length of the id.
const FIXED_BYTES: usize = 4 + 8 + 2;

/// A record of the log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) position: i64,
    pub(super) id: CoordinationId,
    pub(super) epoch: u32,
    pub(super) at: Timestamp,
    pub(super) record: Record,
}

/// Appends a record's payload to `bytes`: epoch, time, id, and the record as JSON, which a person
/// can read with nothing but `strings`.
pub(super) fn encode(append: &Append, bytes: &mut Vec<u8>) -> Outcome<()> {
    let id = append.id.as_str().as_bytes();
    let length = u16::try_from(id.len())
        .map_err(|_| Trouble::Row(format!("an id of {} bytes cannot be written", id.len())))?;
    bytes.extend_from_slice(&append.epoch.to_le_bytes());
    bytes.extend_from_slice(&append.at.0.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(id);
    serde_json::to_writer(bytes, &append.record)
        .map_err(|error| Trouble::Row(format!("a record cannot be written: {error}")))
}

/// Reads a payload.
pub(super) fn decode(position: i64, payload: &[u8]) -> Outcome<Entry> {
    parse(position, payload).map_err(|found| Trouble::Row(format!("record {position}: {found}")))
}

fn parse(position: i64, payload: &[u8]) -> Result<Entry, String> {
    let short = || "it is too short".to_owned();
    let (fixed, rest) = payload.split_at_checked(FIXED_BYTES).ok_or_else(short)?;
    let epoch = u32::from_le_bytes(fixed[..4].try_into().map_err(|_| short())?);
    let at = i64::from_le_bytes(fixed[4..12].try_into().map_err(|_| short())?);
    let length = u16::from_le_bytes(fixed[12..].try_into().map_err(|_| short())?);
    let (id, body) = rest.split_at_checked(usize::from(length)).ok_or_else(short)?;
    let id = std::str::from_utf8(id).map_err(|error| error.to_string())?;
    let id = CoordinationId::new(id).map_err(|error| error.to_string())?;
    let record = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(Entry { position, id, epoch, at: Timestamp(at), record })
}

/// Keeps records of open coordinations, which then outlive their segments. Inside the caller's
/// transaction; what is kept already stays as it is.
pub(super) fn keep(connection: &Connection, owner: &InstanceId, entry: &Entry) -> Outcome<()> {
    let body = serde_json::to_string(&entry.record)
        .map_err(|error| Trouble::Row(format!("a record cannot be written: {error}")))?;
    let mut statement = connection.prepare_cached(
        "INSERT OR IGNORE INTO journal_log \
         (position, coordination_id, kind, epoch, recorded_at, body, owner) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    statement.execute(rusqlite::params![
        entry.position,
        entry.id.as_str(),
        entry.record.kind(),
        entry.epoch,
        entry.at.0,
        body,
        owner.as_str(),
    ])?;
    Ok(())
}

/// The rows that are kept, in order.
pub(super) fn kept(connection: &Connection) -> Outcome<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, coordination_id, epoch, recorded_at, body FROM journal_log \
         ORDER BY position",
    )?;
    let mut rows = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(read_row(row)?);
    }
    Ok(entries)
}

fn read_row(row: &SqlRow<'_>) -> Outcome<Entry> {
    let position: i64 = row.get(0)?;
    let id = CoordinationId::new(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)
        .map_err(|error| Trouble::Row(format!("row {position} of journal_log: {error}")))?;
    let body = row.get_ref(4)?.as_str().map_err(rusqlite::Error::from)?;
    let record = serde_json::from_str(body)
        .map_err(|error| Trouble::Row(format!("row {position} of journal_log: {error}")))?;
    Ok(Entry { position, id, epoch: row.get(2)?, at: Timestamp(row.get(3)?), record })
}

/// Removes rows, given in ascending order.
pub(super) fn drop_kept(connection: &Connection, positions: &[i64]) -> Outcome<()> {
    let mut statement = connection.prepare_cached("DELETE FROM journal_log WHERE position = ?1")?;
    for position in positions {
        statement.execute([position])?;
    }
    Ok(())
}

/// Up to which position the tables are complete.
pub(super) fn watermark(connection: &Connection) -> Outcome<i64> {
    let text = meta(connection, "watermark")?.unwrap_or_default();
    text.parse().map_err(|error| Trouble::Row(format!("the watermark {text:?}: {error}")))
}

/// Says that the tables are complete up to there.
pub(super) fn set_watermark(connection: &Connection, position: i64) -> Outcome<()> {
    set_meta(connection, "watermark", &position.to_string())
}

/// Whether segments belong to this journal; without them it is not whole.
pub(super) fn has_segments(connection: &Connection) -> Outcome<bool> {
    Ok(meta(connection, "segments")?.is_some_and(|value| value == "1"))
}

/// Says whether there are segments.
pub(super) fn set_has_segments(connection: &Connection, has: bool) -> Outcome<()> {
    set_meta(connection, "segments", if has { "1" } else { "0" })
}

fn meta(connection: &Connection, key: &str) -> Outcome<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT value FROM journal_meta WHERE key = ?1")?;
    let mut rows = statement.query([key])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn set_meta(connection: &Connection, key: &str, value: &str) -> Outcome<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO journal_meta (key, value) VALUES (?1, ?2)")?
        .execute([key, value])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Durability;
    use crate::model::outcome::Decision;

    #[test]
    fn records_come_back_from_their_bytes_and_no_bytes_make_it_panic() {
        let record = Record::Decision {
            decision: Decision::Commit,
            reason: None,
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        let append = Append {
            token: 1,
            id: CoordinationId::new("an-id").unwrap(),
            epoch: 3,
            at: Timestamp(-5),
            record,
            durability: Durability::Forced,
        };
        let mut bytes = Vec::new();
        encode(&append, &mut bytes).unwrap();
        let entry = decode(9, &bytes).unwrap();
        assert_eq!((entry.position, entry.epoch, entry.at), (9, 3, Timestamp(-5)));
        assert_eq!((entry.id, entry.record), (append.id, append.record));
        for length in 0..bytes.len() {
            assert!(decode(9, &bytes[..length]).is_err(), "{length}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            // Whatever it says now, it is said without a panic.
            let _ = decode(9, &changed);
        }
    }
}
