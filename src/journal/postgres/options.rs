//! How a PostgreSQL journal behaves. Every default is here, with its reason.
//!
//! Not the engine's configuration: that is converted into this.

use std::time::Duration;

use crate::journal::JournalOptions;

/// Settings of one journal.
#[derive(Clone, Debug)]
pub struct PostgresJournalOptions {
    /// The most records of one commit. Default 1024: a commit that stays under some 20 ms.
    pub batch_size_max: usize,
    /// Its connections.
    pub pool: ConnectionPool,
    /// How long records that nobody waits for may wait for company. Default 5 ms.
    pub lazy_wait_max: Duration,
    /// How long begins and questions wait for a server that cannot be reached. Default 10 s: a
    /// restart or a failover passes unnoticed.
    pub patience: Duration,
    /// The longest pause between two tries while the server cannot be reached. Default 1 s.
    pub retry_wait_max: Duration,
    /// How often an instance says that it lives. Default 1 s.
    pub heartbeat: Duration,
    /// An instance that lost its lock counts as alive for so long after its last heartbeat: it may
    /// be connecting again. Default 3 s.
    pub grace: Duration,
    /// An instance that holds its lock and is silent for longer counts as dead: it is stopped, or
    /// its machine is gone. Default 10 s.
    pub silence_max: Duration,
    /// How many open coordinations are adopted, or finished ones removed, at once. Default 500.
    pub portion: usize,
    /// Whether tables that are not there are an error, instead of being made. Default false.
    pub must_exist: bool,
}

/// How many connections a journal in a database has. The writer and the session have one each; the
/// others ask questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionPool {
    /// How many stay open when there is nothing to do. Default 3.
    pub least: usize,
    /// How many there are at most, and never fewer than three. Default 3.
    pub most: usize,
    /// After how long one beyond the least is closed. Default 300 s.
    pub idle_max: Duration,
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self { least: 3, most: 3, idle_max: Duration::from_secs(300) }
    }
}

impl ConnectionPool {
    const OF_OTHERS: usize = 2;

    pub(super) fn for_questions(&self) -> usize {
        self.most.saturating_sub(Self::OF_OTHERS).max(1)
    }

    pub(super) fn kept_for_questions(&self) -> usize {
        self.least.saturating_sub(Self::OF_OTHERS).clamp(1, self.for_questions())
    }
}

impl Default for PostgresJournalOptions {
    fn default() -> Self {
        Self {
            batch_size_max: 1_024,
            pool: ConnectionPool::default(),
            lazy_wait_max: Duration::from_millis(5),
            patience: Duration::from_secs(10),
            retry_wait_max: Duration::from_secs(1),
            heartbeat: Duration::from_secs(1),
            grace: Duration::from_secs(3),
            silence_max: Duration::from_secs(10),
            portion: 500,
            must_exist: false,
        }
    }
}

impl From<&JournalOptions> for PostgresJournalOptions {
    fn from(options: &JournalOptions) -> Self {
        Self {
            batch_size_max: options.batch_size_max,
            lazy_wait_max: options.lazy_wait_max,
            pool: options.pool,
            ..Self::default()
        }
    }
}
