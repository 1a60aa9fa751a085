//! What waits for the writer: events to publish, questions, and the members that have something to
//! report or room for more.
//!
//! Invariants: events leave in the order in which they came; no more than [`PUBLISHES_MAX`] wait;
//! after [`Queue::shut`] only the last words of members enter.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::events::member::Member;
use crate::events::{BusEvent, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::reply::Reply;

/// How many events may wait for the disk.
pub(super) const PUBLISHES_MAX: usize = 65_536;

type Answer<T> = Reply<Result<T, EventBusError>>;

/// A question, or work other than publishing.
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

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Work {
    pub(super) publishes: Vec<(BusEvent, Answer<()>)>,
    pub(super) asks: Vec<Ask>,
    pub(super) members: Vec<Arc<Member>>,
    /// A member has something to report.
    pub(super) is_stirred: bool,
    /// Nothing will come any more, and nothing is left.
    pub(super) is_last: bool,
}

#[derive(Default)]
struct State {
    publishes: VecDeque<(BusEvent, Answer<()>)>,
    asks: VecDeque<Ask>,
    members: HashMap<SubscriptionId, Arc<Member>>,
    is_stirred: bool,
    is_shut: bool,
    is_last: bool,
}

impl Work {
    /// Whether somebody brought something.
    pub(super) fn has_work(&self) -> bool {
        !self.publishes.is_empty() || !self.asks.is_empty() || self.is_stirred
    }
}

impl State {
    fn has_work(&self) -> bool {
        !self.publishes.is_empty() || !self.asks.is_empty() || self.is_stirred || self.is_last
    }
}

/// The queue, shared by callers, members and the writer.
#[derive(Default)]
pub(super) struct Queue {
    // A plain mutex: held for moves of a few pointers, never across a commit.
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Its contents are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event, or gives the reason why not.
    pub(super) fn publish(&self, bus: &str, event: BusEvent, reply: Answer<()>) {
        let mut state = self.lock();
        let refusal = if state.is_shut {
            EventBusError::Closed
        } else if state.publishes.len() >= PUBLISHES_MAX {
            let reason = format!(
                "{PUBLISHES_MAX} events wait for the disk already; publish again when some of \
                 them are answered"
            );
            EventBusError::Refused { bus: bus.to_owned(), reason }
        } else {
            state.publishes.push_back((event, reply));
            drop(state);
            return self.changed.notify_one();
        };
        drop(state);
        reply.send(Err(refusal));
    }

    /// Queues a question; gives it back when shut.
    pub(super) fn ask(&self, ask: Ask) -> Option<Ask> {
        let mut state = self.lock();
        if state.is_last || state.is_shut && !matches!(ask, Ask::Leave(..)) {
            return Some(ask);
        }
        state.asks.push_back(ask);
        drop(state);
        self.changed.notify_one();
        None
    }

    /// A member has something to report, or room.
    pub(super) fn stir(&self) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.is_stirred, true) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// False when it is shut.
    pub(super) fn add_member(&self, member: Arc<Member>) -> bool {
        let mut state = self.lock();
        if !state.is_shut {
            state.members.insert(member.id, member);
        }
        !state.is_shut
    }

    pub(super) fn member(&self, id: SubscriptionId) -> Option<Arc<Member>> {
        self.lock().members.get(&id).cloned()
    }

    pub(super) fn remove_member(&self, id: SubscriptionId) {
        self.lock().members.remove(&id);
    }

    /// Nothing enters any more but what members say at their end; those that there are.
    pub(super) fn shut(&self) -> Vec<Arc<Member>> {
        let mut state = self.lock();
        state.is_shut = true;
        state.members.values().cloned().collect()
    }

    /// The writer ends when it has done what is there.
    pub(super) fn finish(&self) {
        self.lock().is_last = true;
        self.changed.notify_one();
    }

    /// Nobody is there any more to do anything: what waits is answered as lost.
    pub(super) fn abandon(&self) {
        let (publishes, asks) = {
            let mut state = self.lock();
            (state.is_shut, state.is_last) = (true, true);
            (std::mem::take(&mut state.publishes), std::mem::take(&mut state.asks))
        };
        drop((publishes, asks));
    }

    /// Waits for work, no longer than `patience`.
    pub(super) fn take(&self, most: usize, patience: Duration) -> Work {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.has_work() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = state.publishes.len().min(most);
        let publishes = state.publishes.drain(..count).collect();
        let asks = state.asks.drain(..).collect();
        let is_stirred = std::mem::take(&mut state.is_stirred);
        let members = state.members.values().cloned().collect();
        let is_last = state.is_last && state.publishes.is_empty();
        Work { publishes, asks, members, is_stirred, is_last }
    }
}
