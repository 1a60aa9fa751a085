//! What happened so far, counted and measured where it happens, and read when somebody asks.
//!
//! Not the gauges (`engine/gauges`), and not the names (`metrics`). Invariants: counting is a few
//! additions to atomic numbers, and waits for nobody; only what goes wrong takes a lock, a short
//! one; there are as many counters as there are stores and codes of ours, whatever requests say.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::histogram::{DURATIONS, Histogram, Reading};
use crate::model::event::CoordinationEvent;
use crate::model::ids::StoreName;
use crate::model::outcome::{Outcome, TransactionState};
use crate::model::request::CoordinationType;

use super::metrics::{self, Metric, Sample};
use super::observation::{Act, Ending, Observation, Observer};

/// How many different codes are counted apart: more than there are.
pub(super) const CODES_MAX: usize = 100;

/// Counts by error code.
#[derive(Debug, Default)]
struct Codes(Mutex<BTreeMap<String, u64>>);

impl Codes {
    fn add(&self, code: &str) {
        // Numbers in a map are whole after any panic.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(code) {
            *count += 1;
        } else {
            let code = if counts.len() < CODES_MAX { code } else { "other" };
            *counts.entry(code.to_owned()).or_default() += 1;
        }
    }

    fn samples(&self, metric: &'static Metric, samples: &mut Vec<Sample>) {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |(code, count): (&String, &u64)| Sample::count(metric, *count).labelled([code]);
        samples.extend(counts.iter().map(of));
    }
}

/// The words of the label `phase`.
const PHASES: [&str; 6] = ["prepare", "commit", "abort", "execute", "compensate", "apply"];
/// The kinds of records that a coordination may wait for, as `Record::kind` has them.
const RECORDS: [&str; 10] = [
    "begin",
    "adopted",
    "decision",
    "heuristic",
    "end",
    "step_started",
    "step_done",
    "step_failed",
    "parked",
    "redriven",
];
/// The words of the label `result`.
const LOCK_RESULTS: [&str; 2] = ["granted", "refused"];
/// The words of the label `question`.
const QUESTIONS: [&str; 2] = ["propose", "read"];

/// One histogram for each of some words.
#[derive(Debug)]
struct ByWord<const N: usize> {
    words: &'static [&'static str; N],
    histograms: [Histogram; N],
}

impl<const N: usize> ByWord<N> {
    fn new(words: &'static [&'static str; N]) -> Self {
        Self { words, histograms: std::array::from_fn(|_| Histogram::new(DURATIONS)) }
    }

    fn add(&self, word: &str, duration: Duration) {
        if let Some(place) = self.words.iter().position(|known| *known == word) {
            self.histograms[place].add_duration(duration);
        }
    }

    /// Those that were ever added to.
    fn readings(&self) -> impl Iterator<Item = (&'static str, Reading)> {
        let pairs = self.words.iter().zip(&self.histograms);
        pairs.map(|(word, histogram)| (*word, histogram.read())).filter(|(_, it)| it.count() > 0)
    }
}

/// What one store was asked.
#[derive(Debug)]
struct Asked {
    store: StoreName,
    durations: ByWord<{ PHASES.len() }>,
    failures: [AtomicU64; PHASES.len()],
}

/// Counts what one service does.
#[derive(Debug)]
pub struct Tally {
    /// By the place of the type among all types.
    started: [AtomicU64; CoordinationType::ALL.len()],
    committed: AtomicU64,
    aborted: AtomicU64,
    failed: AtomicU64,
    deadlocks: AtomicU64,
    partitions: AtomicU64,
    recovered: AtomicU64,
    aborted_by: Codes,
    refused: Codes,
    durations: Histogram,
    stores: Vec<Asked>,
    records: ByWord<{ RECORDS.len() }>,
    locks: ByWord<{ LOCK_RESULTS.len() }>,
    consensus: ByWord<{ QUESTIONS.len() }>,
}

fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn so_far(metric: &'static Metric, count: &AtomicU64) -> Sample {
    Sample::count(metric, count.load(Ordering::Relaxed))
}

impl Tally {
    /// One for a service with these stores.
    pub fn new(stores: impl IntoIterator<Item = StoreName>) -> Self {
        let asked =
            |store| Asked { store, durations: ByWord::new(&PHASES), failures: Default::default() };
        Self {
            started: Default::default(),
            committed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            deadlocks: AtomicU64::new(0),
            partitions: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            aborted_by: Codes::default(),
            refused: Codes::default(),
            durations: Histogram::new(DURATIONS),
            stores: stores.into_iter().map(asked).collect(),
            records: ByWord::new(&RECORDS),
            locks: ByWord::new(&LOCK_RESULTS),
            consensus: ByWord::new(&QUESTIONS),
        }
    }

    /// Counts an event.
    pub fn note(&self, event: &CoordinationEvent) {
        match event {
            CoordinationEvent::Started { kind, .. } => one_more(&self.started[*kind as usize]),
            CoordinationEvent::Completed { success: true, .. } => one_more(&self.committed),
            CoordinationEvent::Completed { .. } => one_more(&self.aborted),
            CoordinationEvent::Failed { .. } => one_more(&self.failed),
            CoordinationEvent::Deadlock(_) => one_more(&self.deadlocks),
            CoordinationEvent::Partition { .. } => one_more(&self.partitions),
            CoordinationEvent::PartitionHealed { .. } => {}
        }
    }

    /// Counts a request that never began, by its code.
    pub fn note_refused(&self, code: &str) {
        self.refused.add(code);
    }

    /// A store answered, or did not.
    fn note_call(&self, phase: &str, store: &StoreName, took: Duration, has_failed: bool) {
        // A handful of stores: looking through them is faster than hashing a name.
        let Some(asked) = self.stores.iter().find(|asked| asked.store == *store) else { return };
        asked.durations.add(phase, took);
        if has_failed && let Some(place) = PHASES.iter().position(|known| *known == phase) {
            one_more(&asked.failures[place]);
        }
    }

    /// A coordination left this process.
    fn note_end(&self, outcome: &Outcome, took: Duration) {
        match outcome.state {
            TransactionState::Committed => self.durations.add_duration(took),
            TransactionState::Aborted => {
                self.durations.add_duration(took);
                self.aborted_by.add(outcome.code.as_deref().unwrap_or("transaction.aborted"));
            }
            _ => {}
        }
    }

    /// Everything that was counted so far.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = self.of_coordinations();
        for asked in &self.stores {
            let name = asked.store.as_str();
            let labelled = |(phase, reading)| {
                Sample::histogram(&metrics::PHASE_DURATION, reading).labelled([phase, name])
            };
            samples.extend(asked.durations.readings().map(labelled));
            for (phase, count) in PHASES.iter().zip(&asked.failures) {
                if count.load(Ordering::Relaxed) > 0 {
                    let failures = so_far(&metrics::STORE_FAILURES, count);
                    samples.push(failures.labelled([phase, name]));
                }
            }
        }
        let mut put = |metric: &'static Metric, (word, reading): (&'static str, Reading)| {
            samples.push(Sample::histogram(metric, reading).labelled([word]));
        };
        self.records.readings().for_each(|it| put(&metrics::RECORD_WAIT, it));
        self.locks.readings().for_each(|it| put(&metrics::LOCK_WAIT, it));
        self.consensus.readings().for_each(|it| put(&metrics::CONSENSUS_WAIT, it));
        samples
    }

    fn of_coordinations(&self) -> Vec<Sample> {
        let started = CoordinationType::ALL.iter().map(|kind| {
            let count = &self.started[*kind as usize];
            so_far(&metrics::STARTED, count).labelled([kind.as_str()])
        });
        let mut samples: Vec<Sample> = started.collect();
        samples.extend([
            so_far(&metrics::COMPLETED, &self.committed).labelled(["True"]),
            so_far(&metrics::COMPLETED, &self.aborted).labelled(["False"]),
            so_far(&metrics::FAILED, &self.failed),
            Sample::histogram(&metrics::DURATION, self.durations.read()),
            so_far(&metrics::DEADLOCKS, &self.deadlocks),
            so_far(&metrics::PARTITIONS, &self.partitions),
            so_far(&metrics::RECOVERED, &self.recovered),
        ]);
        self.aborted_by.samples(&metrics::ABORTED, &mut samples);
        self.refused.samples(&metrics::REFUSED, &mut samples);
        samples
    }
}

impl Observer for Tally {
    fn observe(&self, of: &Observation<'_>) {
        let took = of.duration;
        match &of.act {
            Act::Began { is_resumed: true, .. } => one_more(&self.recovered),
            Act::Call { call, store, .. } => {
                self.note_call(call.as_str(), store, took, of.ending != Ending::Done);
            }
            Act::Record { kind } => self.records.add(kind, took),
            Act::Locks { .. } => {
                let is_granted = of.ending == Ending::Done;
                self.locks.add(LOCK_RESULTS[usize::from(!is_granted)], took);
            }
            Act::Propose { .. } => self.consensus.add(QUESTIONS[0], took),
            Act::ReadDecision => self.consensus.add(QUESTIONS[1], took),
            Act::Ended { outcome, .. } => self.note_end(outcome, took),
            Act::Began { .. } => {}
        }
    }
}
