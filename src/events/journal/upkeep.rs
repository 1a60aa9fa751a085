//! The bus' tables over time: what the dead left, and old events.
//!
//! Not what members do with them (`store`). Invariant: only events that every group has handled go.

use rusqlite::{Connection, params};

use super::store::{Sql, give_back, last_position};
use crate::model::time::Timestamp;

/// Frees what a process that ended held, where what was out counts as a lost answer, and forgets
/// its own groups.
pub(super) fn take_over(connection: &Connection, dead: &str) -> Sql<()> {
    connection.execute("DELETE FROM bus_groups WHERE owner = ?1", [dead])?;
    connection.execute("UPDATE bus_lines SET deaths = deaths + 1 WHERE owner = ?1", [dead])?;
    for (group, stream) in owned(connection, dead)? {
        give_back(connection, group, &stream)?;
    }
    Ok(())
}

/// Which processes hold something or have groups of their own.
pub(super) fn owners(connection: &Connection) -> Sql<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT owner FROM bus_groups WHERE owner IS NOT NULL UNION \
             SELECT owner FROM bus_lines WHERE owner IS NOT NULL",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// How far back events are kept that everybody has handled.
pub(super) struct Keeping {
    /// Younger ones stay.
    pub(super) until: Timestamp,
    /// So many of the newest are not more than what may stay.
    pub(super) events: i64,
    pub(super) portion: i64,
}

/// A portion of old events behind `cursor`: its last position, and whether more may follow. Times
/// grow with positions, so the first that is too young ends it.
pub(super) fn old_events(
    connection: &Connection,
    keeping: &Keeping,
    cursor: i64,
) -> Sql<Option<(i64, bool)>> {
    let oldest = last_position(connection)? - keeping.events;
    let (reached, seen): (Option<i64>, i64) = connection
        .prepare_cached(
            "SELECT max(position), count(*) FROM (SELECT position, published_at FROM bus_events \
             WHERE position > ?1 ORDER BY position LIMIT ?4) \
             WHERE position <= ?2 OR published_at < ?3",
        )?
        .query_row(params![cursor, oldest, keeping.until.0, keeping.portion], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok(reached.map(|reached| (reached, seen == keeping.portion)))
}

/// Removes what every group has handled of the events between two positions.
pub(super) fn remove_handled(connection: &Connection, after: i64, until: i64) -> Sql<usize> {
    connection
        .prepare_cached(
            "DELETE FROM bus_events WHERE position > ?1 AND position <= ?2 AND NOT EXISTS (\
             SELECT 1 FROM bus_groups g JOIN bus_lines l ON l.group_id = g.group_id \
             AND l.stream = bus_events.stream AND l.handled < bus_events.position)",
        )?
        .execute([after, until])
}

/// The lines of an owner.
pub(super) fn owned(connection: &Connection, owner: &str) -> Sql<Vec<(i64, String)>> {
    connection
        .prepare_cached("SELECT group_id, stream FROM bus_lines WHERE owner = ?1")?
        .query_map([owner], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
