//! The duties of the journal's port, black box, for every journal there is.
//!
//! Not what only one of them promises: that is beside it. The replicated journal keeps the same
//! claims in `src/journal/replicated/duties_test.rs`, where its cluster in memory is. Every wait is
//! on an answer, with a bound.

#[path = "../../../src/journal/test_kit.rs"]
mod desk;

mod claims;
mod postgres;
mod postgres_lost;
mod postgres_owners;
mod sqlite;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use unanimity::journal::{
    Answer, Append, Durability, HistoryFilter, Journal, JournalError, JournalOptions,
    OpenCoordination,
};
use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::{Decision, TransactionState};
use unanimity::model::record::{Reason, Record};
use unanimity::model::request::{CoordinationRequest, CoordinationType, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;

use desk::*;

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    Timestamp(i64::try_from(micros).unwrap())
}

/// Where a journal is; each desk is another process's hold on it.
struct Place {
    location: String,
    /// Whether a process can know that no other one has it open.
    knows_when_alone: bool,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("journal.db").to_str().unwrap().to_owned();
        Self { location, knows_when_alone: true, _folder: Some(folder) }
    }

    fn memory() -> Self {
        Self { location: "memory:".to_owned(), knows_when_alone: true, _folder: None }
    }

    fn database(dsn: String) -> Self {
        Self { location: dsn, knows_when_alone: false, _folder: None }
    }

    fn desk(&self) -> Desk {
        let options = JournalOptions::default();
        Desk::over(unanimity::journal::open(&self.location, options, false).expect("opens"))
    }
}
