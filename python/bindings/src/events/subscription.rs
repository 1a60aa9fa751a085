//! A user's handler as a port, and the subscription that it stands in.
//!
//! Nothing is called here: a delivery waits in the bridge's queue for the loop's thread. Invariant:
//! a subscription ends with its loop, before that loop's calls are given up, so that events do not
//! lose their tries to a loop that is gone; one that nobody was there to take ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::events::{Delivery, EventBus, EventBusError, EventHandler, Handled, SubscriptionId};
use unanimity::reply::Reply;

use super::{answer_to, parts};
use crate::bridge::{Bridge, Item, Shared};
use crate::call::{Answers, Argument, Call, Method};

pub(super) struct PythonHandler {
    pub(super) bridge: Arc<Shared>,
    pub(super) method: Arc<Method>,
    pub(super) timeout: Duration,
}

impl EventHandler for PythonHandler {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(&self.method),
            argument: Argument::Map(delivery.event.body.clone()),
            attachment: None,
            timeout: self.timeout,
            answers: Answers::Told(Box::new(move |answer| {
                reply.send(match answer {
                    Ok(_) => Handled::Done,
                    Err(message) => Handled::Failed { message },
                });
            })),
        }));
    }
}

/// A subscription of one of our buses.
pub(crate) struct Subscribed {
    bus: Arc<dyn EventBus>,
    id: SubscriptionId,
    is_bus_closed: Arc<AtomicBool>,
    is_over: AtomicBool,
}

impl Subscribed {
    pub(super) fn new(
        bus: Arc<dyn EventBus>,
        id: SubscriptionId,
        is_bus_closed: Arc<AtomicBool>,
    ) -> Arc<Self> {
        Arc::new(Self { bus, id, is_bus_closed, is_over: AtomicBool::new(false) })
    }

    /// Whether nothing is handed over any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst) || self.is_bus_closed.load(Ordering::SeqCst)
    }

    /// Ends it without waiting for what is out.
    pub(crate) fn end(&self) {
        if !self.is_over.swap(true, Ordering::SeqCst) {
            self.bus.unsubscribe(self.id, Reply::new(|_: Result<bool, EventBusError>| ()));
        }
    }
}

/// A subscription on its way to whoever asked for it; it ends if nobody waits there any more.
pub(super) struct Unclaimed(Option<Arc<Subscribed>>);

impl Unclaimed {
    pub(super) fn new(subscribed: Arc<Subscribed>, home: &Shared) -> Self {
        if !home.remember_subscription(&subscribed) {
            subscribed.end();
        }
        Self(Some(subscribed))
    }

    pub(super) fn subscribed(&self) -> Option<Arc<Subscribed>> {
        self.0.clone()
    }

    pub(super) fn claimed(mut self) {
        self.0 = None;
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(subscribed) = &self.0 {
            subscribed.end();
        }
    }
}

/// What a subscriber holds. Letting go of it changes nothing: the subscription goes on.
#[pyclass(frozen)]
pub(crate) struct EventSubscription(Option<Arc<Subscribed>>);

impl EventSubscription {
    pub(super) fn new(subscribed: Option<Arc<Subscribed>>) -> Self {
        Self(subscribed)
    }
}

#[pymethods]
impl EventSubscription {
    /// Ends it; the future is told whether it was there, when no event of it is out any more.
    fn unsubscribe(&self, bridge: &Bound<'_, Bridge>, future: Py<PyAny>) {
        let reply = answer_to(bridge, future, parts::truth);
        match &self.0 {
            Some(subscribed) => {
                subscribed.is_over.store(true, Ordering::SeqCst);
                subscribed.bus.unsubscribe(subscribed.id, reply);
            }
            None => reply.send(Ok(false)),
        }
    }
}
