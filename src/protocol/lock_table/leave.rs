//! Leaving: released, given up, timed out or lost; and whose turn it is then.
//!
//! Not asking (`ask.rs`). Invariant: whenever a claim goes, the queue behind it is walked in the
//! same step, so that nobody waits for a claim that is gone.

use std::mem;
use std::time::Duration;

use super::queue::Waiter;
use super::registry::Slot;
use super::{Effect, LockTable, Rule, State, Timer};
use crate::model::lock::{Grant, LockError, LockId, LockMode, RequesterId, WaitId};
use crate::model::time::Timestamp;
use crate::protocol::claim::covers;

impl LockTable {
    /// Lets go of a lock; false where this requester does not hold it.
    pub fn release(
        &mut self,
        now: Timestamp,
        lock_id: &LockId,
        requester: &RequesterId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.catch_up(now, effects);
        let Some((at, token)) = self.held_by(lock_id, Some(requester)) else {
            return self.not_held();
        };
        self.take(Rule::Released, State::Held);
        self.remove_holder(at, token);
        self.settle(now, at, effects);
        true
    }

    /// Gives a wait up; false where there is no such wait any more.
    pub fn cancel(&mut self, now: Timestamp, wait: WaitId, effects: &mut Vec<Effect>) -> bool {
        self.catch_up(now, effects);
        let Some((at, _)) = self.waits.get(&wait).copied() else {
            self.take(Rule::NotWaiting, State::Gone);
            return false;
        };
        self.take(Rule::Cancelled, State::Waiting);
        self.refuse(wait, LockError::Cancelled, effects);
        self.settle(now, at, effects);
        true
    }

    /// Lets go of all that a requester holds, and gives up what it waits for. How many it held.
    pub fn release_all(
        &mut self,
        now: Timestamp,
        requester: &RequesterId,
        effects: &mut Vec<Effect>,
    ) -> usize {
        self.catch_up(now, effects);
        let Some(slot) = self.requesters.find(requester.as_str()) else { return 0 };
        let record = &self.requesters[slot];
        let (held, waiting) = (record.held.clone(), record.waiting.clone());
        // Nobody is granted anything before all of it is gone: else it would be its own waits.
        for (_, wait) in &waiting {
            self.take(Rule::Withdrawn, State::Waiting);
            self.refuse(*wait, LockError::Cancelled, effects);
        }
        // The latest first, because taking out the last of a list moves nothing.
        for (at, token) in held.iter().rev() {
            self.take(Rule::ReleasedWithAll, State::Held);
            self.remove_holder(*at, *token);
        }
        let mut touched: Vec<Slot> = held.iter().map(|(at, _)| *at).collect();
        touched.extend(waiting.iter().map(|(at, _)| *at));
        self.settle_all(now, touched, effects);
        held.len()
    }

    /// Changes a grant for one in a weaker mode; `None` where this requester does not hold it, or
    /// the mode is not weaker. The lease stays.
    pub fn downgrade(
        &mut self,
        now: Timestamp,
        (lock_id, requester): (&LockId, &RequesterId),
        mode: LockMode,
        effects: &mut Vec<Effect>,
    ) -> Option<Grant> {
        self.catch_up(now, effects);
        let found = self.held_by(lock_id, Some(requester));
        let Some((at, token)) = found.filter(|(at, token)| self.is_weaker(*at, *token, mode))
        else {
            self.not_held();
            return None;
        };
        self.take(Rule::Downgraded, State::Held);
        let queue = &self.queues[at];
        let holder = &queue.holders[queue.holder_at(token)?];
        let (slot, lease) = (holder.requester, holder.until.map(|until| until.since(now)));
        // The new one comes before the old one goes, so that the record stays.
        let grant = self.add_holder(now, (at, slot), mode, lease);
        self.remove_holder(at, token);
        self.settle(now, at, effects);
        Some(grant)
    }

    fn is_weaker(&self, at: Slot, token: u64, mode: LockMode) -> bool {
        let queue = &self.queues[at];
        queue.holder_at(token).is_some_and(|held| covers(queue.holders[held].mode, mode))
    }

    /// Starts a lease anew from now; false where the lock is not held.
    pub fn renew(
        &mut self,
        now: Timestamp,
        lock_id: &LockId,
        lease: Duration,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.catch_up(now, effects);
        let Some((at, token)) = self.held_by(lock_id, None) else { return self.not_held() };
        self.take(Rule::Renewed, State::Held);
        let queue = &mut self.queues[at];
        if let Some(held) = queue.holder_at(token) {
            let before = queue.holders[held].until.replace(now + lease);
            if let Some(before) = before {
                self.timers.remove(&(before, Timer::Lease(at, token)));
            }
            self.timers.insert((now + lease, Timer::Lease(at, token)));
        }
        true
    }

    /// Ends the waits and the leases whose time has come.
    pub fn time_reached(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let (mut waits, mut leases) = (Vec::new(), Vec::new());
        while self.deadline().is_some_and(|due| due <= now) {
            match self.timers.pop_first() {
                Some((_, Timer::Wait(at, wait))) => waits.push((at, wait)),
                Some((_, Timer::Lease(at, token))) => leases.push((at, token)),
                None => break,
            }
        }
        // What has ended is not granted, so all of it goes before anybody is; and who was in the
        // way is written down before it goes.
        let errors: Vec<_> =
            waits.iter().map(|(_, wait)| self.timed_out_wait(now, *wait)).collect();
        for ((_, wait), error) in waits.iter().zip(errors) {
            self.take(Rule::TimedOut, State::Waiting);
            self.refuse(*wait, error, effects);
        }
        for (at, token) in &leases {
            self.lease_ended((*at, *token), effects);
        }
        let mut touched: Vec<Slot> = waits.iter().map(|(at, _)| *at).collect();
        touched.extend(leases.iter().map(|(at, _)| *at));
        self.settle_all(now, touched, effects);
    }

    /// Ends every wait and lets go of every lock.
    pub fn close(&mut self, effects: &mut Vec<Effect>) {
        let waits = mem::take(&mut self.waits);
        for (wait, _) in waits {
            self.take(Rule::WaitClosed, State::Waiting);
            effects.push(Effect::Refused { wait, error: LockError::Closed });
        }
        if self.queues.iter().any(|(_, queue)| !queue.holders.is_empty()) {
            self.take(Rule::HoldClosed, State::Held);
        }
        self.clear();
    }

    /// What is due by now comes first, so that a lease that has ended is not renewed, and a wait
    /// that has ended is not granted.
    pub(super) fn catch_up(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.deadline().is_some_and(|due| due <= now) {
            self.time_reached(now, effects);
        }
    }

    fn timed_out_wait(&self, now: Timestamp, wait: WaitId) -> LockError {
        let Some((at, place)) = self.place_of(wait) else { return LockError::Cancelled };
        let waiter = &self.queues[at].waiters[place];
        let (requester, waited) = (Some(waiter.requester), now.since(waiter.since));
        self.timed_out(at, requester, (waiter.mode, place), waited)
    }

    fn lease_ended(&mut self, (at, token): (Slot, u64), effects: &mut Vec<Effect>) {
        let queue = &self.queues[at];
        let Some(held) = queue.holder_at(token) else { return };
        let holder = &queue.holders[held];
        effects.push(Effect::Lost {
            lock_id: LockId::new(&queue.name, holder.mode, token),
            requester: self.requesters[holder.requester].name.clone(),
            reason: "its lease ended and was not renewed".to_owned(),
        });
        self.take(Rule::LeaseEnded, State::Held);
        self.remove_holder(at, token);
    }

    fn not_held(&mut self) -> bool {
        self.take(Rule::NotHeld, State::Gone);
        false
    }

    /// Where a lock is held, by this requester if one is named.
    fn held_by(&self, lock_id: &LockId, requester: Option<&RequesterId>) -> Option<(Slot, u64)> {
        let (resource, mode, token) = lock_id.parts()?;
        let at = self.queues.find(resource)?;
        let queue = &self.queues[at];
        let holder = &queue.holders[queue.holder_at(token)?];
        let is_his = requester.is_none_or(|name| self.requesters[holder.requester].name == *name);
        (holder.mode == mode && is_his).then_some((at, token))
    }

    /// Takes a holder out, without a look at who could be granted now.
    pub(super) fn remove_holder(&mut self, at: Slot, token: u64) {
        let queue = &mut self.queues[at];
        let Some(held) = queue.holder_at(token) else { return };
        let holder = queue.remove_holder(held);
        if let Some(until) = holder.until {
            self.timers.remove(&(until, Timer::Lease(at, token)));
        }
        self.requesters[holder.requester].forget_held(token);
        self.requesters.tidy(holder.requester);
        self.queues.tidy(at);
    }

    /// Takes a waiter out and answers it, without a look at who could be granted now.
    pub(super) fn refuse(&mut self, wait: WaitId, error: LockError, effects: &mut Vec<Effect>) {
        if let Some((at, place)) = self.place_of(wait) {
            self.remove_waiter(at, place);
            effects.push(Effect::Refused { wait, error });
        }
    }

    fn remove_waiter(&mut self, at: Slot, place: usize) {
        let Some(waiter) = self.queues[at].remove_waiter(place) else { return };
        self.waits.remove(&waiter.wait);
        if let Some(until) = waiter.until {
            self.timers.remove(&(until, Timer::Wait(at, waiter.wait)));
        }
        self.requesters[waiter.requester].forget_wait(waiter.wait);
        self.requesters.tidy(waiter.requester);
        self.queues.tidy(at);
    }

    fn settle_all(&mut self, now: Timestamp, mut touched: Vec<Slot>, effects: &mut Vec<Effect>) {
        touched.sort_unstable();
        touched.dedup();
        for at in touched {
            self.settle(now, at, effects);
        }
    }

    /// Grants everybody whose turn it is, in the order of the queue.
    pub(super) fn settle(&mut self, now: Timestamp, at: Slot, effects: &mut Vec<Effect>) {
        let mut place = 0;
        let mut exclusive = self.queues[at].exclusive_holder();
        while let Some(waiter) = self.queues[at].waiters.get(place) {
            let Waiter { wait, requester, mode, lease, .. } = *waiter;
            let is_barred =
                self.queues[at].in_the_way(Some(requester), mode, place).next().is_some();
            if is_barred {
                place += 1;
            } else {
                self.take(Rule::GrantedInTurn, State::Waiting);
                // The grant comes before the wait goes, so that the records stay.
                let grant = self.add_holder(now, (at, requester), mode, lease);
                self.remove_waiter(at, place);
                effects.push(Effect::Granted { wait, grant });
            }
            if mode == LockMode::Exclusive && *exclusive.get_or_insert(requester) != requester {
                // Everybody behind is barred by one of the two.
                return;
            }
        }
    }
}
