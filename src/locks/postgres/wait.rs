//! The words of the state: a wait, a lock that is held, the session, and what a change brings
//! about.
//!
//! Not the changes (`state`).

use std::time::{Duration, Instant};

use super::errand::Errand;
use crate::locks::downgrade::with_lease;
use crate::locks::{Grant, LockAsk, LockError, LockId, LockMode, RequesterId, ResourceId};
use crate::model::time::Timestamp;
use crate::reply::Reply;

/// Takes the answer to an ask.
pub(super) type GrantReply = Reply<Result<Grant, LockError>>;

/// Where a wait stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// In a lane, not sent.
    Queued,
    /// Sent, not answered.
    Sent,
    /// Its row stands in the queue.
    Waiting,
}

/// Why a wait ends without its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Timeout,
    Cancelled,
    /// Chosen as a victim; the row carries the circle.
    Deadlock,
    /// Answered already, or given up with everything else: a grant is released.
    Dropped,
}

/// A wish that is not answered, or not cleaned up.
pub(super) struct Wait {
    pub(super) ask: LockAsk,
    pub(super) reply: Option<GrantReply>,
    pub(super) stage: Stage,
    pub(super) ending: Option<Ending>,
    /// Whether it may have reached the server before.
    pub(super) is_again: bool,
    /// Whether it ever stood in the queue; then it goes on while the server is away.
    pub(super) has_waited: bool,
    pub(super) began: Instant,
    pub(super) deadline: Option<Instant>,
    /// When it is answered at last, whatever the server says.
    pub(super) answer_by: Option<Instant>,
}

/// A lock.
pub(super) struct Held {
    /// What it was asked for with.
    pub(super) ask: LockAsk,
    pub(super) valid_until: Option<Instant>,
    /// Its release is on its way.
    pub(super) is_leaving: bool,
    /// Whether its holder was told that the session is suspended.
    pub(super) is_suspended: bool,
}

impl Held {
    /// What to ask for to have it in another mode; `None` where it is as good as gone.
    pub(super) fn in_mode(&self, mode: LockMode) -> Option<LockAsk> {
        let ask = LockAsk { mode, timeout: Some(Duration::ZERO), ..self.ask.clone() };
        with_lease(ask, self.valid_until).filter(|_| !self.is_leaving)
    }
}

/// The hold on the server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) valid_until: Instant,
    /// A moment here that was not after that moment there: leases end by the server's clock.
    pub(super) here: Instant,
    pub(super) there: Timestamp,
}

impl Session {
    /// A moment here that is not after that moment there.
    pub(super) fn local(&self, at: Timestamp) -> Option<Instant> {
        let later = self.here.checked_add(at.since(self.there))?;
        later.checked_sub(self.there.since(at))
    }
}

/// What is to be done once the state is unlocked.
pub(super) enum Effect {
    Answer(GrantReply, Result<Grant, LockError>),
    Push(ResourceId, Errand),
    Lost(LockId, RequesterId, String),
    Suspended(LockId, RequesterId, Instant),
    Resumed(LockId, RequesterId),
    /// Somebody waits now; whether that may close a circle.
    Watch {
        is_urgent: bool,
    },
    /// Something is due earlier than the timer knows.
    Tick,
    SessionOver,
}
