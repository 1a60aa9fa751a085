//! What waits for the writer: records in order, and questions that come after them.
//!
//! Not the order in the log: several processes may write; this is one process's share.
//! Invariants: records leave in the order in which they came; a question leaves no earlier than
//! the records that were queued before it; after [`Queue::shut`] nothing enters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::linger::Linger;
use super::queued::State;
pub(super) use super::queued::Wait;
use super::serve_streams::StreamAsk;
use super::trouble::Outcome;
use crate::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, JournalError, JournalStatus, Meter,
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
    /// With the most that may go.
    Retain(Duration, u64, Reply<Result<u64, JournalError>>),
    CountEnded(Duration, Reply<Result<u64, JournalError>>),
    Shrink(Reply<Result<u64, JournalError>>),
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
            Self::Retain(_, _, reply) | Self::CountEnded(_, reply) | Self::Shrink(reply) => {
                reply.send(Err(error));
            }
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
        let must_wake = self.enter(&mut state, batch);
        drop(state);
        if must_wake {
            self.changed.notify_one();
        }
    }

    /// The same, but where the writer sleeps and has nothing else to do it is let sleep: true when
    /// the caller is to do the work by [`super::desk::Desk::work`]. Only a caller that can wait for
    /// the disk is asked for what needs that.
    pub(super) fn append_alone(&self, batch: &mut Vec<Append>, can_wait: bool) -> bool {
        let mut state = self.lock();
        let is_idle = state.is_waiting && state.awaited == 0 && state.is_quiet();
        let is_easy = || batch.iter().all(|append| append.durability != Durability::Forced);
        if !is_idle || !(can_wait || is_easy()) {
            drop(state);
            self.append(batch);
            return false;
        }
        self.enter(&mut state, batch);
        state.awaited > 0
    }

    /// Puts records in; says whether the writer is to be woken: by the first that somebody waits
    /// for (while one of those waits it is awake already), or to start the clock of the others.
    fn enter(&self, state: &mut State, batch: &mut Vec<Append>) -> bool {
        let was_awake = state.awaited > 0;
        if state.lazy_since.is_none() && !batch.is_empty() {
            state.lazy_since = Some(Instant::now());
        }
        for append in batch.drain(..) {
            state.awaited += usize::from(append.durability != Durability::Lazy);
            state.queued_count += 1;
            state.appends.push_back(Pending::new(append));
        }
        if state.awaited > 0 {
            state.arrivals += 1;
            self.arrivals.store(state.arrivals, Ordering::Relaxed);
        }
        let is_due = || state.lazy_due().is_some_and(|due| state.sleeps_beyond(due));
        state.is_waiting && !was_awake && (state.awaited > 0 || is_due())
    }

    /// Wakes the writer's thread.
    pub(super) fn wake(&self) {
        // Under the lock: a thread that is about to sleep must not miss it.
        self.lock().turns += 1;
        self.changed.notify_one();
    }

    /// Another thread did the writer's work, which is to be looked at again by `next`.
    pub(super) fn turned(&self, next: Instant) {
        let mut state = self.lock();
        state.turns += 1;
        let must_wake = state.is_waiting && state.sleeps_beyond(next);
        drop(state);
        if must_wake {
            self.changed.notify_one();
        }
    }

    /// How often another thread did the writer's work.
    pub(super) fn turns(&self) -> u64 {
        self.lock().turns
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

    /// Waits for work, or until the writer has other things to do. Takes nothing.
    pub(super) fn wait(&self, wait: &Wait) {
        let mut state = self.lock();
        state.lazy_max = wait.lazy_max;
        if !wait.is_pause && state.is_quiet() && state.awaited == 0 {
            state = self.linger(state);
        }
        while state.turns == wait.turns && state.is_quiet() {
            let lazy_due = if wait.is_pause { None } else { state.lazy_due() };
            let wake = [wait.until, lazy_due].into_iter().flatten().min();
            let is_ready = !wait.is_pause && state.is_ready(wait.batch_max);
            let now = Instant::now();
            if is_ready || wake.is_some_and(|wake| wake <= now) {
                return;
            }
            state = self.sleep(state, wake.map(|wake| wake - now));
        }
    }

    /// Takes what is due: records only when somebody waits for them, or they waited long enough.
    pub(super) fn take_due(&self, batch_max: usize) -> Work {
        let mut state = self.lock();
        let is_due = state.lazy_due().is_some_and(|due| due <= Instant::now());
        let is_due = is_due || state.is_ready(batch_max) || !state.is_quiet();
        if is_due { state.take(batch_max) } else { Work::default() }
    }

    /// Takes the records for a thread that does the writer's work; `None` where there is more to
    /// do than that thread may.
    pub(super) fn take_alone(&self, batch_max: usize, can_wait: bool) -> Option<Vec<Pending>> {
        let mut state = self.lock();
        let is_forced = |pending: &Pending| pending.append.durability == Durability::Forced;
        let is_easy = can_wait || !state.appends.iter().any(is_forced);
        let is_small = state.is_quiet() && state.appends.len() <= batch_max && is_easy;
        is_small.then(|| state.take_appends(batch_max))
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
        state.wakes_at = wait.map(|wait| Instant::now() + wait);
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

    /// Takes what is there, records only `with_records`, questions in any case.
    pub(super) fn take_now(&self, with_records: bool) -> Work {
        let mut state = self.lock();
        if with_records { state.take(usize::MAX) } else { state.take_asks() }
    }
}
