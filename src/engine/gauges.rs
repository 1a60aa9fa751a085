//! How much of what there is now, for whoever measures: counted when somebody asks.
//!
//! Not the counters of what happened (`observe/tally`). Changes nothing. Invariants: nothing of it
//! is kept up to date between two questions; what an entry costs is a few comparisons, so that
//! thousands of them hold nobody up; each open coordination is counted in one way.

use std::sync::atomic::Ordering;

use crate::journal::Journal;
use crate::model::request::CoordinationType;
use crate::model::step::StepState;
use crate::model::time::Timestamp;
use crate::observe::metrics::{self, Sample};
use crate::reply::Reply;

use super::Coordinator;
use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::table::Entry;

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gauges {
    running: u64,
    queued: u64,
    delivering: u64,
    in_doubt: u64,
    /// When the oldest of those in doubt was accepted.
    oldest: Option<Timestamp>,
    parked: u64,
    parked_operations: u64,
    lock_waiting: u64,
    locks_held: u64,
    recovering: u64,
}

/// In which way a coordination is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Queued,
    /// Its caller waits.
    Awaited,
    Parked,
    Delivering,
    InDoubt,
}

fn way_of(entry: &Entry) -> Way {
    use CoordinationType::{EventSourcing, EventualConsistency};
    let machine = &entry.machine;
    if entry.queued {
        Way::Queued
    } else if machine.is_parked() {
        Way::Parked
    } else if machine.awaits_answer() {
        Way::Awaited
    } else if matches!(machine.request().kind, EventSourcing | EventualConsistency) {
        // Their callers are answered long before, and no store has promised anything.
        Way::Delivering
    } else {
        Way::InDoubt
    }
}

impl Gauges {
    fn count(&mut self, entry: &Entry) {
        match way_of(entry) {
            Way::Queued => self.queued += 1,
            Way::Awaited => {}
            Way::Delivering => self.delivering += 1,
            Way::Parked => {
                self.parked += 1;
                let steps = entry.machine.view().steps;
                let parked = steps.iter().filter(|step| step.state == StepState::Parked);
                self.parked_operations += parked.count() as u64;
            }
            Way::InDoubt => {
                self.in_doubt += 1;
                let began_at = entry.machine.began_at();
                self.oldest = Some(self.oldest.map_or(began_at, |oldest| oldest.min(began_at)));
            }
        }
        self.lock_waiting += u64::from(entry.locks.wait.is_some());
        self.locks_held += entry.locks.grants.len() as u64;
        self.recovering += u64::from(entry.locks.resumed);
    }

    fn samples(&self, now: Timestamp) -> Vec<Sample> {
        let age = self.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64());
        vec![
            Sample::truth(&metrics::UP, true),
            Sample::count(&metrics::RUNNING, self.running),
            Sample::count(&metrics::QUEUED, self.queued),
            Sample::count(&metrics::DELIVERING, self.delivering),
            Sample::count(&metrics::IN_DOUBT, self.in_doubt),
            Sample::plain(&metrics::IN_DOUBT_AGE, age),
            Sample::count(&metrics::PARKED, self.parked),
            Sample::count(&metrics::PARKED_OPERATIONS, self.parked_operations),
            Sample::count(&metrics::LOCK_WAITING, self.lock_waiting),
            Sample::count(&metrics::LOCKS_HELD, self.locks_held),
            Sample::count(&metrics::RECOVERY_BACKLOG, self.recovering),
        ]
    }
}

impl State {
    pub(super) fn gauges(&self, core: &Core) -> Vec<Sample> {
        let mut gauges = Gauges::default();
        self.table.entries().for_each(|entry| gauges.count(entry));
        gauges.running = self.running as u64;
        gauges.parked_operations += core.signals.parked_projections() as u64;
        gauges.samples(core.clock.now())
    }
}

/// What a journal counted of its own work.
fn of_journal(journal: &dyn Journal) -> Vec<Sample> {
    let Some(reading) = journal.meter().map(crate::journal::Meter::read) else {
        return Vec::new();
    };
    let mut samples = vec![
        Sample::count(&metrics::JOURNAL_RECORDS, reading.batches.sum),
        Sample::histogram(&metrics::JOURNAL_BATCH, reading.batches),
        Sample::histogram(&metrics::JOURNAL_SYNC, reading.syncs),
    ];
    samples
        .extend(reading.backlog.map(|backlog| Sample::count(&metrics::JOURNAL_BACKLOG, backlog)));
    samples
}

impl Coordinator {
    /// How much there is now; of an engine that is closed or broke down only that it is.
    pub fn gauges(&self, reply: Reply<Result<Vec<Sample>, EngineError>>) {
        let core = &self.core;
        let mut all = of_journal(core.ports.journal.as_ref());
        let is_writable = core.journal_writes.load(Ordering::Relaxed);
        all.push(Sample::truth(&metrics::JOURNAL_WRITABLE, is_writable));
        let told = Reply::new(move |gauges: Result<Vec<Sample>, EngineError>| {
            let gauges = gauges.unwrap_or_else(|_| vec![Sample::truth(&metrics::UP, false)]);
            all.extend(gauges);
            reply.send(Ok(all));
        });
        if core.closed.load(Ordering::SeqCst) {
            return drop(told);
        }
        core.post(Fact::GaugesAsked(told));
    }
}
