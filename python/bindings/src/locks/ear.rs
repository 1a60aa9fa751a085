//! Who hears of lost locks for Python: a callable that runs on the manager's home loop.
//!
//! Invariant: nothing is called here; what was heard waits in the bridge's queue.

use std::sync::Arc;

use pyo3::prelude::*;
use unanimity::locks::{Deadlock, LockEar, LockId, RequesterId};

use crate::bridge::{Item, Shared};

pub(crate) struct PythonEar {
    bridge: Arc<Shared>,
    lost: Arc<Py<PyAny>>,
}

impl PythonEar {
    pub(crate) fn new(bridge: Arc<Shared>, lost: Py<PyAny>) -> Self {
        Self { bridge, lost: Arc::new(lost) }
    }
}

impl LockEar for PythonEar {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        let lost = Arc::clone(&self.lost);
        let told = (lock_id.to_string(), requester.to_string(), reason.to_owned());
        self.bridge.push(Item::Run(Box::new(move |py| lost.bind(py).call1(told).map(drop))));
    }

    /// The victim is told by its own answer, and all by `deadlocks()`.
    fn deadlock(&self, _deadlock: &Deadlock) {}
}
