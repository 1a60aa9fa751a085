//! A subscription of a durable bus in this process: what it holds (`claims`), the relay that hands
//! it over, and the wake of whoever writes what became of it.
//!
//! Not the store: an adapter claims lines for it and writes its reports. Invariant: an event whose
//! line was lost or given back is not handed to the handler any more.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::claims::{Claims, Park, Portion};
use super::relay::{Next, Offer, Relay, RelaySettings, Settle};
use super::{Delivery, EventHandler, Handled, SubscribeAsk, SubscriptionId};
use crate::model::time::Timestamp;
use crate::reply::Reply;

/// Told when a member has something to be written. Must not block.
pub(super) type Wake = Arc<dyn Fn() + Send + Sync>;

/// One subscription.
pub(super) struct Member {
    pub(super) id: SubscriptionId,
    /// The store's number of its group; a group of its own may be made anew.
    group: AtomicI64,
    /// Whether the group goes with it.
    pub(super) is_own: bool,
    pub(super) kind: Option<String>,
    attempts_max: u32,
    // A plain mutex: held for moves of a few pointers, never while a handler is called.
    claims: Mutex<Claims>,
    relay: Mutex<Option<Relay<()>>>,
    wake: Wake,
}

impl Member {
    /// Begins a subscription; its relay's timer runs on `runtime`.
    pub(super) fn begin(
        id: SubscriptionId,
        group: i64,
        ask: &SubscribeAsk,
        wake: Wake,
        runtime: &Handle,
    ) -> Arc<Self> {
        let member = Arc::new(Self {
            id,
            group: AtomicI64::new(group),
            is_own: ask.group.is_none(),
            kind: ask.kind.clone(),
            attempts_max: ask.attempts_max.max(1),
            claims: Mutex::new(Claims::new(ask.in_flight_max)),
            relay: Mutex::new(None),
            wake,
        });
        // What is held is bounded by the claims; the seed spreads the members of a group.
        let seed = id.0 ^ (u64::from(std::process::id()) << 32);
        let settings = RelaySettings::of(ask, usize::MAX, seed);
        let gate = Gate { member: member.clone(), handler: ask.handler.clone() };
        let relay = Relay::new(settings, Arc::new(gate), member.clone(), runtime);
        *lock(&member.relay) = Some(relay);
        member
    }

    pub(super) fn group(&self) -> i64 {
        self.group.load(Ordering::Acquire)
    }

    pub(super) fn set_group(&self, group: i64) {
        self.group.store(group, Ordering::Release);
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        lock(&self.claims)
    }

    /// Hands claimed lines over.
    pub(super) fn hand_over(&self, portions: Vec<Portion>) {
        let relay = lock(&self.relay).clone();
        for portion in portions {
            self.claims().claimed(&portion);
            let mut attempts = portion.deaths;
            for item in portion.items {
                let offer = Offer { event: item.event, attempts, ticket: () };
                if std::mem::take(&mut attempts) >= self.attempts_max {
                    self.settle(&offer, Some(deadly(&offer)));
                    continue;
                }
                // One that is stopped gives everything back when it ends.
                if let Some(Err(_)) = relay.as_ref().map(|relay| relay.offer(offer)) {
                    break;
                }
            }
        }
    }

    /// Hands over nothing more; `ended` is called when no handler is out any more, and everything
    /// is to be reported by then.
    pub(super) fn end(self: &Arc<Self>, ended: impl FnOnce() + Send + 'static) {
        let Some(relay) = lock(&self.relay).take() else { return ended() };
        let member = self.clone();
        relay.stop(move |_| {
            member.claims().end();
            ended();
        });
    }

    fn settle(&self, offer: &Offer<()>, park: Option<Park>) {
        if self.claims().settled(&offer.event, park) {
            (self.wake)();
        }
    }
}

/// An event that is not to be handed over once more: it may be what ends its handlers' processes.
fn deadly(offer: &Offer<()>) -> Park {
    let (event_id, attempts) = (offer.event.id.clone(), offer.attempts);
    let message = format!("{attempts} processes ended, or lost their store, while they handled it");
    Park { event_id, attempts, message, at: now() }
}

impl Settle<()> for Member {
    fn done(&self, offer: Offer<()>, next: Next<()>) {
        self.settle(&offer, None);
        // The stream goes on at once: what is not written yet is handed over again after a crash,
        // in its order.
        drop(next);
    }

    fn park(&self, offer: Offer<()>, message: String, next: Next<()>) {
        let (event_id, attempts) = (offer.event.id.clone(), offer.attempts);
        self.settle(&offer, Some(Park { event_id, attempts, message, at: now() }));
        drop(next);
    }
}

/// Keeps events of lines that are not held any more from the handler.
struct Gate {
    member: Arc<Member>,
    handler: Arc<dyn EventHandler>,
}

impl EventHandler for Gate {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        let is_held = self.member.claims().holds(&delivery.event);
        if is_held { self.handler.handle(delivery, reply) } else { reply.send(Handled::Done) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they hold is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, for rows.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
