//! Recovery: what dead processes left open is adopted, and prepared work that nobody owns is
//! rolled back. The machines are the same; only their first input differs.
//!
//! Invariants: a coordination is resumed only after the journal has made this process its owner;
//! a prepared transaction is rolled back as an orphan only if the journal knows nothing of it, the
//! store tells this journal's work from others', and no live process can be about to record it:
//! none other has the journal open, or the safety interval has passed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::journal::OpenCoordination;
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Acknowledgement, Decision, OutcomeKind, TransactionState};
use crate::model::record::Record;
use crate::participants::{DeliveryAsk, ParticipantError};
use crate::protocol::Input;
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::table::{Entry, SlotKey};
use super::{Found, RecoveryReport};

/// A report on what one round of recovery resumed, told once all of it has been tried.
#[derive(Clone)]
pub(super) struct Collector(Arc<Mutex<Collecting>>);

struct Collecting {
    waiting: HashSet<SlotKey>,
    report: RecoveryReport,
    reply: Option<Reply<Result<RecoveryReport, EngineError>>>,
}

impl Collector {
    pub(super) fn new(reply: Option<Reply<Result<RecoveryReport, EngineError>>>) -> Self {
        let report = RecoveryReport::default();
        Self(Arc::new(Mutex::new(Collecting { waiting: HashSet::new(), report, reply })))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Collecting) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Tells the report as it is, if it was not told before; true when nobody waits any more.
    pub(super) fn tell_if_complete(&self, at_once: bool) -> bool {
        let told = self.with(|collecting| {
            if !at_once && !collecting.waiting.is_empty() {
                return None;
            }
            let reply = collecting.reply.take();
            Some((reply, std::mem::take(&mut collecting.report)))
        });
        match told {
            None => false,
            Some((reply, report)) => {
                if let Some(reply) = reply {
                    reply.send(Ok(report));
                }
                true
            }
        }
    }

    pub(super) fn fail(&self, error: EngineError) {
        if let Some(reply) = self.with(|collecting| collecting.reply.take()) {
            reply.send(Err(error));
        }
    }
}

impl State {
    /// The journal has made this process the owner of these.
    pub(super) fn adopt(&mut self, core: &Core, open: Vec<OpenCoordination>, report: Collector) {
        let keys: Vec<SlotKey> =
            open.into_iter().filter_map(|coordination| self.rebuild(core, coordination)).collect();
        // The report waits for all of them before the first is stepped: one that has nothing left
        // to ask is done within its step, and must not be taken for the last.
        report.with(|collecting| collecting.waiting.extend(&keys));
        if report.tell_if_complete(false) {
            return;
        }
        self.reports.push(report);
        for key in keys {
            if let Some(entry) = self.table.get(key) {
                core.observe_begin(entry);
            }
            self.step(core, key, Input::Resumed);
        }
    }

    /// The machine as its records tell it, in the table, not stepped yet.
    fn rebuild(&mut self, core: &Core, open: OpenCoordination) -> Option<SlotKey> {
        if self.table.find(&open.id).is_some() {
            // Somebody asked for it at the same moment, and its begin is not answered yet, or it
            // was taken from this process and came back: it is resumed when that entry goes.
            self.adopted_early.insert(open.id.clone(), open);
            return None;
        }
        let Some(Record::Begin { request, .. }) = open.records.first().map(|(_, record)| record)
        else {
            tracing::error!(coordination = %open.id, "its records do not start with a begin");
            return None;
        };
        let machine = match core.machine_of(request, &open) {
            Ok(machine) => machine,
            Err(refusal) => {
                let why = refusal.message;
                tracing::error!(coordination = %open.id, why, "cannot be resumed by this service");
                return None;
            }
        };
        tracing::info!(coordination = %open.id, epoch = open.epoch, "resumed");
        let mut entry = Entry::new(machine, None);
        entry.locks.resumed = true;
        Some(self.table.insert(entry))
    }

    /// An entry has gone that stood in the way of one that was adopted meanwhile.
    pub(super) fn resume_adopted(&mut self, core: &Core, id: &CoordinationId) {
        // The common service has none, and pays no hash.
        if !self.adopted_early.is_empty()
            && let Some(open) = self.adopted_early.remove(id)
        {
            core.post(Fact::Adopted { open: vec![open], report: Collector::new(None) });
        }
    }

    /// A coordination has moved: reports that wait for it may be complete.
    pub(super) fn tell_reports(&mut self, key: SlotKey) {
        if self.reports.is_empty() {
            return;
        }
        let Self { table, reports, .. } = self;
        for report in &*reports {
            report.with(|collecting| collecting.look_at(key, table.get(key)));
        }
        reports.retain(|report| !report.tell_if_complete(false));
    }

    /// A round of everything that is done again and again.
    pub(super) fn patrol(&mut self, core: &Core) {
        self.forgettable.send(core, 1);
        for id in self.followers.keys() {
            let (this, asked) = (core.this.clone(), id.clone());
            let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
                if let Some(core) = this.upgrade() {
                    core.post(Fact::Followed { id: asked, found });
                }
            });
            core.find_stored(id, reply);
        }
    }

    /// A store listed what it holds prepared: what is not under way here is looked up.
    pub(super) fn listed(&mut self, core: &Core, store: usize, ids: Vec<CoordinationId>) {
        let listed: HashSet<&CoordinationId> = ids.iter().collect();
        self.orphans.retain(|(at, id), _| *at != store || listed.contains(id));
        for id in ids {
            if self.table.find(&id).is_some() {
                continue;
            }
            let now = core.clock.now();
            let first_seen = *self.orphans.entry((store, id.clone())).or_insert(now);
            let waited = now.since(first_seen) >= core.ports.options.orphan_interval;
            // What is on another store's list without being in this journal is another journal's.
            let is_ours = core.ports.stores[store].2;
            core.judge_orphan(store, id, is_ours && (waited || core.ports.journal.is_alone()));
        }
    }

    /// The journal has judged: nobody will finish this one.
    pub(super) fn orphaned(
        &mut self,
        core: &Core,
        store: usize,
        id: &CoordinationId,
        decision: Decision,
    ) {
        if self.table.find(id).is_some() {
            return;
        }
        let (_, participant, _) = &core.ports.stores[store];
        let timeout = core.ports.options.commit_timeout;
        let ask = DeliveryAsk { id: id.clone(), timeout, attachment: None, receipt: None };
        // An answer that is lost is made good by the next sweep.
        let reply = Reply::new(|_: Acknowledgement| {});
        match decision {
            Decision::Commit => participant.commit(ask, reply),
            Decision::Abort => participant.abort(ask, reply),
        }
    }
}

impl Collecting {
    fn look_at(&mut self, key: SlotKey, entry: Option<&mut Entry>) {
        if !self.waiting.contains(&key) {
            return;
        }
        let Some(entry) = entry else {
            // It has been reported when it ended, just before it left the table.
            self.waiting.remove(&key);
            return;
        };
        let view = entry.machine.view();
        let id = entry.id().to_string();
        let kind = view.outcome.kind;
        let list = match view.state {
            TransactionState::Committed => &mut self.report.committed,
            TransactionState::Aborted if view.steps.is_empty() => &mut self.report.aborted,
            TransactionState::Aborted => &mut self.report.compensated,
            _ if !entry.machine.is_quiet() || entry.awaited.is_some() => return,
            _ if matches!(kind, OutcomeKind::Committed | OutcomeKind::Aborted) => {
                &mut self.report.resumed
            }
            _ => &mut self.report.in_doubt,
        };
        list.push(id);
        self.waiting.remove(&key);
    }
}

impl Core {
    /// Adopts what dead processes left; `reply` hears what became of it.
    pub(super) fn recover(&self, report: Collector) {
        let this = self.this.clone();
        let reply = Reply::new(move |open: Result<Vec<OpenCoordination>, _>| match open {
            Ok(open) => {
                if let Some(core) = this.upgrade() {
                    core.post(Fact::Adopted { open, report });
                }
            }
            Err(error) => {
                report.fail(EngineError::Journal(error));
                if let Some(core) = this.upgrade() {
                    core.post(Fact::AdmissionOpens);
                }
            }
        });
        let stores = self.ports.stores.iter().map(|(name, ..)| name.clone()).collect();
        self.ports.journal.adopt(stores, reply);
    }

    /// Asks every store that can tell what it holds prepared.
    pub(super) fn sweep(&self) {
        for (store, (name, participant, _)) in self.ports.stores.iter().enumerate() {
            if !participant.abilities().lists_prepared {
                continue;
            }
            let (this, name) = (self.this.clone(), name.clone());
            let reply =
                Reply::new(move |ids: Result<Vec<CoordinationId>, ParticipantError>| match ids {
                    Ok(ids) if ids.is_empty() => {}
                    Ok(ids) => {
                        if let Some(core) = this.upgrade() {
                            core.post(Fact::Listed { store, ids });
                        }
                    }
                    Err(error) => tracing::warn!(store = %name, %error, "cannot be listed"),
                });
            participant.list_prepared(reply);
        }
    }

    /// `certain`: nobody can be about to record it.
    fn judge_orphan(&self, store: usize, id: CoordinationId, certain: bool) {
        let (this, asked) = (self.this.clone(), id.clone());
        let name = self.ports.stores[store].0.clone();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let decision = match found {
                Ok(None) if certain => {
                    let (coordination, store) = (&asked, &name);
                    tracing::warn!(%coordination, %store, "prepared without an owner");
                    Decision::Abort
                }
                // It ended, and this store still holds it: its answer came after it was given up,
                // or the list is older than the delivery. Telling it again is the ordinary thing.
                Ok(Some(Found { stored, .. })) if stored.outcome.is_some() => {
                    match stored.decision {
                        Some(Decision::Commit) => Decision::Commit,
                        _ => Decision::Abort,
                    }
                }
                _ => return,
            };
            if let Some(core) = this.upgrade() {
                core.post(Fact::Orphaned { store, id: asked, decision });
            }
        });
        self.find_stored(&id, reply);
    }
}
