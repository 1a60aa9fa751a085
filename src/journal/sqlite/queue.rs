//! What waits for the writer: records in order, and questions that come after them.
//!
//! Not the order in the log: several processes may write; this is one process's share.
//! Invariants: records leave in the order in which they came; a question leaves no earlier than
//! the records that were queued before it; after [`Queue::shut`] nothing enters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::linger::Linger;
use super::serve_streams::StreamAsk;
use super::trouble::Outcome;
use crate::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, JournalError, JournalStatus,
    OpenCoordination, StoredCoordination,
};
use crate::model::ids::{CoordinationId, StoreName};
use crate::reply::Reply;

/// A record on its way, over one or more tries.
pub(super) struct Pending {
    pub(super) append: Append,
    /// It was promised (or refused) to the caller already.
    pub(super) answered: bool,
    /// The answer was a refusal: it is not to be written.
    pub(super) refused: bool,
    /// An earlier try failed, and its end is not known for certain.
    pub(super) retried: bool,
}

impl Pending {
    fn new(append: Append) -> Self {
        Self { append, answered: false, refused: false, retried: false }
    }
}

/// A piece of work on a connection.
pub(super) type Job = Box<dyn FnOnce(&Connection) + Send>;

/// A question, or work other than appending.
pub(super) enum Ask {
    Find(CoordinationId, Reply<Result<Option<StoredCoordination>, JournalError>>),
    UnknownOf(Vec<CoordinationId>, Reply<Result<Vec<CoordinationId>, JournalError>>),
    History(HistoryFilter, Reply<Result<Vec<StoredCoordination>, JournalError>>),
    Status(Reply<Result<JournalStatus, JournalError>>),
    Adopt(Vec<StoreName>, Reply<Result<Vec<OpenCoordination>, JournalError>>),
    Retain(Duration, Reply<Result<u64, JournalError>>),
    Streams(StreamAsk),
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
            Self::Retain(_, reply) => reply.send(Err(error)),
            Self::Streams(ask) => ask.fail(error),
        }
    }
}

/// What the writer of the tables has to say.
pub(super) enum Note {
    /// A portion: up to where the tables are complete now, and whether that is on the disk.
    Projected { done: Outcome<i64>, is_durable: bool },
    /// How many old coordinations were removed.
    Removed(Outcome<usize>),
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Work {
    pub(super) batch: Vec<Pending>,
    pub(super) asks: Vec<Ask>,
    pub(super) notes: Vec<Note>,
    /// Nothing will come any more, and nothing is left in the queue.
    pub(super) is_last: bool,
}

#[derive(Default)]
struct State {
    appends: VecDeque<Pending>,
    /// How many of them somebody waits for.
    awaited: usize,
    lazy_since: Option<Instant>,
    /// The same count, as the holder of the lock knows it.
    arrivals: u64,
    /// Whether the writer sleeps; else it looks by itself before it does.
    is_waiting: bool,
    queued_count: u64,
    taken_count: u64,
    /// With the count of records that were queued before.
    asks: VecDeque<(u64, Ask)>,
    notes: Vec<Note>,
    shut: Option<JournalError>,
}

/// The queue, shared by callers and the writer.
#[derive(Default)]
pub(super) struct Queue {
    // A plain mutex: it is held for moves of a few pointers, never across a commit.
    state: Mutex<State>,
    changed: Condvar,
    sink: OnceLock<Arc<dyn AnswerSink>>,
    /// How often records came that somebody waits for; read without the lock.
    arrivals: AtomicU64,
    linger: Linger,
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

    pub(super) fn events_appended(&self, through: u64) {
        if let Some(sink) = self.sink.get() {
            sink.events_appended(through);
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
            return self.refuse(std::mem::take(batch), &error);
        }
        let was_awake = state.awaited > 0;
        let was_empty = state.appends.is_empty();
        if state.lazy_since.is_none() && !batch.is_empty() {
            state.lazy_since = Some(Instant::now());
        }
        for append in batch.drain(..) {
            state.awaited += usize::from(append.durability != Durability::Lazy);
            state.queued_count += 1;
            state.appends.push_back(Pending::new(append));
        }
        // The writer is woken by the first record, which starts its clock, and by the first that
        // somebody waits for; while one of those waits it is awake already.
        if state.awaited > 0 {
            state.arrivals += 1;
            self.arrivals.store(state.arrivals, Ordering::Relaxed);
        }
        let must_wake = state.is_waiting && !was_awake && (was_empty || state.awaited > 0);
        drop(state);
        if must_wake {
            self.changed.notify_one();
        }
    }

    fn refuse(&self, batch: Vec<Append>, error: &JournalError) {
        let awaited = batch.into_iter().filter(|append| append.durability != Durability::Lazy);
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

    /// Tells the writer of something that is done. Enters also when shut: it was asked for.
    pub(super) fn note(&self, note: Note) {
        self.lock().notes.push(note);
        self.changed.notify_one();
    }

    /// Waits for notes alone, and takes them.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        let mut state = self.lock();
        while state.notes.is_empty() {
            state = self.sleep(state, None);
        }
        std::mem::take(&mut state.notes)
    }

    /// Lets nothing enter any more. The writer still gets what is in the queue.
    pub(super) fn shut(&self, error: JournalError) {
        self.lock().shut.get_or_insert(error);
        self.changed.notify_one();
    }

    pub(super) fn is_shut(&self) -> bool {
        self.lock().shut.is_some()
    }

    /// Waits for work, at most until `until` (for ever if `None`), and takes it.
    pub(super) fn take(
        &self,
        until: Option<Instant>,
        batch_max: usize,
        lazy_wait: Duration,
    ) -> Work {
        let mut state = self.lock();
        if state.is_quiet() && state.awaited == 0 {
            state = self.linger(state);
        }
        loop {
            if state.awaited > 0 || state.appends.len() >= batch_max || !state.is_quiet() {
                return state.take(batch_max);
            }
            let now = Instant::now();
            let lazy_due = state.lazy_since.map(|since| since + lazy_wait);
            if lazy_due.is_some_and(|due| due <= now) {
                return state.take(batch_max);
            }
            let wake = [until, lazy_due].into_iter().flatten().min();
            state = match wake {
                Some(wake) if wake <= now => return Work::default(),
                wake => self.sleep(state, wake.map(|wake| wake - now)),
            };
        }
    }

    /// Looks for a moment whether a record comes that somebody waits for, before it sleeps.
    fn linger<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let before = state.arrivals;
        drop(state);
        self.linger.look(|| self.arrivals.load(Ordering::Relaxed) != before);
        self.lock()
    }

    /// Sleeps until something changes, at most that long.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        wait: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        state.is_waiting = true;
        let mut state = match wait {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(wait) => {
                let waited = self.changed.wait_timeout(state, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.is_waiting = false;
        state
    }

    /// Takes at most `room` records, waiting up to `wait` for the first that somebody waits for.
    pub(super) fn take_records(&self, wait: Duration, room: usize) -> Vec<Pending> {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        if state.awaited == 0 && state.shut.is_none() && !wait.is_zero() {
            state = self.linger(state);
        }
        while state.awaited == 0 && state.shut.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.sleep(state, Some(left));
        }
        state.take_appends(room)
    }

    /// Fails everything that is in the queue.
    pub(super) fn drain(&self, error: &JournalError) {
        let work = self.take_now(true);
        self.refuse(work.batch.into_iter().map(|pending| pending.append).collect(), error);
        for ask in work.asks {
            ask.fail(error.clone());
        }
    }

    /// Waits until then, or until something other than a record comes.
    pub(super) fn pause(&self, until: Instant) {
        let mut state = self.lock();
        while state.is_quiet() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            if left.is_zero() {
                return;
            }
            state = self.sleep(state, Some(left));
        }
    }

    /// Takes what is there, records only `with_records`, questions in any case.
    pub(super) fn take_now(&self, with_records: bool) -> Work {
        let mut state = self.lock();
        if with_records { state.take(usize::MAX) } else { state.take_asks() }
    }
}

impl State {
    /// Whether there is nothing but records to see to.
    fn is_quiet(&self) -> bool {
        self.asks.is_empty() && self.notes.is_empty() && self.shut.is_none()
    }

    fn take_appends(&mut self, batch_max: usize) -> Vec<Pending> {
        // The room stays where callers fill it again.
        let count = self.appends.len().min(batch_max);
        let batch: Vec<Pending> = self.appends.drain(..count).collect();
        let awaited = batch.iter().filter(|p| p.append.durability != Durability::Lazy).count();
        self.awaited -= awaited;
        self.taken_count += batch.len() as u64;
        if self.appends.is_empty() {
            self.lazy_since = None;
        }
        batch
    }

    fn take(&mut self, batch_max: usize) -> Work {
        let batch = self.take_appends(batch_max);
        let mut asks = Vec::new();
        while let Some((before, _)) = self.asks.front()
            && *before <= self.taken_count
            && let Some((_, ask)) = self.asks.pop_front()
        {
            asks.push(ask);
        }
        let is_last = self.shut.is_some() && self.appends.is_empty() && self.asks.is_empty();
        Work { batch, asks, notes: std::mem::take(&mut self.notes), is_last }
    }

    fn take_asks(&mut self) -> Work {
        let asks = self.asks.drain(..).map(|(_, ask)| ask).collect();
        Work { asks, notes: std::mem::take(&mut self.notes), ..Work::default() }
    }
}
