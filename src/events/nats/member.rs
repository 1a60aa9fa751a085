//! A subscription: what it pulls from the server, what it holds, and what it says of that.
//!
//! A group's partitions have one consumer each, and the server hands out one event of a partition at
//! a time (`max_ack_pending` is 1): that keeps the order of streams over all processes of the group.
//! A subscription of its own has one consumer for all, and its relay keeps the order. Pulling is in
//! `lane`.
//!
//! Invariants: what is held is told to be in progress, so that the server gives it to nobody else;
//! an event is acknowledged when it is handled or parked; what is given back at the end is there
//! for others at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::message::Acker;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::relay::{Next, Offer, Relay, Settle};
use super::super::{BusEvent, EventBusError};
use super::link::Link;
use super::names::Lane;
use super::parked::{self, Record};
use super::{Inner, lane};

const PAUSE: Duration = Duration::from_millis(200);

/// Names a message that is held.
#[derive(Debug)]
pub(super) struct Ticket {
    /// Its place in the stream: the same when it is delivered again.
    pub(super) sequence: u64,
    pub(super) lane: Lane,
}

/// What is said to the server, one after the other.
enum Word {
    Done(u64, Next<Ticket>),
    Park(u64, Box<Record>, Option<Next<Ticket>>),
    Back(u64, Option<Duration>),
}

/// A subscription's group and wish.
pub(super) struct Place {
    pub(super) group: String,
    pub(super) wish: Option<String>,
    /// Whether the group goes with the subscription.
    pub(super) is_own: bool,
}

pub(super) struct Member {
    pub(super) place: Arc<Place>,
    pub(super) link: Arc<Link>,
    inner: Arc<Inner>,
    attempts_max: u32,
    /// Set once, before anything is pulled.
    relay: OnceLock<Relay<Ticket>>,
    held: Mutex<HashMap<u64, Arc<Acker>>>,
    words: Mutex<Option<mpsc::UnboundedSender<Word>>>,
    /// Says that something is held no more.
    pub(super) room: Notify,
    pub(super) stopped: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Settle<Ticket> for Member {
    fn done(&self, offer: Offer<Ticket>, next: Next<Ticket>) {
        self.say(Word::Done(offer.ticket.sequence, next));
    }

    fn park(&self, offer: Offer<Ticket>, message: String, next: Next<Ticket>) {
        let record = self.record(&offer.event, offer.attempts, message);
        self.say(Word::Park(offer.ticket.sequence, record, Some(next)));
    }

    fn failed(
        &self,
        offer: Offer<Ticket>,
        _message: &str,
        delay: Duration,
    ) -> Option<Offer<Ticket>> {
        if offer.ticket.lane == Lane::All {
            // Others of its stream are here already, and wait behind it.
            return Some(offer);
        }
        self.say(Word::Back(offer.ticket.sequence, Some(delay)));
        None
    }
}

impl Member {
    pub(super) fn new(
        inner: &Arc<Inner>,
        link: &Arc<Link>,
        place: Arc<Place>,
        attempts_max: u32,
    ) -> Arc<Self> {
        let (sender, words) = mpsc::unbounded_channel();
        let member = Arc::new(Self {
            place,
            link: Arc::clone(link),
            inner: Arc::clone(inner),
            attempts_max,
            relay: OnceLock::new(),
            held: Mutex::default(),
            words: Mutex::new(Some(sender)),
            room: Notify::new(),
            stopped: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        member.spawn(speak(Arc::clone(&member), words));
        member
    }

    /// Begins to pull.
    pub(super) fn begin(self: &Arc<Self>, relay: Relay<Ticket>, lanes: Vec<lane::Pull>) {
        let _ = self.relay.set(relay);
        for pull in lanes {
            self.spawn(lane::run(Arc::clone(self), pull));
        }
        self.spawn(beat(Arc::clone(self), self.inner.options.redelivery));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).push(self.inner.runtime.spawn(task));
    }

    pub(super) fn room(&self) -> usize {
        self.relay.get().map_or(0, Relay::room)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Arc<Acker>>> {
        lock(&self.held)
    }

    /// A message came, for the `delivered`-th time, counted from 1.
    pub(super) fn take(&self, event: BusEvent, acker: Acker, ticket: Ticket, delivered: u32) {
        let sequence = ticket.sequence;
        if self.held().insert(sequence, Arc::new(acker)).is_some() {
            // The server lost patience, and what is here already is answered by the new way.
            return;
        }
        let offer = Offer { event: Arc::new(event), attempts: delivered.saturating_sub(1), ticket };
        if offer.attempts >= self.attempts_max {
            let words = "it was handed over as often as it may, and the last answer is lost: the \
                         process that had it ended, or lost the server";
            let record = self.record(&offer.event, offer.attempts, words.to_owned());
            return self.say(Word::Park(sequence, record, None));
        }
        let offered = self.relay.get().map(|relay| relay.offer(offer));
        if !matches!(offered, Some(Ok(()))) {
            self.say(Word::Back(sequence, None));
        }
    }

    fn record(&self, event: &BusEvent, attempts: u32, message: String) -> Box<Record> {
        let Place { group, wish, .. } = &*self.place;
        Box::new(parked::record(event, group, wish.as_deref(), attempts, message))
    }

    fn say(&self, word: Word) {
        if let Some(words) = &*lock(&self.words) {
            let _ = words.send(word);
        }
    }

    async fn answer(&self, sequence: u64, kind: AckKind) {
        let acker = self.held().remove(&sequence);
        if let Some(acker) = acker
            && let Err(error) = acker.ack_with(kind).await
        {
            tracing::debug!("an acknowledgement is lost, the event comes again: {error}");
        }
        self.room.notify_one();
    }

    /// Parks for as long as it takes, or leaves it to whoever is given the event next.
    async fn park(&self, sequence: u64, record: &Record) {
        let mut stopped = self.stopped.subscribe();
        loop {
            let until = Instant::now() + self.inner.options.publish_timeout;
            match parked::park(&self.link, &self.inner.names, record, until).await {
                Ok(()) => return self.answer(sequence, AckKind::Ack).await,
                Err(error @ EventBusError::Refused { .. }) => {
                    let id = &record.parked.event.id;
                    tracing::error!(id, "an event cannot be parked, and is dropped: {error}");
                    return self.answer(sequence, AckKind::Term).await;
                }
                Err(error) => tracing::warn!("an event cannot be parked yet: {error}"),
            }
            let waited = stopped.wait_for(|stopped| *stopped);
            if tokio::time::timeout(PAUSE, waited).await.is_ok() {
                return self.answer(sequence, AckKind::Nak(None)).await;
            }
        }
    }

    /// Pulls nothing more and hands nothing over any more; gives back the rest when nothing is out.
    pub(super) fn stop(self: &Arc<Self>) {
        if self.stopped.send_replace(true) {
            return;
        }
        let member = Arc::clone(self);
        if let Some(relay) = self.relay.get() {
            relay.stop(move |rest| {
                for offer in rest {
                    member.say(Word::Back(offer.ticket.sequence, None));
                }
            });
        }
    }

    /// Stops, and waits until nothing is out and all is said.
    pub(super) async fn end(self: &Arc<Self>) {
        self.stop();
        let (sender, quiet) = oneshot::channel::<()>();
        if let Some(relay) = self.relay.get() {
            // Told behind the one who gives back the rest.
            relay.stop(move |_| drop(sender));
        }
        let _ = quiet.await;
        lock(&self.words).take();
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            let _ = task.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what there is to say, in its order.
async fn speak(member: Arc<Member>, mut words: mpsc::UnboundedReceiver<Word>) {
    while let Some(word) = words.recv().await {
        match word {
            Word::Done(sequence, next) => {
                member.answer(sequence, AckKind::Ack).await;
                drop(next);
            }
            Word::Park(sequence, record, next) => {
                member.park(sequence, &record).await;
                drop(next);
            }
            Word::Back(sequence, delay) => member.answer(sequence, AckKind::Nak(delay)).await,
        }
    }
}

/// Tells the server that what is held is in progress, three times before it would lose patience.
async fn beat(member: Arc<Member>, redelivery: Duration) {
    let mut stopped = member.stopped.subscribe();
    let beat = redelivery / 3;
    while tokio::time::timeout(beat, stopped.wait_for(|stopped| *stopped)).await.is_err() {
        let held: Vec<_> = member.held().values().cloned().collect();
        for acker in held {
            let _ = acker.ack_with(AckKind::Progress).await;
        }
    }
}
