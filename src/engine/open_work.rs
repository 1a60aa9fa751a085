//! What is open for longer than it should be: in doubt, decided and not delivered, or parked.
//!
//! Only what this process drives, from memory. Changes nothing and decides nothing. Invariants:
//! what still waits for its stores' votes within its own time is in none of the three; each
//! coordination is in one of them at most.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::model::ids::CoordinationId;
use crate::model::outcome::OutcomeKind;
use crate::model::request::CoordinationType::{EventSourcing, EventualConsistency};
use crate::model::time::Timestamp;
use crate::reply::Reply;

use super::Coordinator;
use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::table::Entry;

/// How many are told by name.
const IDS_MAX: usize = 5;
/// How many are looked at closely, which takes microseconds each, while the engine waits. Where
/// more are open for too long, some of them are enough.
const VIEWS_MAX: usize = 10_000;

/// Coordinations that are open in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many there are.
    pub count: u64,
    /// How long ago the oldest was accepted.
    pub oldest: Duration,
    /// The oldest few, the oldest first.
    pub ids: Vec<CoordinationId>,
}

/// What is open for too long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenWork {
    /// Whether the decision stands is not known.
    pub in_doubt: Backlog,
    /// Decided; some store does not have it yet.
    pub undelivered: Backlog,
    /// Waiting for an operator, however long.
    pub parked: Backlog,
    /// Whether the journal cannot be written, as far as it has said.
    pub journal_fails: bool,
}

/// Why one is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    InDoubt,
    Undelivered,
    Parked,
}

/// `views_left`: how many may still be looked at closely.
fn way_of(entry: &Entry, is_old: bool, views_left: &mut usize) -> Option<Way> {
    let machine = &entry.machine;
    if machine.is_parked() {
        return Some(Way::Parked);
    }
    if !is_old {
        return None;
    }
    if entry.awaits_decision() {
        return Some(Way::InDoubt);
    }
    // These are decided by their begin, and begin at once without locks. There may be very many.
    let is_begun = !entry.queued && entry.awaited.is_none() && machine.locks().is_empty();
    if is_begun && matches!(machine.request().kind, EventSourcing | EventualConsistency) {
        return Some(Way::Undelivered);
    }
    *views_left = views_left.checked_sub(1)?;
    let view = machine.view();
    // Only one that is in doubt says something while nothing is known of it.
    if view.outcome.kind == OutcomeKind::Unknown && view.outcome.code.is_some() {
        return Some(Way::InDoubt);
    }
    view.decision.map(|_| Way::Undelivered)
}

fn backlog(mut open: Vec<(Timestamp, &CoordinationId)>, now: Timestamp) -> Backlog {
    open.sort_unstable_by_key(|(began_at, _)| *began_at);
    Backlog {
        count: open.len() as u64,
        oldest: open.first().map_or(Duration::ZERO, |(began_at, _)| now.since(*began_at)),
        ids: open.into_iter().take(IDS_MAX).map(|(_, id)| id.clone()).collect(),
    }
}

impl State {
    /// The parked ones, and of the others those that were accepted longer than `age` ago.
    pub(super) fn open_work(&self, core: &Core, age: Duration) -> OpenWork {
        let now = core.clock.now();
        let mut ways = [Vec::new(), Vec::new(), Vec::new()];
        let mut views_left = VIEWS_MAX;
        for entry in self.table.entries() {
            let began_at = entry.machine.began_at();
            if let Some(way) = way_of(entry, now.since(began_at) >= age, &mut views_left) {
                ways[way as usize].push((began_at, entry.id()));
            }
        }
        let [in_doubt, undelivered, parked] = ways.map(|open| backlog(open, now));
        let journal_fails = !core.journal_writes.load(Ordering::Relaxed);
        OpenWork { in_doubt, undelivered, parked, journal_fails }
    }
}

impl Coordinator {
    /// What is parked, and what is open without being delivered for longer than `age`.
    pub fn open_work(&self, age: Duration, reply: Reply<Result<OpenWork, EngineError>>) {
        self.core.post(Fact::OpenWorkAsked { age, reply });
    }
}
