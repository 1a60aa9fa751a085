//! Lock managers as Python sees them: one class over the port, whichever adapter is behind it.
//!
//! Converts and passes on; waits are in `wait`, plain questions in `question`, and a user's own
//! manager, seen as a port, in `python`. Every method answers at once where the answer is there,
//! else with something to await. Invariants: no method blocks, except `close_now`; a manager that a
//! forked child inherited is refused. The file is long by the methods of one class.

mod ear;
mod foreign;
mod parts;
mod python;
mod question;
mod shared;
mod wait;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::locks::local::LocalLockManager;
use unanimity::locks::replicated::ReplicatedLockManager;
use unanimity::locks::zookeeper::ZooKeeperLockManager;
use unanimity::locks::{self, Grant, LockError, LockId, WaitForGraph};
use unanimity::reply::Reply;

use crate::bridge::{Bridge, Shared};
use crate::consensus::RaftNode;
use crate::{errors, runtime};

use parts::Names;
use question::Home;
use wait::{LockWait, Shape, Wait};

pub(crate) use parts::infos;
pub(crate) use python::PythonLocks;

/// How long a server may take for its first answer.
const REACH_MAX: Duration = Duration::from_secs(10);

/// A lock manager of ours. Its home is the event loop that first asks it something; a service may
/// use it too, from anywhere.
#[pyclass(frozen)]
pub(crate) struct LockManager {
    manager: Arc<dyn locks::LockManager>,
    /// The same, where it is in this process: it needs no reply for what is free.
    local: Option<Arc<LocalLockManager>>,
    /// The same, where it is in ZooKeeper: it can open its session for nothing else.
    zookeeper: Option<Arc<ZooKeeperLockManager>>,
    bounds: Bounds,
    home: OnceLock<Home>,
    forks: u64,
    pid: u32,
    closed: Mutex<bool>,
}

/// What this manager adds to every wish.
pub(crate) struct Bounds {
    /// No wait is longer.
    pub(crate) wait_max: Option<Duration>,
    /// How long a grant holds, where the wish does not say.
    pub(crate) lease: Option<Duration>,
}

impl Bounds {
    /// From seconds; what no clock can count is without a bound.
    fn of(wait_max: Option<f64>, lease: Option<f64>) -> Self {
        let time = |seconds: Option<f64>| Duration::try_from_secs_f64(seconds?).ok();
        Self { wait_max: time(wait_max), lease: time(lease) }
    }
}

#[pymethods]
impl LockManager {
    /// Locks of this process.
    #[staticmethod]
    fn local(wait_max: Option<f64>, lease: Option<f64>, detects: bool) -> Self {
        let local =
            if detects { LocalLockManager::new() } else { LocalLockManager::without_detection() };
        let local = Arc::new(local);
        let manager = Arc::clone(&local) as _;
        Self { local: Some(local), ..Self::new(manager, Bounds::of(wait_max, lease)) }
    }

    /// Locks in a PostgreSQL database. `times`, in seconds: session timeout, and the detection
    /// interval, `None` where deadlocks are not looked for.
    #[staticmethod]
    fn postgres(
        py: Python<'_>,
        dsn: &str,
        times: (f64, Option<f64>),
        connections: usize,
        wait_max: Option<f64>,
        lease: Option<f64>,
    ) -> PyResult<Self> {
        let manager = shared::postgres(py, dsn, times, connections)?;
        Ok(Self::new(manager, Bounds::of(wait_max, lease)))
    }

    /// Locks in ZooKeeper. `times` as above; `credentials`: user and password.
    #[staticmethod]
    fn zookeeper(
        py: Python<'_>,
        place: (String, String),
        times: (f64, Option<f64>),
        credentials: Option<(String, String)>,
        wait_max: Option<f64>,
        lease: Option<f64>,
    ) -> PyResult<Self> {
        let zookeeper = shared::zookeeper(py, place.0, place.1, times, credentials)?;
        let manager: Arc<dyn locks::LockManager> = Arc::clone(&zookeeper) as _;
        runtime::close_at_exit(&manager);
        let zookeeper = Some(zookeeper);
        Ok(Self { zookeeper, ..Self::new(manager, Bounds::of(wait_max, lease)) })
    }

    /// Locks in the cluster whose node runs in this process.
    #[staticmethod]
    fn raft(
        py: Python<'_>,
        node: &Bound<'_, RaftNode>,
        wait_max: Option<f64>,
        lease: Option<f64>,
    ) -> PyResult<Self> {
        let (log, handle) = (node.get().log(py)?, runtime::handle(None)?);
        let manager: Arc<dyn locks::LockManager> =
            Arc::new(ReplicatedLockManager::new(log, handle));
        runtime::close_at_exit(&manager);
        Ok(Self::new(manager, Bounds::of(wait_max, lease)))
    }

    /// Makes the loop whose bridge this is its home. `create_future` is the loop's.
    fn come_home(&self, bridge: &Bound<'_, Bridge>, create_future: Py<PyAny>) {
        let bridge = Arc::clone(&bridge.get().shared);
        let _ = self.home.set(Home { bridge, create_future });
    }

    /// Finds out whether its server answers: True, or a future of it.
    fn reach(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let home = self.at_home(py)?;
        if let Some(zookeeper) = &self.zookeeper {
            return question::put(py, home, parts::truth, |reply| {
                let told = move |opened: Result<(), LockError>| reply.send(opened.map(|()| true));
                zookeeper.connect(REACH_MAX, Reply::new(told));
            });
        }
        question::put(py, home, parts::truth, |reply| {
            let told = move |graph: Result<WaitForGraph, LockError>| {
                reply.send(graph.map(|_| true));
            };
            self.manager.wait_for_graph(Reply::new(told));
        })
    }

    /// Has `lost(lock_id, requester_id, reason)` called on the home loop for every lock that is
    /// lost, `suspended(lock_id, requester_id, seconds_left)` while its server is silent, and
    /// `resumed(lock_id, requester_id)` when it answers again.
    fn listen(
        &self,
        py: Python<'_>,
        lost: Py<PyAny>,
        suspended: Py<PyAny>,
        resumed: Py<PyAny>,
    ) -> PyResult<()> {
        let bridge = Arc::clone(&self.at_home(py)?.bridge);
        self.manager.listen(Arc::new(ear::PythonEar::new(bridge, [lost, suspended, resumed])));
        Ok(())
    }

    /// Asks for a lock: a `LockAcquisitionResult`, or a `LockWait` for one.
    fn acquire(
        &self,
        py: Python<'_>,
        names: Names<'_>,
        timeout: &Bound<'_, PyAny>,
        lease: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        self.wish(py, &names, timeout, lease, Shape::Result)
    }

    /// Asks for a lock: an `ActiveLock`, or a `LockWait` for one; a refusal is raised.
    fn hold(
        &self,
        py: Python<'_>,
        names: Names<'_>,
        timeout: &Bound<'_, PyAny>,
        lease: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        self.wish(py, &names, timeout, lease, Shape::Active)
    }

    /// Asks for several locks, all or none: a list of `ActiveLock` in the order of the wishes, or a
    /// `LockWait` for one; a refusal is raised.
    fn hold_many(
        &self,
        py: Python<'_>,
        wishes: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)>,
        requester: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        lease: Option<f64>,
    ) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let asks = wishes.iter().map(|(resource, mode)| {
            parts::ask(
                &self.bounds,
                &(resource.clone(), mode.clone(), requester.clone()),
                timeout,
                lease,
            )
        });
        let asks = asks.collect::<PyResult<Vec<_>>>()?;
        let Some(first) = asks.first() else {
            return Ok(pyo3::types::PyList::empty(py).into_any().unbind());
        };
        let wait =
            Wait::new(&self.manager, first.requester.clone(), Shape::Many(parts::order(&asks)));
        let id = self.manager.acquire_many(asks, wait.reply_many());
        self.answer(py, wait, id)
    }

    /// Lets go of a lock: whether the requester held it, or a future of that.
    fn release(
        &self,
        py: Python<'_>,
        lock_id: &Bound<'_, PyAny>,
        requester: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let lock_id = LockId::from_text(parts::text(lock_id, "lock_id")?);
        let requester = parts::requester(requester)?;
        if let Some(local) = &self.local {
            return parts::truth(py, local.release_now(&lock_id, &requester));
        }
        question::put(py, self.at_home(py)?, parts::truth, |reply| {
            self.manager.release(&lock_id, &requester, reply);
        })
    }

    /// Lets go of all that a requester holds: how many it held, or a future of that.
    fn release_all(&self, py: Python<'_>, requester: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let requester = parts::requester(requester)?;
        question::put(py, self.at_home(py)?, parts::count, |reply| {
            self.manager.release_all(&requester, reply);
        })
    }

    /// Starts a lease anew: whether the lock is held, or a future of that.
    fn renew(&self, py: Python<'_>, lock_id: &Bound<'_, PyAny>, lease: f64) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let lock_id = LockId::from_text(parts::text(lock_id, "lock_id")?);
        let lease = parts::lease(py, lease)?;
        question::put(py, self.at_home(py)?, parts::truth, |reply| {
            self.manager.renew(&lock_id, lease, reply);
        })
    }

    /// Changes a lock for one in a weaker mode: an `ActiveLock`, None where the requester does not
    /// hold it, or a future of either.
    fn downgrade(
        &self,
        py: Python<'_>,
        lock_id: &Bound<'_, PyAny>,
        mode: &Bound<'_, PyAny>,
        requester: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let lock_id = LockId::from_text(parts::text(lock_id, "lock_id")?);
        let (mode, requester) = (parts::mode(mode)?, parts::requester(requester)?);
        question::put(py, self.at_home(py)?, parts::active_if_held, |reply| {
            let holder = requester.clone();
            let told = move |changed: Result<Option<Grant>, LockError>| {
                reply.send(changed.map(|grant| grant.map(|grant| (grant, holder))));
            };
            self.manager.downgrade(&lock_id, &requester, mode, Reply::new(told));
        })
    }

    /// Holders, then those who wait, of one resource or of all: a list, or a future of one.
    #[pyo3(signature = (resource))]
    fn status(&self, py: Python<'_>, resource: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let resource = resource.map(parts::resource).transpose()?;
        question::put(py, self.at_home(py)?, parts::infos, |reply| {
            self.manager.status(resource, reply);
        })
    }

    /// Who waits for whom: a dict, or a future of one.
    fn wait_for_graph(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        question::put(py, self.at_home(py)?, parts::graph, |reply| {
            self.manager.wait_for_graph(reply);
        })
    }

    /// The last deadlocks, the latest first.
    fn deadlocks(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        parts::deadlocks(py, &self.manager.deadlocks())
    }

    /// Closes the manager on a thread of its own, then completes the future.
    fn close(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        let bridge = Arc::clone(&self.at_home(py)?.bridge);
        let reply = Reply::new(move |closed: Result<bool, LockError>| {
            bridge.complete(future, Box::new(move |py| parts::truth_of(py, closed)));
        });
        if std::mem::replace(&mut *self.closed(), true) {
            reply.send(Ok(false));
            return Ok(());
        }
        let manager = Arc::clone(&self.manager);
        thread::Builder::new()
            .name("unanimity-close".to_owned())
            .spawn(move || {
                manager.close();
                reply.send(Ok(true));
            })
            .map(drop)
            .map_err(Into::into)
    }
}

impl LockManager {
    pub(crate) fn new(manager: Arc<dyn locks::LockManager>, bounds: Bounds) -> Self {
        let (home, closed) = (OnceLock::new(), Mutex::new(false));
        let (forks, pid) = (runtime::forks(), std::process::id());
        Self { manager, local: None, zookeeper: None, bounds, home, forks, pid, closed }
    }

    /// What an engine is built on.
    pub(crate) fn port(&self, py: Python<'_>) -> PyResult<Arc<dyn locks::LockManager>> {
        self.check_process(py)?;
        Ok(Arc::clone(&self.manager))
    }

    fn wish(
        &self,
        py: Python<'_>,
        names: &Names<'_>,
        timeout: &Bound<'_, PyAny>,
        lease: Option<f64>,
        shape: Shape,
    ) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let ask = parts::ask(&self.bounds, names, timeout, lease)?;
        if let Some(local) = &self.local
            && let Some(grant) = local.try_acquire(&ask)
        {
            return shape.one(py, &grant, &ask.requester).inspect_err(|_| {
                // The caller never sees it, so nobody else would let go of it.
                local.release_now(&grant.lock_id, &ask.requester);
            });
        }
        let wait = Wait::new(&self.manager, ask.requester.clone(), shape);
        let id = self.manager.acquire(ask, wait.reply_one());
        self.answer(py, wait, id)
    }

    /// The answer, if it is there; else what can be awaited, and given up.
    fn answer(&self, py: Python<'_>, wait: Arc<Wait>, id: locks::WaitId) -> PyResult<Py<PyAny>> {
        if let Some(answer) = wait.take_now() {
            return wait.made(py, answer);
        }
        let home = self.at_home(py)?;
        let future = home.create_future.bind(py).call0()?.unbind();
        wait.wait_in(&home.bridge, future.clone_ref(py), id);
        Ok(Py::new(py, LockWait::new(wait, future))?.into_any())
    }

    fn at_home(&self, py: Python<'_>) -> PyResult<&Home> {
        self.home.get().ok_or_else(|| {
            errors::exception(py, "InternalError", "the lock manager has no event loop yet", &[])
        })
    }

    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        // A counter, not the process id: that would be a system call for every lock.
        if self.forks == runtime::forks() {
            return Ok(());
        }
        runtime::check_process(py, "this lock manager", self.pid)
    }

    fn closed(&self) -> std::sync::MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port behind an object that is given to a service: ours itself, or an adapter; without one,
/// locks of this process.
pub(crate) fn port_of(
    bridge: &Arc<Shared>,
    object: Option<&Bound<'_, PyAny>>,
) -> PyResult<Arc<dyn locks::LockManager>> {
    match object.map(|object| (object.cast::<LockManager>(), object)) {
        None => Ok(Arc::new(LocalLockManager::new())),
        Some((Ok(ours), object)) => ours.get().port(object.py()),
        Some((Err(_), object)) => Ok(Arc::new(PythonLocks::adapt(bridge, object)?)),
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LockManager>()?;
    module.add_class::<LockWait>()
}
