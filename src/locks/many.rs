//! Several locks as one: taken one after the other, and all given back when one cannot be had.
//!
//! Not a manager: it stands in front of one that takes locks one by one. The order is that of the
//! resources' names, then of the modes, so that two such wishes cannot wait for each other; the
//! grants come back in the order of the asks. A timeout counts from the beginning of the whole.
//!
//! Invariants: the reply is answered once; when it says no, every lock that was taken has been
//! given back, and the manager has answered so. A wait's number has the highest bit set, so that it
//! is told from the manager's own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Grant, LockAsk, LockError, LockId, RequesterId, WaitId};
use crate::reply::Reply;

/// The bit that tells our waits from the manager's.
const MANY: u64 = 1 << 63;

type ManyReply = Reply<Result<Vec<Grant>, LockError>>;

/// What is needed of a manager: its own methods, on the part of it that outlives a call.
pub trait OneByOne: Send + Sync + 'static {
    /// As [`super::LockManager::acquire`].
    fn acquire_one(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId;

    /// As [`super::LockManager::release`].
    fn release_one(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    );

    /// As [`super::LockManager::cancel`].
    fn cancel_one(&self, wait: WaitId);
}

/// The wishes for several locks that are under way at one manager.
#[derive(Default)]
pub struct Many {
    last: AtomicU64,
    under_way: Arc<Mutex<HashMap<WaitId, Arc<Wish>>>>,
}

impl Many {
    /// The number of a wait that was over before it had one.
    pub const NO_WAIT: WaitId = WaitId(u64::MAX);

    /// As [`super::LockManager::acquire_many`].
    pub fn acquire(
        &self,
        manager: Arc<dyn OneByOne>,
        asks: Vec<LockAsk>,
        reply: ManyReply,
    ) -> WaitId {
        let wait = WaitId(MANY | self.last.fetch_add(1, Ordering::Relaxed));
        let mut order: Vec<usize> = (0..asks.len()).collect();
        order.sort_by_key(|at| (&asks[*at].resource, asks[*at].mode));
        let wish = Arc::new(Wish {
            wait,
            manager,
            under_way: self.under_way.clone(),
            started: Instant::now(),
            order,
            state: Mutex::new(State {
                grants: Vec::with_capacity(asks.len()),
                asks,
                step: Step::Between,
                failure: None,
                reply: Some(reply),
            }),
        });
        locked(&self.under_way).insert(wait, wish.clone());
        wish.go_on();
        wait
    }

    /// Gives a wish up; false where the number is not one of ours, and so the manager's.
    pub fn cancel(&self, wait: WaitId) -> bool {
        let wish = locked(&self.under_way).get(&wait).cloned();
        if let Some(wish) = wish {
            wish.cancel();
        }
        wait.0 & MANY != 0
    }
}

/// One wish for several locks.
struct Wish {
    wait: WaitId,
    manager: Arc<dyn OneByOne>,
    under_way: Arc<Mutex<HashMap<WaitId, Arc<Wish>>>>,
    started: Instant,
    /// The asks in the order in which they are taken.
    order: Vec<usize>,
    state: Mutex<State>,
}

struct State {
    asks: Vec<LockAsk>,
    /// What is held so far, in the order of taking.
    grants: Vec<Grant>,
    step: Step,
    /// Why it will not be.
    failure: Option<LockError>,
    reply: Option<ManyReply>,
}

/// Where the loop of a wish stands.
enum Step {
    /// Nobody is asked.
    Between,
    /// The manager is being asked, and has not returned.
    Asking,
    /// It answered before it returned.
    Answered,
    /// It returned, and will answer.
    Waiting(WaitId),
    /// Giving back; so many answers are missing.
    GivingBack(usize),
}

impl Wish {
    /// Takes the next lock, and the next, as long as the answers come at once: a loop, because a
    /// call inside of each answer would need a stack as deep as the wish is long.
    fn go_on(self: &Arc<Self>) {
        loop {
            let ask = {
                let mut state = locked(&self.state);
                if state.failure.is_some() {
                    return self.give_back(state);
                }
                let Some(at) = self.order.get(state.grants.len()) else {
                    return self.finish(state);
                };
                state.step = Step::Asking;
                self.within_time(&state.asks[*at])
            };
            let wish = self.clone();
            let wait = self.manager.acquire_one(ask, Reply::new(move |it| wish.answered(it)));
            let mut state = locked(&self.state);
            if !matches!(state.step, Step::Answered) {
                state.step = Step::Waiting(wait);
                if state.failure.is_some() {
                    // It was given up while the manager was being asked.
                    drop(state);
                    self.manager.cancel_one(wait);
                }
                return;
            }
        }
    }

    /// The ask with what is left of its time.
    fn within_time(&self, ask: &LockAsk) -> LockAsk {
        let left = |timeout: Duration| timeout.saturating_sub(self.started.elapsed());
        LockAsk { timeout: ask.timeout.map(left), ..ask.clone() }
    }

    fn answered(self: &Arc<Self>, answer: Result<Grant, LockError>) {
        let mut state = locked(&self.state);
        match answer {
            Ok(grant) => state.grants.push(grant),
            Err(error) => state.failure = Some(state.failure.take().unwrap_or(error)),
        }
        if matches!(state.step, Step::Asking) {
            state.step = Step::Answered;
            return;
        }
        drop(state);
        self.go_on();
    }

    fn cancel(&self) {
        let mut state = locked(&self.state);
        if state.failure.is_some() || state.reply.is_none() {
            return;
        }
        state.failure = Some(LockError::Cancelled);
        if let Step::Waiting(wait) = state.step {
            drop(state);
            self.manager.cancel_one(wait);
        }
    }

    /// Gives everything back, the last one first.
    fn give_back(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let held = std::mem::take(&mut state.grants);
        state.step = Step::GivingBack(held.len());
        if held.is_empty() {
            return self.finish(state);
        }
        let requesters: Vec<RequesterId> =
            self.order.iter().map(|at| state.asks[*at].requester.clone()).collect();
        drop(state);
        for (grant, requester) in held.iter().zip(&requesters).rev() {
            let wish = self.clone();
            let reply = Reply::new(move |_| wish.given_back());
            self.manager.release_one(&grant.lock_id, requester, reply);
        }
    }

    fn given_back(&self) {
        let mut state = locked(&self.state);
        if let Step::GivingBack(missing) = &mut state.step {
            *missing -= 1;
            if *missing == 0 {
                self.finish(state);
            }
        }
    }

    fn finish(&self, mut state: MutexGuard<'_, State>) {
        let reply = state.reply.take();
        let answer = match state.failure.take() {
            Some(error) => Err(error),
            None => Ok(self.in_the_order_of_the_asks(std::mem::take(&mut state.grants))),
        };
        drop(state);
        locked(&self.under_way).remove(&self.wait);
        if let Some(reply) = reply {
            reply.send(answer);
        }
    }

    fn in_the_order_of_the_asks(&self, grants: Vec<Grant>) -> Vec<Grant> {
        let mut numbered: Vec<(usize, Grant)> = self.order.iter().copied().zip(grants).collect();
        numbered.sort_by_key(|(at, _)| *at);
        numbered.into_iter().map(|(_, grant)| grant).collect()
    }
}

/// What a poisoned lock guards is still whole: nothing under it panics halfway.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
