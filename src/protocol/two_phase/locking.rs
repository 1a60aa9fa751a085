//! The rows of the table that have to do with locks.
//!
//! Not how locks are asked for and waited for (`protocol::locking`). Invariant: nothing is asked of
//! any store before the locks are held.

use std::sync::Arc;

use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::Reason;
use crate::model::time::Timestamp;

use crate::protocol::locking::Locking;

use super::{Effect, Rule, State, TwoPhase};

impl TwoPhase {
    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.plan.locks.is_empty() {
            self.take(if self.is_one_phase() { Rule::BeginLast } else { Rule::Begin });
            return self.begin(now, Vec::new());
        }
        self.take(Rule::Lock);
        vec![Locking::acquire(&self.plan.locks, self.prepare_until.since(now))]
    }

    pub(super) fn resume(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.plan.locks.is_empty() {
            return self.go_on(now);
        }
        self.locking.resumed = true;
        self.take(Rule::ResumedLock);
        self.acquire_for_ever()
    }

    fn acquire_for_ever(&mut self) -> Vec<Effect> {
        vec![self.locking.acquire_for_ever(&self.plan.locks)]
    }

    pub(super) fn locked(&mut self, now: Timestamp, tokens: Vec<u64>) -> Vec<Effect> {
        if self.state != State::Locking {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        if self.locking.resumed {
            return self.go_on(now);
        }
        self.take(if self.is_one_phase() { Rule::LockedLast } else { Rule::Locked });
        // The wait for the locks is not the stores' fault, so their time begins now.
        let answer_at = self.began_at + self.plan.request.timeout;
        self.prepare_from = now;
        self.prepare_until = answer_at.min(now + self.plan.prepare_timeout);
        self.begin(now, tokens)
    }

    pub(super) fn lock_refused(&mut self, now: Timestamp, reason: Reason) -> Vec<Effect> {
        if self.state != State::Locking {
            self.take(Rule::Ignored);
            return Vec::new();
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
        if self.state != State::Preparing {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        let rules = (Rule::LockLost, Rule::LockLostPropose);
        self.decide_abort(now, Locking::lost_reason(message), rules)
    }

    /// Somebody wants it aborted while it waits.
    pub(super) fn give_up_locking(&mut self, reason: Reason) -> Vec<Effect> {
        self.take(Rule::LockGivenUp);
        let mut effects = vec![Effect::Release];
        effects.append(&mut self.end_unbegun(reason));
        effects
    }

    pub(super) fn locking_time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let is_due = self.locking_deadline().is_some_and(|at| now >= at);
        if !is_due {
            return Vec::new();
        }
        if self.locking.resumed {
            self.take(Rule::LockAgain);
            return self.acquire_for_ever();
        }
        self.take(Rule::LockTimedOut);
        let locks = Arc::clone(&self.plan.locks);
        let waited = self.prepare_until.since(self.began_at);
        let mut effects = vec![Effect::Release];
        effects.append(&mut self.end_unbegun(Locking::timeout_reason(&locks, waited)));
        effects
    }

    pub(super) fn locking_deadline(&self) -> Option<Timestamp> {
        self.locking.deadline(self.prepare_until)
    }

    /// It holds no locks and has recorded nothing: all that is left is to say so.
    fn end_unbegun(&mut self, reason: Reason) -> Vec<Effect> {
        self.reason = Some(reason);
        self.answer_at = None;
        self.locking.ended_unbegun = true;
        vec![Effect::Finish(self.outcome()), Effect::Close]
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.locking.resumed
    }

    /// Whether a question to the lock manager is out.
    pub(super) fn waits_for_locks(&self) -> bool {
        self.state == State::Locking && self.locking.again_at.is_none()
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
