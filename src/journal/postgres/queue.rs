//! What waits for the writer: records in order, and questions that come after them.
//!
//! Not the order of the journal: several processes write. Invariants: records leave in the order
//! in which they came; a question leaves no earlier than the records that were queued before it;
//! after [`Queue::shut`] nothing enters. What may wait is bounded by the engine, which lets only so
//! many coordinations in.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::judge::Pending;
use crate::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, JournalError, JournalStatus, Meter,
    OpenCoordination, StoredCoordination,
};
use crate::model::ids::{CoordinationId, StoreName};
use crate::reply::Reply;

/// A question, or work other than appending.
pub(super) enum Ask {
    Find(CoordinationId, Reply<Result<Option<StoredCoordination>, JournalError>>),
    UnknownOf(Vec<CoordinationId>, Reply<Result<Vec<CoordinationId>, JournalError>>),
    History(HistoryFilter, Reply<Result<Vec<StoredCoordination>, JournalError>>),
    Status(Reply<Result<JournalStatus, JournalError>>),
    Adopt(Vec<StoreName>, Reply<Result<Vec<OpenCoordination>, JournalError>>),
    Retain(Duration, Removed, Reply<Result<u64, JournalError>>),
    CountEnded(Duration, Reply<Result<u64, JournalError>>),
    ServerFacts(Reply<Result<Vec<(String, String)>, JournalError>>),
}

/// How far a removal in portions is.
pub(super) struct Removed {
    /// How many went in the portions before.
    pub(super) before: u64,
    /// How many may go in all.
    pub(super) at_most: u64,
}

impl Ask {
    /// Answers with the reason why there is no answer.
    pub(super) fn fail(self, error: JournalError) {
        match self {
            Self::Find(_, reply) => reply.send(Err(error)),
            Self::UnknownOf(_, reply) => reply.send(Err(error)),
            Self::History(_, reply) => reply.send(Err(error)),
            Self::Status(reply) => reply.send(Err(error)),
            Self::Adopt(_, reply) => reply.send(Err(error)),
            Self::ServerFacts(reply) => reply.send(Err(error)),
            Self::Retain(_, _, reply) | Self::CountEnded(_, reply) => reply.send(Err(error)),
        }
    }
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Work {
    pub(super) batch: Vec<Pending>,
    pub(super) asks: Vec<Ask>,
    /// Nothing will come any more, and nothing is left in the queue.
    pub(super) is_last: bool,
}

#[derive(Default)]
struct State {
    appends: VecDeque<Pending>,
    /// How many of them somebody waits for.
    awaited: usize,
    lazy_since: Option<Instant>,
    queued_count: u64,
    taken_count: u64,
    /// With the count of records that were queued before.
    asks: VecDeque<(u64, Ask)>,
    shut: Option<JournalError>,
}

/// The queue, shared by callers and the writer.
#[derive(Default)]
pub(super) struct Queue {
    // A plain mutex: it is held for moves of a few pointers, never across a wait.
    state: Mutex<State>,
    changed: Notify,
    sink: OnceLock<Arc<dyn AnswerSink>>,
    /// What the writer counts.
    pub(super) meter: Meter,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs while it is held, and its contents are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attach(&self, sink: Arc<dyn AnswerSink>) {
        // A second sink is refused by being ignored: the port says "called once".
        let _ = self.sink.set(sink);
    }

    pub(super) fn answer(&self, answers: Vec<(u64, Answer)>) {
        if let Some(sink) = self.sink.get()
            && !answers.is_empty()
        {
            sink.answered(answers);
        }
    }

    pub(super) fn health_changed(&self, trouble: Option<JournalError>) {
        if let Some(sink) = self.sink.get() {
            sink.health_changed(trouble);
        }
    }

    /// Queues records; refuses them when shut.
    pub(super) fn append(&self, batch: &mut Vec<Append>) {
        let mut state = self.lock();
        if let Some(error) = state.shut.clone() {
            drop(state);
            return self.refuse(batch.drain(..), &error);
        }
        if state.lazy_since.is_none() && !batch.is_empty() {
            state.lazy_since = Some(Instant::now());
        }
        for append in batch.drain(..) {
            state.awaited += usize::from(append.durability != Durability::Lazy);
            state.queued_count += 1;
            state.appends.push_back(Pending { append, retried: false });
        }
        drop(state);
        self.changed.notify_one();
    }

    fn refuse(&self, batch: impl Iterator<Item = Append>, error: &JournalError) {
        let awaited = batch.filter(|append| append.durability != Durability::Lazy);
        self.answer(awaited.map(|a| (a.token, Answer::Failed(error.clone()))).collect());
    }

    /// Queues a question; fails it when shut.
    pub(super) fn ask(&self, ask: Ask) {
        let mut state = self.lock();
        if let Some(error) = state.shut.clone() {
            drop(state);
            return ask.fail(error);
        }
        let before = state.queued_count;
        state.asks.push_back((before, ask));
        drop(state);
        self.changed.notify_one();
    }

    /// Lets nothing enter any more. The writer still gets what is in the queue.
    pub(super) fn shut(&self, error: JournalError) {
        self.lock().shut.get_or_insert(error);
        self.changed.notify_one();
    }

    pub(super) fn is_shut(&self) -> bool {
        self.lock().shut.is_some()
    }

    /// Fails everything that is in the queue.
    pub(super) fn drain(&self, error: &JournalError) {
        let work = self.lock().take(usize::MAX);
        self.refuse(work.batch.into_iter().map(|pending| pending.append), error);
        for ask in work.asks {
            ask.fail(error.clone());
        }
    }

    /// Takes what is there.
    pub(super) fn take_now(&self, batch_max: usize) -> Work {
        self.lock().take(batch_max)
    }

    /// Waits for work and takes it: at once what somebody waits for, after `lazy_wait` the rest.
    pub(super) async fn take(&self, batch_max: usize, lazy_wait: Duration) -> Work {
        loop {
            let due = {
                let mut state = self.lock();
                let due = state.lazy_since.map(|since| since + lazy_wait);
                let is_due = due.is_some_and(|due| due <= Instant::now());
                if is_due || state.is_urgent(batch_max) {
                    return state.take(batch_max);
                }
                due
            };
            match due {
                None => self.changed.notified().await,
                Some(due) => {
                    // Late is as good as woken: the queue is looked at again in both cases.
                    let _ = tokio::time::timeout_at(due.into(), self.changed.notified()).await;
                }
            }
        }
    }

    /// Waits until then, or until the queue is shut.
    pub(super) async fn pause(&self, until: Instant) {
        while !self.is_shut() {
            if tokio::time::timeout_at(until.into(), self.changed.notified()).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn is_urgent(&self, batch_max: usize) -> bool {
        self.awaited > 0
            || self.appends.len() >= batch_max
            || !self.asks.is_empty()
            || self.shut.is_some()
    }

    fn take(&mut self, batch_max: usize) -> Work {
        let count = self.appends.len().min(batch_max);
        let batch: Vec<Pending> = self.appends.drain(..count).collect();
        let awaited = batch.iter().filter(|p| p.append.durability != Durability::Lazy).count();
        self.awaited -= awaited;
        self.taken_count += batch.len() as u64;
        if self.appends.is_empty() {
            self.lazy_since = None;
        }
        let mut asks = Vec::new();
        while let Some((before, _)) = self.asks.front()
            && *before <= self.taken_count
            && let Some((_, ask)) = self.asks.pop_front()
        {
            asks.push(ask);
        }
        let is_last = self.shut.is_some() && self.appends.is_empty() && self.asks.is_empty();
        Work { batch, asks, is_last }
    }
}
