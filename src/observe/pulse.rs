//! What happened since somebody last looked, as a few numbers: for rules about rates.
//!
//! Not a metric: it counts from look to look, for one looker. Invariants: noting an event costs a
//! short uncontended lock and no memory beyond the first few failures; a partition stays until it
//! is told that it is over, however often somebody looks.

use std::sync::{Mutex, PoisonError};

use crate::model::event::CoordinationEvent;
use crate::model::ids::CoordinationId;

/// How many failures are remembered by name between two looks.
const FAILURES_MAX: usize = 5;

/// One coordination that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub id: CoordinationId,
    /// Its public state, or what went wrong where that is known.
    pub words: String,
}

/// A majority that a node does not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMajority {
    /// The node that says so, by its id.
    pub node: String,
    /// The members that it does not reach, as far as it knows.
    pub unreachable: Vec<String>,
}

/// What happened between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Coordinations that ended, or wait for an operator from now on.
    pub ended: u64,
    /// Those of them that did not commit.
    pub failed: u64,
    /// Those of them that took longer than the threshold.
    pub slow: u64,
    /// The longest of them.
    pub slowest_ms: u64,
    /// Deadlocks that were found.
    pub deadlocks: u64,
    /// The first few that failed.
    pub failures: Vec<Failure>,
    /// Whether a majority is out of reach now.
    pub lost_majority: Option<LostMajority>,
}

/// Counts events until somebody looks.
#[derive(Debug)]
pub struct Pulse {
    slow_ms: f64,
    beat: Mutex<Beat>,
}

impl Pulse {
    /// One that takes coordinations for slow that took longer than `slow_ms` milliseconds.
    pub fn new(slow_ms: f64) -> Self {
        Self { slow_ms, beat: Mutex::default() }
    }

    /// Counts an event. Does not wait for anything.
    pub fn note(&self, event: &CoordinationEvent) {
        match event {
            CoordinationEvent::Completed { id, success, state, duration_ms } => {
                self.note_end(id, *success, state, *duration_ms);
            }
            CoordinationEvent::Failed { id, message, .. } => self.change(|beat| {
                beat.ended += 1;
                beat.fail(id, message);
            }),
            CoordinationEvent::Deadlock(_) => self.change(|beat| beat.deadlocks += 1),
            CoordinationEvent::Partition { node, unreachable, .. } => {
                let lost = LostMajority { node: node.clone(), unreachable: unreachable.clone() };
                self.change(|beat| beat.lost_majority = Some(lost));
            }
            CoordinationEvent::PartitionHealed { .. } => {
                self.change(|beat| beat.lost_majority = None);
            }
            CoordinationEvent::Started { .. } => {}
        }
    }

    /// What happened since the last look; the next one begins at nothing.
    pub fn look(&self) -> Beat {
        self.change(|beat| {
            let next = Beat { lost_majority: beat.lost_majority.clone(), ..Beat::default() };
            std::mem::replace(beat, next)
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 ms are more than anything takes")]
    fn note_end(&self, id: &CoordinationId, success: bool, state: &str, duration_ms: u64) {
        self.change(|beat| {
            beat.ended += 1;
            beat.slow += u64::from(duration_ms as f64 > self.slow_ms);
            beat.slowest_ms = beat.slowest_ms.max(duration_ms);
            if !success {
                beat.fail(id, state);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Beat) -> T) -> T {
        // Nothing in here panics half way: the numbers are whole.
        change(&mut self.beat.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Beat {
    fn fail(&mut self, id: &CoordinationId, words: &str) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure { id: id.clone(), words: words.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn ended(number: usize, success: bool, duration_ms: u64) -> CoordinationEvent {
        let id = CoordinationId::new(&format!("c{number}")).unwrap();
        let state = if success { "committed" } else { "aborted" };
        CoordinationEvent::Completed { id, success, state, duration_ms }
    }

    #[test]
    fn a_look_tells_what_happened_since_the_last_one() {
        let pulse = Pulse::new(100.0);
        for number in 0..10 {
            pulse.note(&ended(number, number % 2 == 0, 95 + number as u64));
        }
        let beat = pulse.look();
        assert_eq!((beat.ended, beat.failed, beat.slow, beat.slowest_ms), (10, 5, 4, 104));
        assert_eq!(beat.failures.len(), 5);
        assert_eq!(
            (beat.failures[0].id.as_str(), beat.failures[0].words.as_str()),
            ("c1", "aborted")
        );
        assert_eq!(pulse.look(), Beat::default(), "nothing happened since");
    }

    #[test]
    fn only_the_first_few_failures_are_kept_by_name() {
        let pulse = Pulse::new(100.0);
        (0..1_000).for_each(|number| pulse.note(&ended(number, false, 1)));
        let beat = pulse.look();
        assert_eq!((beat.failed, beat.failures.len()), (1_000, FAILURES_MAX));
    }

    #[test]
    fn one_that_waits_for_an_operator_has_failed() {
        let pulse = Pulse::new(100.0);
        let id = CoordinationId::new("c1").unwrap();
        pulse.note(&CoordinationEvent::Failed { id, message: "torn".into(), at: Timestamp(0) });
        let beat = pulse.look();
        assert_eq!((beat.ended, beat.failed, beat.failures[0].words.as_str()), (1, 1, "torn"));
    }

    #[test]
    fn a_majority_is_lost_until_it_is_told_to_be_back() {
        let pulse = Pulse::new(100.0);
        let (node, unreachable) = ("a".to_owned(), vec!["b".to_owned()]);
        let lost = LostMajority { node: node.clone(), unreachable: unreachable.clone() };
        let at = Timestamp(0);
        pulse.note(&CoordinationEvent::Partition { node: node.clone(), unreachable, at });
        assert_eq!(pulse.look().lost_majority, Some(lost.clone()));
        assert_eq!(pulse.look().lost_majority, Some(lost), "it is not over");
        pulse.note(&CoordinationEvent::PartitionHealed { node, detected_at: at, at });
        assert_eq!(pulse.look().lost_majority, None);
    }
}
