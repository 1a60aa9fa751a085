//! The writer's other work: questions, adoption, keeping the tables up, retention.
//!
//! Not group commit (writer). Invariants: an answer sees every record that was queued before its
//! question; work that takes long is done in portions, with commits in between.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::projection::Portion;
use super::projector::{Tables, Task};
use super::queue::{Ask, Job, Note};
use super::trouble::Outcome;
use super::writer::Writer;
use super::{log, query, table};
use crate::crash;
use crate::db::instance::Life;
use crate::db::migration::SCHEMA_KNOWN;
use crate::db::segments::Batch;
use crate::journal::{
    Append, Durability, HistoryFilter, JournalError, JournalStatus, OpenCoordination,
    StoredCoordination,
};
use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::reply::Reply;

const PROJECTION_PAUSE: Duration = Duration::from_secs(1);
/// How long closing may spend on the tables; the log is enough for the next start.
const CLOSING_PROJECTION: Duration = Duration::from_millis(500);

/// What is being done to the tables.
#[derive(Default)]
pub(super) struct Upkeep {
    is_projecting: bool,
    is_removing: bool,
    /// After a failure the next try waits.
    pub(super) paused_until: Option<Instant>,
    /// Why the last portion could not be written.
    pub(super) trouble: Option<JournalError>,
}

impl Upkeep {
    /// Whether a note will come.
    pub(super) fn is_busy(&self) -> bool {
        self.is_projecting || self.is_removing
    }
}

/// A removal of old coordinations that goes on in portions.
pub(super) struct Sweep {
    cutoff: Timestamp,
    removed: u64,
    at_most: u64,
    reply: Reply<Result<u64, JournalError>>,
}

pub(super) fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}

impl Writer {
    pub(super) fn serve(&mut self, ask: Ask) {
        match ask {
            Ask::Find(id, reply) => self.find(id, reply),
            Ask::UnknownOf(ids, reply) => self.unknown_of(ids, reply),
            Ask::Adopt(stores, reply) => {
                let adopted = self.adopt(&stores).map_err(|trouble| trouble.at(&self.path));
                reply.send(adopted);
            }
            Ask::Streams(ask) => self.serve_streams(ask),
            Ask::History(..)
            | Ask::Status(_)
            | Ask::Retain(..)
            | Ask::CountEnded(..)
            | Ask::Shrink(_) => match self.look() {
                Ok(()) => self.reads.push_back((self.view.tail(), ask)),
                Err(trouble) => ask.fail(trouble.at(&self.path)),
            },
        }
    }

    fn find(
        &mut self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        if let Err(trouble) = self.look() {
            return reply.send(Err(trouble.at(&self.path)));
        }
        if let Some(standing) = self.view.get(&id) {
            return reply.send(Ok(Some((*standing.stored).clone())));
        }
        let path = self.path.clone();
        self.read(Box::new(move |connection| {
            reply.send(table::find(connection, &id).map_err(|trouble| trouble.at(&path)));
        }));
    }

    fn unknown_of(
        &mut self,
        mut ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        if let Err(trouble) = self.look() {
            return reply.send(Err(trouble.at(&self.path)));
        }
        ids.retain(|id| self.view.get(id).is_none());
        let path = self.path.clone();
        self.read(Box::new(move |connection| {
            let unknown = query::without_row(connection, ids);
            reply.send(unknown.map_err(|trouble| trouble.at(&path)));
        }));
    }

    pub(super) fn read(&self, job: Job) {
        if let Some(tables) = self.projector.reading() {
            self.reader.run(tables, job);
        }
    }

    /// One step of everything that goes on in portions.
    pub(super) fn advance(&mut self, is_projection_due: bool) {
        let watermark = self.view.watermark();
        let is_awaited = self.reads.front().is_some_and(|(until, _)| *until > watermark);
        let is_paused = self.upkeep.paused_until.is_some_and(|until| until > Instant::now());
        if is_awaited || (is_projection_due && !is_paused) {
            self.project_portion();
        }
        while let Some((until, _)) = self.reads.front()
            && (*until <= self.view.watermark() || self.view.backlog() == 0)
            && let Some((_, ask)) = self.reads.pop_front()
        {
            self.dispatch(ask);
        }
        if !self.upkeep.is_removing
            && let Some(sweep) = self.sweeps.front()
        {
            let left = usize::try_from(sweep.at_most - sweep.removed).unwrap_or(usize::MAX);
            let portion = self.options.retention_portion.max(1).min(left);
            self.upkeep.is_removing = true;
            self.projector.give(Task::Remove { cutoff: sweep.cutoff, portion }, &self.queue);
        }
    }

    /// Has the next portion of records brought into the tables, unless one is on its way.
    fn project_portion(&mut self) {
        if self.upkeep.is_projecting {
            return;
        }
        let Some(portion) = Portion::next(&self.view, self.options.projection_chunk) else {
            return;
        };
        self.upkeep.is_projecting = true;
        let is_durable = self.log.as_ref().is_some_and(|log| log.has_before(portion.watermark()));
        self.projector.give(Task::Project { portion, is_durable }, &self.queue);
    }

    /// Takes in what the writer of the tables did.
    pub(super) fn noted(&mut self, note: Note) {
        match note {
            Note::Projected { done: Ok(watermark), is_durable } => {
                self.upkeep = Upkeep { is_removing: self.upkeep.is_removing, ..Upkeep::default() };
                self.view.projected(watermark);
                if is_durable {
                    self.remove_segments(watermark);
                }
            }
            Note::Projected { done: Err(trouble), .. } => {
                let error = trouble.at(&self.path);
                tracing::warn!(%error, "the journal's tables cannot be brought up to date");
                self.upkeep.is_projecting = false;
                self.upkeep.paused_until = Some(Instant::now() + PROJECTION_PAUSE);
                self.upkeep.trouble = Some(error.clone());
                self.fail_waiting(&error);
            }
            Note::Removed(removed) => self.removed(removed),
        }
    }

    /// Under the lock, so that nobody who is just opening the journal misses them.
    fn remove_segments(&mut self, through: i64) {
        let Some(log) = &mut self.log else { return };
        if log.lock(Duration::ZERO).is_err() {
            // There is a next time.
            return;
        }
        if let Err(error) = log.remove_through(through) {
            tracing::warn!(%error, "an old segment of the journal's log cannot be removed");
        }
        log.unlock();
    }

    fn removed(&mut self, removed: Outcome<usize>) {
        self.upkeep.is_removing = false;
        let Some(mut sweep) = self.sweeps.pop_front() else { return };
        match removed {
            Ok(0) => sweep.reply.send(Ok(sweep.removed)),
            Ok(removed) => {
                sweep.removed += removed as u64;
                if sweep.removed >= sweep.at_most {
                    return sweep.reply.send(Ok(sweep.removed));
                }
                self.sweeps.push_back(sweep);
            }
            Err(trouble) => sweep.reply.send(Err(trouble.at(&self.path))),
        }
    }

    /// Brings the tables up as far as closing allows.
    pub(super) fn settle_tables(&mut self) {
        let deadline = Instant::now() + CLOSING_PROJECTION;
        loop {
            while self.upkeep.is_busy() {
                self.wait_for_notes();
            }
            let is_stuck = self.upkeep.trouble.is_some() || Instant::now() >= deadline;
            if self.view.backlog() == 0 || is_stuck {
                return;
            }
            self.project_portion();
        }
    }

    fn dispatch(&mut self, ask: Ask) {
        let path = self.path.clone();
        match ask {
            Ask::History(filter, reply) => self.history(filter, reply),
            Ask::Status(reply) => {
                let instances = self.instances.clone();
                self.read(Box::new(move |connection| {
                    let told = query::states(connection)
                        .and_then(|states| Ok((states, query::space(connection)?)));
                    reply.send(told.map_err(|trouble| trouble.at(&path)).map(|(states, space)| {
                        JournalStatus {
                            location: path,
                            engine: format!("SQLite {}", rusqlite::version()),
                            schema: SCHEMA_KNOWN,
                            states,
                            instances_alive: instances.alive(),
                            space: Some(space),
                        }
                    }));
                }));
            }
            Ask::Retain(age, at_most, reply) => {
                self.sweeps.push_back(Sweep { cutoff: now() - age, removed: 0, at_most, reply });
            }
            Ask::CountEnded(age, reply) => self.read(Box::new(move |connection| {
                let counted = query::count_ended(connection, now() - age);
                reply.send(counted.map_err(|trouble| trouble.at(&path)));
            })),
            Ask::Shrink(reply) => {
                let shrink = Box::new(move |tables: &mut Tables| {
                    reply.send(tables.shrink().map_err(|trouble| trouble.at(&path)));
                });
                self.projector.give(Task::Change(shrink), &self.queue);
            }
            // These never wait for the tables.
            Ask::Find(..) | Ask::UnknownOf(..) | Ask::Adopt(..) | Ask::Streams(_) => {
                self.serve(ask);
            }
        }
    }

    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        let path = self.path.clone();
        self.read(Box::new(move |connection| {
            reply.send(query::history(connection, &filter).map_err(|trouble| trouble.at(&path)));
        }));
    }

    /// Fails every question that waits for a write.
    pub(super) fn fail_waiting(&mut self, error: &JournalError) {
        for (_, ask) in self.reads.drain(..) {
            ask.fail(error.clone());
        }
        for sweep in self.sweeps.drain(..) {
            sweep.reply.send(Err(error.clone()));
        }
    }

    fn adopt(&mut self, stores: &[StoreName]) -> Outcome<Vec<OpenCoordination>> {
        let mut owners: HashMap<InstanceId, Life> = HashMap::new();
        let ids = self.under_lock(|writer| writer.take_over(stores, &mut owners))?;
        if !ids.is_empty() {
            self.sync()?;
            crash::point("after_record", "adopted");
        }
        for owner in self.instances.others() {
            owners.entry(owner.clone()).or_insert_with(|| self.instances.probe(&owner));
        }
        for (owner, life) in &owners {
            if let Life::Dead(Some(_)) = life {
                self.instances.bury(owner);
            }
        }
        Ok(ids.iter().filter_map(|id| self.hand_over(id)).collect())
    }

    /// Writes an `Adopted` record for every open coordination of a dead owner. The locks of the
    /// dead are held in `owners` until the records stand, so that two adopters cannot both win.
    fn take_over(
        &mut self,
        stores: &[StoreName],
        owners: &mut HashMap<InstanceId, Life>,
    ) -> Outcome<Vec<CoordinationId>> {
        let mut orphans: Vec<(i64, CoordinationId, u32)> = Vec::new();
        for (id, standing) in self.view.open() {
            let owner = &standing.stored.owner;
            let request = &standing.stored.request;
            let has_all = request.stores.iter().all(|store| stores.contains(store));
            if owner == self.instances.own() || request.needs_stores_here() && !has_all {
                continue;
            }
            let life = owners.entry(owner.clone()).or_insert_with(|| self.instances.probe(owner));
            if matches!(life, Life::Dead(_)) {
                let first = standing.positions.first().copied().unwrap_or(0);
                orphans.push((first, id.clone(), standing.stored.epoch + 1));
            }
        }
        orphans.sort_unstable();
        let (owner, at) = (self.instances.own().clone(), now());
        let mut frames = Batch::default();
        for (_, id, epoch) in &orphans {
            let position = self.view.tail() + 1;
            let record = Record::Adopted { owner: owner.clone(), epoch: *epoch };
            let (id, epoch) = (id.clone(), *epoch);
            let append = Append { token: 0, id, epoch, at, record, durability: Durability::Forced };
            frames.push(position, |bytes| log::encode(&append, bytes))?;
            self.view.keep(position, &append.id, epoch, at, &append.record);
        }
        if let Some(log) = self.log.as_mut().filter(|_| !frames.is_empty()) {
            crash::point("before_record", "adopted");
            log.append(&frames)?;
            crash::point("before_sync", "adopted");
        }
        Ok(orphans.into_iter().map(|(_, id, _)| id).collect())
    }

    fn hand_over(&self, id: &CoordinationId) -> Option<OpenCoordination> {
        let standing = self.view.get(id)?;
        let records = standing.records.iter().map(|kept| (kept.at, kept.record.clone()));
        Some(OpenCoordination {
            id: id.clone(),
            owner: standing.stored.owner.clone(),
            epoch: standing.stored.epoch,
            records: records.collect(),
        })
    }
}
