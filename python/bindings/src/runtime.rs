//! Our own threads and what is open on them: made when first needed, closed at exit, left alone
//! in a forked child.
//!
//! The runtime is not shared with anybody else's. Invariants: a forked child never touches its
//! parent's runtime, engines or locks (the threads do not exist there); an engine is shut down
//! once, and whoever asks again waits for that one; at interpreter exit every open journal is
//! flushed, and the runtime is let go without waiting for its tasks.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};
use unanimity::engine;
use unanimity::events::EventBus;
use unanimity::locks::LockManager;

use crate::consensus::Node;
use crate::{errors, logging};

struct Stamped {
    pid: u32,
    runtime: Runtime,
}

static RUNTIME: Mutex<Option<Stamped>> = Mutex::new(None);
/// Kept here, so that an engine whose service was forgotten goes on, and is flushed at exit.
static OPEN: Mutex<Vec<Arc<Engine>>> = Mutex::new(Vec::new());

/// Lock managers that have a server; whoever died with locks held would keep others waiting.
static LOCKS: Mutex<Vec<Weak<dyn LockManager>>> = Mutex::new(Vec::new());

/// Event buses, which give back at exit what they hold for others.
static BUSES: Mutex<Vec<Weak<dyn EventBus>>> = Mutex::new(Vec::new());

/// Nodes of clusters. Kept here, so that one that was forgotten goes on, and says at exit that it
/// leaves.
static NODES: Mutex<Vec<Arc<Node>>> = Mutex::new(Vec::new());

/// How long the exit waits for buses: handlers that are out have no loop to end on any more.
const BUSES_WAIT: Duration = Duration::from_secs(2);

/// How many forks lie between this process and the one that first loaded the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// How many worker threads a runtime has. They only wait for sockets and timers; with a second one
/// every answer would first wake a thread that looks for work and finds none.
const WORKERS: usize = 1;

/// An engine that runs, and its one end.
pub(crate) struct Engine {
    coordinator: engine::Coordinator,
    ended: Mutex<bool>,
    pid: u32,
}

impl Engine {
    /// Takes it in, so that it is flushed at exit.
    pub(crate) fn started(coordinator: engine::Coordinator) -> Arc<Self> {
        let pid = std::process::id();
        let engine = Arc::new(Self { coordinator, ended: Mutex::new(false), pid });
        open().push(Arc::clone(&engine));
        engine
    }

    /// Whether its threads are here; not in a forked child.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Ends it, or waits until whoever is at it has. Blocks.
    pub(crate) fn shut_down(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // In a forked child it would wait for threads that are not there.
        if !std::mem::replace(&mut *ended, true) && self.is_of_this_process() {
            self.coordinator.shut_down();
        }
        drop(ended);
        let own = std::ptr::from_ref(self);
        let closed: Vec<_> =
            open().extract_if(.., |open| std::ptr::eq(Arc::as_ptr(open), own)).collect();
        drop(closed);
    }
}

impl Deref for Engine {
    type Target = engine::Coordinator;

    fn deref(&self) -> &Self::Target {
        &self.coordinator
    }
}

/// Changes with every fork, in the child: a cheap sign for what belongs to which process.
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

fn open() -> MutexGuard<'static, Vec<Arc<Engine>>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The runtime's handle. The first service of the process says how many workers it has.
pub(crate) fn handle(workers: Option<usize>) -> PyResult<Handle> {
    let mut stamped = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    if stamped.as_ref().is_some_and(|stamped| stamped.pid != pid) {
        // The parent's threads are not here; dropping their runtime would wait for them for ever.
        std::mem::forget(stamped.take());
    }
    if let Some(stamped) = stamped.as_ref() {
        return Ok(stamped.runtime.handle().clone());
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers.unwrap_or(WORKERS))
        .thread_name("unanimity-worker")
        .enable_all()
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("cannot start threads: {error}")))?;
    let handle = runtime.handle().clone();
    *stamped = Some(Stamped { pid, runtime });
    Ok(handle)
}

/// Remembers a lock manager, so that it lets go of its locks at exit. With the interpreter held, so
/// that no fork comes between.
pub(crate) fn close_at_exit(manager: &Arc<dyn LockManager>) {
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|known| known.strong_count() > 0);
    locks.push(Arc::downgrade(manager));
}

/// Remembers an event bus, so that it is closed at exit. As [`close_at_exit`].
pub(crate) fn close_bus_at_exit(bus: &Arc<dyn EventBus>) {
    let mut buses = BUSES.lock().unwrap_or_else(PoisonError::into_inner);
    buses.retain(|known| known.strong_count() > 0);
    buses.push(Arc::downgrade(bus));
}

/// Keeps a node that is to start. With the interpreter held, so that no fork comes between.
pub(crate) fn keep_node(node: &Arc<Node>) {
    let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    nodes.retain(|known| Arc::strong_count(known) > 1 || known.is_running());
    if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
        nodes.push(Arc::clone(node));
    }
}

/// Keeps a node no longer, which is to be closed. As [`keep_node`].
pub(crate) fn let_node_go(node: &Arc<Node>) {
    let mut nodes = NODES.lock().unwrap_or_else(PoisonError::into_inner);
    nodes.retain(|known| !Arc::ptr_eq(known, node));
}

/// Closes buses side by side, and waits for that only so long.
fn close_buses(buses: Vec<Weak<dyn EventBus>>) {
    let (sender, closed) = mpsc::channel::<()>();
    for bus in buses.into_iter().filter_map(|bus| bus.upgrade()) {
        let sender = sender.clone();
        let close = move || {
            bus.close();
            drop(sender);
        };
        // Where no thread can be had, the process ends without it, as in a crash.
        let _ = thread::Builder::new().name("unanimity-close".to_owned()).spawn(close);
    }
    drop(sender);
    let _ = closed.recv_timeout(BUSES_WAIT);
}

/// Called by `atexit`: flushes every journal that is still open, lets the threads go, and gives
/// the last records to `logging`.
#[pyfunction]
fn shutdown(py: Python<'_>) -> PyResult<()> {
    let locks = std::mem::take(&mut *LOCKS.lock().unwrap_or_else(PoisonError::into_inner));
    let buses = std::mem::take(&mut *BUSES.lock().unwrap_or_else(PoisonError::into_inner));
    let nodes = std::mem::take(&mut *NODES.lock().unwrap_or_else(PoisonError::into_inner));
    py.detach(|| {
        close_buses(buses);
        let open = std::mem::take(&mut *open());
        for engine in open {
            engine.shut_down();
        }
        // After the engines, which give back what they hold by themselves.
        for manager in locks.iter().filter_map(Weak::upgrade) {
            manager.close();
        }
        let stamped = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stamped {
            Some(stamped) if stamped.pid == std::process::id() => {
                for node in &nodes {
                    node.close_at_exit(stamped.runtime.handle());
                }
                stamped.runtime.shutdown_background();
            }
            other => std::mem::forget(other),
        }
    });
    logging::hand_over(py)
}

/// What the forking thread holds meanwhile, so that no other thread is inside in the child's copy.
struct HeldForFork {
    open: MutexGuard<'static, Vec<Arc<Engine>>>,
    pending: MutexGuard<'static, logging::Pending>,
}

thread_local! {
    static HELD_FOR_FORK: RefCell<Option<HeldForFork>> = const { RefCell::new(None) };
}

/// Called before a fork, by the thread that forks.
#[pyfunction]
fn before_fork(py: Python<'_>) {
    // Detached, in case that whoever holds one of them needs the interpreter to come to an end.
    py.detach(|| {
        let (open, pending) = (open(), logging::pending());
        HELD_FOR_FORK.with(|held| *held.borrow_mut() = Some(HeldForFork { open, pending }));
    });
}

/// Called after a fork, in the process that forked.
#[pyfunction]
fn after_fork_in_parent() {
    HELD_FOR_FORK.with(|held| held.borrow_mut().take());
}

/// Called in a forked child: what belongs to the parent is left to the parent.
#[pyfunction]
fn after_fork_in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // Weak, and closed by the parent.
    LOCKS.lock().unwrap_or_else(PoisonError::into_inner).clear();
    BUSES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    // Not dropped, here or by whoever has them: their tasks are the parent's.
    std::mem::forget(std::mem::take(&mut *NODES.lock().unwrap_or_else(PoisonError::into_inner)));
    let _ = unanimity::journal::forget_instance_locks_in_child();
    if let Some(mut held) = HELD_FOR_FORK.with(|held| held.borrow_mut().take()) {
        // Not dropped: that would wait for threads that are not there.
        std::mem::forget(std::mem::take(&mut *held.open));
        held.pending.forget();
    }
}

/// Refuses what a forked child inherited with threads that it does not have.
pub(crate) fn check_process(py: Python<'_>, what: &str, pid: u32) -> PyResult<()> {
    let own = std::process::id();
    if pid == own {
        return Ok(());
    }
    let message = format!(
        "{what} belongs to process {pid}, and this is process {own}, forked from it; make a new \
         one after the fork"
    );
    Err(errors::exception(py, "ServiceElsewhere", &message, &[("code", "service.forked")]))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_function(wrap_pyfunction!(shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(before_fork, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_in_parent, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_in_child, module)?)?;
    // Imported first, so that it is still open for our last records: exit goes backwards.
    py.import("logging")?;
    py.import("atexit")?.call_method1("register", (module.getattr("shutdown")?,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let options = pyo3::types::PyDict::new(py);
        options.set_item("before", module.getattr("before_fork")?)?;
        options.set_item("after_in_parent", module.getattr("after_fork_in_parent")?)?;
        options.set_item("after_in_child", module.getattr("after_fork_in_child")?)?;
        os.call_method("register_at_fork", (), Some(&options))?;
    }
    Ok(())
}
