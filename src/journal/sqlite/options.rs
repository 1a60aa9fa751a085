//! How a SQLite journal behaves. Every default is here, with its reason.
//!
//! Not the engine's configuration: that is converted into this.

use std::time::Duration;

use crate::db::segments::SegmentSizes;
use crate::db::sqlite::OpenOptions;
use crate::journal::postgres::ConnectionPool;

/// Settings of one journal.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// The most records of one commit. Default 1024: a commit that stays under a few milliseconds.
    pub batch_size_max: usize,
    /// How long records that nobody waits for may wait for company. Default 5 ms. A record that
    /// somebody waits for is never held back.
    pub lazy_wait_max: Duration,
    /// How long a sync waits for the records that its first answers lead to, while nobody waits for
    /// it. Default 1 ms.
    pub open_wait_max: Duration,
    /// How long the writer must have had nothing to do before it brings the tables up to date.
    /// Default 20 ms.
    pub projection_idle: Duration,
    /// How many records may be ahead of the tables before they are brought up to date under load.
    /// Default `200_000`; each is held in memory too.
    pub projection_due: usize,
    /// How many records may be ahead of the tables before new ones wait for them. Default
    /// `300_000`.
    pub projection_backlog_max: usize,
    /// How many records are brought into the tables at once, which is how long a commit may have
    /// to wait for it. Default `2_000`.
    pub projection_chunk: usize,
    /// How many finished coordinations retention removes at once. Default 500.
    pub retention_portion: usize,
    /// The longest pause between two tries while the journal cannot write. Default 1 s.
    pub retry_wait_max: Duration,
    /// The connections of a journal that is in PostgreSQL, which is opened with these options too.
    pub pool: ConnectionPool,
    /// How long to wait for another process's lock. Default 5 s.
    pub busy_timeout: Duration,
    /// How the log's segments grow. Default from 256 KiB to 16 MiB.
    pub segments: SegmentSizes,
    /// The most pages (of 4 KiB) that the file may have. Default `None`: as the disk allows.
    pub pages_max: Option<u32>,
    /// Files up to this size are read through for damage when they are opened. Default 64 MiB.
    pub check_bytes_max: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            batch_size_max: 1_024,
            lazy_wait_max: Duration::from_millis(5),
            open_wait_max: Duration::from_millis(1),
            projection_idle: Duration::from_millis(20),
            projection_due: 200_000,
            projection_backlog_max: 300_000,
            projection_chunk: 2_000,
            retention_portion: 500,
            retry_wait_max: Duration::from_secs(1),
            pool: ConnectionPool::default(),
            busy_timeout: Duration::from_secs(5),
            segments: SegmentSizes { first: 256 << 10, most: 16 << 20, total: None },
            pages_max: None,
            check_bytes_max: 64 << 20,
        }
    }
}

impl JournalOptions {
    pub(super) fn opening(&self) -> OpenOptions {
        OpenOptions {
            busy_timeout: self.busy_timeout,
            pages_max: self.pages_max,
            check_bytes_max: self.check_bytes_max,
        }
    }
}
