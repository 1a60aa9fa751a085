//! Events, snapshots and projections as rows.
//!
//! Not the order of events (streams). Invariants: a row of `events` is written once, in the
//! transaction that brings the tables up to the begin which appended it; what was written comes
//! back equal.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::streams::Appended;
use super::table;
use super::trouble::{Outcome, Trouble};
use crate::journal::streams::{ParkedProjection, Projection};
use crate::model::ids::{CoordinationId, IdError, InstanceId, StoreName, StreamId};
use crate::model::stream::{Snapshot, StreamEvent};
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// The global position of the last event that has a row.
pub(super) fn last_position(connection: &Connection) -> Outcome<u64> {
    let sql = "SELECT coalesce(max(global_position), 0) FROM events";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| number(row, 0))?)
}

/// The version of a stream, counting what was appended before `log_position`. Another process may
/// have brought the tables further than the asker has read.
pub(super) fn version_before(
    connection: &Connection,
    stream: &str,
    log_position: i64,
) -> Outcome<u64> {
    let version = connection
        .prepare_cached(
            "SELECT version FROM events WHERE stream_id = ?1 AND log_position < ?2 \
             ORDER BY version DESC LIMIT 1",
        )?
        .query_row(params![stream, log_position], |row| number(row, 0))
        .optional()?;
    Ok(version.unwrap_or(0))
}

/// Writes the events of a begin.
pub(super) fn insert(connection: &Connection, appended: &Appended) -> Outcome<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO events (global_position, stream_id, version, event_type, data, metadata, \
             coordination_id, recorded_at, log_position) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for event in appended.events() {
        let event = event?;
        statement.execute(params![
            signed(event.position),
            event.stream.as_str(),
            signed(event.version),
            event.kind,
            event.data.to_json(),
            event.metadata.to_json(),
            event.coordination.as_str(),
            event.recorded_at.to_rfc3339(),
            appended.log_position,
        ])?;
    }
    Ok(())
}

/// SQLite counts with a sign; no journal lives to see the last of its positions.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What [`signed`] wrote.
fn number(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(index)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, number))
}

const EVENT: &str = "SELECT global_position, stream_id, version, event_type, data, metadata, \
    coordination_id, recorded_at FROM events";

/// Events with `after < position <= last`, in order.
pub(super) fn read_all(
    connection: &Connection,
    (after, last): (u64, u64),
    limit: usize,
) -> Outcome<Vec<StreamEvent>> {
    let sql = format!(
        "{EVENT} WHERE global_position > ?1 AND global_position <= ?2 \
         ORDER BY global_position LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    read(statement.query(params![signed(after), signed(last), limit_of(limit)])?)
}

/// Events of a stream from a version on, in order, up to the global position `last`.
pub(super) fn read_stream(
    connection: &Connection,
    stream: &StreamId,
    (from, last): (u64, u64),
    limit: usize,
) -> Outcome<Vec<StreamEvent>> {
    let sql = format!(
        "{EVENT} WHERE stream_id = ?1 AND version >= ?2 AND global_position <= ?3 \
         ORDER BY version LIMIT ?4"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let range = params![stream.as_str(), signed(from), signed(last), limit_of(limit)];
    read(statement.query(range)?)
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn read(mut rows: rusqlite::Rows<'_>) -> Outcome<Vec<StreamEvent>> {
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        let position = number(row, 0)?;
        let event = read_event(row, position);
        events.push(event.map_err(|trouble| in_row(trouble, "events", &position.to_string()))?);
    }
    Ok(events)
}

fn read_event(row: &Row<'_>, position: u64) -> Outcome<StreamEvent> {
    Ok(StreamEvent {
        stream: name("stream_id", row, 1, StreamId::new)?,
        version: number(row, 2)?,
        kind: row.get(3)?,
        data: table::json("data", &row.get::<_, String>(4)?)?,
        metadata: table::json("metadata", &row.get::<_, String>(5)?)?,
        position,
        recorded_at: table::timestamp("recorded_at", &row.get::<_, String>(7)?)?,
        coordination: name("coordination_id", row, 6, CoordinationId::new)?,
    })
}

fn name<T>(
    column: &str,
    row: &Row<'_>,
    index: usize,
    new: impl Fn(&str) -> Result<T, IdError>,
) -> Outcome<T> {
    let text = row.get_ref(index)?.as_str().map_err(rusqlite::Error::from)?;
    new(text).map_err(|error| Trouble::Row(format!("{column}: {error}")))
}

fn in_row(trouble: Trouble, table: &str, row: &str) -> Trouble {
    match trouble {
        Trouble::Row(found) => Trouble::Row(format!("the row '{row}' of {table}: {found}")),
        other => other,
    }
}

/// Keeps a snapshot unless a later one is kept.
pub(super) fn save_snapshot(connection: &Connection, snapshot: &Snapshot) -> Outcome<bool> {
    let changed = connection
        .prepare_cached(
            "INSERT INTO event_snapshots (stream_id, version, state, taken_at) \
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT (stream_id) DO UPDATE SET \
             version = excluded.version, state = excluded.state, taken_at = excluded.taken_at \
             WHERE event_snapshots.version <= excluded.version",
        )?
        .execute(params![
            snapshot.stream.as_str(),
            signed(snapshot.version),
            snapshot.state.to_json(),
            snapshot.taken_at.to_rfc3339(),
        ])?;
    Ok(changed > 0)
}

/// The snapshot of a stream.
pub(super) fn load_snapshot(
    connection: &Connection,
    stream: &StreamId,
) -> Outcome<Option<Snapshot>> {
    let sql = "SELECT version, state, taken_at FROM event_snapshots WHERE stream_id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([stream.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let read = || {
        Ok(Snapshot {
            stream: stream.clone(),
            version: number(row, 0)?,
            state: table::json::<Value>("state", &row.get::<_, String>(1)?)?,
            taken_at: table::timestamp("taken_at", &row.get::<_, String>(2)?)?,
        })
    };
    read().map(Some).map_err(|trouble| in_row(trouble, "event_snapshots", stream.as_str()))
}

const PROJECTION: &str = "SELECT store_name, position, generation, owner, parked_position, \
    parked_attempts, parked_message, parked_at, updated_at, parked_coordination, \
    parked_event_type FROM projections";

/// Every projection, by name.
pub(super) fn projections(connection: &Connection) -> Outcome<Vec<Projection>> {
    let sql = format!("{PROJECTION} ORDER BY store_name");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_projection(row)?);
    }
    Ok(found)
}

/// The projection of a store.
pub(super) fn projection(
    connection: &Connection,
    store: &StoreName,
) -> Outcome<Option<Projection>> {
    let sql = format!("{PROJECTION} WHERE store_name = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([store.as_str()])?;
    rows.next()?.map(read_projection).transpose()
}

fn read_projection(row: &Row<'_>) -> Outcome<Projection> {
    let store = name("store_name", row, 0, StoreName::new)?;
    let read = || {
        let owner: Option<String> = row.get(3)?;
        let owner = owner.map(|text| InstanceId::new(&text)).transpose();
        Ok(Projection {
            store: store.clone(),
            position: number(row, 1)?,
            generation: number(row, 2)?,
            owner: owner.map_err(|error| Trouble::Row(format!("owner: {error}")))?,
            parked: read_parked(row)?,
            updated_at: table::timestamp("updated_at", &row.get::<_, String>(8)?)?,
        })
    };
    read().map_err(|trouble| in_row(trouble, "projections", store.as_str()))
}

fn read_parked(row: &Row<'_>) -> Outcome<Option<ParkedProjection>> {
    if row.get_ref(4)? == ValueRef::Null {
        return Ok(None);
    }
    Ok(Some(ParkedProjection {
        position: number(row, 4)?,
        coordination: name("parked_coordination", row, 9, CoordinationId::new)?,
        kind: row.get(10)?,
        attempts: row.get(5)?,
        message: row.get(6)?,
        at: table::timestamp("parked_at", &row.get::<_, String>(7)?)?,
    }))
}

/// Writes a projection's row, whatever it was.
pub(super) fn put_projection(connection: &Connection, projection: &Projection) -> Outcome<()> {
    let parked = projection.parked.as_ref();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO projections (store_name, position, generation, owner, \
                 parked_position, parked_attempts, parked_message, parked_at, updated_at, \
                 parked_coordination, parked_event_type) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            projection.store.as_str(),
            signed(projection.position),
            signed(projection.generation),
            projection.owner.as_ref().map(InstanceId::as_str),
            parked.map(|parked| signed(parked.position)),
            parked.map(|parked| parked.attempts),
            parked.map(|parked| parked.message.as_str()),
            parked.map(|parked| Timestamp::to_rfc3339(parked.at)),
            projection.updated_at.to_rfc3339(),
            parked.map(|parked| parked.coordination.as_str()),
            parked.map(|parked| parked.kind.as_str()),
        ])?;
    Ok(())
}
