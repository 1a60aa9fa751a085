//! The rows of the table that have to do with locks.
//!
//! Not how locks are asked for and waited for (`protocol::locking`). Invariant: nothing is recorded
//! or asked of anybody before the locks are held.

use std::sync::Arc;

use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::Reason;
use crate::model::time::Timestamp;

use crate::protocol::locking::Locking;

use super::{Effect, Rule, Saga, State};

impl Saga {
    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.plan.locks.is_empty() {
            self.take(Rule::Begin);
            return self.begin(now, Vec::new());
        }
        self.take(Rule::Lock);
        vec![Locking::acquire(&self.plan.locks, self.lock_until().since(now))]
    }

    pub(super) fn resume(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.plan.locks.is_empty() {
            return self.go_on(now);
        }
        self.locking.resumed = true;
        self.take(Rule::ResumedLock);
        vec![self.locking.acquire_for_ever(&self.plan.locks)]
    }

    pub(super) fn locked(&mut self, now: Timestamp, tokens: Vec<u64>) -> Vec<Effect> {
        if self.state != State::Locking {
            return self.ignored();
        }
        if self.locking.resumed {
            return self.go_on(now);
        }
        if now >= self.expires_at {
            return self.lock_timed_out();
        }
        self.take(Rule::Locked);
        self.begin(now, tokens)
    }

    pub(super) fn lock_refused(&mut self, now: Timestamp, reason: Reason) -> Vec<Effect> {
        if self.state != State::Locking {
            return self.ignored();
        }
        if !self.locking.resumed {
            self.take(Rule::LockRefused);
            return self.end_unbegun(reason);
        }
        self.take(Rule::LockRefusedAgain);
        self.locking.refused(now, &self.plan.backoff);
        Vec::new()
    }

    pub(super) fn lock_lost(&mut self, now: Timestamp, message: &str) -> Vec<Effect> {
        if self.state != State::Executing {
            return self.ignored();
        }
        self.take(Rule::LockLost);
        self.wish.get_or_insert_with(|| Locking::lost_reason(message));
        let mut effects = Vec::new();
        self.proceed(now, &mut effects);
        effects
    }

    /// Somebody wants it aborted while it waits.
    pub(super) fn give_up_locking(&mut self, reason: Reason) -> Vec<Effect> {
        self.take(Rule::LockGivenUp);
        let mut effects = vec![Effect::Release];
        effects.append(&mut self.end_unbegun(reason));
        effects
    }

    pub(super) fn locking_time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let until = self.lock_until();
        if self.locking.deadline(until).is_none_or(|at| now < at) {
            return Vec::new();
        }
        if self.locking.resumed {
            self.take(Rule::LockAgain);
            return vec![self.locking.acquire_for_ever(&self.plan.locks)];
        }
        self.lock_timed_out()
    }

    fn lock_timed_out(&mut self) -> Vec<Effect> {
        self.take(Rule::LockTimedOut);
        let locks = Arc::clone(&self.plan.locks);
        let mut effects = vec![Effect::Release];
        let waited = self.lock_until().since(self.began_at);
        let reason = Locking::timeout_reason(&locks, waited);
        effects.append(&mut self.end_unbegun(reason));
        effects
    }

    pub(super) fn lock_until(&self) -> Timestamp {
        self.expires_at.min(self.began_at + self.plan.lock_timeout)
    }

    /// It holds no locks and has recorded nothing: all that is left is to say so.
    fn end_unbegun(&mut self, reason: Reason) -> Vec<Effect> {
        self.reason = Some(reason);
        self.answer_at = None;
        self.locking.ended_unbegun = true;
        vec![Effect::Finish(self.outcome()), Effect::Close]
    }

    pub(super) fn locking_state(&self) -> TransactionState {
        match self.decision {
            Some(Decision::Commit) => TransactionState::Committing,
            Some(Decision::Abort) => TransactionState::Aborting,
            None if self.locking.resumed => TransactionState::Preparing,
            None => TransactionState::Initiated,
        }
    }
}
