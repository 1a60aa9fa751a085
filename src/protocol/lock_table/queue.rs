//! One resource: its holders, and the queue of those who wait; one requester: its claims.
//!
//! Not the steps: these only answer who is in whose way, and keep the counts right.
//! Invariants: holders stand in the order of their tokens, those who wait in that of their ranks;
//! holders of two requesters are compatible; the counts are those of the lists.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::registry::{Record, Slot};
use crate::model::lock::{LockMode, RequesterId, ResourceId, WaitId};
use crate::model::time::Timestamp;
use crate::protocol::claim::covers;

/// Who holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pub(super) token: u64,
    pub(super) requester: Slot,
    pub(super) mode: LockMode,
    pub(super) since: Timestamp,
    pub(super) until: Option<Timestamp>,
}

/// Where one who waits stands: upgrades first, then by the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Rank {
    pub(super) is_no_upgrade: bool,
    pub(super) order: u64,
}

/// Who waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiter {
    pub(super) rank: Rank,
    pub(super) wait: WaitId,
    pub(super) requester: Slot,
    pub(super) mode: LockMode,
    pub(super) since: Timestamp,
    pub(super) until: Option<Timestamp>,
    pub(super) lease: Option<Duration>,
}

/// How many claims there are in each mode.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counts([u32; LockMode::ALL.len()]);

impl Counts {
    fn add(&mut self, mode: LockMode) {
        self.0[mode as usize] += 1;
    }

    fn remove(&mut self, mode: LockMode) {
        self.0[mode as usize] -= 1;
    }

    /// Whether some of them, whosever they are, are incompatible with this mode.
    fn conflict_with(&self, mode: LockMode) -> bool {
        let counts = LockMode::ALL.into_iter().zip(self.0);
        counts.into_iter().any(|(other, count)| count > 0 && !mode.is_compatible_with(other))
    }
}

/// What a requester has on one resource already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Footing {
    /// Nothing.
    None,
    /// A grant of another kind than asked for.
    Holds,
    /// A grant as good as what is asked for.
    Covers,
}

/// One resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Queue {
    pub(super) name: ResourceId,
    pub(super) holders: Vec<Holder>,
    pub(super) waiters: VecDeque<Waiter>,
    held: Counts,
    waiting: Counts,
}

impl Queue {
    /// Whether no claim at all is incompatible with this mode, not even the asker's own.
    pub(super) fn is_free_for(&self, mode: LockMode) -> bool {
        !self.held.conflict_with(mode) && !self.waiting.conflict_with(mode)
    }

    /// What the requester holds here, measured by what it asks for now.
    pub(super) fn footing(&self, requester: Slot, mode: LockMode) -> Footing {
        let mut footing = Footing::None;
        for holder in self.holders.iter().filter(|holder| holder.requester == requester) {
            if covers(holder.mode, mode) {
                return Footing::Covers;
            }
            footing = Footing::Holds;
        }
        footing
    }

    /// Who is in the way of a requester (of a stranger for `None`): holders first, then those of
    /// the first `ahead` that wait.
    pub(super) fn in_the_way(
        &self,
        requester: Option<Slot>,
        mode: LockMode,
        ahead: usize,
    ) -> impl Iterator<Item = Slot> {
        let is_other = move |slot: Slot, other: LockMode| {
            Some(slot) != requester && !mode.is_compatible_with(other)
        };
        // The counts spare the walk where all are readers and one more comes.
        let held = if self.held.conflict_with(mode) { self.holders.as_slice() } else { &[] };
        let ahead = if self.waiting.conflict_with(mode) { ahead } else { 0 };
        let holders = held.iter().map(|holder| (holder.requester, holder.mode));
        let waiters = self.waiters.range(..ahead).map(|waiter| (waiter.requester, waiter.mode));
        let others = holders.chain(waiters).filter(move |(slot, mode)| is_other(*slot, *mode));
        others.map(|(slot, _)| slot)
    }

    /// How many upgrades wait: they are the first.
    pub(super) fn upgrades(&self) -> usize {
        self.waiters.partition_point(|waiter| !waiter.rank.is_no_upgrade)
    }

    pub(super) fn add_holder(&mut self, holder: Holder) {
        self.held.add(holder.mode);
        self.holders.push(holder);
    }

    /// Who holds it for itself alone.
    pub(super) fn exclusive_holder(&self) -> Option<Slot> {
        let is_exclusive = |holder: &&Holder| holder.mode == LockMode::Exclusive;
        if self.held.0[LockMode::Exclusive as usize] == 0 {
            return None;
        }
        self.holders.iter().find(is_exclusive).map(|holder| holder.requester)
    }

    pub(super) fn holder_at(&self, token: u64) -> Option<usize> {
        self.holders.binary_search_by_key(&token, |holder| holder.token).ok()
    }

    pub(super) fn remove_holder(&mut self, at: usize) -> Holder {
        let holder = self.holders.remove(at);
        self.held.remove(holder.mode);
        holder
    }

    pub(super) fn insert_waiter(&mut self, at: usize, waiter: Waiter) {
        self.waiting.add(waiter.mode);
        self.waiters.insert(at, waiter);
    }

    pub(super) fn waiter_at(&self, rank: Rank) -> Option<usize> {
        self.waiters.binary_search_by_key(&rank, |waiter| waiter.rank).ok()
    }

    pub(super) fn remove_waiter(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.waiters.remove(at)?;
        self.waiting.remove(waiter.mode);
        Some(waiter)
    }
}

impl Record for Queue {
    type Name = ResourceId;

    fn new(name: ResourceId) -> Self {
        let (held, waiting) = (Counts::default(), Counts::default());
        Self { name, holders: Vec::new(), waiters: VecDeque::new(), held, waiting }
    }

    fn name(&self) -> &ResourceId {
        &self.name
    }

    fn rename(&mut self, name: ResourceId) {
        self.name = name;
    }

    fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }
}

/// One requester, as long as it holds something or waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Requester {
    pub(super) name: RequesterId,
    /// Where it holds which tokens, in the order of the tokens.
    pub(super) held: Vec<(Slot, u64)>,
    pub(super) waiting: Vec<(Slot, WaitId)>,
    pub(super) working_since: Timestamp,
    pub(super) is_protected: bool,
}

impl Requester {
    /// The oldest claim tells its age, and one that is protected protects it.
    pub(super) fn stands(&mut self, working_since: Timestamp, is_protected: bool) {
        if self.is_empty() {
            (self.working_since, self.is_protected) = (working_since, is_protected);
        } else {
            self.working_since = self.working_since.min(working_since);
            self.is_protected |= is_protected;
        }
    }

    pub(super) fn forget_held(&mut self, token: u64) {
        if let Ok(at) = self.held.binary_search_by_key(&token, |(_, token)| *token) {
            self.held.remove(at);
        }
    }

    pub(super) fn forget_wait(&mut self, wait: WaitId) {
        self.waiting.retain(|(_, other)| *other != wait);
    }
}

impl Record for Requester {
    type Name = RequesterId;

    fn new(name: RequesterId) -> Self {
        let working_since = Timestamp::PAST;
        Self { name, held: Vec::new(), waiting: Vec::new(), working_since, is_protected: false }
    }

    fn name(&self) -> &RequesterId {
        &self.name
    }

    fn rename(&mut self, name: RequesterId) {
        self.name = name;
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }
}
