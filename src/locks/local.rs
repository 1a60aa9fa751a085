//! Locks inside this process: the lock table under one mutex.
//!
//! Not durable and not shared: another process has locks of its own. An ask that is granted at once
//! is answered on the caller's thread, before the call returns; a thread of its own exists only
//! from the first wait or lease with an end until [`LocalLockManager::close`].
//!
//! The file is long by the port's many methods.
//! Invariants: no reply and no ear is called while the mutex is held, and what one step means for
//! others is told in the table's order, by the thread that took the step. Tokens begin at the wall
//! clock's microseconds, so they grow over restarts too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::downgrade::{self, DowngradeReply};
use super::many::{Many, OneByOne};
use super::telling::{Telling, tell};
use super::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, RequesterId,
    ResourceId, WaitForGraph, WaitId,
};
use crate::model::lock::LockMode;
use crate::model::time::Timestamp;
use crate::protocol::lock_table::{Answer, Ask, Effect, LockTable};
use crate::reply::Reply;

/// How many asks may wait at once, unless said otherwise.
pub const WAITS_MAX: usize = 100_000;
/// How many of the last deadlocks are kept.
const DEADLOCKS_MAX: usize = 100;

type GrantReply = Reply<Result<Grant, LockError>>;

/// The lock manager of one process.
pub struct LocalLockManager {
    shared: Arc<Shared>,
    many: Many,
}

struct Shared {
    /// For the timer thread, which starts late.
    itself: Weak<Self>,
    /// The wall clock at the start, moved on by the monotonic one.
    wall: Timestamp,
    started: Instant,
    state: Mutex<State>,
    /// Wakes the timer thread: an earlier deadline, or the end.
    alarm: Condvar,
}

struct State {
    table: LockTable,
    replies: HashMap<WaitId, GrantReply>,
    ears: Vec<Arc<dyn LockEar>>,
    /// The latest first.
    deadlocks: VecDeque<Deadlock>,
    last_wait: u64,
    timer: Option<JoinHandle<()>>,
    /// Until when the timer thread sleeps; `None` for until it is woken.
    sleeps_until: Option<Timestamp>,
    is_closed: bool,
}

impl LocalLockManager {
    /// A manager with nothing held.
    pub fn new() -> Self {
        Self::with_waits_max(WAITS_MAX)
    }

    /// A manager that looks for no deadlocks: they end by the timeouts of those who wait.
    pub fn without_detection() -> Self {
        Self::over(|first| LockTable::new(WAITS_MAX, first).without_detection())
    }

    /// A manager in which at most so many asks wait at once.
    pub fn with_waits_max(waits_max: usize) -> Self {
        Self::over(|first_token| LockTable::new(waits_max, first_token))
    }

    fn over(table: impl FnOnce(u64) -> LockTable) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Timestamp(0) + since_epoch;
        let first_token = u64::try_from(wall.0).unwrap_or(0).max(1);
        let state = State {
            table: table(first_token),
            replies: HashMap::new(),
            ears: Vec::new(),
            deadlocks: VecDeque::new(),
            last_wait: 0,
            timer: None,
            sleeps_until: None,
            is_closed: false,
        };
        let shared = Arc::new_cyclic(|itself| Shared {
            itself: itself.clone(),
            wall,
            started: Instant::now(),
            state: Mutex::new(state),
            alarm: Condvar::new(),
        });
        Self { shared, many: Many::default() }
    }

    /// Takes a lock if it can be had at once, whatever the ask's timeout; `None` where it cannot,
    /// and then [`LockManager::acquire`] tells why. For callers to whom a reply is too dear.
    pub fn try_acquire(&self, ask: &LockAsk) -> Option<Grant> {
        self.shared.step(|state, now, effects| {
            let grant =
                (!state.is_closed).then(|| state.table.ask_now(now, &told(ask, now), effects));
            grant.flatten()
        })
    }

    /// The same for several, all or none, in the order of the asks.
    pub fn try_acquire_many(&self, asks: &[LockAsk]) -> Option<Vec<Grant>> {
        self.shared.try_many(asks).ok().flatten()
    }

    /// Lets go of a lock; false where this requester does not hold it.
    pub fn release_now(&self, lock_id: &LockId, requester: &RequesterId) -> bool {
        self.shared
            .step(|state, now, effects| state.table.release(now, lock_id, requester, effects))
    }

    /// Changes a grant for one in a weaker mode, without a moment in between; `None` where this
    /// requester does not hold it, or the mode is not weaker.
    pub fn downgrade_now(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        mode: LockMode,
    ) -> Option<Grant> {
        self.shared.step(|state, now, effects| {
            state.table.downgrade(now, (lock_id, requester), mode, effects)
        })
    }
}

impl Default for LocalLockManager {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LocalLockManager {
    fn drop(&mut self) {
        self.close();
    }
}

fn told(ask: &LockAsk, now: Timestamp) -> Ask<'_> {
    Ask {
        resource: &ask.resource,
        mode: ask.mode,
        requester: &ask.requester,
        timeout: ask.timeout,
        lease: ask.lease,
        working_since: ask.working_since.unwrap_or(now),
        is_protected: ask.is_protected,
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }

    /// One step of the table, and then, without the mutex, what it means for others.
    fn step<T>(&self, step: impl FnOnce(&mut State, Timestamp, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let mut state = self.lock();
        // Under the mutex, so that the table's time never goes back.
        let now = self.now();
        let answer = step(&mut state, now, &mut effects);
        let tellings = state.tellings(effects);
        self.keep_time(&mut state);
        drop(state);
        tell(tellings);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Replies and ears are called outside, so nothing under the mutex stops halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_many(&self, asks: &[LockAsk]) -> Result<Option<Vec<Grant>>, LockError> {
        self.step(|state, now, effects| {
            if state.is_closed {
                return Err(LockError::Closed);
            }
            let asks: Vec<Ask<'_>> = asks.iter().map(|ask| told(ask, now)).collect();
            state.table.ask_many(now, &asks, effects)
        })
    }

    /// Makes sure that somebody wakes at the table's deadline.
    fn keep_time(&self, state: &mut State) {
        let Some(deadline) = state.table.deadline().filter(|_| !state.is_closed) else { return };
        if state.timer.is_none() {
            let Some(shared) = self.itself.upgrade() else { return };
            let thread = thread::Builder::new().name("unanimity-locks".to_owned());
            match thread.spawn(move || shared.run_timer()) {
                Ok(handle) => state.timer = Some(handle),
                // Every other step ends what is due too, so it is late, not lost.
                Err(error) => tracing::error!(%error, "no thread for the ends of lock waits"),
            }
        } else if state.sleeps_until.is_none_or(|until| deadline < until) {
            state.sleeps_until = Some(deadline);
            self.alarm.notify_one();
        }
    }

    fn run_timer(self: Arc<Self>) {
        let mut state = self.lock();
        while !state.is_closed {
            let now = self.now();
            let deadline = state.table.deadline();
            if deadline.is_some_and(|deadline| deadline <= now) {
                drop(state);
                self.step(|state, now, effects| state.table.time_reached(now, effects));
                state = self.lock();
                continue;
            }
            state.sleeps_until = deadline;
            // An hour stands for ever: who is woken for nothing looks again and sleeps on.
            let longest = Duration::from_secs(3_600);
            let sleep = deadline.map_or(longest, |deadline| deadline.since(now).min(longest));
            let waited = self.alarm.wait_timeout(state, sleep);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn close(&self) {
        let timer = self.step(|state, _, effects| {
            state.is_closed = true;
            state.table.close(effects);
            state.timer.take()
        });
        self.alarm.notify_one();
        // A reply that is called by the timer thread may close the manager; it cannot await itself.
        if let Some(timer) = timer.filter(|timer| timer.thread().id() != thread::current().id()) {
            // It only ends; if it panicked, that was told when it did.
            drop(timer.join());
        }
    }
}

impl State {
    /// Who is to be told what. Nothing is allocated where nobody is.
    fn tellings(&mut self, effects: Vec<Effect>) -> Vec<Telling> {
        effects.into_iter().filter_map(|effect| self.telling(effect)).collect()
    }

    fn telling(&mut self, effect: Effect) -> Option<Telling> {
        Some(match effect {
            Effect::Granted { wait, grant } => {
                Telling::Answer(self.replies.remove(&wait)?, Ok(grant))
            }
            Effect::Refused { wait, error } => {
                Telling::Answer(self.replies.remove(&wait)?, Err(error))
            }
            Effect::Lost { lock_id, requester, reason } => {
                Telling::Lost { ears: self.ears.clone(), lock_id, requester, reason }
            }
            Effect::Deadlock(deadlock) => {
                self.deadlocks.truncate(DEADLOCKS_MAX - 1);
                self.deadlocks.push_front(deadlock.clone());
                Telling::Deadlock { ears: self.ears.clone(), deadlock }
            }
        })
    }
}

impl OneByOne for Shared {
    fn acquire_one(&self, ask: LockAsk, reply: GrantReply) -> WaitId {
        let (wait, at_once) = self.step(|state, now, effects| {
            state.last_wait += 1;
            let wait = WaitId(state.last_wait);
            if state.is_closed {
                return (wait, Some((reply, Err(LockError::Closed))));
            }
            let at_once = match state.table.ask(now, wait, &told(&ask, now), effects) {
                Answer::Granted(grant) => Some((reply, Ok(grant))),
                Answer::Refused(error) => Some((reply, Err(error))),
                Answer::Waits => {
                    state.replies.insert(wait, reply);
                    None
                }
            };
            (wait, at_once)
        });
        if let Some((reply, answer)) = at_once {
            reply.send(answer);
        }
        wait
    }

    fn release_one(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        let is_released =
            self.step(|state, now, effects| state.table.release(now, lock_id, requester, effects));
        reply.send(Ok(is_released));
    }

    fn cancel_one(&self, wait: WaitId) {
        self.step(|state, now, effects| state.table.cancel(now, wait, effects));
    }
}

impl LockManager for LocalLockManager {
    fn is_shared(&self) -> bool {
        false
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        self.shared.lock().ears.push(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: GrantReply) -> WaitId {
        self.shared.acquire_one(ask, reply)
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        match self.shared.try_many(&asks) {
            Ok(Some(grants)) => reply.send(Ok(grants)),
            Err(error) => reply.send(Err(error)),
            Ok(None) => return self.many.acquire(self.shared.clone(), asks, reply),
        }
        Many::NO_WAIT
    }

    fn cancel(&self, wait: WaitId) {
        if !self.many.cancel(wait) {
            self.shared.cancel_one(wait);
        }
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.shared.release_one(lock_id, requester, reply);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        let held = self
            .shared
            .step(|state, now, effects| state.table.release_all(now, requester, effects));
        reply.send(Ok(held));
    }

    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>) {
        let is_held =
            self.shared.step(|state, now, effects| state.table.renew(now, lock_id, lease, effects));
        reply.send(Ok(is_held));
    }

    fn downgrade(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        mode: LockMode,
        reply: DowngradeReply,
    ) {
        let checked = downgrade::check(lock_id, mode);
        reply.send(checked.map(|()| self.downgrade_now(lock_id, requester, mode)));
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        let infos = self.shared.lock().table.status(resource.as_ref());
        reply.send(Ok(infos));
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        let graph = self.shared.lock().table.wait_for_graph();
        reply.send(Ok(graph));
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        self.shared.lock().deadlocks.iter().cloned().collect()
    }

    fn close(&self) {
        self.shared.close();
    }
}

#[cfg(test)]
#[path = "local_test.rs"]
mod tests;
