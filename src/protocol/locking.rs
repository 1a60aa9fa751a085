//! The locks of one coordination: taken before everything else, taken again after a crash.
//!
//! What machines that lock have in common; the rows of their tables are theirs. Not which locks
//! (`lock_plan`) and not who gets them (a lock manager). Invariants: a new coordination waits no
//! longer than its deadline, and what ends while it waits leaves no record; a resumed one waits for
//! ever.

use std::sync::Arc;
use std::time::Duration;

use crate::model::record::Reason;
use crate::model::time::Timestamp;

use super::Effect;
use super::lock_plan::LockWish;
use super::retry::Backoff;

/// The longest by which a lock manager is to be earlier than the machine's own deadline: it can
/// say who stands in the way, the machine cannot.
const MANAGER_HEAD_START: Duration = Duration::from_millis(500);

/// How far the locks are.
#[derive(Clone, Debug, Default)]
pub(super) struct Locking {
    /// Built from records: something of it may have happened, so it neither gives up nor gives
    /// way.
    pub(super) resumed: bool,
    pub(super) ended_unbegun: bool,
    /// They were refused to a resumed one; asked for again then.
    pub(super) again_at: Option<Timestamp>,
    attempts: u32,
}

impl Locking {
    /// Asks for a new coordination, which waits for `left` and no longer.
    pub(super) fn acquire(locks: &Arc<[LockWish]>, left: Duration) -> Effect {
        let timeout = left.saturating_sub((left / 4).min(MANAGER_HEAD_START));
        Effect::Acquire { locks: Arc::clone(locks), timeout: Some(timeout) }
    }

    /// Asks for a resumed one, which cannot do without.
    pub(super) fn acquire_for_ever(&mut self, locks: &Arc<[LockWish]>) -> Effect {
        self.again_at = None;
        Effect::Acquire { locks: Arc::clone(locks), timeout: None }
    }

    /// They were refused to a resumed one.
    pub(super) fn refused(&mut self, now: Timestamp, backoff: &Backoff) {
        self.again_at = Some(now + backoff.delay(self.attempts));
        self.attempts += 1;
    }

    /// When it has to act while it waits; a new one waits until `until`.
    pub(super) fn deadline(&self, until: Timestamp) -> Option<Timestamp> {
        if self.resumed { self.again_at } else { Some(until) }
    }

    /// Why a new one gave up after it had waited for `waited`.
    pub(super) fn timeout_reason(locks: &[LockWish], waited: Duration) -> Reason {
        let names: Vec<String> = locks.iter().map(|lock| format!("'{}'", lock.resource)).collect();
        let message = format!(
            "timed out: the lock manager did not answer within {waited:?} whether it grants {}; \
             nothing was asked of any store",
            names.join(", ")
        );
        Reason::new("transaction.aborted.lock_timeout", message)
    }

    /// Why one that lost a lock before its decision is aborted.
    pub(super) fn lost_reason(message: &str) -> Reason {
        let message = format!("a lock was lost before the decision: {message}");
        Reason::new("transaction.aborted.lock_lost", message)
    }
}
