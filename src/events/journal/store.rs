//! The bus' tables: what is asked of them and written to them, on a connection in a transaction.
//!
//! Not a thread and not a decision when to commit: that is `writer`. Invariants: a line stands
//! exactly while its group has something to handle of its stream; only a line's owner moves it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::events::claims::{Item, Park, Portion, Report};
use crate::events::{BusEvent, ParkedEvent};
use crate::model::time::Timestamp;
use crate::model::value::Value;

pub(super) type Sql<T> = rusqlite::Result<T>;

/// What stands for every kind.
const EVERY_KIND: &str = "";

/// Whether a group (`?1`) is told of an event `e`.
const WISHED: &str = "EXISTS (SELECT 1 FROM bus_wishes w WHERE w.group_id = ?1 \
     AND w.kind IN (e.kind, '') AND w.since < e.position)";

/// One publication: gives out positions, and makes lines for those who wish for the events.
pub(super) struct Publication<'a> {
    connection: &'a Connection,
    first: i64,
    last: i64,
    at: Timestamp,
    groups: HashMap<String, Vec<i64>>,
}

impl<'a> Publication<'a> {
    /// Begins one, in a transaction that may write.
    pub(super) fn begin(connection: &'a Connection, at: Timestamp) -> Sql<Self> {
        let last = last_position(connection)?;
        Ok(Self { connection, first: last, last, at, groups: HashMap::new() })
    }

    /// Adds an event; one whose id is there already counts as published.
    pub(super) fn add(&mut self, event: &BusEvent) -> Sql<()> {
        let position = self.last + 1;
        let added = self
            .connection
            .prepare_cached(
                "INSERT INTO bus_events VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (event_id) DO NOTHING",
            )?
            .execute(params![
                position,
                event.id,
                event.stream,
                event.kind,
                event.body.to_json(),
                self.at.0
            ])?;
        if added == 0 {
            return Ok(());
        }
        self.last = position;
        if !self.groups.contains_key(&event.kind) {
            let groups = wishers(self.connection, &event.kind)?;
            self.groups.insert(event.kind.clone(), groups);
        }
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO bus_lines VALUES (?1, ?2, ?3 - 1, ?3, ?4, NULL, 0) ON CONFLICT DO NOTHING",
        )?;
        for group in &self.groups[&event.kind] {
            insert.execute(params![group, event.stream, position, event.kind])?;
        }
        Ok(())
    }

    /// Ends it; how many events are new.
    pub(super) fn end(self) -> Sql<i64> {
        if self.last > self.first {
            self.connection
                .prepare_cached("UPDATE bus_meta SET last_position = ?1")?
                .execute([self.last])?;
        }
        Ok(self.last - self.first)
    }
}

pub(super) fn last_position(connection: &Connection) -> Sql<i64> {
    connection.prepare_cached("SELECT last_position FROM bus_meta")?.query_row([], |row| row.get(0))
}

fn wishers(connection: &Connection, kind: &str) -> Sql<Vec<i64>> {
    connection
        .prepare_cached("SELECT DISTINCT group_id FROM bus_wishes WHERE kind IN (?1, '')")?
        .query_map([kind], |row| row.get(0))?
        .collect()
}

/// Makes a group where it is missing, adds what it wishes for; its number. `owner` is who takes it
/// along when it goes.
pub(super) fn join_group(
    connection: &Connection,
    name: &str,
    owner: Option<&str>,
    kind: Option<&str>,
) -> Sql<i64> {
    connection.execute(
        "INSERT INTO bus_groups (name, owner) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![name, owner],
    )?;
    let group =
        connection.query_row("SELECT group_id FROM bus_groups WHERE name = ?1", [name], |row| {
            row.get(0)
        })?;
    connection.execute(
        "INSERT INTO bus_wishes SELECT ?1, ?2, last_position FROM bus_meta WHERE true \
         ON CONFLICT DO NOTHING",
        params![group, kind.unwrap_or(EVERY_KIND)],
    )?;
    Ok(group)
}

/// Removes a group with all that it has.
pub(super) fn drop_group(connection: &Connection, group: i64) -> Sql<()> {
    connection.execute("DELETE FROM bus_groups WHERE group_id = ?1", [group])?;
    Ok(())
}

/// Writes what became of a line's events; nothing where another one owns the line by now.
pub(super) fn settle(connection: &Connection, group: i64, owner: &str, told: &Report) -> Sql<()> {
    let moved = connection
        .prepare_cached(
            "UPDATE bus_lines SET handled = max(handled, ?4), deaths = 0 \
             WHERE group_id = ?1 AND stream = ?2 AND owner = ?3",
        )?
        .execute(params![group, told.stream, owner, told.handled.unwrap_or(0)])?;
    if moved == 0 {
        return Ok(());
    }
    for event_id in &told.redriven {
        connection
            .prepare_cached("DELETE FROM bus_parked WHERE group_id = ?1 AND event_id = ?2")?
            .execute(params![group, event_id])?;
    }
    for park in &told.parked {
        self::park(connection, group, park)?;
    }
    if told.is_last { give_back(connection, group, &told.stream) } else { Ok(()) }
}

fn park(connection: &Connection, group: i64, park: &Park) -> Sql<()> {
    let again = connection
        .prepare_cached(
            "UPDATE bus_parked SET attempts = ?3, message = ?4, parked_at = ?5, is_redriven = 0 \
             WHERE group_id = ?1 AND event_id = ?2",
        )?
        .execute(params![group, park.event_id, park.attempts, park.message, park.at.0])?;
    if again == 0 {
        connection
            .prepare_cached(
                "INSERT INTO bus_parked SELECT ?1, event_id, position, stream, kind, body, ?3, ?4, \
                 ?5, 0 FROM bus_events WHERE event_id = ?2",
            )?
            .execute(params![group, park.event_id, park.attempts, park.message, park.at.0])?;
    }
    Ok(())
}

/// Frees a line, or removes it where nothing is left to handle.
pub(super) fn give_back(connection: &Connection, group: i64, stream: &str) -> Sql<()> {
    let next = connection
        .prepare_cached(&format!(
            "SELECT position, kind FROM (\
               SELECT position, kind, 0 AS place FROM bus_parked INDEXED BY \
                 idx_bus_parked_redriven WHERE group_id = ?1 AND stream = ?2 AND is_redriven = 1 \
               UNION ALL SELECT * FROM (SELECT e.position, e.kind, 1 FROM bus_lines l \
                 JOIN bus_events e ON e.stream = l.stream AND e.position > l.handled \
                 WHERE l.group_id = ?1 AND l.stream = ?2 AND {WISHED} \
                 ORDER BY e.position LIMIT 1)\
             ) ORDER BY place, position LIMIT 1"
        ))?
        .query_row(params![group, stream], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match next {
        Some((head, kind)) => free(connection, group, stream, head, kind),
        None => {
            connection
                .prepare_cached("DELETE FROM bus_lines WHERE group_id = ?1 AND stream = ?2")?
                .execute(params![group, stream])?;
            Ok(())
        }
    }
}

fn free(connection: &Connection, group: i64, stream: &str, head: i64, kind: String) -> Sql<()> {
    connection
        .prepare_cached(
            "UPDATE bus_lines SET head = ?3, kind = ?4, owner = NULL \
             WHERE group_id = ?1 AND stream = ?2",
        )?
        .execute(params![group, stream, head, kind])?;
    Ok(())
}

/// Whether there is a line that a subscription to `kind` may claim.
pub(super) fn has_free_line(connection: &Connection, group: i64, kind: Option<&str>) -> Sql<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM bus_lines WHERE group_id = ?1 AND owner IS NULL \
             AND (?2 IS NULL OR kind = ?2))",
        )?
        .query_row(params![group, kind], |row| row.get(0))
}

/// What a subscription would claim.
pub(super) struct Claim<'a> {
    pub(super) group: i64,
    pub(super) kind: Option<&'a str>,
    pub(super) owner: &'a str,
    pub(super) lines: usize,
    pub(super) portion: usize,
}

/// Claims free lines, those with the oldest events first.
pub(super) fn claim(connection: &Connection, wish: &Claim) -> Sql<Vec<Portion>> {
    let lines = i64::try_from(wish.lines).unwrap_or(i64::MAX);
    let found: Vec<(String, i64, u32)> = connection
        .prepare_cached(
            "SELECT stream, handled, deaths FROM bus_lines WHERE group_id = ?1 AND owner IS NULL \
             AND (?2 IS NULL OR kind = ?2) ORDER BY head LIMIT ?3",
        )?
        .query_map(params![wish.group, wish.kind, lines], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<Sql<_>>()?;
    let mut portions = Vec::with_capacity(found.len());
    for (stream, handled, deaths) in found {
        let items = items(connection, wish, &stream, handled)?;
        if items.is_empty() {
            // Nothing of it is left, or the first is of another type: its row is put right.
            give_back(connection, wish.group, &stream)?;
            continue;
        }
        connection
            .prepare_cached("UPDATE bus_lines SET owner = ?3 WHERE group_id = ?1 AND stream = ?2")?
            .execute(params![wish.group, stream, wish.owner])?;
        portions.push(Portion { stream, deaths, items });
    }
    Ok(portions)
}

/// The next events of a line, up to the first that is of another kind than the wish.
fn items(connection: &Connection, wish: &Claim, stream: &str, handled: i64) -> Sql<Vec<Item>> {
    let portion = i64::try_from(wish.portion).unwrap_or(i64::MAX);
    let mut items: Vec<Item> = connection
        .prepare_cached(
            "SELECT position, event_id, stream, kind, body, 1 FROM bus_parked \
             INDEXED BY idx_bus_parked_redriven \
             WHERE group_id = ?1 AND stream = ?2 AND is_redriven = 1 ORDER BY position LIMIT ?3",
        )?
        .query_map(params![wish.group, stream, portion], item)?
        .collect::<Sql<_>>()?;
    let left = wish.portion.saturating_sub(items.len());
    let events: Vec<Item> = connection
        .prepare_cached(&format!(
            "SELECT e.position, e.event_id, e.stream, e.kind, e.body, 0 FROM bus_events e \
             WHERE e.stream = ?2 AND e.position > ?3 AND {WISHED} ORDER BY e.position LIMIT ?4"
        ))?
        .query_map(
            params![wish.group, stream, handled, i64::try_from(left).unwrap_or(i64::MAX)],
            item,
        )?
        .collect::<Sql<_>>()?;
    items.extend(events);
    let is_wished = |item: &Item| wish.kind.is_none_or(|kind| item.event.kind == kind);
    let count = items.iter().take_while(|item| is_wished(item)).count();
    items.truncate(count);
    Ok(items)
}

fn item(row: &Row) -> Sql<Item> {
    Ok(Item { position: row.get(0)?, is_redriven: row.get(5)?, event: Arc::new(event(row, 1)?) })
}

/// An event whose columns begin at `at`.
fn event(row: &Row, at: usize) -> Sql<BusEvent> {
    let body: String = row.get(at + 3)?;
    // What somebody else wrote there is handed over as it is: its handler refuses it, it is parked.
    let body = Value::from_json(&body).unwrap_or(Value::Text(body));
    Ok(BusEvent { id: row.get(at)?, stream: row.get(at + 1)?, kind: row.get(at + 2)?, body })
}

/// The parked events that wait for somebody, oldest first.
pub(super) fn parked(connection: &Connection, limit: usize) -> Sql<Vec<ParkedEvent>> {
    connection
        .prepare_cached(
            "SELECT p.event_id, p.stream, p.kind, p.body, g.name, p.attempts, p.message, \
             p.parked_at FROM bus_parked p JOIN bus_groups g USING (group_id) \
             WHERE NOT p.is_redriven ORDER BY p.parked_at, p.position LIMIT ?1",
        )?
        .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(ParkedEvent {
                event: event(row, 0)?,
                group: row.get(4)?,
                attempts: row.get(5)?,
                message: row.get(6)?,
                parked_at: Timestamp(row.get(7)?),
            })
        })?
        .collect()
}

/// Puts a parked event at the front of its stream's line. False where there is none.
pub(super) fn redrive(connection: &Connection, event_id: &str, group: &str) -> Sql<bool> {
    let found = connection
        .query_row(
            "UPDATE bus_parked SET is_redriven = 1 WHERE event_id = ?1 AND NOT is_redriven \
             AND group_id = (SELECT group_id FROM bus_groups WHERE name = ?2) \
             RETURNING group_id, stream, position, kind",
            [event_id, group],
            |row| {
                let (group, stream): (i64, String) = (row.get(0)?, row.get(1)?);
                Ok((group, stream, row.get::<_, i64>(2)?, row.get::<_, String>(3)?))
            },
        )
        .optional()?;
    let Some((group, stream, position, kind)) = found else { return Ok(false) };
    // A line that somebody holds finds it when that one gives it back.
    connection.execute(
        "INSERT INTO bus_lines SELECT ?1, ?2, last_position, ?3, ?4, NULL, 0 FROM bus_meta \
         WHERE true ON CONFLICT DO UPDATE SET head = excluded.head, kind = excluded.kind \
         WHERE owner IS NULL",
        params![group, stream, position, kind],
    )?;
    Ok(true)
}
