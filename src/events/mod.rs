//! The port of an event bus. Never on the way of an outcome.
//!
//! Duties of an adapter: `publish` returns at once and never fails; what happens to an event after
//! that (retries, loss, a raising handler) changes nothing of what the event tells.

use crate::model::event::CoordinationEvent;

/// Somebody who is told what happened.
pub trait EventBus: Send + Sync {
    /// Takes an event for delivery.
    fn publish(&self, event: CoordinationEvent);
}
