//! The locks of a coordination: taken before everything else, taken again after a crash.
//!
//! Not which locks (`lock_plan`) and not who gets them (a lock manager). Invariants: a new
//! coordination waits no longer than its prepare deadline, and what ends while it waits leaves no
//! record; a resumed one waits for ever, and nothing is asked of any store before it has them.

use std::sync::Arc;
use std::time::Duration;

use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::Reason;
use crate::model::time::Timestamp;

use super::{Effect, Rule, State, TwoPhase};

/// The longest by which a lock manager is to be earlier than the machine's own deadline: it can
/// say who stands in the way, the machine cannot.
const MANAGER_HEAD_START: Duration = Duration::from_millis(500);

/// How far the locks are.
#[derive(Clone, Debug, Default)]
pub(super) struct Locking {
    /// Built from records: it may hold things prepared, so it neither gives up nor gives way.
    resumed: bool,
    pub(super) ended_unbegun: bool,
    /// They were refused to a resumed one; asked for again then.
    again_at: Option<Timestamp>,
    attempts: u32,
}

impl TwoPhase {
    pub(super) fn start(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.plan.locks.is_empty() {
            self.take(Rule::Begin);
            return self.begin(now, Vec::new());
        }
        self.take(Rule::Lock);
        let left = self.prepare_until.since(now);
        let timeout = left.saturating_sub((left / 4).min(MANAGER_HEAD_START));
        vec![Effect::Acquire { locks: Arc::clone(&self.plan.locks), timeout: Some(timeout) }]
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
        self.locking.again_at = None;
        vec![Effect::Acquire { locks: Arc::clone(&self.plan.locks), timeout: None }]
    }

    pub(super) fn locked(&mut self, now: Timestamp, tokens: Vec<u64>) -> Vec<Effect> {
        if self.state != State::Locking {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        if self.locking.resumed {
            return self.go_on(now);
        }
        self.take(Rule::Locked);
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
        self.locking.again_at = Some(now + self.plan.backoff.delay(self.locking.attempts));
        self.locking.attempts += 1;
        Vec::new()
    }

    pub(super) fn lock_lost(&mut self, now: Timestamp, message: &str) -> Vec<Effect> {
        if self.state != State::Preparing {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        let message = format!("a lock was lost before the decision: {message}");
        let reason = Reason::new("transaction.aborted.lock_lost", message);
        self.decide_abort(now, reason, (Rule::LockLost, Rule::LockLostPropose))
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
        let names: Vec<String> =
            self.plan.locks.iter().map(|lock| format!("'{}'", lock.resource)).collect();
        let message = format!(
            "timed out: the lock manager did not answer within {:?} whether it grants {}; nothing \
             was asked of any store",
            self.prepare_until.since(self.began_at),
            names.join(", ")
        );
        let mut effects = vec![Effect::Release];
        let reason = Reason::new("transaction.aborted.lock_timeout", message);
        effects.append(&mut self.end_unbegun(reason));
        effects
    }

    pub(super) fn locking_deadline(&self) -> Option<Timestamp> {
        if self.locking.resumed { self.locking.again_at } else { Some(self.prepare_until) }
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
