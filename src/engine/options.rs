//! Every bound and wait of the engine, with its default. Nothing here is read from a file.

use std::time::Duration;

use crate::protocol::retry::Backoff;

/// What an engine may be told when it is built.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest that the first phase may take (`prepare_phase_timeout_seconds`).
    pub prepare_timeout: Duration,
    /// The longest that a caller waits for deliveries (`commit_phase_timeout_seconds`).
    pub commit_timeout: Duration,
    /// The longest that a caller waits for stores to roll back. What an abort leaves to do changes
    /// nothing for him, so a store that hangs costs him one prepare timeout and no more.
    pub abort_wait: Duration,
    /// How much longer than his time a caller waits for a decision that is being written: told
    /// sooner he would hear a doubt that is gone a moment later.
    pub confirm_wait: Duration,
    /// How many coordinations run at once (`max_concurrent_coordinations`).
    pub concurrent_max: usize,
    /// How many more wait for their turn; one more is refused.
    pub queued_max: usize,
    /// The longest that a new coordination waits for its locks
    /// (`lock_acquisition_timeout_seconds`); `None` for as long as its own time allows.
    pub lock_timeout: Option<Duration>,
    /// The first and the longest wait before a delivery is repeated.
    pub retry_base: Duration,
    /// See `retry_base`.
    pub retry_cap: Duration,
    /// How often a store is asked to apply an event before its projection is parked.
    pub projection_attempts_max: u32,
    /// How often dead owners are looked for.
    pub recovery_interval: Duration,
    /// How long an unknown prepared transaction is left alone while others may be its owner.
    pub orphan_interval: Duration,
    /// How long finished coordinations are kept (`retention.finished_days`); `None` for ever.
    pub retention: Option<Duration>,
    /// How often the journal is asked to remove what is older.
    pub retention_interval: Duration,
    /// How long start and `recover` wait for what they resumed.
    pub recovery_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prepare_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(60),
            abort_wait: Duration::from_secs(1),
            confirm_wait: Duration::from_secs(1),
            concurrent_max: 100,
            queued_max: 10_000,
            lock_timeout: None,
            retry_base: Duration::from_millis(50),
            retry_cap: Duration::from_secs(30),
            projection_attempts_max: 8,
            recovery_interval: Duration::from_secs(1),
            orphan_interval: Duration::from_secs(60),
            retention: Some(Duration::from_secs(30 * 86_400)),
            retention_interval: Duration::from_secs(3_600),
            recovery_wait: Duration::from_secs(10),
        }
    }
}

impl Options {
    pub(super) fn backoff(&self, seed: u64) -> Backoff {
        Backoff { base: self.retry_base, cap: self.retry_cap, seed }
    }
}
