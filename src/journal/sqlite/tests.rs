//! The embedded journal, black box, on real files: order, rules, failure, recovery.
//!
//! Not its speed: that is `benches/journal.rs`. Every wait is on an answer, with a bound.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::journal::{Answer, Durability};
use crate::model::outcome::{
    Decision, Outcome as Ending, OutcomeKind, StoreSummary, TransactionState,
};
use crate::model::record::{Reason, Record};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::time::Timestamp;
use crate::model::value::Value;
use crate::reply::Lost;

mod damage;
mod kill;
mod random;
mod rules;
mod streams;
mod streams_processes;
mod streams_random;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers and health, as they come.
struct Listener {
    answers: Mutex<Sender<(u64, Answer)>>,
    health: Mutex<Sender<Option<JournalError>>>,
}

impl AnswerSink for Listener {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        let sender = self.answers.lock().unwrap();
        for answer in answers {
            // A test that is over does not listen any more.
            let _ = sender.send(answer);
        }
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        let _ = self.health.lock().unwrap().send(trouble);
    }
}

/// A journal under test with its answers.
struct Desk {
    journal: Arc<SqliteJournal>,
    answers: Receiver<(u64, Answer)>,
    health: Receiver<Option<JournalError>>,
}

impl Desk {
    fn open(location: &str) -> Self {
        Self::with(location, JournalOptions::default())
    }

    fn with(location: &str, options: JournalOptions) -> Self {
        let journal = Arc::new(SqliteJournal::open(location, options).expect("opens"));
        let (answers_in, answers) = mpsc::channel();
        let (health_in, health) = mpsc::channel();
        journal.attach(Arc::new(Listener {
            answers: Mutex::new(answers_in),
            health: Mutex::new(health_in),
        }));
        Self { journal, answers, health }
    }

    fn answer(&self) -> (u64, Answer) {
        self.answers.recv_timeout(PATIENCE).expect("an answer")
    }

    /// Appends one and waits for its answer.
    fn put(&self, append: Append) -> Answer {
        let token = append.token;
        self.journal.append(&mut vec![append]);
        let (answered, answer) = self.answer();
        assert_eq!(answered, token);
        answer
    }

    /// Begin, decision and end, forced.
    fn whole(&self, name: &str, at: i64, decision: Decision) {
        for record in [begin(&self.journal, name), decide(decision), end(decision)] {
            let answer = self.put(forced(name, at, record));
            assert!(matches!(answer, Answer::Recorded), "{answer:?}");
        }
    }

    fn find(&self, name: &str) -> Option<StoredCoordination> {
        wait(|reply| self.journal.find(id(name), reply)).expect("find answers")
    }

    fn history(&self, filter: HistoryFilter) -> Vec<String> {
        let found = wait(|reply| self.journal.history(filter, reply)).expect("history answers");
        found.iter().map(|stored| stored.request.id.to_string()).collect()
    }

    fn adopt(&self) -> Vec<OpenCoordination> {
        wait(|reply| self.journal.adopt(stores(), reply)).expect("adopt answers")
    }
}

fn wait<T: Lost + Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, receiver) = mpsc::channel();
    ask(Reply::new(move |answer| {
        let _ = sender.send(answer);
    }));
    receiver.recv_timeout(PATIENCE).expect("an answer")
}

fn id(name: &str) -> CoordinationId {
    CoordinationId::new(name).unwrap()
}

/// The stores that every request here names.
fn stores() -> Vec<StoreName> {
    request("any").stores.clone()
}

fn request(name: &str) -> Arc<CoordinationRequest> {
    let operation = |store: &str| {
        Value::Map(vec![
            ("store".into(), store.into()),
            ("type".into(), "put".into()),
            ("value".into(), Value::Bytes(vec![0, 255])),
        ])
    };
    let parts = RequestParts {
        id: name.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["left".to_owned(), "right".to_owned()],
        operations: vec![operation("left"), operation("right")],
        timeout_seconds: 1.5,
        consistency: "strong".to_owned(),
        metadata: Value::Map(vec![("why".into(), "ünïcode".into())]),
    };
    Arc::new(CoordinationRequest::check(parts).unwrap())
}

fn begin(journal: &SqliteJournal, name: &str) -> Record {
    let owner = journal.instance().clone();
    Record::Begin { request: request(name), owner, epoch: 1, locks: Vec::new() }
}

fn decide(decision: Decision) -> Record {
    let reason = (decision == Decision::Abort).then(|| Reason::new("refused", "it was refused"));
    Record::Decision { decision, reason, read_only: Vec::new() }
}

fn end(decision: Decision) -> Record {
    let (kind, state) = match decision {
        Decision::Commit => (OutcomeKind::Committed, TransactionState::Committed),
        Decision::Abort => (OutcomeKind::Aborted, TransactionState::Aborted),
    };
    let outcome = Ending {
        kind,
        state,
        code: None,
        message: None,
        operations_completed: 2,
        operations_failed: 0,
    };
    let summary = StoreSummary {
        store: crate::model::ids::StoreName::new("left").unwrap(),
        vote: Some("COMMIT".to_owned()),
        note: None,
        prepare_asked_at: Some(Timestamp(10)),
        voted_at: Some(Timestamp(20)),
        delivery_asked_at: Some(Timestamp(30)),
        acknowledged_at: Some(Timestamp(40)),
        attempts: 1,
    };
    Record::End { outcome, stores: vec![summary], steps: Vec::new() }
}

fn append(name: &str, at: i64, record: Record, durability: Durability) -> Append {
    static TOKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let token = TOKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Append { token, id: id(name), epoch: 1, at: Timestamp(at), record, durability }
}

fn forced(name: &str, at: i64, record: Record) -> Append {
    append(name, at, record, Durability::Forced)
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("journal.db");
    let text = path.to_str().unwrap().to_owned();
    (folder, text)
}

fn everything() -> HistoryFilter {
    HistoryFilter { limit: 1_000_000, ..HistoryFilter::default() }
}

/// Runs a claim on a file and in memory.
fn in_both(claim: impl Fn(&Desk)) {
    let (_folder, path) = folder();
    claim(&Desk::open(&path));
    claim(&Desk::open("memory:"));
}
