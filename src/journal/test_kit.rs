//! What tests of a journal share: a hold on one with its answers, and records for it.
//!
//! Not tests. Compiled into this crate's own tests and into those beside it, so it calls the crate
//! by its name. Invariant: every wait is on an answer, with a bound.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use unanimity::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, Journal, JournalError, OpenCoordination,
    StoredCoordination,
};
use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{
    Decision, Outcome as Ending, OutcomeKind, StoreSummary, TransactionState,
};
use unanimity::model::record::{Reason, Record};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::reply::{Lost, Reply};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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
pub(crate) struct Desk<J: Journal + ?Sized = dyn Journal> {
    pub(crate) journal: Arc<J>,
    pub(crate) answers: Receiver<(u64, Answer)>,
    pub(crate) health: Receiver<Option<JournalError>>,
}

impl<J: Journal + ?Sized> Desk<J> {
    pub(crate) fn over(journal: Arc<J>) -> Self {
        let (answers_in, answers) = mpsc::channel();
        let (health_in, health) = mpsc::channel();
        journal.attach(Arc::new(Listener {
            answers: Mutex::new(answers_in),
            health: Mutex::new(health_in),
        }));
        Self { journal, answers, health }
    }

    pub(crate) fn answer(&self) -> (u64, Answer) {
        self.answers.recv_timeout(PATIENCE).expect("an answer")
    }

    /// Appends one and waits for its answer.
    pub(crate) fn put(&self, append: Append) -> Answer {
        let token = append.token;
        self.journal.append(&mut vec![append]);
        let (answered, answer) = self.answer();
        assert_eq!(answered, token);
        answer
    }

    /// Begin, decision and end, forced.
    pub(crate) fn whole(&self, name: &str, at: i64, decision: Decision) {
        for record in [begin(&*self.journal, name), decide(decision), end(decision)] {
            let answer = self.put(forced(name, at, record));
            assert!(matches!(answer, Answer::Recorded), "{answer:?}");
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<StoredCoordination> {
        wait(|reply| self.journal.find(id(name), reply)).expect("find answers")
    }

    pub(crate) fn history(&self, filter: HistoryFilter) -> Vec<String> {
        let found = wait(|reply| self.journal.history(filter, reply)).expect("history answers");
        found.iter().map(|stored| stored.request.id.to_string()).collect()
    }

    pub(crate) fn adopt(&self) -> Vec<OpenCoordination> {
        wait(|reply| self.journal.adopt(stores(), reply)).expect("adopt answers")
    }
}

pub(crate) fn wait<T: Lost + Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, receiver) = mpsc::channel();
    ask(Reply::new(move |answer| {
        let _ = sender.send(answer);
    }));
    receiver.recv_timeout(PATIENCE).expect("an answer")
}

pub(crate) fn id(name: &str) -> CoordinationId {
    CoordinationId::new(name).unwrap()
}

/// The stores that every request here names.
pub(crate) fn stores() -> Vec<StoreName> {
    request("any").stores.clone()
}

pub(crate) fn request(name: &str) -> Arc<CoordinationRequest> {
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

pub(crate) fn begin(journal: &(impl Journal + ?Sized), name: &str) -> Record {
    let owner = journal.instance().clone();
    Record::Begin { request: request(name), owner, epoch: 1, locks: Vec::new() }
}

pub(crate) fn decide(decision: Decision) -> Record {
    let reason = (decision == Decision::Abort).then(|| Reason::new("refused", "it was refused"));
    Record::Decision { decision, reason, read_only: Vec::new(), receipts: Vec::new() }
}

pub(crate) fn end(decision: Decision) -> Record {
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
        store: StoreName::new("left").unwrap(),
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

pub(crate) fn append(name: &str, at: i64, record: Record, durability: Durability) -> Append {
    static TOKEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let token = TOKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Append { token, id: id(name), epoch: 1, at: Timestamp(at), record, durability }
}

pub(crate) fn forced(name: &str, at: i64, record: Record) -> Append {
    append(name, at, record, Durability::Forced)
}

pub(crate) fn everything() -> HistoryFilter {
    HistoryFilter { limit: 1_000_000, ..HistoryFilter::default() }
}
