//! Several locks in one flight: all are asked for at once without waiting, and only where one is
//! not free they are given back and taken one after the other (`many`).
//!
//! Not the order that keeps wishes from waiting for each other: who does not wait needs none, and
//! nobody waits here while it holds something. Invariants: the reply is answered once; when it says
//! no, what was taken has been given back. A wait's number has a bit that neither the manager's nor
//! the one by one taker's have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::many::{Many, OneByOne};
use super::{Grant, LockAsk, LockError, WaitId};
use crate::reply::Reply;

/// The bit that tells our waits from others.
const AT_ONCE: u64 = 1 << 62;

type ManyReply = Reply<Result<Vec<Grant>, LockError>>;

/// What a try may cost, by manager.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    /// A server that does not answer at once may still do so in the wish's time.
    pub(super) waits_for_server: bool,
    /// How many wishes do not try after one that tried in vain: where locks are in demand, a try
    /// is work for nothing.
    pub(super) pause: u32,
}

/// The wishes for several locks that are under way.
#[derive(Default)]
pub(super) struct AtOnce {
    habits: Habits,
    /// How many wishes more do not try.
    pausing: AtomicU32,
    many: Many,
    last: AtomicU64,
    under_way: Mutex<HashMap<WaitId, Stage>>,
}

/// Where a wish stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Trying,
    Cancelled,
    OneByOne(WaitId),
}

/// One wish, while all are asked for at once.
struct Wish {
    owner: Arc<AtOnce>,
    manager: Arc<dyn OneByOne>,
    wait: WaitId,
    began: Instant,
    asks: Vec<LockAsk>,
    state: Mutex<Trial>,
}

struct Trial {
    grants: Vec<Option<Grant>>,
    failure: Option<LockError>,
    missing: usize,
    reply: Option<ManyReply>,
}

impl AtOnce {
    pub(super) fn new(habits: Habits) -> Self {
        Self { habits, ..Self::default() }
    }

    /// As [`crate::locks::LockManager::acquire_many`].
    pub(super) fn acquire(
        self: &Arc<Self>,
        manager: Arc<dyn OneByOne>,
        asks: Vec<LockAsk>,
        reply: ManyReply,
    ) -> WaitId {
        let wait = WaitId(AT_ONCE | self.last.fetch_add(1, Ordering::Relaxed));
        if asks.is_empty() {
            reply.send(Ok(Vec::new()));
            return wait;
        }
        lock(&self.under_way).insert(wait, Stage::Trying);
        let (grants, missing) = (asks.iter().map(|_| None).collect(), asks.len());
        let state = Trial { grants, failure: None, missing, reply: Some(reply) };
        let (owner, began) = (self.clone(), Instant::now());
        let wish = Arc::new(Wish { owner, manager, wait, began, asks, state: Mutex::new(state) });
        let less = |left: u32| left.checked_sub(1);
        if self.pausing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            wish.go_on();
        } else {
            wish.try_all();
        }
        wait
    }

    /// Gives a wish up; false where the number is the manager's own.
    pub(super) fn cancel(&self, wait: WaitId) -> bool {
        let one_by_one = {
            let mut under_way = lock(&self.under_way);
            match under_way.get_mut(&wait) {
                Some(Stage::OneByOne(inner)) => Some(*inner),
                Some(stage) => {
                    *stage = Stage::Cancelled;
                    None
                }
                None => None,
            }
        };
        if let Some(inner) = one_by_one {
            self.many.cancel(inner);
        }
        wait.0 & AT_ONCE != 0
    }
}

impl Wish {
    fn try_all(self: &Arc<Self>) {
        for (at, ask) in self.asks.iter().enumerate() {
            let ask = LockAsk { timeout: Some(Duration::ZERO), ..ask.clone() };
            let told = self.clone();
            self.manager.acquire_one(ask, Reply::new(move |answer| told.answered(at, answer)));
        }
    }

    fn answered(self: &Arc<Self>, at: usize, answer: Result<Grant, LockError>) {
        let mut state = lock(&self.state);
        match answer {
            Ok(grant) => state.grants[at] = Some(grant),
            // That one is not free is the least of what can be wrong.
            Err(error) if matches!(state.failure, None | Some(LockError::Timeout { .. })) => {
                state.failure = Some(error);
            }
            Err(_) => {}
        }
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        if state.failure.is_some() {
            drop(state);
            self.owner.pausing.store(self.owner.habits.pause, Ordering::Relaxed);
            return self.give_back();
        }
        let grants = state.grants.drain(..).flatten().collect();
        let reply = state.reply.take();
        drop(state);
        lock(&self.owner.under_way).remove(&self.wait);
        if let Some(reply) = reply {
            reply.send(Ok(grants));
        }
    }

    /// Gives back what was taken, then goes on once that is acknowledged.
    fn give_back(self: &Arc<Self>) {
        let held: Vec<(usize, Grant)> = {
            let mut state = lock(&self.state);
            let taken = state.grants.iter_mut().enumerate();
            let held: Vec<_> = taken.filter_map(|(at, grant)| Some((at, grant.take()?))).collect();
            state.missing = held.len();
            held
        };
        if held.is_empty() {
            return self.go_on();
        }
        for (at, grant) in held {
            let wish = self.clone();
            let reply = Reply::new(move |_| {
                let mut state = lock(&wish.state);
                state.missing -= 1;
                if state.missing == 0 {
                    drop(state);
                    wish.go_on();
                }
            });
            self.manager.release_one(&grant.lock_id, &self.asks[at].requester, reply);
        }
    }

    /// Takes them one by one, or says why not.
    fn go_on(&self) {
        let (failure, reply) = {
            let mut state = lock(&self.state);
            (state.failure.take(), state.reply.take())
        };
        let Some(reply) = reply else { return };
        let is_cancelled = lock(&self.owner.under_way).get(&self.wait) == Some(&Stage::Cancelled);
        let error = match failure {
            _ if is_cancelled => LockError::Cancelled,
            None | Some(LockError::Timeout { .. }) => return self.take_one_by_one(reply),
            Some(LockError::Unavailable { .. })
                if self.owner.habits.waits_for_server && self.has_time() =>
            {
                return self.take_one_by_one(reply);
            }
            Some(error) => error,
        };
        lock(&self.owner.under_way).remove(&self.wait);
        reply.send(Err(error));
    }

    fn has_time(&self) -> bool {
        self.asks.iter().all(|ask| ask.timeout.is_none_or(|timeout| self.began.elapsed() < timeout))
    }

    fn take_one_by_one(&self, reply: ManyReply) {
        let left = |timeout: Duration| timeout.saturating_sub(self.began.elapsed());
        let asks =
            self.asks.iter().map(|ask| LockAsk { timeout: ask.timeout.map(left), ..ask.clone() });
        let (owner, wait) = (self.owner.clone(), self.wait);
        let ended = Reply::new(move |answer| {
            lock(&owner.under_way).remove(&wait);
            reply.send(answer);
        });
        let inner = self.owner.many.acquire(self.manager.clone(), asks.collect(), ended);
        let is_cancelled = {
            let mut under_way = lock(&self.owner.under_way);
            // It may be answered, or given up, while it was begun.
            let Some(stage) = under_way.get_mut(&self.wait) else { return };
            std::mem::replace(stage, Stage::OneByOne(inner)) == Stage::Cancelled
        };
        if is_cancelled {
            self.owner.many.cancel(inner);
        }
    }
}

/// What a poisoned lock guards is still whole: nothing under it panics halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
