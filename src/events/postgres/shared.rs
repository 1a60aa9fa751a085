//! What the tasks of one PostgreSQL bus share: what waits to be sent, its members, and the wakes.
//!
//! Not the sending. Invariants: events leave in the order in which they came; no more than
//! [`PUBLISHES_MAX`] wait; nobody waits longer than the patience for a server that is not there.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::PostgresBusOptions;
use super::link::Trouble;
use crate::db::postgres::Server;
use crate::events::member::Member;
use crate::events::{BusEvent, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::reply::Reply;

/// How many events may wait for the server.
const PUBLISHES_MAX: usize = 65_536;

pub(super) type Answer<T> = Reply<Result<T, EventBusError>>;

/// An event on its way.
pub(super) struct Publish {
    pub(super) event: BusEvent,
    pub(super) reply: Answer<()>,
    pub(super) began: Instant,
}

/// A question.
pub(super) struct Asked {
    pub(super) ask: Ask,
    pub(super) began: Instant,
}

/// What is asked.
pub(super) enum Ask {
    Subscribe(SubscribeAsk, Answer<SubscriptionId>),
    /// No handler of this member is out any more.
    Leave(Arc<Member>, Answer<bool>),
    Parked(usize, Answer<Vec<ParkedEvent>>),
    Redrive {
        event_id: String,
        group: String,
        reply: Answer<bool>,
    },
}

impl Ask {
    /// Answers with the reason why there is no answer.
    pub(super) fn fail(self, error: EventBusError) {
        match self {
            Self::Subscribe(_, reply) => reply.send(Err(error)),
            Self::Leave(_, reply) | Self::Redrive { reply, .. } => reply.send(Err(error)),
            Self::Parked(_, reply) => reply.send(Err(error)),
        }
    }
}

#[derive(Default)]
struct State {
    publishes: VecDeque<Publish>,
    asks: VecDeque<Asked>,
    members: HashMap<SubscriptionId, Arc<Member>>,
    is_shut: bool,
    trouble: Option<Trouble>,
}

/// Shared by the bus and its tasks.
pub(super) struct Inner {
    pub(super) server: Server,
    pub(super) options: PostgresBusOptions,
    pub(super) runtime: Handle,
    // A plain mutex: held for moves of a few pointers.
    state: Mutex<State>,
    pub(super) to_publish: Notify,
    pub(super) to_do: Notify,
    /// A member reported, or somebody published or let go of something.
    is_stirred: AtomicBool,
    last_id: AtomicU64,
    pub(super) is_closing: watch::Sender<bool>,
}

impl Inner {
    pub(super) fn new(server: Server, options: PostgresBusOptions, runtime: Handle) -> Self {
        Self {
            server,
            options,
            runtime,
            state: Mutex::default(),
            to_publish: Notify::new(),
            to_do: Notify::new(),
            is_stirred: AtomicBool::new(false),
            last_id: AtomicU64::new(0),
            is_closing: watch::Sender::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its contents are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the bus is, for people.
    pub(super) fn name(&self) -> String {
        self.server.label.clone()
    }

    pub(super) fn next_id(&self) -> SubscriptionId {
        SubscriptionId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Queues an event, or gives the reason why not.
    pub(super) fn publish(&self, event: BusEvent, reply: Answer<()>) {
        let mut state = self.state();
        let refusal = if state.is_shut {
            EventBusError::Closed
        } else if state.publishes.len() >= PUBLISHES_MAX {
            let reason = format!(
                "{PUBLISHES_MAX} events wait for the server already; publish again when some of \
                 them are answered"
            );
            EventBusError::Refused { bus: self.name(), reason }
        } else {
            state.publishes.push_back(Publish { event, reply, began: Instant::now() });
            drop(state);
            return self.to_publish.notify_one();
        };
        drop(state);
        reply.send(Err(refusal));
    }

    /// The next events to send, oldest first.
    pub(super) fn take_publishes(&self, most: usize) -> Vec<Publish> {
        let mut state = self.state();
        let count = state.publishes.len().min(most);
        state.publishes.drain(..count).collect()
    }

    pub(super) fn has_publishes(&self) -> bool {
        !self.state().publishes.is_empty()
    }

    /// Sent again before what came later.
    pub(super) fn put_back(&self, publishes: Vec<Publish>) {
        let mut state = self.state();
        for publish in publishes.into_iter().rev() {
            state.publishes.push_front(publish);
        }
    }

    /// Queues a question; refuses it when shut.
    pub(super) fn ask(&self, ask: Ask) {
        let mut state = self.state();
        if state.is_shut && !matches!(ask, Ask::Leave(..)) {
            drop(state);
            return ask.fail(EventBusError::Closed);
        }
        state.asks.push_back(Asked { ask, began: Instant::now() });
        drop(state);
        self.to_do.notify_one();
    }

    pub(super) fn take_ask(&self) -> Option<Asked> {
        self.state().asks.pop_front()
    }

    pub(super) fn put_back_ask(&self, asked: Asked) {
        self.state().asks.push_front(asked);
    }

    /// Answers what has waited for too long, or everything.
    pub(super) fn refuse(&self, is_all: bool, error: &EventBusError) {
        let longest = self.options.patience;
        let (publishes, asks) = {
            let mut state = self.state();
            let is_late = |began: Instant| is_all || began.elapsed() >= longest;
            // They are in the order of their coming.
            let count = state.publishes.iter().take_while(|one| is_late(one.began)).count();
            let publishes: Vec<Publish> = state.publishes.drain(..count).collect();
            let count = state.asks.iter().take_while(|one| is_late(one.began)).count();
            let asks: Vec<Asked> = state.asks.drain(..count).collect();
            (publishes, asks)
        };
        for publish in publishes {
            publish.reply.send(Err(error.clone()));
        }
        for asked in asks {
            asked.ask.fail(error.clone());
        }
    }

    /// A connection could not be had, or broke.
    pub(super) fn in_trouble(&self, trouble: Trouble) {
        let error = self.unavailable(trouble.words());
        let is_refused = matches!(trouble, Trouble::Refused(_));
        if self.state().trouble.replace(trouble).is_none() {
            tracing::warn!(%error, "the event bus lost its server; it is tried again");
        }
        self.refuse(is_refused, &error);
    }

    /// Questions that are late are not kept waiting for a connection that is still tried.
    pub(super) fn refuse_late(&self) {
        let trouble = self.state().trouble.clone();
        let words = trouble.as_ref().map_or("cannot connect: it does not answer", Trouble::words);
        self.refuse(false, &self.unavailable(words));
    }

    /// It works again.
    pub(super) fn out_of_trouble(&self) {
        self.state().trouble = None;
    }

    pub(super) fn unavailable(&self, reason: &str) -> EventBusError {
        EventBusError::Unavailable { bus: self.name(), reason: reason.to_owned() }
    }

    /// A member has something to report, or room.
    pub(super) fn stir(&self) {
        if !self.is_stirred.swap(true, Ordering::AcqRel) {
            self.to_do.notify_one();
        }
    }

    /// The server says that there may be something to claim.
    pub(super) fn hear(&self) {
        if self.members().iter().any(|member| member.claims().room() > 0) {
            self.stir();
        }
    }

    pub(super) fn is_stirred(&self) -> bool {
        self.is_stirred.swap(false, Ordering::AcqRel)
    }

    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        self.state().members.values().cloned().collect()
    }

    pub(super) fn member(&self, id: SubscriptionId) -> Option<Arc<Member>> {
        self.state().members.get(&id).cloned()
    }

    /// False when it is shut.
    pub(super) fn add_member(&self, member: Arc<Member>) -> bool {
        let mut state = self.state();
        if !state.is_shut {
            state.members.insert(member.id, member);
        }
        !state.is_shut
    }

    pub(super) fn remove_member(&self, id: SubscriptionId) {
        self.state().members.remove(&id);
    }

    /// Nothing enters any more but what members say at their end; those that there are.
    pub(super) fn shut(&self) -> Vec<Arc<Member>> {
        let mut state = self.state();
        state.is_shut = true;
        state.members.values().cloned().collect()
    }

    /// Comes when the bus closes.
    pub(super) async fn closing(&self) {
        // The sender lives as long as this.
        let _ = self.is_closing.subscribe().wait_for(|is_closing| *is_closing).await;
    }
}
