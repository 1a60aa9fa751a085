//! What a journal counts of its own work: records, group commits, how long they took.
//!
//! Not its state and not its health. Invariant: counting waits for nobody; what is counted changes
//! nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::histogram::{COUNTS, DURATIONS, Histogram, Reading};

/// Where an adapter counts.
#[derive(Debug)]
pub struct Meter {
    batches: Histogram,
    syncs: Histogram,
    /// `u64::MAX` where there is no such thing.
    backlog: AtomicU64,
}

/// What was counted so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterReading {
    /// Records by group commit, in records.
    pub batches: Reading,
    /// How long group commits took to become durable, in microseconds.
    pub syncs: Reading,
    /// Records that the tables do not have yet, where tables follow a log.
    pub backlog: Option<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            batches: Histogram::new(COUNTS),
            syncs: Histogram::new(DURATIONS),
            backlog: AtomicU64::new(u64::MAX),
        }
    }
}

impl Meter {
    /// So many records were written as one.
    pub(super) fn wrote(&self, records: usize) {
        if records > 0 {
            self.batches.add(records as u64);
        }
    }

    /// What was written became durable, which took so long.
    pub(super) fn synced(&self, took: Duration) {
        self.syncs.add_duration(took);
    }

    /// So many records are ahead of the tables.
    pub(super) fn is_behind_by(&self, records: usize) {
        self.backlog.store(records as u64, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> MeterReading {
        let backlog = self.backlog.load(Ordering::Relaxed);
        let backlog = Some(backlog).filter(|backlog| *backlog != u64::MAX);
        MeterReading { batches: self.batches.read(), syncs: self.syncs.read(), backlog }
    }
}
