//! Circles of waits, found when the wait that closes one begins.
//!
//! Not the choice of the victim (`protocol/deadlock.rs`). The search goes against the waits, from
//! the asker to those who wait for it: mostly nobody does, and then it is over at once.
//!
//! Invariant: only a new wait, and an upgrade that is granted past others, add to who waits for
//! whom, so after each there is no circle with somebody unprotected in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::registry::Slot;
use super::{Effect, LockTable, Rule, State};
use crate::model::lock::{Deadlock, LockError, LockMode, RequesterId, WaitId};
use crate::model::time::Timestamp;
use crate::protocol::deadlock::{shortest_circle, youngest};

/// From which place on the queue was walked already, for claims in a mode.
type Walked = BTreeMap<(Slot, LockMode), usize>;

impl LockTable {
    /// Opens every circle through a requester that has just asked.
    pub(super) fn open_circles(&mut self, now: Timestamp, asker: Slot, effects: &mut Vec<Effect>) {
        if !self.opens_circles {
            return;
        }
        while let Some(circle) = self.circle_through(asker) {
            if self.age_of(circle[0]).is_none() {
                self.take(Rule::CircleStands, State::Waiting);
                return;
            }
            self.give_way(now, &circle, effects);
        }
    }

    /// A circle, the victim first, each waiting for the next; without a victim only where every
    /// circle through the asker is without.
    fn circle_through(&self, asker: Slot) -> Option<Vec<Slot>> {
        let circle = self.shortest_through(asker)?;
        if self.age_of(circle[0]).is_some() {
            return Some(circle);
        }
        let mut others = self.all_that_wait_for(asker);
        others.retain(|other| self.age_of(*other).is_some());
        others.sort_by_key(|other| Reverse(self.age_of(*other)));
        // Whatever circle is there was closed just now, and so leads through the asker.
        Some(others.into_iter().find_map(|other| self.shortest_through(other)).unwrap_or(circle))
    }

    fn shortest_through(&self, start: Slot) -> Option<Vec<Slot>> {
        let mut walked = Walked::new();
        let mut circle =
            shortest_circle(&start, |slot| self.that_wait_for(*slot, start, &mut walked))?;
        circle.reverse();
        let victim = youngest(&circle, |slot| self.age_of(*slot));
        circle.rotate_left(victim.unwrap_or(0));
        Some(circle)
    }

    /// Everybody who waits for a requester, directly or through others.
    fn all_that_wait_for(&self, start: Slot) -> Vec<Slot> {
        let mut walked = Walked::new();
        let (mut found, mut next) = (BTreeSet::from([start]), vec![start]);
        while let Some(slot) = next.pop() {
            let waiters = self.that_wait_for(slot, start, &mut walked);
            next.extend(waiters.into_iter().filter(|waiter| found.insert(*waiter)));
        }
        found.into_iter().collect()
    }

    /// Those who wait for a requester, without those that were found for others of this search.
    fn that_wait_for(&self, slot: Slot, start: Slot, walked: &mut Walked) -> Vec<Slot> {
        let requester = &self.requesters[slot];
        let held = requester.held.iter().filter_map(|(at, token)| {
            let queue = &self.queues[*at];
            Some((*at, queue.holders[queue.holder_at(*token)?].mode, 0))
        });
        let waiting = requester.waiting.iter().filter_map(|(_, wait)| {
            let (at, place) = self.place_of(*wait)?;
            Some((at, self.queues[at].waiters[place].mode, place + 1))
        });
        let mut found = Vec::new();
        for (at, mode, from) in held.chain(waiting) {
            let waiters = &self.queues[at].waiters;
            let until = walked.get(&(at, mode)).copied().unwrap_or(waiters.len());
            let is_barred = |other: LockMode| !other.is_compatible_with(mode);
            let behind = waiters.range(from.min(until)..until);
            let barred = behind.filter(|other| other.requester != slot && is_barred(other.mode));
            found.extend(barred.map(|other| other.requester));
            // The start's own waits were left out above, and others must still find them.
            if slot != start {
                walked.insert((at, mode), from.min(until));
            }
        }
        found
    }

    /// Refuses the wait of the first for the second.
    fn give_way(&mut self, now: Timestamp, circle: &[Slot], effects: &mut Vec<Effect>) {
        let Some((at, wait)) = self.wait_between(circle[0], circle[1 % circle.len()]) else {
            debug_assert!(false, "the first of a circle waits for the second");
            return;
        };
        let name = |slot: &Slot| self.requesters[*slot].name.clone();
        let deadlock = Deadlock {
            victim: name(&circle[0]),
            cycle: circle.iter().map(name).collect(),
            resource: self.queues[at].name.clone(),
            detected_at: now,
        };
        self.take(Rule::GaveWay, State::Waiting);
        effects.push(Effect::Deadlock(deadlock.clone()));
        self.refuse(wait, LockError::Deadlock(Box::new(deadlock)), effects);
        self.settle(now, at, effects);
    }

    fn wait_between(&self, waiter: Slot, blocker: Slot) -> Option<(Slot, WaitId)> {
        let waits = self.requesters[waiter].waiting.iter();
        let mut placed = waits.filter_map(|(_, wait)| Some((*wait, self.place_of(*wait)?)));
        let is_between = |at: Slot, place: usize| {
            let queue = &self.queues[at];
            let mode = queue.waiters[place].mode;
            queue.in_the_way(Some(waiter), mode, place).any(|other| other == blocker)
        };
        let found = placed.find(|(_, (at, place))| is_between(*at, *place));
        found.map(|(wait, (at, _))| (at, wait))
    }

    /// What the choice of a victim goes by; `None` for one who is protected.
    fn age_of(&self, slot: Slot) -> Option<(Timestamp, &RequesterId)> {
        let requester = &self.requesters[slot];
        (!requester.is_protected).then_some((requester.working_since, &requester.name))
    }
}
