//! A bus on NATS with its JetStream: durable, ordered, shared by processes and machines.
//!
//! All events are in one stream of the server, each in one of a fixed number of partitions, chosen by
//! the hash of its own stream. A group has, for each type that it subscribes to, one consumer for
//! each partition, of which the server hands out one event at a time, to whichever process asks: so
//! each event is with one process, and streams keep their order, while partitions go side by side.
//! Parked events are in a second stream; what is redriven has a consumer of its own and stands
//! outside of the order.
//!
//! What a user must know: the server keeps an event for `retention`, and its id for
//! `duplicate_window`; order holds within one type of a group (subscribe to all types where it must
//! hold across them); a failing event holds up its partition until it is parked.
//!
//! Not a cluster's business: reconnecting and finding other servers is the client's. Invariants:
//! what was acknowledged is on the server; an answer that does not come is said to be unknown, not
//! failed; nothing waits without a bound.

mod lane;
mod link;
mod member;
mod names;
mod parked;
mod publish;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as blocking};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::check::{OWN_GROUP, check_event, check_subscription};
use super::relay::{Relay, RelaySettings};
use super::{BusEvent, EventBus, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::model::time::Timestamp;
use crate::reply::{Lost, Reply};

use link::{ANSWER_WAIT, Link, addresses};
use member::{Member, Place};
use names::Names;
use publish::Publication;

const BUS: &str = "at NATS";

/// How many events of a subscription of its own are here at once.
const HELD_MAX: usize = 1_000;

/// Where a bus is, and how it behaves.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// `nats://user:password@host:port`, several separated by commas; `tls://` for TLS.
    pub url: String,
    /// The name of the stream on the server; parked events are in one with `_PARKED` behind it.
    pub stream: String,
    /// How many streams of events a group handles side by side at most. It cannot be changed later.
    pub partitions: u32,
    /// How many servers of a cluster keep each event.
    pub replicas: usize,
    /// How long a publisher waits for the server before it hears that the answer is not known.
    pub publish_timeout: Duration,
    /// How long the server waits for a process that is silent, before another is given its events.
    pub redelivery: Duration,
    /// How long events are kept.
    pub retention: Duration,
    /// How long the server knows an event's id.
    pub duplicate_window: Duration,
}

/// Carries events by way of a NATS server. The connection is opened when it is first needed.
pub struct NatsEventBus {
    inner: Arc<Inner>,
    publications: Mutex<Option<mpsc::Sender<Publication>>>,
    publisher: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    options: NatsOptions,
    names: Names,
    runtime: Handle,
    link: tokio::sync::Mutex<Option<Arc<Link>>>,
    /// `None` when the bus is closed.
    members: Mutex<Option<HashMap<SubscriptionId, Arc<Member>>>>,
    ids: AtomicU64,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn refused(reason: impl Into<String>) -> EventBusError {
    EventBusError::Refused { bus: BUS.to_owned(), reason: reason.into() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NatsOptions {
    fn check(&self) -> Result<(), EventBusError> {
        addresses(&self.url)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if self.stream.is_empty() || self.stream.len() > 64 || !self.stream.chars().all(is_plain) {
            let name = &self.stream;
            return Err(refused(format!(
                "{name:?} cannot name a stream; use up to 64 letters, digits, _ and -"
            )));
        }
        if !(1..=256).contains(&self.partitions) {
            return Err(refused("partitions must be from 1 to 256"));
        }
        if self.duplicate_window > self.retention {
            return Err(refused("ids cannot be kept longer than events"));
        }
        if self.redelivery < Duration::from_millis(100) {
            return Err(refused("redelivery must be 0.1 s or more"));
        }
        Ok(())
    }
}

impl NatsEventBus {
    /// Checks the options; nothing is opened before the first use. Tasks run on `runtime`.
    pub fn new(options: NatsOptions, runtime: Handle) -> Result<Self, EventBusError> {
        options.check()?;
        let (sender, queue) = mpsc::channel(publish::QUEUE_MAX);
        let names = Names { stream: options.stream.clone(), partitions: options.partitions };
        let inner = Arc::new(Inner {
            options,
            names,
            runtime: runtime.clone(),
            link: tokio::sync::Mutex::default(),
            members: Mutex::new(Some(HashMap::new())),
            ids: AtomicU64::new(0),
        });
        let publisher = runtime.spawn(publish::run(Arc::clone(&inner), queue));
        Ok(Self {
            inner,
            publications: Mutex::new(Some(sender)),
            publisher: Mutex::new(Some(publisher)),
        })
    }

    /// Answers with what `work` comes to.
    fn answer<T, W>(&self, reply: Reply<Result<T, EventBusError>>, work: W)
    where
        T: Send + 'static,
        Result<T, EventBusError>: Lost,
        W: Future<Output = Result<T, EventBusError>> + Send + 'static,
    {
        if lock(&self.inner.members).is_none() {
            return reply.send(Err(EventBusError::Closed));
        }
        self.inner.runtime.spawn(async move { reply.send(work.await) });
    }
}

impl Inner {
    /// The connection, opened where it is not.
    async fn link(&self) -> Result<Arc<Link>, EventBusError> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let opened = Arc::new(Link::open(&self.options, &self.names).await?);
        Ok(Arc::clone(link.insert(opened)))
    }

    async fn subscribe(
        self: Arc<Self>,
        ask: SubscribeAsk,
    ) -> Result<SubscriptionId, EventBusError> {
        let id = SubscriptionId(self.ids.fetch_add(1, Ordering::Relaxed) + 1);
        let link = self.link().await?;
        let is_own = ask.group.is_none();
        let group = ask.group.clone().unwrap_or_else(own_group);
        let place = Arc::new(Place { group, wish: ask.kind.clone(), is_own });
        if !is_own {
            self.check_wishes(&link, &place).await?;
        }
        let lanes = self.open_lanes(&link, &place).await?;
        let member = Member::new(&self, &link, Arc::clone(&place), ask.attempts_max.max(1));
        let seed = id.0 ^ (u64::from(std::process::id()) << 32);
        // What a group's lanes hold is one event each; the server holds the others.
        let held_max = if is_own { HELD_MAX } else { usize::MAX };
        let settings = RelaySettings::of(&ask, held_max, seed);
        let settle = Arc::clone(&member) as _;
        let relay = Relay::new(settings, Arc::clone(&ask.handler), settle, &self.runtime);
        member.begin(relay, lanes);
        let is_open = match &mut *lock(&self.members) {
            Some(members) => members.insert(id, Arc::clone(&member)).is_none(),
            None => false,
        };
        if is_open {
            return Ok(id);
        }
        self.end(&member).await;
        Err(EventBusError::Closed)
    }

    /// All types and one type in one group would be two queues, and an event in both of them.
    async fn check_wishes(&self, link: &Link, place: &Place) -> Result<(), EventBusError> {
        use futures_util::TryStreamExt as _;
        let all = names::consumers_of_wish(&place.group, None);
        let of_group = names::consumers_of(&place.group);
        let mut known = link.events.consumer_names();
        while let Some(name) = known.try_next().await.map_err(|e| link.trouble("no answer", &e))? {
            let is_other = name.starts_with(&all) == place.wish.is_some();
            if name.starts_with(&of_group) && is_other {
                return Err(link.refused(format!(
                    "group {:?} listens to all types in one subscription and to one type in \
                     another, and would get events twice; subscribe to one or the other, or name \
                     another group (consumers {of_group}* of the stream {} are its memory)",
                    place.group, self.names.stream
                )));
            }
        }
        Ok(())
    }

    async fn open_lanes(
        &self,
        link: &Arc<Link>,
        place: &Arc<Place>,
    ) -> Result<Vec<lane::Pull>, EventBusError> {
        let mut opening = JoinSet::new();
        for lane in self.names.lanes(place.is_own) {
            let (link, place) = (Arc::clone(link), Arc::clone(place));
            opening.spawn(lane::open(
                link,
                self.names.clone(),
                place,
                lane,
                self.options.redelivery,
            ));
        }
        let mut lanes = Vec::new();
        while let Some(opened) = opening.join_next().await {
            lanes.push(opened.map_err(|error| link.trouble("cannot subscribe", &error))??);
        }
        Ok(lanes)
    }

    /// Ends a subscription, and forgets its group where that is its own.
    async fn end(&self, member: &Arc<Member>) {
        member.end().await;
        let (link, place) = (&member.link, &member.place);
        if !place.is_own {
            return;
        }
        for lane in self.names.lanes(true) {
            let name = names::consumer(lane, &place.group, place.wish.as_deref());
            if let Err(error) = link.events.delete_consumer(&name).await {
                tracing::debug!("the server forgets a subscription later by itself: {error}");
            }
        }
        parked::forget(link, &self.names, &place.group).await;
    }

    fn until(&self) -> Instant {
        Instant::now() + self.options.publish_timeout
    }
}

fn own_group() -> String {
    let mut bytes = [0_u8; 12];
    // Without chance there is still the time; nobody else's group is harmed by a wrong guess.
    if getrandom::fill(&mut bytes).is_err() {
        bytes[..8].copy_from_slice(&now().0.to_be_bytes());
    }
    bytes.iter().fold(OWN_GROUP.to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

impl EventBus for NatsEventBus {
    fn is_durable(&self) -> bool {
        true
    }

    fn publish(&self, event: BusEvent, reply: Reply<Result<(), EventBusError>>) {
        if let Err(error) = check_event(BUS, &event) {
            return reply.send(Err(error));
        }
        let publications = lock(&self.publications).clone();
        let Some(publications) = publications else {
            return reply.send(Err(EventBusError::Closed));
        };
        match publications.try_send((event, reply)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, reply))) => reply.send(Err(refused(format!(
                "{} events wait to be sent; publish again when the server has caught up",
                publish::QUEUE_MAX
            )))),
            Err(TrySendError::Closed((_, reply))) => reply.send(Err(EventBusError::Closed)),
        }
    }

    fn subscribe(&self, ask: SubscribeAsk, reply: Reply<Result<SubscriptionId, EventBusError>>) {
        if let Err(error) = check_subscription(BUS, &ask) {
            return reply.send(Err(error));
        }
        self.answer(reply, Arc::clone(&self.inner).subscribe(ask));
    }

    fn unsubscribe(&self, id: SubscriptionId, reply: Reply<Result<bool, EventBusError>>) {
        let member = lock(&self.inner.members).as_mut().and_then(|members| members.remove(&id));
        if let Some(member) = &member {
            member.stop();
        }
        let inner = Arc::clone(&self.inner);
        self.answer(reply, async move {
            let Some(member) = member else { return Ok(false) };
            inner.end(&member).await;
            Ok(true)
        });
    }

    fn parked(&self, limit: usize, reply: Reply<Result<Vec<ParkedEvent>, EventBusError>>) {
        let inner = Arc::clone(&self.inner);
        self.answer(reply, async move { parked::list(&*inner.link().await?, limit).await });
    }

    fn redrive(&self, event_id: String, group: String, reply: Reply<Result<bool, EventBusError>>) {
        let inner = Arc::clone(&self.inner);
        self.answer(reply, async move {
            let (link, until) = (inner.link().await?, inner.until());
            parked::redrive(&link, &inner.names, (&event_id, &group), until).await
        });
    }

    fn close(&self) {
        lock(&self.publications).take();
        let members = lock(&self.inner.members).take().unwrap_or_default();
        let publisher = lock(&self.publisher).take();
        let inner = Arc::clone(&self.inner);
        let (sender, closed) = blocking::channel::<()>();
        self.inner.runtime.spawn(async move {
            let mut ending = JoinSet::new();
            for member in members.into_values() {
                let inner = Arc::clone(&inner);
                ending.spawn(async move { inner.end(&member).await });
            }
            while ending.join_next().await.is_some() {}
            if let Some(publisher) = publisher {
                let _ = publisher.await;
            }
            if let Some(link) = inner.link.lock().await.take() {
                let _ = tokio::time::timeout(ANSWER_WAIT, link.client.flush()).await;
            }
            drop(sender);
        });
        // Answers when the task has let go of its sender.
        let _ = closed.recv();
    }
}
