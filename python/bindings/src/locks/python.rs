//! A user's own lock manager as the port: only the three methods of the interface are called.
//!
//! What the interface cannot say is kept here: who holds what through us, which waits were given
//! up, the deadlocks that were told. Invariants: every wish is answered once; a lock that is
//! granted after its wait was given up, or beside one that was refused, is given back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use unanimity::locks::many::{Many, OneByOne};
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, RequesterId,
    ResourceId, WaitForGraph, WaitId,
};
use unanimity::model::time::Timestamp;
use unanimity::reply::Reply;

use super::foreign;
use crate::bridge::{Item, Shared};
use crate::call::{Answers, Argument, Call, Method};
use crate::ports::method;

/// How long a manager that is asked to wait without an end may take.
const ENDLESS: Duration = Duration::from_secs(365 * 24 * 3600);
/// How much longer than its own timeout a call may take before its answer counts as lost.
const GRACE: Duration = Duration::from_secs(2);
/// How long a release or a look may take.
const SHORT_WAIT: Duration = Duration::from_secs(30);
const DEADLOCKS_MAX: usize = 100;

pub(crate) struct PythonLocks {
    inner: Arc<Inner>,
    many: Many,
}

struct Inner {
    bridge: Arc<Shared>,
    acquire: Arc<Method>,
    release: Arc<Method>,
    status: Arc<Method>,
    own: Weak<Inner>,
    waits: Mutex<HashMap<u64, Reply<Result<Grant, LockError>>>>,
    next_wait: AtomicU64,
    held: Mutex<BTreeMap<LockId, RequesterId>>,
    found: Mutex<VecDeque<Deadlock>>,
    ears: Mutex<Vec<Arc<dyn LockEar>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl PythonLocks {
    pub(crate) fn adapt(bridge: &Arc<Shared>, object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let owner = "lock manager";
        let acquire = method(object, owner, "acquire_lock")?;
        let release = method(object, owner, "release_lock")?;
        let status = method(object, owner, "check_lock_status")?;
        let inner = Arc::new_cyclic(|own| Inner {
            bridge: Arc::clone(bridge),
            acquire,
            release,
            status,
            own: Weak::clone(own),
            waits: Mutex::default(),
            next_wait: AtomicU64::new(0),
            held: Mutex::default(),
            found: Mutex::default(),
            ears: Mutex::default(),
        });
        Ok(Self { inner, many: Many::default() })
    }
}

impl Inner {
    fn call(&self, method: &Arc<Method>, argument: Argument, wait: Duration, answers: Answers) {
        let (method, attachment) = (Arc::clone(method), None);
        let timeout = wait + GRACE;
        self.bridge.push(Item::Call(Call { method, argument, attachment, timeout, answers }));
    }

    fn ask(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        let id = self.next_wait.fetch_add(1, Ordering::Relaxed);
        locked(&self.waits).insert(id, reply);
        let wait = ask.timeout.unwrap_or(ENDLESS);
        let (names, own) = (ask.clone(), Weak::clone(&self.own));
        let told = Unanswered { own, id, ask: Some(ask), begun: now() };
        self.call(
            &self.acquire,
            Argument::Made(Box::new(move |py| foreign::acquire_arguments(py, &names, wait))),
            wait,
            Answers::Told(Box::new(move |answer| told.told(answer))),
        );
        WaitId(id)
    }

    fn answered(&self, id: u64, requester: &RequesterId, answer: Result<Grant, LockError>) {
        if let Err(LockError::Deadlock(deadlock)) = &answer {
            self.note(deadlock);
        }
        if let Ok(grant) = &answer {
            locked(&self.held).insert(grant.lock_id.clone(), requester.clone());
        }
        let reply = locked(&self.waits).remove(&id);
        match (reply, answer) {
            (Some(reply), answer) => reply.send(answer),
            // It was given up meanwhile.
            (None, Ok(grant)) => self.give_back(&grant.lock_id, requester),
            (None, Err(_)) => {}
        }
    }

    fn note(&self, deadlock: &Deadlock) {
        let mut found = locked(&self.found);
        found.push_front(deadlock.clone());
        found.truncate(DEADLOCKS_MAX);
        drop(found);
        let ears = locked(&self.ears).clone();
        for ear in &ears {
            ear.deadlock(deadlock);
        }
    }

    fn let_go(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        locked(&self.held).remove(lock_id);
        let names = (lock_id.to_string(), requester.to_string());
        self.call(
            &self.release,
            Argument::Made(Box::new(move |py| Ok(names.into_pyobject(py)?.unbind()))),
            SHORT_WAIT,
            Answers::Told(Box::new(move |answer| {
                let answer = answer.and_then(|answer| {
                    answer.is_truthy().map_err(|_| "release_lock() returned no bool".to_owned())
                });
                reply.send(answer.map_err(foreign::trouble));
            })),
        );
    }

    fn give_back(&self, lock_id: &LockId, requester: &RequesterId) {
        let shown = lock_id.clone();
        let told = Reply::new(move |answer: Result<bool, LockError>| {
            if let Err(error) = answer {
                tracing::warn!("lock {shown} could not be given back: {error}");
            }
        });
        self.let_go(lock_id, requester, told);
    }
}

/// A call of `acquire_lock` whose answer is to come; without one the wait ends all the same.
struct Unanswered {
    own: Weak<Inner>,
    id: u64,
    ask: Option<LockAsk>,
    begun: Timestamp,
}

impl Unanswered {
    fn told(mut self, answer: Result<&Bound<'_, PyAny>, String>) {
        let (Some(ask), Some(inner)) = (self.ask.take(), self.own.upgrade()) else { return };
        let answer = match answer {
            Ok(answer) => foreign::grant_of(answer, &ask, self.begun, now()),
            Err(message) => Err(foreign::trouble(message)),
        };
        inner.answered(self.id, &ask.requester, answer);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        // Taken out and dropped, a reply says itself that its answer is lost.
        if let (Some(_), Some(inner)) = (self.ask.take(), self.own.upgrade()) {
            let lost = locked(&inner.waits).remove(&self.id);
            drop(lost);
        }
    }
}

impl OneByOne for Inner {
    fn acquire_one(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.ask(ask, reply)
    }

    fn release_one(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.let_go(lock_id, requester, reply);
    }

    /// The call itself goes on; what it is granted then goes back.
    fn cancel_one(&self, WaitId(id): WaitId) {
        let reply = locked(&self.waits).remove(&id);
        if let Some(reply) = reply {
            reply.send(Err(LockError::Cancelled));
        }
    }
}

impl LockManager for PythonLocks {
    /// Nothing is known of its tokens, so no store is shown them.
    fn is_shared(&self) -> bool {
        false
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        locked(&self.inner.ears).push(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.inner.ask(ask, reply)
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        self.many.acquire(Arc::clone(&self.inner) as _, asks, reply)
    }

    fn cancel(&self, wait: WaitId) {
        if !self.many.cancel(wait) {
            self.inner.cancel_one(wait);
        }
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.inner.let_go(lock_id, requester, reply);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        let held = locked(&self.inner.held).clone();
        let own: Vec<LockId> =
            held.into_iter().filter(|(_, holder)| holder == requester).map(|(id, _)| id).collect();
        for lock_id in &own {
            self.inner.give_back(lock_id, requester);
        }
        reply.send(Ok(own.len()));
    }

    /// The interface has no leases: what is held stays held.
    fn renew(&self, lock_id: &LockId, _lease: Duration, reply: Reply<Result<bool, LockError>>) {
        let is_held = locked(&self.inner.held).contains_key(lock_id);
        reply.send(Ok(is_held));
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        let Some(resource) = resource else {
            let message = "the lock manager cannot list all resources; name one".to_owned();
            return reply.send(Err(LockError::Invalid { message }));
        };
        let name = resource.clone();
        self.inner.call(
            &self.inner.status,
            Argument::Made(Box::new(move |py| Ok((name.as_str(),).into_pyobject(py)?.unbind()))),
            SHORT_WAIT,
            Answers::Told(Box::new(move |answer| {
                let infos = answer.and_then(|answer| foreign::infos_of(answer, &resource));
                reply.send(infos.map_err(foreign::trouble));
            })),
        );
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        reply.send(Ok(WaitForGraph::new()));
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        locked(&self.inner.found).iter().cloned().collect()
    }

    /// It is the user's: only what we wait for ends.
    fn close(&self) {
        let waits = std::mem::take(&mut *locked(&self.inner.waits));
        for (_, reply) in waits {
            reply.send(Err(LockError::Closed));
        }
    }
}
