//! The writer's other work: questions, adoption, keeping the tables up, retention.
//!
//! Not group commit (writer). Invariants: an answer sees every record that was queued before its
//! question; work that takes long is done in portions, with commits in between.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::instance::Life;
use super::queue::{Ask, Job};
use super::trouble::Outcome;
use super::writer::Writer;
use super::{log, projection, query, table};
use crate::crash;
use crate::db::migration::SCHEMA_KNOWN;
use crate::journal::{
    HistoryFilter, JournalError, JournalStatus, OpenCoordination, StoredCoordination,
};
use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::reply::Reply;

const PROJECTION_PAUSE: Duration = Duration::from_secs(1);

/// A removal of old coordinations that goes on in portions.
pub(super) struct Sweep {
    cutoff: Timestamp,
    removed: u64,
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
            Ask::History(..) | Ask::Status(_) | Ask::Retain(..) => match self.look() {
                Ok(()) => self.reads.push_back((self.view.tail(), ask)),
                Err(trouble) => ask.fail(trouble.at(&self.path)),
            },
        }
    }

    /// Takes in what other processes wrote, without the write lock.
    fn look(&mut self) -> Outcome<()> {
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        let seen = self.view.refresh(&self.connection);
        if seen.is_err() {
            self.view.distrust();
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        seen
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
            return reply.send(Ok(Some(standing.stored.clone())));
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

    fn read(&self, job: Job) {
        self.reader.run(&self.connection, job);
    }

    /// One step of everything that goes on in portions.
    pub(super) fn advance(&mut self, is_projection_due: bool) {
        let watermark = self.view.watermark();
        let is_awaited = self.reads.front().is_some_and(|(until, _)| *until > watermark);
        let is_paused = self.projection_paused_until.is_some_and(|until| until > Instant::now());
        if (is_awaited || (is_projection_due && !is_paused))
            && self.view.backlog() > 0
            && let Err(trouble) = self.project_portion()
        {
            let error = trouble.at(&self.path);
            tracing::warn!(%error, "the journal's tables cannot be brought up to date");
            self.projection_paused_until = Some(Instant::now() + PROJECTION_PAUSE);
            self.fail_waiting(&error);
        }
        while let Some((until, _)) = self.reads.front()
            && (*until <= self.view.watermark() || self.view.backlog() == 0)
            && let Some((_, ask)) = self.reads.pop_front()
        {
            self.dispatch(ask);
        }
        if let Some(sweep) = self.sweeps.pop_front() {
            self.sweep(sweep);
        }
    }

    /// Brings the next portion of records into the tables.
    pub(super) fn project_portion(&mut self) -> Outcome<()> {
        let watermark = self.transact(|writer| {
            projection::project(&writer.connection, &writer.view, writer.options.projection_chunk)
        })?;
        if let Some(watermark) = watermark {
            self.view.projected(watermark);
        }
        Ok(())
    }

    fn dispatch(&mut self, ask: Ask) {
        let path = self.path.clone();
        match ask {
            Ask::History(filter, reply) => self.history(filter, reply),
            Ask::Status(reply) => {
                let instances = self.instances.clone();
                self.read(Box::new(move |connection| {
                    let states = query::states(connection).map_err(|trouble| trouble.at(&path));
                    reply.send(states.map(|states| JournalStatus {
                        location: path,
                        schema: SCHEMA_KNOWN,
                        states,
                        instances_alive: instances.alive(),
                    }));
                }));
            }
            Ask::Retain(age, reply) => {
                self.sweeps.push_back(Sweep { cutoff: now() - age, removed: 0, reply });
            }
            // These never wait for the tables.
            Ask::Find(..) | Ask::UnknownOf(..) | Ask::Adopt(..) => self.serve(ask),
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

    fn sweep(&mut self, mut sweep: Sweep) {
        let (cutoff, portion) = (sweep.cutoff, self.options.retention_portion.max(1));
        let removed =
            self.transact(|writer| query::remove_ended(&writer.connection, cutoff, portion));
        match removed {
            Ok(0) => sweep.reply.send(Ok(sweep.removed)),
            Ok(removed) => {
                sweep.removed += removed as u64;
                self.sweeps.push_back(sweep);
            }
            Err(trouble) => sweep.reply.send(Err(trouble.at(&self.path))),
        }
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
        let ids = self.transact(|writer| writer.take_over(stores, &mut owners))?;
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
        ids.iter().map(|id| self.hand_over(id)).filter_map(Result::transpose).collect()
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
            let needed = &standing.stored.request.stores;
            if owner == self.instances.own() || !needed.iter().all(|store| stores.contains(store)) {
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
        let mut rows = Vec::with_capacity(orphans.len());
        for (_, id, epoch) in &orphans {
            let position = self.view.tail() + 1;
            let record = Record::Adopted { owner: owner.clone(), epoch: *epoch };
            rows.push(log::Row::new(position, id, *epoch, at, &record)?);
            self.view.keep(position, id, at, &record);
        }
        if !rows.is_empty() {
            crash::point("before_record", "adopted");
            log::insert(&self.connection, &owner, &rows)?;
            crash::point("before_sync", "adopted");
        }
        Ok(orphans.into_iter().map(|(_, id, _)| id).collect())
    }

    fn hand_over(&self, id: &CoordinationId) -> Outcome<Option<OpenCoordination>> {
        let Some(standing) = self.view.get(id) else { return Ok(None) };
        let entries = log::read_at(&self.connection, &standing.positions)?;
        Ok(Some(OpenCoordination {
            id: id.clone(),
            owner: standing.stored.owner.clone(),
            epoch: standing.stored.epoch,
            records: entries.into_iter().map(|entry| (entry.at, entry.record)).collect(),
        }))
    }
}
