//! Asking: granted at once, refused at once, or put into the queue.
//!
//! Not leaving (`leave.rs`). Invariant: what is granted at once takes no place in the queue, and
//! the answer is returned, not listed among the effects.

use std::time::Duration;

use super::queue::{Footing, Holder, Rank, Waiter};
use super::registry::Slot;
use super::{Answer, Ask, Effect, LockTable, Rule, State, Timer};
use crate::model::lock::{Grant, LockError, LockId, LockMode, WaitId};
use crate::model::time::Timestamp;

/// How an ask stands against the claims that are there.
enum Verdict {
    /// Granted at once, by this rule.
    Grant(Rule),
    /// To be queued by this rule, behind so many of those who wait.
    Wait(Rule, usize),
}

impl LockTable {
    /// Asks for a lock. After [`Answer::Waits`] the ask is answered by an effect with the number
    /// `wait`, maybe one of these effects already: it may have closed a circle of waits. The
    /// number must not be in use.
    pub fn ask(
        &mut self,
        now: Timestamp,
        wait: WaitId,
        ask: &Ask<'_>,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        self.catch_up(now, effects);
        if let Err(error) = check(ask) {
            return self.impossible(error);
        }
        let at = self.queues.find_or_add(ask.resource);
        let (rule, ahead) = match self.judge(at, ask) {
            Verdict::Grant(rule) => {
                self.take(rule, State::Asked);
                let grant = self.hold(now, at, ask);
                self.overtaken(now, rule, ask, effects);
                return Answer::Granted(grant);
            }
            Verdict::Wait(rule, ahead) => (rule, ahead),
        };
        if ask.timeout == Some(Duration::ZERO) {
            self.take(Rule::RefusedNow, State::Asked);
            let requester = self.requesters.find(ask.requester.as_str());
            let error = self.timed_out(at, requester, (ask.mode, ahead), Duration::ZERO);
            return Answer::Refused(error);
        }
        if self.waits.len() >= self.waits_max {
            return self.impossible(LockError::Invalid {
                message: format!(
                    "{} asks wait for locks already, and no more may; hold locks for a shorter \
                     time, or raise the bound",
                    self.waits.len()
                ),
            });
        }
        self.take(rule, State::Asked);
        let rank = Rank { is_no_upgrade: rule != Rule::QueuedUpgrade, order: self.next_order };
        self.next_order += 1;
        let requester = self.wait(now, (at, ahead, rank), wait, ask);
        self.open_circles(now, requester, effects);
        Answer::Waits
    }

    /// Takes a lock if it can be had at once; `None` where it cannot. The quick way: whoever needs
    /// to know why asks with a timeout of zero.
    pub fn ask_now(
        &mut self,
        now: Timestamp,
        ask: &Ask<'_>,
        effects: &mut Vec<Effect>,
    ) -> Option<Grant> {
        self.catch_up(now, effects);
        if check(ask).is_err() {
            self.take(Rule::Impossible, State::Asked);
            return None;
        }
        let at = self.queues.find_or_add(ask.resource);
        let Verdict::Grant(rule) = self.judge(at, ask) else {
            self.take(Rule::RefusedNow, State::Asked);
            return None;
        };
        self.take(rule, State::Asked);
        let grant = self.hold(now, at, ask);
        self.overtaken(now, rule, ask, effects);
        Some(grant)
    }

    /// Asks for several locks at once: all are granted, in the order of the asks, or none is
    /// (`Ok(None)`), and then nothing has changed.
    pub fn ask_many(
        &mut self,
        now: Timestamp,
        asks: &[Ask<'_>],
        effects: &mut Vec<Effect>,
    ) -> Result<Option<Vec<Grant>>, LockError> {
        self.catch_up(now, effects);
        if let Some(error) = asks.iter().find_map(|ask| check(ask).err()) {
            self.take(Rule::Impossible, State::Asked);
            return Err(error);
        }
        let mut grants = Vec::with_capacity(asks.len());
        let mut over = None;
        for ask in asks {
            let at = self.queues.find_or_add(ask.resource);
            let Verdict::Grant(rule) = self.judge(at, ask) else {
                self.take(Rule::RefusedTogether, State::Asked);
                self.take_back(&grants);
                return Ok(None);
            };
            over = if rule == Rule::GrantedOver { Some((rule, ask)) } else { over };
            grants.push(self.hold(now, at, ask));
        }
        self.take(Rule::GrantedTogether, State::Asked);
        if let Some((rule, ask)) = over {
            self.overtaken(now, rule, ask, effects);
        }
        Ok(Some(grants))
    }

    /// Who was overtaken by an upgrade may wait for its requester since now; if that one waits
    /// elsewhere in the same time, this closed a circle as a wait does.
    fn overtaken(&mut self, now: Timestamp, rule: Rule, ask: &Ask<'_>, effects: &mut Vec<Effect>) {
        if rule != Rule::GrantedOver {
            return;
        }
        if let Some(requester) = self.requesters.find(ask.requester.as_str())
            && !self.requesters[requester].waiting.is_empty()
        {
            self.open_circles(now, requester, effects);
        }
    }

    fn impossible(&mut self, error: LockError) -> Answer {
        self.take(Rule::Impossible, State::Asked);
        Answer::Refused(error)
    }

    fn judge(&self, at: Slot, ask: &Ask<'_>) -> Verdict {
        let queue = &self.queues[at];
        if queue.is_free_for(ask.mode) {
            return Verdict::Grant(Rule::GrantedFree);
        }
        // A stranger has no claims of its own among those that are incompatible.
        let Some(requester) = self.requesters.find(ask.requester.as_str()) else {
            return Verdict::Wait(Rule::Queued, queue.waiters.len());
        };
        let (granted, queued, ahead) = match queue.footing(requester, ask.mode) {
            Footing::Covers => return Verdict::Grant(Rule::GrantedAgain),
            Footing::Holds => (Rule::GrantedOver, Rule::QueuedUpgrade, queue.upgrades()),
            Footing::None => (Rule::GrantedFree, Rule::Queued, queue.waiters.len()),
        };
        let is_barred = queue.in_the_way(Some(requester), ask.mode, ahead).next().is_some();
        if is_barred { Verdict::Wait(queued, ahead) } else { Verdict::Grant(granted) }
    }

    /// Makes a holder out of an ask.
    fn hold(&mut self, now: Timestamp, at: Slot, ask: &Ask<'_>) -> Grant {
        let requester = self.requesters.find_or_add(ask.requester);
        self.requesters[requester].stands(ask.working_since, ask.is_protected);
        self.add_holder(now, (at, requester), ask.mode, ask.lease)
    }

    /// Gives the next token to a requester at a queue.
    pub(super) fn add_holder(
        &mut self,
        now: Timestamp,
        (at, requester): (Slot, Slot),
        mode: LockMode,
        lease: Option<Duration>,
    ) -> Grant {
        let token = self.next_token;
        self.next_token += 1;
        let until = lease.map(|lease| now + lease);
        if let Some(until) = until {
            self.timers.insert((until, Timer::Lease(at, token)));
        }
        let queue = &mut self.queues[at];
        queue.add_holder(Holder { token, requester, mode, since: now, until });
        self.requesters[requester].held.push((at, token));
        Grant {
            lock_id: LockId::new(&queue.name, mode, token),
            resource: queue.name.clone(),
            mode,
            acquired_at: now,
            fencing_token: token,
            zk_path: None,
        }
    }

    /// Takes grants back that nobody has heard of. Whoever waits waited before them too, so nobody
    /// can be granted by it.
    fn take_back(&mut self, grants: &[Grant]) {
        for grant in grants {
            if let Some(at) = self.queues.find(grant.resource.as_str()) {
                self.remove_holder(at, grant.fencing_token);
            }
        }
    }

    /// Makes a waiter out of an ask; gives back whose.
    fn wait(
        &mut self,
        now: Timestamp,
        (at, ahead, rank): (Slot, usize, Rank),
        wait: WaitId,
        ask: &Ask<'_>,
    ) -> Slot {
        let requester = self.requesters.find_or_add(ask.requester);
        let record = &mut self.requesters[requester];
        record.stands(ask.working_since, ask.is_protected);
        record.waiting.push((at, wait));
        let until = ask.timeout.map(|timeout| now + timeout);
        if let Some(until) = until {
            self.timers.insert((until, Timer::Wait(at, wait)));
        }
        let Ask { mode, lease, .. } = *ask;
        let waiter = Waiter { rank, wait, requester, mode, since: now, until, lease };
        self.queues[at].insert_waiter(ahead, waiter);
        let before = self.waits.insert(wait, (at, rank));
        debug_assert!(before.is_none(), "{wait:?} is in use");
        requester
    }

    /// The refusal of one whose time is up, who wanted this mode behind so many that wait.
    pub(super) fn timed_out(
        &self,
        at: Slot,
        requester: Option<Slot>,
        (mode, ahead): (LockMode, usize),
        waited: Duration,
    ) -> LockError {
        LockError::Timeout {
            resource: self.queues[at].name.clone(),
            mode,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            blockers: self.told_blockers(at, requester, (mode, ahead)),
        }
    }
}

fn check(ask: &Ask<'_>) -> Result<(), LockError> {
    if ask.lease == Some(Duration::ZERO) {
        let message = "a lease must be longer than nothing; give None for one without an end";
        return Err(LockError::Invalid { message: message.to_owned() });
    }
    Ok(())
}
