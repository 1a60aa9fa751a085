//! The engine's clock: wall time at its start, moved on by the monotonic clock.
//!
//! Invariant: within one process it never goes back, whatever is done to the system's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::time::Timestamp;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: Timestamp(0) + since_epoch, started: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wall + self.started.elapsed()
    }

    /// How long from now until `at`, zero when it has passed.
    pub(super) fn until(&self, at: Timestamp) -> Duration {
        at.since(self.now())
    }
}
