//! What the writer knows without asking the tables: every coordination that is open, or whose
//! records are ahead of the tables, of all processes.
//!
//! Not a cache that may be wrong: under the log's lock, after a look at what others wrote, it is
//! exact. Invariants: a coordination that is not here and not in the tables does not exist;
//! `unprojected` is in the order of the log; a finished one leaves when all its records are in the
//! tables; no id of the tables that has left from here sorts after `newest`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::log::Entry;
use super::streams::{self, Placement, Streams};
use super::trouble::{Outcome, Trouble};
use super::{log, table};
use crate::journal::{Answer, Append, StoredCoordination, fold};
use crate::model::ids::CoordinationId;
use crate::model::record::Record;
use crate::model::time::Timestamp;

/// A record that may be needed again while its coordination is open.
pub(super) struct Kept {
    pub(super) position: i64,
    pub(super) epoch: u32,
    pub(super) at: Timestamp,
    pub(super) record: Record,
}

/// One coordination.
pub(super) struct Standing {
    /// What its records say together. Shared with whoever writes it into the tables.
    pub(super) stored: Arc<StoredCoordination>,
    /// Where its records are in the log, ascending.
    pub(super) positions: Vec<i64>,
    /// The records, until it has ended.
    pub(super) records: Vec<Kept>,
}

impl Standing {
    pub(super) fn is_ended(&self) -> bool {
        self.stored.completed_at.is_some()
    }

    pub(super) fn last_position(&self) -> i64 {
        self.positions.last().copied().unwrap_or(0)
    }

    fn add(&mut self, position: i64, epoch: u32, at: Timestamp, record: &Record) {
        fold::apply(Arc::make_mut(&mut self.stored), at, record);
        self.positions.push(position);
        if self.is_ended() {
            self.records = Vec::new();
        } else {
            self.records.push(Kept { position, epoch, at, record: record.clone() });
        }
    }
}

type Standings = HashMap<CoordinationId, Standing, foldhash::fast::RandomState>;

/// All of them.
#[derive(Default)]
pub(super) struct View {
    standings: Standings,
    unprojected: VecDeque<(i64, CoordinationId)>,
    tail: i64,
    watermark: i64,
    /// The greatest id that the tables may hold beside those that are here.
    newest: Option<CoordinationId>,
    streams: Streams,
}

impl View {
    /// What the tables tell, as a beginning: the log after [`View::tail`] comes next.
    pub(super) fn load(connection: &Connection) -> Outcome<Self> {
        // One look at everything: another process may be writing the tables.
        connection.execute_batch("BEGIN")?;
        let loaded = Self::load_inside(connection);
        connection.execute_batch("COMMIT")?;
        loaded
    }

    fn load_inside(connection: &Connection) -> Outcome<Self> {
        let watermark = log::watermark(connection)?;
        let newest = table::newest_id(connection)?;
        let streams = Streams::load(connection, watermark)?;
        let mut view = Self { watermark, newest, streams, ..Self::default() };
        for entry in log::kept(connection)? {
            view.take(connection, entry)?;
        }
        view.tail = view.tail.max(watermark);
        Ok(view)
    }

    /// The events that are ahead of the tables.
    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn get(&self, id: &CoordinationId) -> Option<&Standing> {
        self.standings.get(id)
    }

    /// Whether the tables need not be asked: whatever is not here does not exist.
    pub(super) fn is_newer_than_tables(&self, id: &CoordinationId) -> bool {
        self.newest.as_ref().is_none_or(|newest| newest < id)
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

    /// Takes in a record that another process wrote, or this one before.
    pub(super) fn take(&mut self, connection: &Connection, entry: Entry) -> Outcome<()> {
        let is_begin = matches!(entry.record, Record::Begin { .. });
        if !is_begin
            && !self.standings.contains_key(&entry.id)
            && let Some(stored) = table::find(connection, &entry.id)?
        {
            self.recall(stored);
        }
        if !self.streams.has_counted(entry.position)
            && let Record::Begin { request, .. } = &entry.record
            && streams::appends(request)
        {
            // It stands, so its writer has seen that it fits: here as there.
            match self.streams.fit(connection, entry.position, request)? {
                Placement::Fits(versions) => {
                    self.streams.add(entry.position, entry.at, request, versions)?;
                }
                Placement::Mismatch { stream, expected, actual } => {
                    return Err(Trouble::Row(format!(
                        "record {} expects version {expected} of stream '{stream}', which has \
                         {actual} there",
                        entry.position
                    )));
                }
            }
        }
        self.keep(entry.position, &entry.id, entry.epoch, entry.at, &entry.record);
        Ok(())
    }

    /// Takes in a record that is being written behind all others, with the versions of the events
    /// that it appends. Gives the answer to its writer.
    pub(super) fn accept(
        &mut self,
        append: &Append,
        versions: Option<Vec<u64>>,
    ) -> Outcome<Answer> {
        let (position, record) = (self.tail + 1, &append.record);
        self.keep(position, &append.id, append.epoch, append.at, record);
        if let (Some(versions), Record::Begin { request, .. }) = (versions, record) {
            self.streams.add(position, append.at, request, versions)?;
            return Ok(Answer::Appended { through: self.streams.last() });
        }
        Ok(Answer::Recorded)
    }

    /// The answer for a record that an earlier try has written.
    pub(super) fn answer_again(&self, append: &Append) -> Answer {
        match &append.record {
            Record::Begin { request, .. } if streams::appends(request) => {
                // What is in the tables already stands before whatever is the last.
                let through = self.streams.last_of(&append.id).unwrap_or(self.streams.last());
                Answer::Appended { through }
            }
            _ => Answer::Recorded,
        }
    }

    /// Brings back a finished coordination from the tables, because records are added to it.
    pub(super) fn recall(&mut self, stored: StoredCoordination) {
        let id = stored.request.id.clone();
        let stored = Arc::new(stored);
        let standing = Standing { stored, positions: Vec::new(), records: Vec::new() };
        self.standings.insert(id, standing);
    }

    /// Lets go of one that was recalled and got no record.
    pub(super) fn dismiss(&mut self, id: &CoordinationId) {
        if self.standings.get(id).is_some_and(|standing| standing.positions.is_empty()) {
            self.standings.remove(id);
        }
    }

    /// Adds a record that stands in the log.
    pub(super) fn keep(
        &mut self,
        position: i64,
        id: &CoordinationId,
        epoch: u32,
        at: Timestamp,
        record: &Record,
    ) {
        self.tail = position;
        if position > self.watermark {
            self.unprojected.push_back((position, id.clone()));
        }
        if let Some(standing) = self.standings.get_mut(id) {
            standing.add(position, epoch, at, record);
        } else if let Some(stored) = fold::begun(at, record) {
            let records = vec![Kept { position, epoch, at, record: record.clone() }];
            let (stored, positions) = (Arc::new(stored), vec![position]);
            self.standings.insert(id.clone(), Standing { stored, positions, records });
        }
    }

    /// The tables are complete up to `watermark`: what is finished there need not be held here.
    pub(super) fn projected(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
        self.streams.projected(watermark);
        while let Some((position, _)) = self.unprojected.front()
            && *position <= watermark
            && let Some((position, id)) = self.unprojected.pop_front()
        {
            let is_over = self.standings.get(&id).is_some_and(|standing| {
                standing.is_ended() && standing.last_position() == position
            });
            if is_over {
                self.standings.remove(&id);
                if self.newest.as_ref().is_none_or(|newest| *newest < id) {
                    self.newest = Some(id);
                }
            }
        }
    }
}
