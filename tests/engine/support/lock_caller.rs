//! A lock manager as a test calls it: answers awaited with a bound, and what its ear heard.
//!
//! Not a manager. Invariant: no answer is awaited for ever.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::locks::zookeeper::{ZooKeeperLockManager, ZooKeeperOptions};
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, LockMode,
    RequesterId, ResourceId, WaitForGraph, WaitId,
};
use unanimity::reply::{Lost, Reply};

/// The longest that any answer takes.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A manager with an ear, on a runtime of its own.
pub(crate) struct Caller {
    pub(crate) manager: ZooKeeperLockManager,
    pub(crate) ear: Arc<Ear>,
    // Dropped last: the manager's tasks run on it.
    _runtime: Runtime,
}

/// What was told without being asked.
#[derive(Default)]
pub(crate) struct Ear {
    pub(crate) lost: Mutex<Vec<(LockId, String, Instant)>>,
    pub(crate) deadlocks: Mutex<Vec<Deadlock>>,
    /// Suspended until then, or resumed.
    pub(crate) suspensions: Mutex<Vec<(LockId, Option<Instant>)>>,
}

impl LockEar for Ear {
    fn lost(&self, lock_id: &LockId, _requester: &RequesterId, reason: &str) {
        self.lost.lock().unwrap().push((lock_id.clone(), reason.to_owned(), Instant::now()));
    }

    fn suspended(&self, lock_id: &LockId, _requester: &RequesterId, until: Instant) {
        self.suspensions.lock().unwrap().push((lock_id.clone(), Some(until)));
    }

    fn resumed(&self, lock_id: &LockId, _requester: &RequesterId) {
        self.suspensions.lock().unwrap().push((lock_id.clone(), None));
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        self.deadlocks.lock().unwrap().push(deadlock.clone());
    }
}

impl Ear {
    /// When and why it heard that something was lost; waits for it.
    pub(crate) fn first_loss(&self) -> (LockId, String, Instant) {
        eventually("a loss is told", || self.lost.lock().unwrap().first().cloned())
    }
}

impl Ear {
    /// What it heard of suspensions, once it is so much.
    pub(crate) fn suspensions(&self, count: usize) -> Vec<(LockId, Option<Instant>)> {
        eventually("suspensions are told", || {
            let told = self.suspensions.lock().unwrap();
            (told.len() >= count).then(|| told.clone())
        })
    }
}

/// An answer that will come.
pub(crate) struct Pending<T>(Receiver<(T, Instant)>, pub(crate) WaitId);

impl<T> Pending<T> {
    pub(crate) fn wait(&self) -> T {
        self.wait_with_time().0
    }

    /// The answer, and when it was given.
    pub(crate) fn wait_with_time(&self) -> (T, Instant) {
        self.0.recv_timeout(ANSWER_MAX).expect("every question is answered")
    }

    /// The answer, if it is there.
    pub(crate) fn now(&self) -> Option<T> {
        self.0.try_recv().ok().map(|(answer, _)| answer)
    }
}

impl Caller {
    pub(crate) fn new(options: ZooKeeperOptions) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let manager = ZooKeeperLockManager::new(options, runtime.handle().clone()).unwrap();
        let ear = Arc::new(Ear::default());
        manager.listen(ear.clone());
        Self { manager, ear, _runtime: runtime }
    }

    /// A manager with a short session on that server.
    pub(crate) fn at(address: &str) -> Self {
        let session_timeout = Duration::from_secs(2);
        Self::new(ZooKeeperOptions { session_timeout, ..ZooKeeperOptions::new(address) })
    }

    pub(crate) fn begin(&self, ask: LockAsk) -> Pending<Result<Grant, LockError>> {
        let (sender, answers) = channel();
        let wait = self.manager.acquire(ask, replying(sender));
        Pending(answers, wait)
    }

    pub(crate) fn take(&self, ask: LockAsk) -> Result<Grant, LockError> {
        self.begin(ask).wait()
    }

    pub(crate) fn release(&self, id: &LockId, name: &str) -> Result<bool, LockError> {
        let requester = requester(name);
        asked(|reply| self.manager.release(id, &requester, reply))
    }

    pub(crate) fn release_all(&self, name: &str) -> Result<usize, LockError> {
        let requester = requester(name);
        asked(|reply| self.manager.release_all(&requester, reply))
    }

    pub(crate) fn status(&self, resource: Option<&str>) -> Vec<LockInfo> {
        let resource = resource.map(|text| ResourceId::new(text).unwrap());
        asked(|reply| self.manager.status(resource, reply)).unwrap()
    }

    /// Waits until so many wait for a resource.
    pub(crate) fn wait_for_waiters(&self, resource: &str, count: usize) {
        eventually("so many wait", || {
            let waiting = self.status(Some(resource)).into_iter();
            (waiting.filter(|info| info.lock_id.is_none()).count() == count).then_some(())
        });
    }

    pub(crate) fn graph(&self) -> WaitForGraph {
        asked(|reply| self.manager.wait_for_graph(reply)).unwrap()
    }
}

fn replying<T: Lost + Send + 'static>(sender: std::sync::mpsc::Sender<(T, Instant)>) -> Reply<T> {
    // A test that ended hears no more.
    Reply::new(move |answer| drop(sender.send((answer, Instant::now()))))
}

/// Asks and waits for the answer.
pub(crate) fn asked<T: Lost + Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, answers) = channel();
    ask(replying(sender));
    Pending(answers, WaitId(0)).wait()
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(claim: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + ANSWER_MAX;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "never: {claim}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn requester(name: &str) -> RequesterId {
    RequesterId::new(name).unwrap()
}

/// A wish that waits for ten seconds.
pub(crate) fn wish(resource: &str, mode: LockMode, name: &str) -> LockAsk {
    LockAsk {
        resource: ResourceId::new(resource).unwrap(),
        mode,
        requester: requester(name),
        timeout: Some(Duration::from_secs(10)),
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

/// A wish that does not wait.
pub(crate) fn wish_now(resource: &str, mode: LockMode, name: &str) -> LockAsk {
    LockAsk { timeout: Some(Duration::ZERO), ..wish(resource, mode, name) }
}
