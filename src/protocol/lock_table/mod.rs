//! The lock table: who holds what, who waits, whose turn it is. One piece of code for every
//! manager that keeps its locks itself.
//!
//! # Theory of operation
//!
//! Each resource has its holders and one queue. A claim is granted when every claim ahead of it is
//! compatible with it (the matrix of Gray, Lorie, Putzolu, Traiger, 1976) or its requester's own;
//! ahead are the holders and those who wait since before. So neighbours that get along are granted
//! together, and nobody overtakes somebody whom he would keep waiting. Who holds as much already
//! is granted at once; who holds less asks for an *upgrade*, which goes ahead of the queue, since
//! the queue waits for him. A deadlock is found when the wait that closes the circle begins, and
//! the youngest of the circle who is not protected gives way.
//!
//! Each grant has a token of its own, from one count for all resources that never goes back: it
//! fences off older holders, and makes the grant's id one that is never used again.
//!
//! Facts come in by one method each, with the time. What is to be done at once is returned; what
//! it means for others is appended to `effects`, in the order in which they may hear of it.
//!
//! # The caller's duties
//!
//! 1. Time never goes back. Call [`LockTable::time_reached`] at or after [`LockTable::deadline`],
//!    and ask for the deadline again after each step.
//! 2. Carry out the effects of a step before those of the next.
//! 3. Start from a token above all that were given out before.
//!
//! # Invariants
//!
//! - Holders of one resource are compatible, or one requester's own.
//! - Nobody waits whom no claim ahead of him bars.
//! - There is no circle of waits with somebody unprotected in it.
//! - What neither holds nor waits leaves nothing behind.

mod ask;
mod leave;
mod matrix;
mod queue;
mod registry;
mod report;
mod rules;
mod search;

pub use matrix::{MatrixRow, effective_matrix};
pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use queue::{Queue, Rank, Requester};
use registry::{Registry, Slot};
use serde::{Deserialize, Serialize};

use crate::model::lock::{
    Deadlock, Grant, LockError, LockId, LockMode, RequesterId, ResourceId, WaitId,
};
use crate::model::time::Timestamp;

/// How many of those in the way a refusal names.
const NAMED_MAX: usize = 3;

/// One wish.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What.
    pub resource: &'a ResourceId,
    /// How.
    pub mode: LockMode,
    /// By whom.
    pub requester: &'a RequesterId,
    /// How long to wait; zero not at all, `None` for ever.
    pub timeout: Option<Duration>,
    /// How long the grant holds without a renewal; `None` until it is released.
    pub lease: Option<Duration>,
    /// Since when the requester is at work.
    pub working_since: Timestamp,
    /// Never the victim of a deadlock.
    pub is_protected: bool,
}

/// What becomes of an ask at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is held.
    Granted(Grant),
    /// It is not held, and does not wait.
    Refused(LockError),
    /// It is answered by an effect.
    Waits,
}

/// What a step means for others than its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell one who waited that it holds.
    Granted {
        /// Which wait.
        wait: WaitId,
        /// What it holds.
        grant: Grant,
    },
    /// Tell one who waited that it does not hold, and waits no more.
    Refused {
        /// Which wait.
        wait: WaitId,
        /// Why.
        error: LockError,
    },
    /// Tell a holder that it holds no more.
    Lost {
        /// Which grant.
        lock_id: LockId,
        /// Whose.
        requester: RequesterId,
        /// Why.
        reason: String,
    },
    /// Tell that a circle was found; its victim is told by the next effect.
    Deadlock(Deadlock),
}

/// What ends when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Timer {
    Wait(Slot, WaitId),
    Lease(Slot, u64),
}

/// The table. What is written of it and read again goes on exactly as it would have.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LockTable {
    queues: Registry<Queue>,
    requesters: Registry<Requester>,
    /// Where each wait stands.
    waits: BTreeMap<WaitId, (Slot, Rank)>,
    waits_max: usize,
    timers: BTreeSet<(Timestamp, Timer)>,
    next_token: u64,
    next_order: u64,
    /// One bit for each rule that was taken.
    taken: u64,
    /// Whether circles of waits are opened. Not part of what is written: every node of a cluster
    /// does the same.
    #[serde(skip, default = "always")]
    opens_circles: bool,
}

fn always() -> bool {
    true
}

impl LockTable {
    /// An empty table in which at most `waits_max` asks wait at once; its first grant has this
    /// token.
    pub fn new(waits_max: usize, first_token: u64) -> Self {
        Self {
            queues: Registry::new(),
            requesters: Registry::new(),
            waits: BTreeMap::new(),
            waits_max,
            timers: BTreeSet::new(),
            next_token: first_token,
            next_order: 0,
            taken: 0,
            opens_circles: true,
        }
    }

    /// The same table, which leaves circles of waits to the timeouts of those who wait.
    pub fn without_detection(self) -> Self {
        Self { opens_circles: false, ..self }
    }

    /// When some wait or lease ends.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.timers.first().map(|(until, _)| *until)
    }

    /// The token of the next grant.
    pub fn next_token(&self) -> u64 {
        self.next_token
    }

    /// Makes the next token at least this high.
    pub fn raise_tokens(&mut self, least: u64) {
        self.next_token = self.next_token.max(least);
    }

    /// The rules that were taken so far, for coverage.
    pub fn rules_taken(&self) -> impl Iterator<Item = Rule> {
        Rule::of_bits(self.taken)
    }

    /// Takes a row of the table of rules, from this state of a claim.
    fn take(&mut self, rule: Rule, from: State) {
        debug_assert!(rule.row().from.contains(&from), "{rule:?} cannot be taken from {from:?}");
        self.taken |= rule.bit();
    }

    /// Where a wait stands: at which queue, behind how many that wait.
    fn place_of(&self, wait: WaitId) -> Option<(Slot, usize)> {
        let (at, rank) = *self.waits.get(&wait)?;
        Some((at, self.queues[at].waiter_at(rank)?))
    }

    fn clear(&mut self) {
        (self.queues, self.requesters) = (Registry::new(), Registry::new());
        self.timers.clear();
    }
}
