//! What others are told after a step of the lock table, once its mutex is free.
//!
//! Not the order of the steps: the manager's. Invariant: on one thread the tellings follow each
//! other, none inside of another.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::{Deadlock, Grant, LockEar, LockError, LockId, RequesterId};
use crate::reply::Reply;

/// What somebody is told once the mutex is free.
pub(super) enum Telling {
    Answer(Reply<Result<Grant, LockError>>, Result<Grant, LockError>),
    Lost { ears: Vec<Arc<dyn LockEar>>, lock_id: LockId, requester: RequesterId, reason: String },
    Deadlock { ears: Vec<Arc<dyn LockEar>>, deadlock: Deadlock },
}

impl Telling {
    fn tell(self) {
        match self {
            Self::Answer(reply, answer) => reply.send(answer),
            Self::Lost { ears, lock_id, requester, reason } => {
                for ear in ears {
                    ear.lost(&lock_id, &requester, &reason);
                }
            }
            Self::Deadlock { ears, deadlock } => {
                for ear in ears {
                    ear.deadlock(&deadlock);
                }
            }
        }
    }
}

thread_local! {
    /// What this thread still has to tell, while it is telling.
    static TO_TELL: RefCell<Option<VecDeque<Telling>>> = const { RefCell::new(None) };
}

/// Ends the telling, also when a reply panics: then the others hear that theirs is lost.
struct Done;

impl Drop for Done {
    fn drop(&mut self) {
        drop(TO_TELL.take());
    }
}

/// Tells, one after the other. A reply may release its lock at once, whose next holder does the
/// same: told inside of each other, a long queue would need a deep stack.
pub(super) fn tell(tellings: Vec<Telling>) {
    if tellings.is_empty() {
        return;
    }
    let is_telling = TO_TELL.with_borrow_mut(|to_tell| match to_tell {
        Some(waiting) => {
            waiting.extend(tellings);
            true
        }
        None => {
            *to_tell = Some(VecDeque::from(tellings));
            false
        }
    });
    if is_telling {
        return;
    }
    let _done = Done;
    while let Some(telling) =
        TO_TELL.with_borrow_mut(|to_tell| to_tell.as_mut().and_then(VecDeque::pop_front))
    {
        telling.tell();
    }
}
