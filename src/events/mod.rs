//! The ports of events: who is told what happened ([`EventSink`]), and who carries events between
//! subscribers and processes ([`EventBus`]). Never on the way of an outcome.
//!
//! Duties of a sink: `tell` returns at once and never fails; what happens to an event after that
//! changes nothing of what the event tells.
//!
//! Duties of a bus:
//! 1. **Publish** answers when the event is as durable as this bus makes events; from then on it is
//!    delivered at least once to every group that is subscribed, and to whoever is subscribed
//!    without a group and connected. Published again under its id it counts once, where the bus
//!    says that it keeps ids.
//! 2. **Order**: events of one stream reach a group in the order of their publication. The next
//!    event of a stream is handed over when the one before is handled or parked; different streams
//!    go side by side.
//! 3. **Groups**: of all subscriptions with one group, in whatever process, exactly one is handed
//!    an event at a time (competing consumers). A durable bus remembers what a group has handled:
//!    an event that was published while nobody of the group was there waits for it. A subscription
//!    without a group is a group of its own that is forgotten with it.
//! 4. **Handling**: an event whose handler fails, or whose answer is lost, is handed over again
//!    after a capped backoff with jitter, `attempts_max` times in all; then it is parked, told by
//!    [`EventBus::parked`], and the stream goes on. [`EventBus::redrive`] hands it over again.
//! 5. **Bounds**: at most `in_flight_max` events of a subscription are out at once; what waits
//!    beyond that waits in the store of a durable bus, or is bounded and refused to the publisher.
//! 6. **Never block**: methods return at once and answer through their [`Reply`], from any thread.
//!
//! Adapters are the sibling files; [`relay`] is what they share. Invariant: one reply, one answer.

mod check;
mod claims;
pub mod in_process;
pub mod journal;
mod member;
pub mod nats;
pub mod postgres;
pub mod relay;

use std::sync::Arc;
use std::time::Duration;

use crate::model::event::CoordinationEvent;
use crate::model::time::Timestamp;
use crate::model::value::Value;
use crate::reply::{Lost, Reply};

/// Somebody who is told what happened.
pub trait EventSink: Send + Sync {
    /// Takes an event.
    fn tell(&self, event: CoordinationEvent);
}

/// An event as buses carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct BusEvent {
    /// Names it for ever; minted by whoever publishes.
    pub id: String,
    /// Its type, which subscriptions choose by.
    pub kind: String,
    /// Events of one stream stay in order.
    pub stream: String,
    /// What it says: a map that has the type under "type".
    pub body: Value,
}

/// An event on its way to a handler.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event.
    pub event: Arc<BusEvent>,
    /// Counted from 1.
    pub attempt: u32,
}

/// What a handler says of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is done with it.
    Done,
    /// It is not; another try may help.
    Failed {
        /// Why.
        message: String,
    },
}

impl Lost for Handled {
    fn lost() -> Self {
        Self::Failed { message: "the handler gave no answer".to_owned() }
    }
}

/// Somebody who is handed events. Must not block.
pub trait EventHandler: Send + Sync {
    /// Takes one event; the answer may come later, from any thread.
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>);
}

/// A wish to be handed events.
#[derive(Clone)]
pub struct SubscribeAsk {
    /// Of which type; `None` for all.
    pub kind: Option<String>,
    /// With whom they are shared; `None` for a subscription of its own, that is forgotten when it
    /// ends.
    pub group: Option<String>,
    /// Who is handed them.
    pub handler: Arc<dyn EventHandler>,
    /// How often an event is handed over before it is parked.
    pub attempts_max: u32,
    /// How many are out at once.
    pub in_flight_max: usize,
    /// How long a handler may take.
    pub timeout: Duration,
}

/// A subscription of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(pub u64);

/// An event whose tries are spent.
#[derive(Clone, Debug, PartialEq)]
pub struct ParkedEvent {
    /// The event.
    pub event: BusEvent,
    /// For which group.
    pub group: String,
    /// How often it was handed over.
    pub attempts: u32,
    /// What the handler said last.
    pub message: String,
    /// Since when.
    pub parked_at: Timestamp,
}

/// Trouble with a bus: what, where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventBusError {
    /// It cannot be reached, or answers with an error.
    #[error("the event bus {bus} cannot be used now: {reason}")]
    Unavailable {
        /// Which.
        bus: String,
        /// Why, and what to do.
        reason: String,
    },
    /// What was asked cannot be.
    #[error("the event bus {bus} refuses this: {reason}")]
    Refused {
        /// Which.
        bus: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It is closed.
    #[error("the event bus is closed")]
    Closed,
}

impl<T> Lost for Result<T, EventBusError> {
    fn lost() -> Self {
        let reason = "the question was dropped without an answer".to_owned();
        Err(EventBusError::Unavailable { bus: String::new(), reason })
    }
}

/// Carries events to whoever subscribed. The duties are in this module's header.
pub trait EventBus: Send + Sync {
    /// Whether an acknowledged event survives the process, and groups are remembered.
    fn is_durable(&self) -> bool;

    /// Takes an event; answers when it is kept.
    fn publish(&self, event: BusEvent, reply: Reply<Result<(), EventBusError>>);

    /// Begins to hand events over; answers when nothing that is published from now on is missed.
    fn subscribe(&self, ask: SubscribeAsk, reply: Reply<Result<SubscriptionId, EventBusError>>);

    /// Hands over nothing more; answers when no handler of it is out any more. True if there was
    /// such a subscription.
    fn unsubscribe(&self, id: SubscriptionId, reply: Reply<Result<bool, EventBusError>>);

    /// The events whose tries are spent, oldest first.
    fn parked(&self, limit: usize, reply: Reply<Result<Vec<ParkedEvent>, EventBusError>>);

    /// Hands a parked event over again, to the group for which it was parked. True if there was
    /// such an event.
    fn redrive(&self, event_id: String, group: String, reply: Reply<Result<bool, EventBusError>>);

    /// Lets what is out end, then lets go of connections, threads and files. Blocks.
    fn close(&self);
}
