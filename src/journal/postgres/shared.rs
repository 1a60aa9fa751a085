//! What writer, reader and session share.
//!
//! Not a lock around a database. Invariant: nothing here is held across a wait.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::options::PostgresJournalOptions;
use super::queue::Queue;
use crate::db::postgres::Server;
use crate::model::ids::InstanceId;

/// One process's hold on a journal.
pub(super) struct Inner {
    pub(super) server: Server,
    pub(super) own: InstanceId,
    pub(super) queue: Queue,
    pub(super) options: PostgresJournalOptions,
    /// The writer has written its last; the session says goodbye.
    pub(super) is_over: watch::Sender<bool>,
    regained: Mutex<Option<Instant>>,
}

impl Inner {
    pub(super) fn new(server: Server, own: InstanceId, options: PostgresJournalOptions) -> Self {
        let is_over = watch::Sender::new(false);
        Self { server, own, queue: Queue::default(), options, is_over, regained: Mutex::new(None) }
    }

    /// Server and database, for people.
    pub(super) fn label(&self) -> &str {
        &self.server.label
    }

    /// When the instance's lock was taken again, if it was ever lost.
    pub(super) fn regained(&self) -> Option<Instant> {
        *self.regained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_regained(&self) {
        let mut regained = self.regained.lock().unwrap_or_else(PoisonError::into_inner);
        *regained = Some(Instant::now());
    }
}
