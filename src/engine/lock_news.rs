//! What the engine hears of its lock manager, passed on to whoever is told events.
//!
//! Not who locks what. Invariant: a manager that outlives the engine tells nobody through it.

use std::sync::Weak;

use super::core::Core;
use crate::locks::{Deadlock, LockEar, LockId, RequesterId};
use crate::model::event::CoordinationEvent;

/// The ear of one engine; its manager may have others.
pub(super) struct LockNews(pub(super) Weak<Core>);

impl LockEar for LockNews {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        tracing::warn!(
            lock = lock_id.as_str(),
            requester = requester.as_str(),
            "a lock is held no more: {reason}"
        );
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        let Some(core) = self.0.upgrade() else { return };
        if let Some(bus) = &core.ports.bus {
            bus.publish(CoordinationEvent::Deadlock(Box::new(deadlock.clone())));
        }
    }
}
