//! Choreographed sagas: the stops of this process's stores on the routing slips of all processes.
//!
//! Not the machine that answers for a saga (`protocol::choreography`): this is what happens at each
//! stop. `token` is the slip as a message, `stop` what is done with it, this file who is told.
//! Each stop is a coordination of its own in this process's journal, so a slip that comes twice, or
//! to another process of the journal, is answered from there.
//!
//! Processes that share a store share a journal: else the second would not know what the first did.
//!
//! Invariant: a message is acknowledged only when what follows from it is on the bus.

mod stop;
mod token;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use crate::events::{
    BusEvent, Delivery, EventBus, EventBusError, EventHandler, Handled, SubscribeAsk,
};
use crate::model::request::CoordinationType;
use crate::protocol::choreography::Route;
use crate::reply::{Reply, asked};

use self::token::{ENDED, Token};
use super::core::{Core, Fact};
use super::drive::State;
use super::table::SlotKey;

/// How many slips of one store are at work at once.
const SLIPS_MAX: usize = 64;
/// How long a slip may stay at a stop before it is handed over again, which joins the first.
const STOP_WAIT: Duration = Duration::from_secs(300);
/// How soon what the bus did not take is tried again.
const BUS_RETRY: Duration = Duration::from_secs(1);

/// Takes slips that stand at a store of this process.
struct Host(Weak<Core>);

impl EventHandler for Host {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        let Some(core) = self.0.upgrade() else { return };
        match Token::from_event(&delivery.event) {
            Ok(token) => core.stop(token, reply),
            Err(message) => reply.send(Handled::Failed { message }),
        }
    }
}

/// Hears how sagas ended.
struct Listener(Weak<Core>);

impl EventHandler for Listener {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        let Some(core) = self.0.upgrade() else { return };
        match token::read_end(&delivery.event) {
            Ok((id, end)) => core.post(Fact::RouteEnded { id, end }),
            Err(error) => tracing::warn!(error, "the end of a saga cannot be read"),
        }
        reply.send(Handled::Done);
    }
}

/// Begins to take slips for every store that can execute operations.
pub(super) fn listen(core: &Arc<Core>) {
    let Some(bus) = core.ports.event_bus.as_ref().filter(|bus| bus.is_durable()) else { return };
    let weak = Arc::downgrade(core);
    let ask = |kind: String, group: Option<String>, handler: Arc<dyn EventHandler>| SubscribeAsk {
        kind: Some(kind),
        group,
        handler,
        // A slip is never given up: whatever is in its way is mended or redriven.
        attempts_max: u32::MAX,
        in_flight_max: SLIPS_MAX,
        timeout: STOP_WAIT,
    };
    let ended = ask(ENDED.to_owned(), None, Arc::new(Listener(Weak::clone(&weak))));
    core.ports.runtime.spawn(subscribe(Weak::clone(&weak), Arc::clone(bus), ended));
    for (name, store, _) in &core.ports.stores {
        if store.missing_for(CoordinationType::SagaChoreography).is_some() {
            continue;
        }
        let kind = token::kind_for(name);
        let wish = ask(kind.clone(), Some(kind), Arc::new(Host(Weak::clone(&weak))));
        core.ports.runtime.spawn(subscribe(Weak::clone(&weak), Arc::clone(bus), wish));
    }
}

/// Tries until the bus takes it, or the engine is closed.
async fn subscribe(core: Weak<Core>, bus: Arc<dyn EventBus>, ask: SubscribeAsk) {
    loop {
        let answer = asked(|reply| bus.subscribe(ask.clone(), reply)).await;
        let Some(core) = core.upgrade().filter(|core| !core.closed.load(Ordering::SeqCst)) else {
            if let Ok(id) = answer {
                bus.unsubscribe(id, Reply::new(drop));
            }
            return;
        };
        match answer {
            Ok(id) => {
                let mut taken = core.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
                return taken.push(id);
            }
            Err(EventBusError::Closed) => return,
            Err(error) => tracing::warn!(%error, "slips of sagas cannot be taken yet"),
        }
        drop(core);
        tokio::time::sleep(BUS_RETRY).await;
    }
}

/// Sends until the bus takes it, or the engine is closed.
async fn send(core: Weak<Core>, bus: Arc<dyn EventBus>, event: BusEvent) {
    loop {
        match asked(|reply| bus.publish(event.clone(), reply)).await {
            Ok(()) | Err(EventBusError::Closed) => return,
            Err(error) => tracing::warn!(%error, id = event.id, "a slip cannot be sent yet"),
        }
        if core.upgrade().is_none_or(|core| core.closed.load(Ordering::SeqCst)) {
            return;
        }
        tokio::time::sleep(BUS_RETRY).await;
    }
}

impl State {
    /// Sends a slip off. What becomes of it is heard as [`Fact::RouteEnded`].
    pub(super) fn walk(&mut self, core: &Core, key: SlotKey, walk: u32) {
        let (Some(entry), Some(bus)) = (self.table.get(key), &core.ports.event_bus) else { return };
        let token = Token::first(Arc::clone(entry.machine.request()), walk);
        let route = Route::check(&token.request, |_| true).map_err(|error| error.to_string());
        match route.and_then(|route| token.to_event(&route)) {
            Ok(event) => {
                let sending = send(Weak::clone(&core.this), Arc::clone(bus), event);
                core.ports.runtime.spawn(sending);
            }
            Err(error) => {
                tracing::error!(coordination = %entry.id(), error, "a slip cannot be written");
            }
        }
    }
}

impl Core {
    /// Takes no more slips.
    pub(super) fn stop_listening(&self) {
        let mut taken = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        for id in taken.drain(..) {
            if let Some(bus) = &self.ports.event_bus {
                bus.unsubscribe(id, Reply::new(drop));
            }
        }
    }
}
