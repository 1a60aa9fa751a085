//! Who hears of lost and suspended locks for Python: callables that run on the manager's home loop.
//!
//! Invariant: nothing is called here; what was heard waits in the bridge's queue.

use std::sync::Arc;
use std::time::Instant;

use pyo3::prelude::*;
use unanimity::locks::{Deadlock, LockEar, LockId, RequesterId};

use crate::bridge::{Item, Shared};

pub(crate) struct PythonEar {
    bridge: Arc<Shared>,
    lost: Arc<Py<PyAny>>,
    suspended: Arc<Py<PyAny>>,
    resumed: Arc<Py<PyAny>>,
}

impl PythonEar {
    pub(crate) fn new(bridge: Arc<Shared>, [lost, suspended, resumed]: [Py<PyAny>; 3]) -> Self {
        let [lost, suspended, resumed] = [lost, suspended, resumed].map(Arc::new);
        Self { bridge, lost, suspended, resumed }
    }
}

impl LockEar for PythonEar {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        let lost = Arc::clone(&self.lost);
        let told = (lock_id.to_string(), requester.to_string(), reason.to_owned());
        self.bridge.push(Item::Run(Box::new(move |py| lost.bind(py).call1(told).map(drop))));
    }

    fn suspended(&self, lock_id: &LockId, requester: &RequesterId, until: Instant) {
        let suspended = Arc::clone(&self.suspended);
        let (lock_id, requester) = (lock_id.to_string(), requester.to_string());
        self.bridge.push(Item::Run(Box::new(move |py| {
            // Counted when it is told, because a loop that is busy tells it late.
            let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
            suspended.bind(py).call1((lock_id, requester, left)).map(drop)
        })));
    }

    fn resumed(&self, lock_id: &LockId, requester: &RequesterId) {
        let resumed = Arc::clone(&self.resumed);
        let told = (lock_id.to_string(), requester.to_string());
        self.bridge.push(Item::Run(Box::new(move |py| resumed.bind(py).call1(told).map(drop))));
    }

    /// The victim is told by its own answer, and all by `deadlocks()`.
    fn deadlock(&self, _deadlock: &Deadlock) {}
}
