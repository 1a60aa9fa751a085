//! Records on their way into the cluster: in order, one proposal at a time, again when it must be.
//!
//! Not the questions (`super`). Invariants: while no majority answers, a begin that was never
//! proposed fails, and everything else waits; what may have been proposed is never answered before
//! it is known. A thread of its own tries again; nobody else waits for time.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::folded;
use crate::cluster::{ClusterError, QuorumLost, ReplicaEar, ReplicatedLog};
use crate::journal::{Answer, AnswerSink, Append, Durability, JournalError, Meter};
use crate::model::record::Record;
use crate::protocol::replica::{Answer as Word, Command, Effect, Replica};
use crate::reply::Reply;

/// How many records one proposal carries at most.
const BATCH_MAX: usize = 1_000;
/// How long to wait before a proposal that failed is tried again, unless a majority is heard of.
const PAUSE: Duration = Duration::from_millis(50);

/// A question that waits for the records before it.
pub(super) type Behind = Box<dyn FnOnce(Result<(), JournalError>) + Send>;

struct Pending {
    append: Append,
    /// An earlier try may have been carried out.
    may_stand: bool,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Pending>,
    is_under_way: bool,
    queued: u64,
    done: u64,
    /// With how many records were queued before.
    behind: Vec<(u64, Behind)>,
    trouble: Option<JournalError>,
    /// Nothing enters any more.
    shut: Option<JournalError>,
}

/// What the journal shares with its thread and the log.
pub(super) struct Inner {
    pub(super) log: Arc<dyn ReplicatedLog>,
    state: Mutex<State>,
    changed: Condvar,
    sink: OnceLock<Arc<dyn AnswerSink>>,
    pub(super) meter: Meter,
}

impl Inner {
    pub(super) fn new(log: Arc<dyn ReplicatedLog>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let (sink, meter) = (OnceLock::new(), Meter::default());
        let inner = Arc::new(Self { log, state, changed, sink, meter });
        inner.log.listen(Arc::new(Ear(Arc::downgrade(&inner))));
        inner
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<JoinHandle<()>, JournalError> {
        let inner = Arc::clone(self);
        let thread = thread::Builder::new().name("unanimity-journal".to_owned());
        thread.spawn(move || inner.run()).map_err(|error| JournalError::Open {
            path: self.log.location(),
            reason: format!("{error}; this process must be able to start threads"),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under it, and its contents are whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster's error in the journal's words.
    pub(super) fn told(&self, error: ClusterError) -> JournalError {
        match error {
            ClusterError::Closed => JournalError::Closed,
            other => {
                JournalError::Unavailable { path: self.log.location(), reason: other.to_string() }
            }
        }
    }

    pub(super) fn attach(&self, sink: Arc<dyn AnswerSink>) {
        // A second one is ignored: the port says "called once".
        let _ = self.sink.set(sink);
    }

    fn answer(&self, answers: Vec<(u64, Answer)>) {
        if let Some(sink) = self.sink.get().filter(|_| !answers.is_empty()) {
            sink.answered(answers);
        }
    }

    pub(super) fn append(self: &Arc<Self>, batch: &mut Vec<Append>) {
        let mut state = self.lock();
        if let Some(error) = state.shut.clone() {
            drop(state);
            let awaited = batch.drain(..).filter(|it| it.durability != Durability::Lazy);
            let failed = |it: Append| (it.token, Answer::Failed(error.clone()));
            return self.answer(awaited.map(failed).collect());
        }
        state.queued += batch.len() as u64;
        let pending = batch.drain(..).map(|append| Pending { append, may_stand: false });
        state.waiting.extend(pending);
        drop(state);
        self.pump();
    }

    /// Calls `behind` when everything that was appended so far is carried out, or cannot be now.
    pub(super) fn behind_appends(&self, behind: Behind) {
        let mut state = self.lock();
        let error = state.shut.as_ref().or(state.trouble.as_ref()).cloned();
        if error.is_none() && state.done < state.queued {
            let before = state.queued;
            state.behind.push((before, behind));
            return;
        }
        drop(state);
        behind(error.map_or(Ok(()), Err));
    }

    /// Proposes what waits, unless a proposal is under way.
    fn pump(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.is_under_way || state.waiting.is_empty() {
            return;
        }
        state.is_under_way = true;
        let count = state.waiting.len().min(BATCH_MAX);
        let batch: Vec<Pending> = state.waiting.drain(..count).collect();
        drop(state);
        let commands = batch.iter().map(|pending| {
            let Append { id, epoch, at, record, .. } = &pending.append;
            Command::Append { id: id.clone(), epoch: *epoch, at: *at, record: record.clone() }
        });
        let (inner, commands, began) = (Arc::clone(self), commands.collect(), Instant::now());
        let reply = Reply::new(move |answers: Result<Vec<Word>, ClusterError>| {
            if answers.is_ok() {
                inner.meter.wrote(batch.len());
                inner.meter.synced(began.elapsed());
            }
            inner.proposed(batch, answers);
        });
        self.log.propose(commands, reply);
    }

    fn proposed(self: &Arc<Self>, batch: Vec<Pending>, answers: Result<Vec<Word>, ClusterError>) {
        match answers {
            Ok(words) => self.carried_out(batch, words),
            Err(error @ (ClusterError::Stopped { .. } | ClusterError::Closed)) => {
                self.over(batch, &self.told(error));
            }
            Err(error) => {
                let is_unknown = matches!(error, ClusterError::Unknown { .. });
                self.put_back(batch, is_unknown, &self.told(error));
            }
        }
    }

    fn carried_out(self: &Arc<Self>, batch: Vec<Pending>, words: Vec<Word>) {
        let count = batch.len() as u64;
        let answered = batch.iter().zip(words);
        let awaited = answered.filter(|(it, _)| it.append.durability != Durability::Lazy);
        let answers = awaited.map(|(it, word)| (it.append.token, self.answer_of(&it.append, word)));
        let answers = answers.collect();
        let mut state = self.lock();
        state.done += count;
        let done = state.done;
        // Before the answers: whoever has one and asks something is not told of old trouble.
        let is_well_again = state.trouble.take().is_some();
        drop(state);
        self.answer(answers);
        let mut state = self.lock();
        // Behind the answers: those of the next proposal come later.
        state.is_under_way = false;
        let ready: Vec<_> = state.behind.extract_if(.., |(before, _)| *before <= done).collect();
        drop(state);
        if let Some(sink) = self.sink.get().filter(|_| is_well_again) {
            sink.health_changed(None);
        }
        for (_, behind) in ready {
            behind(Ok(()));
        }
        self.pump();
        self.changed.notify_all();
    }

    fn answer_of(&self, append: &Append, word: Word) -> Answer {
        let unavailable = |reason: String| {
            Answer::Failed(JournalError::Unavailable { path: self.log.location(), reason })
        };
        match word {
            Word::Recorded => Answer::Recorded,
            Word::Decided(decision) => Answer::Decided(decision),
            Word::Deposed => Answer::Deposed,
            Word::Exists(standing) => match folded(&standing) {
                Some(stored) => Answer::Exists(Box::new(stored)),
                None => unavailable(format!("'{}' does not start with a begin", append.id)),
            },
            Word::NoBegin => unavailable(format!(
                "a {} record of '{}' has no begin record before it; its begin was refused or never \
                 written",
                append.record.kind(),
                append.id
            )),
            other => unavailable(format!("the cluster answered an append with {other:?}")),
        }
    }

    /// The proposal failed for now.
    fn put_back(&self, batch: Vec<Pending>, is_unknown: bool, error: &JournalError) {
        let mut state = self.lock();
        let all = batch.into_iter().map(|it| {
            let may_stand = it.may_stand || is_unknown;
            Pending { may_stand, ..it }
        });
        let waiting = all.chain(std::mem::take(&mut state.waiting));
        let is_given_up = |it: &Pending| {
            !is_unknown && !it.may_stand && matches!(it.append.record, Record::Begin { .. })
        };
        let (given_up, kept): (Vec<_>, Vec<_>) = waiting.partition(is_given_up);
        state.waiting = kept.into();
        state.done += given_up.len() as u64;
        let is_news = state.trouble.replace(error.clone()).is_none();
        let behind = std::mem::take(&mut state.behind);
        drop(state);
        let failed = |it: Pending| (it.append.token, Answer::Failed(error.clone()));
        self.answer(given_up.into_iter().map(failed).collect());
        if let Some(sink) = self.sink.get().filter(|_| is_news) {
            sink.health_changed(Some(error.clone()));
        }
        for (_, behind) in behind {
            behind(Err(error.clone()));
        }
        self.lock().is_under_way = false;
        self.changed.notify_all();
    }

    /// The node has ended: nothing will be carried out any more.
    fn over(&self, batch: Vec<Pending>, error: &JournalError) {
        let mut state = self.lock();
        state.shut.get_or_insert(error.clone());
        state.is_under_way = false;
        let waiting = std::mem::take(&mut state.waiting);
        let behind = std::mem::take(&mut state.behind);
        drop(state);
        let awaited = batch.into_iter().chain(waiting);
        let awaited = awaited.filter(|it| it.append.durability != Durability::Lazy);
        let failed = |it: Pending| (it.append.token, Answer::Failed(error.clone()));
        self.answer(awaited.map(failed).collect());
        for (_, behind) in behind {
            behind(Err(error.clone()));
        }
        self.changed.notify_all();
    }

    /// Tries again what failed, until the journal is closed.
    fn run(self: Arc<Self>) {
        let mut state = self.lock();
        while state.shut.is_none() {
            let is_due = state.trouble.is_some() && !state.is_under_way;
            let waited = self.changed.wait_timeout(state, PAUSE);
            drop(waited);
            if is_due {
                self.pump();
            }
            state = self.lock();
        }
    }

    /// Lets nothing enter any more, and waits until what is there is carried out, unless the
    /// cluster is in trouble: then it stays undone, and the next owner makes it good.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        while state.shut.is_none()
            && state.trouble.is_none()
            && (state.is_under_way || !state.waiting.is_empty())
        {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_first = state.shut.is_none();
        drop(state);
        if is_first {
            self.over(Vec::new(), &JournalError::Closed);
        }
    }
}

/// As `Inner::run`, on the clock of a simulated process.
#[cfg(test)]
pub(super) async fn run_simulated(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(inner) = inner.upgrade() else { return };
        let state = inner.lock();
        let is_due = state.trouble.is_some() && !state.is_under_way;
        drop(state);
        if is_due {
            inner.pump();
        }
    }
}

/// Hears of the cluster for as long as the journal is there.
struct Ear(Weak<Inner>);

impl Ear {
    fn owner_died(&self) {
        if let Some(inner) = self.0.upgrade()
            && let Some(sink) = inner.sink.get()
        {
            sink.owner_died();
        }
    }
}

impl ReplicaEar for Ear {
    fn happened(&self, effects: &[Effect]) {
        let Some(inner) = self.0.upgrade() else { return };
        let own = inner.log.instance();
        let is_end =
            |it: &Effect| matches!(it, Effect::SessionEnded { instance } if instance != own);
        if effects.iter().any(is_end) {
            self.owner_died();
        }
    }

    fn replaced(&self, _replica: &Replica) {
        // Some owner may have died in what was missed.
        self.owner_died();
    }

    fn quorum_changed(&self, lost: Option<&QuorumLost>) {
        if let Some(inner) = self.0.upgrade().filter(|_| lost.is_none()) {
            inner.changed.notify_all();
        }
    }
}
