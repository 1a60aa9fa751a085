//! What the writer knows without asking the tables: every coordination that is open, or whose
//! records are ahead of the tables, of all processes.
//!
//! Not a cache that may be wrong: inside the write lock, after [`View::refresh`], it is exact.
//! Invariants: a coordination that is not here and not in the tables does not exist; `unprojected`
//! is in the order of the log; a finished one leaves when all its records are in the tables.

use std::collections::{HashMap, VecDeque};

use rusqlite::Connection;

use super::trouble::Outcome;
use super::{fold, log, table};
use crate::journal::StoredCoordination;
use crate::model::ids::CoordinationId;
use crate::model::record::Record;
use crate::model::time::Timestamp;

/// One coordination.
pub(super) struct Standing {
    /// What its records say together.
    pub(super) stored: StoredCoordination,
    /// Where they are in the log, ascending.
    pub(super) positions: Vec<i64>,
    /// The tokens of the locks that it began with.
    pub(super) locks: Vec<u64>,
}

impl Standing {
    pub(super) fn is_ended(&self) -> bool {
        self.stored.completed_at.is_some()
    }

    pub(super) fn last_position(&self) -> i64 {
        self.positions.last().copied().unwrap_or(0)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct View {
    standings: HashMap<CoordinationId, Standing>,
    unprojected: VecDeque<(i64, CoordinationId)>,
    tail: i64,
    watermark: i64,
    /// SQLite's count of other connections' commits at the last look; `None` asks for everything
    /// to be read again.
    data_version: Option<i64>,
}

impl View {
    pub(super) fn get(&self, id: &CoordinationId) -> Option<&Standing> {
        self.standings.get(id)
    }

    /// The position of the latest record.
    pub(super) fn tail(&self) -> i64 {
        self.tail
    }

    /// Up to which position the tables are complete.
    pub(super) fn watermark(&self) -> i64 {
        self.watermark
    }

    /// How many records are ahead of the tables.
    pub(super) fn backlog(&self) -> usize {
        self.unprojected.len()
    }

    /// The first records that are ahead of the tables.
    pub(super) fn first_unprojected(
        &self,
        count: usize,
    ) -> impl Iterator<Item = &(i64, CoordinationId)> {
        self.unprojected.iter().take(count)
    }

    /// The coordinations without an end, in no order.
    pub(super) fn open(&self) -> impl Iterator<Item = (&CoordinationId, &Standing)> {
        self.standings.iter().filter(|(_, standing)| !standing.is_ended())
    }

    /// Forgets everything: a transaction that was to make it true has failed.
    pub(super) fn distrust(&mut self) {
        self.data_version = None;
    }

    /// Takes in what others wrote since the last look. Called inside a transaction.
    pub(super) fn refresh(&mut self, connection: &Connection) -> Outcome<()> {
        let version =
            connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        match self.data_version {
            Some(known) if known == version => return Ok(()),
            Some(_) => self.catch_up(connection)?,
            None => self.reload(connection)?,
        }
        self.data_version = Some(version);
        Ok(())
    }

    fn reload(&mut self, connection: &Connection) -> Outcome<()> {
        self.data_version = None;
        self.standings.clear();
        self.unprojected.clear();
        self.watermark = log::watermark(connection)?;
        self.tail = 0;
        self.take_rows(connection)
    }

    fn catch_up(&mut self, connection: &Connection) -> Outcome<()> {
        let watermark = log::watermark(connection)?;
        // Others may have projected and removed rows that were never seen here; then what is held
        // as open may have ended unseen.
        if watermark > self.tail {
            return self.reload(connection);
        }
        self.take_rows(connection)?;
        self.projected(watermark);
        Ok(())
    }

    fn take_rows(&mut self, connection: &Connection) -> Outcome<()> {
        for entry in log::read_after(connection, self.tail)? {
            let is_begin = matches!(entry.record, Record::Begin { .. });
            if !is_begin
                && !self.standings.contains_key(&entry.id)
                && let Some(stored) = table::find(connection, &entry.id)?
            {
                self.recall(stored);
            }
            self.keep(entry.position, &entry.id, entry.at, &entry.record);
        }
        self.tail = self.tail.max(log::tail(connection)?);
        Ok(())
    }

    /// Brings back a finished coordination from the tables, because records are added to it.
    pub(super) fn recall(&mut self, stored: StoredCoordination) {
        let standing = Standing { stored, positions: Vec::new(), locks: Vec::new() };
        self.standings.insert(standing.stored.request.id.clone(), standing);
    }

    /// Lets go of one that was recalled and got no record.
    pub(super) fn dismiss(&mut self, id: &CoordinationId) {
        if self.standings.get(id).is_some_and(|standing| standing.positions.is_empty()) {
            self.standings.remove(id);
        }
    }

    /// Adds a record that stands in the log at `position`.
    pub(super) fn keep(
        &mut self,
        position: i64,
        id: &CoordinationId,
        at: Timestamp,
        record: &Record,
    ) {
        self.tail = position;
        if let Some(standing) = self.standings.get_mut(id) {
            fold::apply(&mut standing.stored, at, record);
            standing.positions.push(position);
        } else if let Some(stored) = fold::begun(at, record) {
            let locks = match record {
                Record::Begin { locks, .. } => locks.clone(),
                _ => Vec::new(),
            };
            let standing = Standing { stored, positions: vec![position], locks };
            self.standings.insert(id.clone(), standing);
        }
        if position > self.watermark {
            self.unprojected.push_back((position, id.clone()));
        }
    }

    /// The tables are complete up to `watermark`: what is finished there need not be held here.
    pub(super) fn projected(&mut self, watermark: i64) {
        self.watermark = watermark;
        while let Some((position, _)) = self.unprojected.front()
            && *position <= watermark
            && let Some((position, id)) = self.unprojected.pop_front()
        {
            let is_over = self.standings.get(&id).is_some_and(|standing| {
                standing.is_ended() && standing.last_position() == position
            });
            if is_over {
                self.standings.remove(&id);
            }
        }
    }
}
