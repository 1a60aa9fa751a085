//! A lock for a weaker one, where the manager cannot exchange the two in one step: the weaker one
//! is taken first, and the stronger one let go of when that is granted.
//!
//! Not a manager: it stands in front of one. A requester's own lock is in nobody's way but others',
//! so the weaker one is granted at once, ahead of those who wait. Invariants: at every moment of it
//! the requester holds at least the weaker lock, and nobody is granted what conflicts with that; a
//! crash in between leaves both, and they go together; when the answer says no, the weaker one has
//! been given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::many::OneByOne;
use super::{Grant, LockAsk, LockError, LockId, LockMode, RequesterId};
use crate::protocol::claim::covers;
use crate::reply::Reply;

/// The answer to a downgrade: the new grant, or `None` where the lock was not held.
pub(super) type DowngradeReply = Reply<Result<Option<Grant>, LockError>>;

/// Refuses a mode that is not weaker than that of the lock.
pub(super) fn check(lock_id: &LockId, mode: LockMode) -> Result<(), LockError> {
    let Some((_, held, _)) = LockId::parse(lock_id.as_str()) else { return Ok(()) };
    if held != mode && covers(held, mode) {
        return Ok(());
    }
    let message = format!(
        "lock {lock_id} is {held}, and {mode} is not weaker; ask for that mode as a lock of its \
         own, which is granted ahead of those who wait"
    );
    Err(LockError::Invalid { message })
}

/// An ask for what is left of a lease, which may have no end; `None` where it is over.
pub(super) fn with_lease(ask: LockAsk, until: Option<Instant>) -> Option<LockAsk> {
    let lease = until.map(|until| until.saturating_duration_since(Instant::now()));
    (lease != Some(Duration::ZERO)).then_some(LockAsk { lease, ..ask })
}

/// Takes what `ask` says, which does not wait, then lets go of `lock_id`.
pub(super) fn by_taking(
    manager: Arc<dyn OneByOne>,
    lock_id: LockId,
    ask: LockAsk,
    reply: DowngradeReply,
) {
    let (taker, requester) = (manager.clone(), ask.requester.clone());
    taker.acquire_one(
        ask,
        Reply::new(move |answer| match answer {
            Ok(grant) => let_go(manager, (lock_id, requester), grant, reply),
            // With the lock in hand it would have been granted.
            Err(LockError::Timeout { .. }) => reply.send(Ok(None)),
            Err(error) => reply.send(Err(error)),
        }),
    );
}

fn let_go(
    manager: Arc<dyn OneByOne>,
    (lock_id, requester): (LockId, RequesterId),
    grant: Grant,
    reply: DowngradeReply,
) {
    let (releaser, holder) = (manager.clone(), requester.clone());
    releaser.release_one(
        &lock_id,
        &holder,
        Reply::new(move |released| {
            let answer = match released {
                Ok(true) => return reply.send(Ok(Some(grant))),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            // Whatever became of the old one, the new one is not told of.
            let told = Reply::new(move |_: Result<bool, LockError>| reply.send(answer));
            manager.release_one(&grant.lock_id, &requester, told);
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lock::LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
    use crate::model::lock::ResourceId;

    #[test]
    fn only_a_weaker_mode_is_a_downgrade() {
        let all = LockMode::ALL;
        let weaker = |held: LockMode| {
            let id = LockId::new(&ResourceId::new("r").unwrap(), held, 1);
            all.into_iter().filter(move |mode| check(&id, *mode).is_ok()).collect::<Vec<_>>()
        };
        assert_eq!(
            weaker(Exclusive),
            all.into_iter().filter(|m| *m != Exclusive).collect::<Vec<_>>()
        );
        assert_eq!(weaker(Shared), [IntentShared]);
        assert_eq!(weaker(IntentExclusive), [IntentShared]);
        assert_eq!(weaker(IntentShared), []);
    }
}
