//! Our own tokio runtime: created when first needed, stamped with its process, closed at exit.
//!
//! Not shared with anybody else's. Invariants: a forked child never touches its parent's runtime
//! (its threads do not exist there); at interpreter exit every open journal is flushed, and the
//! runtime is let go without waiting for its tasks.

use std::sync::{Mutex, PoisonError, Weak};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};
use unanimity::engine;

struct Stamped {
    pid: u32,
    runtime: Runtime,
}

static RUNTIME: Mutex<Option<Stamped>> = Mutex::new(None);
static OPEN: Mutex<Vec<Weak<engine::Coordinator>>> = Mutex::new(Vec::new());

/// How many worker threads a runtime has unless a service asks for more.
const WORKERS: usize = 2;

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

/// Remembers an engine that must be flushed at exit.
pub(crate) fn remember(engine: Weak<engine::Coordinator>) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|engine| engine.strong_count() > 0);
    open.push(engine);
}

/// Called by `atexit`: flushes every journal that is still open, and lets the threads go.
#[pyfunction]
fn shutdown(py: Python<'_>) {
    py.detach(|| {
        let open = std::mem::take(&mut *OPEN.lock().unwrap_or_else(PoisonError::into_inner));
        for engine in open.iter().filter_map(Weak::upgrade) {
            engine.shut_down();
        }
        let stamped = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stamped {
            Some(stamped) if stamped.pid == std::process::id() => {
                stamped.runtime.shutdown_background();
            }
            other => std::mem::forget(other),
        }
    });
}

/// Called in a forked child: what belongs to the parent is left to the parent.
#[pyfunction]
fn after_fork_in_child() {
    let _ = unanimity::journal::forget_instance_locks_in_child();
    if let Ok(mut open) = OPEN.try_lock() {
        open.clear();
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add_function(wrap_pyfunction!(shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_in_child, module)?)?;
    py.import("atexit")?.call_method1("register", (module.getattr("shutdown")?,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let options = pyo3::types::PyDict::new(py);
        options.set_item("after_in_child", module.getattr("after_fork_in_child")?)?;
        os.call_method("register_at_fork", (), Some(&options))?;
    }
    Ok(())
}
