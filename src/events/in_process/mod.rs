//! The bus of one process: nothing survives it, and nobody else sees its events.
//!
//! A group is a relay with its subscriptions as takers; an event goes to every group that wishes
//! for it, or to none. A group is forgotten with its last subscription, and ids are not kept: an
//! event published twice is two events. Not durable, and not a queue for those who come later.
//!
//! Invariants: publishing never blocks; what would not fit into the queue of one group is refused
//! to the publisher, who is told whose queue it is, and nobody gets it; a slow subscription holds
//! up its own group only. No handler is called under the bus' lock, so a handler may publish.

#[cfg(test)]
mod in_process_test;
mod parked;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::runtime::Handle;

use super::check::{OWN_GROUP, check_event, check_subscription};
use super::relay::{BACKOFF_BASE, BACKOFF_CAP, Next, Offer, Relay, Settle, Taker, TakerId};
use super::{BusEvent, EventBus, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::protocol::retry::Backoff;
use crate::reply::Reply;

use parked::Parked;

const BUS: &str = "of this process";

/// How many events may wait for one group, those that are out included.
pub const QUEUE_MAX: usize = 10_000;

/// Carries events between the subscribers of one process.
pub struct InProcessEventBus {
    state: Mutex<State>,
    parked: Arc<Parked>,
    queue_max: usize,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<String, Group>,
    subscriptions: BTreeMap<SubscriptionId, (String, TakerId)>,
    ids: u64,
    is_closed: bool,
}

struct Group {
    relay: Relay<()>,
    wishes: Vec<(TakerId, Option<String>)>,
}

impl Group {
    fn wishes_for(&self, kind: &str) -> bool {
        self.wishes.iter().any(|(_, wish)| wish.as_ref().is_none_or(|wish| wish == kind))
    }
}

/// A group's end of its relay.
struct Ends {
    group: String,
    parked: Arc<Parked>,
}

impl Settle<()> for Ends {
    fn done(&self, _offer: Offer<()>, _next: Next<()>) {}

    fn park(&self, offer: Offer<()>, message: String, _next: Next<()>) {
        self.parked.add(&self.group, &offer.event, offer.attempts, message);
    }
}

fn refused(reason: String) -> EventBusError {
    EventBusError::Refused { bus: BUS.to_owned(), reason }
}

impl InProcessEventBus {
    /// A bus whose queues hold `queue_max` events for each group; its timers run on `runtime`.
    pub fn new(queue_max: usize, runtime: Handle) -> Self {
        let parked = Arc::new(Parked::default());
        Self { state: Mutex::default(), parked, queue_max: queue_max.max(1), runtime }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, EventBusError> {
        let state = self.state();
        if state.is_closed { Err(EventBusError::Closed) } else { Ok(state) }
    }

    /// Puts an event into the queue of every group that wishes for it, or into none.
    fn put(&self, event: BusEvent) -> Result<Vec<Relay<()>>, EventBusError> {
        check_event(BUS, &event)?;
        let state = self.open()?;
        let wishing = || state.groups.iter().filter(|(_, group)| group.wishes_for(&event.kind));
        if let Some((name, _)) = wishing().find(|(_, group)| group.relay.room() == 0) {
            return Err(self.full(name));
        }
        let told = wishing().map(|(_, group)| group.relay.clone()).collect::<Vec<_>>();
        let event = Arc::new(event);
        for relay in &told {
            let offer = Offer { event: Arc::clone(&event), attempts: 0, ticket: () };
            // Room was there, and only this bus, under its lock, takes any.
            let _ = relay.put(offer);
        }
        Ok(told)
    }

    fn full(&self, group: &str) -> EventBusError {
        let whose = match group.strip_prefix(OWN_GROUP) {
            Some(number) => format!("of subscription {number}"),
            None => format!("of group {group:?}"),
        };
        refused(format!(
            "the queue {whose} is full ({} events wait for its handler); publish again when it has \
             caught up, or give the bus a longer queue",
            self.queue_max
        ))
    }

    fn join(&self, ask: &SubscribeAsk) -> Result<SubscriptionId, EventBusError> {
        check_subscription(BUS, ask)?;
        let mut state = self.open()?;
        state.ids += 1;
        let id = SubscriptionId(state.ids);
        let name = ask.group.clone().unwrap_or_else(|| format!("{OWN_GROUP}{}", id.0));
        let group = state.groups.entry(name.clone()).or_insert_with(|| self.new_group(&name, id));
        let taker = group.relay.join(Taker::of(ask));
        group.wishes.push((taker, ask.kind.clone()));
        state.subscriptions.insert(id, (name, taker));
        Ok(id)
    }

    fn new_group(&self, name: &str, id: SubscriptionId) -> Group {
        let backoff = Backoff { base: BACKOFF_BASE, cap: BACKOFF_CAP, seed: id.0 };
        let ends = Arc::new(Ends { group: name.to_owned(), parked: Arc::clone(&self.parked) });
        let relay = Relay::without_takers(self.queue_max, backoff, ends, &self.runtime);
        Group { relay, wishes: Vec::new() }
    }

    /// Takes a subscription off its group; the group's relay, and whether the group goes too.
    fn part(
        &self,
        id: SubscriptionId,
    ) -> Result<Option<(Relay<()>, TakerId, bool)>, EventBusError> {
        let mut state = self.open()?;
        let Some((name, taker)) = state.subscriptions.remove(&id) else { return Ok(None) };
        let Some(group) = state.groups.get_mut(&name) else { return Ok(None) };
        group.wishes.retain(|(other, _)| *other != taker);
        let relay = group.relay.clone();
        let is_last = group.wishes.is_empty();
        if is_last {
            state.groups.remove(&name);
        }
        if name.starts_with(OWN_GROUP) {
            self.parked.forget(&name);
        }
        Ok(Some((relay, taker, is_last)))
    }

    /// Puts a parked event into its group's queue again.
    fn unpark(&self, event_id: &str, group: &str) -> Result<Option<Relay<()>>, EventBusError> {
        let state = self.open()?;
        let Some(parked) = self.parked.find(event_id, group) else { return Ok(None) };
        let wishing = state.groups.get(group).filter(|group| group.wishes_for(&parked.kind));
        let Some(wishing) = wishing else {
            let kind = &parked.kind;
            return Err(refused(format!(
                "nobody of group {group:?} is subscribed to {kind:?}; subscribe, then redrive"
            )));
        };
        let offer = Offer { event: Arc::new(parked), attempts: 0, ticket: () };
        wishing.relay.put(offer).map_err(|_| self.full(group))?;
        self.parked.remove(event_id, group);
        Ok(Some(wishing.relay.clone()))
    }
}

impl EventBus for InProcessEventBus {
    fn is_durable(&self) -> bool {
        false
    }

    fn publish(&self, event: BusEvent, reply: Reply<Result<(), EventBusError>>) {
        match self.put(event) {
            Err(error) => reply.send(Err(error)),
            Ok(told) => {
                reply.send(Ok(()));
                told.iter().for_each(Relay::go_on);
            }
        }
    }

    fn subscribe(&self, ask: SubscribeAsk, reply: Reply<Result<SubscriptionId, EventBusError>>) {
        reply.send(self.join(&ask));
    }

    fn unsubscribe(&self, id: SubscriptionId, reply: Reply<Result<bool, EventBusError>>) {
        match self.part(id) {
            Err(error) => reply.send(Err(error)),
            Ok(None) => reply.send(Ok(false)),
            Ok(Some((relay, _, true))) => relay.stop(move |_forgotten| reply.send(Ok(true))),
            Ok(Some((relay, taker, false))) => relay.leave(taker, move || reply.send(Ok(true))),
        }
    }

    fn parked(&self, limit: usize, reply: Reply<Result<Vec<ParkedEvent>, EventBusError>>) {
        reply.send(self.open().map(|_| self.parked.list(limit)));
    }

    fn redrive(&self, event_id: String, group: String, reply: Reply<Result<bool, EventBusError>>) {
        match self.unpark(&event_id, &group) {
            Err(error) => reply.send(Err(error)),
            Ok(found) => {
                reply.send(Ok(found.is_some()));
                if let Some(relay) = found {
                    relay.go_on();
                }
            }
        }
    }

    fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.subscriptions.clear();
        let groups = std::mem::take(&mut state.groups);
        drop(state);
        let (sender, ended) = mpsc::channel::<()>();
        for group in groups.into_values() {
            let sender = sender.clone();
            group.relay.stop(move |_forgotten| drop(sender));
        }
        drop(sender);
        // Answers when all of them have let go of their sender.
        let _ = ended.recv();
    }
}
