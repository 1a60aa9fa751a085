//! Simulated participants: what the operations of all coordinations have really done.
//!
//! With a barrier a participant knows each operation's id: a repeated one is a no-op, and one that
//! comes after its compensation too; so questions may arrive late or twice. Without one it does
//! what it is asked, every time; questions of a dead process then never reach it, and none arrives
//! after its answer was given up. Invariant: what it has done survives every crash.

use std::collections::{BTreeMap, BTreeSet};

use unanimity::model::ids::CoordinationId;
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::value::Value;

use crate::support::random::Random;

/// What one operation has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// How often it was done, compensations or not.
    pub(super) runs: usize,
    /// Whether its effect stands.
    pub(super) stands: bool,
    /// The barrier knows that it was done, or undone.
    was_done: bool,
    was_undone: bool,
    /// The tries that it answered by "had no effect": an echo of one has none either.
    refused: BTreeSet<u32>,
    /// Questions on their way to it.
    pub(super) on_the_way: usize,
}

impl Cell {
    /// An operator does it, or undoes it, by hand.
    pub(super) fn by_hand(&mut self, work: Work) {
        self.stands = work == Work::Execute;
        self.was_done |= self.stands;
        self.was_undone |= !self.stands;
    }
}

/// How an operation behaves, drawn once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// It can be done, in the end.
    Willing,
    /// It always fails.
    Doomed,
}

pub(super) type CellKey = (CoordinationId, usize);

/// All of them.
#[derive(Default)]
pub(super) struct Participants {
    pub(super) has_barrier: bool,
    pub(super) cells: BTreeMap<CellKey, Cell>,
    pub(super) natures: BTreeMap<CellKey, Nature>,
}

/// What an answer says before it may get lost.
fn done() -> StepAnswer {
    StepAnswer::Done { result: Value::Null }
}

fn failed(retryable: bool) -> StepAnswer {
    StepAnswer::Failed { message: "it cannot".to_owned(), retryable }
}

fn unknown() -> StepAnswer {
    StepAnswer::Unknown { message: "it raised".to_owned() }
}

impl Participants {
    pub(super) fn cell(&mut self, key: &CellKey) -> &mut Cell {
        self.cells.entry(key.clone()).or_default()
    }

    pub(super) fn stands(&self, key: &CellKey) -> bool {
        self.cells.get(key).is_some_and(|cell| cell.stands)
    }

    /// Carries it out, or not; true when it was done just now.
    pub(super) fn ask(
        &mut self,
        key: &CellKey,
        (work, attempt): (Work, u32),
        calm: bool,
        random: &mut Random,
    ) -> (StepAnswer, bool) {
        let is_doomed = self.natures.get(key) == Some(&Nature::Doomed);
        let has_barrier = self.has_barrier;
        let cell = self.cell(key);
        let drawn = if calm { 99 } else { random.below(100) };
        match work {
            Work::Execute if has_barrier && cell.was_undone => (failed(false), false),
            Work::Execute if has_barrier && cell.was_done => (done(), false),
            Work::Execute if cell.refused.contains(&attempt) => (failed(true), false),
            Work::Execute if is_doomed || drawn < 8 => {
                cell.refused.insert(attempt);
                (failed(is_doomed || drawn < 6), false)
            }
            Work::Execute => match drawn {
                0..13 => (unknown(), false),
                _ => {
                    cell.runs += 1;
                    cell.stands = true;
                    cell.was_done = true;
                    (if drawn < 20 { unknown() } else { done() }, true)
                }
            },
            Work::Compensate => match drawn {
                0..8 => (failed(true), false),
                8..10 => (failed(false), false),
                10..14 => (unknown(), false),
                _ => {
                    cell.stands = false;
                    cell.was_undone = true;
                    (if drawn < 20 { unknown() } else { done() }, false)
                }
            },
        }
    }
}
