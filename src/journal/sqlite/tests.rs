//! The embedded journal, black box, on real files: order, rules, failure, recovery.
//!
//! Not its speed: that is `benches/journal.rs`. Every wait is on an answer, with a bound.

use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};

use super::*;
use crate::journal::test_kit::*;
use crate::journal::{Answer, Durability};
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::Record;
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::time::Timestamp;
use crate::model::value::Value;

mod damage;
mod kill;
mod lists;
mod random;
mod rules;
mod streams;
mod streams_processes;
mod streams_random;

type Desk = crate::journal::test_kit::Desk<SqliteJournal>;

impl Desk {
    fn open(location: &str) -> Self {
        Self::with(location, JournalOptions::default())
    }

    fn with(location: &str, options: JournalOptions) -> Self {
        Self::over(Arc::new(SqliteJournal::open(location, options).expect("opens")))
    }
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("journal.db");
    let text = path.to_str().unwrap().to_owned();
    (folder, text)
}

/// Runs a claim on a file and in memory.
fn in_both(claim: impl Fn(&Desk)) {
    let (_folder, path) = folder();
    claim(&Desk::open(&path));
    claim(&Desk::open("memory:"));
}
