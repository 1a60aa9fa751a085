//! The prepares that run now, so that an abort can stop one and wait for its end.
//!
//! Not a lock: an abort that comes before its prepare is the fence's matter.
//! Invariant: an entry goes when its prepare ends, however it ends.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::model::ids::CoordinationId;

#[derive(Default)]
struct Flags {
    is_stopped: AtomicBool,
    stop: Notify,
    ended: Arc<Notify>,
}

/// All that run.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<CoordinationId, Arc<Flags>>>);

impl Running {
    /// Enters a prepare; `None` if one of this id runs already.
    pub(super) fn enter(self: &Arc<Self>, id: &CoordinationId) -> Option<Entered> {
        match self.map().entry(id.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => {
                let flags = vacant.insert(Arc::default()).clone();
                Some(Entered { running: self.clone(), id: id.clone(), flags })
            }
        }
    }

    /// Stops the prepare of this id, and gives what to wait for; `None` if none runs.
    pub(super) fn stop(&self, id: &CoordinationId) -> Option<OwnedNotified> {
        let map = self.map();
        let flags = map.get(id)?;
        // Taken under the lock that the end takes too, so it cannot be missed.
        let ended = flags.ended.clone().notified_owned();
        flags.is_stopped.store(true, Ordering::Release);
        flags.stop.notify_one();
        Some(ended)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<CoordinationId, Arc<Flags>>> {
        // Nothing that holds it can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A prepare that runs; it ends with its drop.
pub(super) struct Entered {
    running: Arc<Running>,
    id: CoordinationId,
    flags: Arc<Flags>,
}

impl Entered {
    /// Whether an abort was asked.
    pub(super) fn is_stopped(&self) -> bool {
        self.flags.is_stopped.load(Ordering::Acquire)
    }

    /// Waits until an abort is asked.
    pub(super) async fn stopped(&self) {
        if !self.is_stopped() {
            self.flags.stop.notified().await;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut map = self.running.map();
        map.remove(&self.id);
        self.flags.ended.notify_waiters();
    }
}
