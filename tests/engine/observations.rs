//! What the engine tells observers: exactly these observations, in this order.
//!
//! Not what is made of them (metrics, traces). Stores here answer at once, so that one thread
//! brings every answer and the order is certain; no time is looked at beyond its sense.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use unanimity::engine::{Coordinator, EngineError, Options, Ports, RecoveryReport};
use unanimity::journal::{Append, Durability, Journal, JournalOptions, SqliteJournal};
use unanimity::locks::local::LocalLockManager;
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, CoordinationResult, Decision, OutcomeKind, Vote};
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::step::StepAnswer;
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::observe::{Act, Observation, Observer};
use unanimity::participants::{
    Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::Reply;

const LONG: Duration = Duration::from_secs(20);

/// Answers at once: an operation of the type "refuse" is refused for good.
struct Store;

fn refuses(request: &CoordinationRequest, store: &StoreName) -> bool {
    request.operations.iter().any(|it| it.store == *store && it.kind == "refuse")
}

impl Participant for Store {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn missing_for(&self, _: unanimity::model::request::CoordinationType) -> Option<&'static str> {
        None
    }

    fn attach(&self, _: &ClusterId, _: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let is_no = refuses(&ask.request, &ask.store);
        reply.send(if is_no { Vote::Abort { reason: "no".to_owned() } } else { Vote::Commit });
    }

    fn commit(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn abort(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        reply.send(if ask.operation().kind == "refuse" {
            StepAnswer::Failed { message: "no".to_owned(), retryable: false }
        } else {
            StepAnswer::Done { result: Value::Null }
        });
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        reply.send(Ok(Vec::new()));
    }
}

/// Keeps what it is told as words.
struct Notes {
    words: Mutex<Vec<String>>,
    ended: mpsc::Sender<()>,
}

impl Observer for Notes {
    fn observe(&self, of: &Observation<'_>) {
        let words = match &of.act {
            Act::Began { request, is_resumed } => {
                format!("began {} resumed={is_resumed}", request.kind.as_str())
            }
            Act::Locks { count } => format!("locks {count}"),
            Act::Record { kind } => format!("record {kind}"),
            Act::Call { call, store, operation, attempt } => {
                let (operation, attempt) = (operation.unwrap_or("-"), attempt.unwrap_or(0));
                format!("{} {store} {operation} {attempt}", call.as_str())
            }
            Act::Ended { outcome, is_resumed } => {
                format!("ended {:?} resumed={is_resumed}", outcome.kind)
            }
            other => format!("{other:?}"),
        };
        // The end of one that a process before had accepted is counted from then.
        let is_old = matches!(of.act, Act::Ended { is_resumed: true, .. });
        assert!(is_old == (of.duration > LONG) && of.began_at > Timestamp(0), "{words}: {of:?}");
        let line = format!("{} {words}: {}", of.coordination, of.ending.as_str());
        self.words.lock().unwrap().push(line);
        if matches!(of.act, Act::Ended { .. }) {
            let _ = self.ended.send(());
        }
    }
}

struct Stage {
    engine: Coordinator,
    notes: Arc<Notes>,
    ended: mpsc::Receiver<()>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::after(|_| {})
    }

    /// Over a journal in which something was left open.
    fn after(leave_behind: impl FnOnce(&str)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db").display().to_string();
        leave_behind(&path);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (sender, ended) = mpsc::channel();
        let notes = Arc::new(Notes { words: Mutex::default(), ended: sender });
        let named = |name: &str| {
            (StoreName::new(name).unwrap(), Arc::new(Store) as Arc<dyn Participant>, true)
        };
        let ports = Ports {
            journal: Arc::new(SqliteJournal::open(&path, JournalOptions::default()).unwrap()),
            stores: vec![named("left"), named("right")],
            consensus: None,
            bus: None,
            event_bus: None,
            alerting: None,
            observers: vec![notes.clone()],
            locks: Some(Arc::new(LocalLockManager::new())),
            options: Options::default(),
            runtime: runtime.handle().clone(),
        };
        let reply = Reply::new(|_: Result<RecoveryReport, EngineError>| {});
        let engine = Coordinator::start(ports, reply).unwrap();
        Self { engine, notes, ended, _runtime: runtime, _folder: folder }
    }

    fn coordinate(&self, parts: RequestParts) -> OutcomeKind {
        let (sender, results) = mpsc::channel();
        let waiter = Reply::new(move |result: Result<CoordinationResult, EngineError>| {
            drop(sender.send(result));
        });
        self.engine.coordinate(parts, None, waiter);
        results.recv_timeout(LONG).unwrap().unwrap().outcome.kind
    }

    /// What was told until one more coordination had ended.
    fn told(&self) -> Vec<String> {
        self.ended.recv_timeout(LONG).unwrap();
        std::mem::take(&mut self.notes.words.lock().unwrap())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.engine.shut_down();
    }
}

fn parts(id: &str, kind: &str, consistency: &str, types: [&str; 2]) -> RequestParts {
    let operation = |store: &str, kind: &str| {
        let undoing = Value::Map(vec![("type".to_owned(), Value::from("undo"))]);
        let fields = [("store", store), ("type", kind), ("key", "k"), ("operation_id", store)];
        let mut fields: Vec<(String, Value)> =
            fields.map(|(key, word)| (key.to_owned(), Value::from(word))).into();
        fields.push(("compensation".to_owned(), undoing));
        Value::Map(fields)
    };
    RequestParts {
        id: id.to_owned(),
        kind: kind.to_owned(),
        stores: vec!["left".to_owned(), "right".to_owned()],
        operations: vec![operation("left", types[0]), operation("right", types[1])],
        timeout_seconds: 30.0,
        consistency: consistency.to_owned(),
        metadata: Value::Map(Vec::new()),
    }
}

#[test]
fn a_two_phase_commit_is_told_question_by_question_and_an_abort_with_its_reason() {
    let stage = Stage::new();
    let committed = stage.coordinate(parts("a", "two_phase_commit", "strong", ["put", "put"]));
    assert_eq!(committed, OutcomeKind::Committed);
    assert_eq!(
        stage.told(),
        [
            "a began two_phase_commit resumed=false: done",
            "a locks 4: done",
            "a record begin: done",
            "a prepare left - 1: done",
            "a prepare right - 1: done",
            "a record decision: done",
            "a commit left - 0: done",
            "a commit right - 0: done",
            "a ended Committed resumed=false: done",
        ]
    );
    let aborted = stage.coordinate(parts("b", "two_phase_commit", "session", ["put", "refuse"]));
    assert_eq!(aborted, OutcomeKind::Aborted);
    assert_eq!(
        stage.told(),
        [
            "b began two_phase_commit resumed=false: done",
            "b record begin: done",
            "b prepare left - 1: done",
            "b prepare right - 1: refused",
            "b record decision: done",
            "b abort left - 0: done",
            "b abort right - 0: done",
            "b ended Aborted resumed=false: refused",
        ]
    );
}

#[test]
fn a_saga_that_goes_back_is_told_with_what_it_tried_and_undid() {
    let stage = Stage::new();
    let undone = stage.coordinate(parts("s", "saga_orchestration", "session", ["put", "refuse"]));
    assert_eq!(undone, OutcomeKind::Aborted);
    assert_eq!(
        stage.told(),
        [
            "s began saga_orchestration resumed=false: done",
            "s record begin: done",
            "s execute left left 1: done",
            "s record step_started: done",
            "s execute right right 1: refused",
            "s record decision: done",
            "s record step_started: done",
            "s compensate left left 1: done",
            "s record step_done: done",
            "s ended Aborted resumed=false: refused",
        ]
    );
}

#[test]
fn a_coordination_that_a_dead_process_decided_is_told_as_resumed() {
    let stage = Stage::after(|path| {
        let journal = SqliteJournal::open(path, JournalOptions::default()).unwrap();
        let parts = parts("r", "two_phase_commit", "session", ["put", "put"]);
        let request = Arc::new(CoordinationRequest::check(parts).unwrap());
        let (id, owner) = (request.id.clone(), journal.instance().clone());
        let begin = Record::Begin { request, owner, epoch: 1, locks: Vec::new() };
        let decision = Record::Decision {
            decision: Decision::Commit,
            reason: None,
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        for record in [begin, decision] {
            let (id, at, durability) = (id.clone(), Timestamp(1), Durability::Forced);
            journal.append(&mut vec![Append { token: 0, id, epoch: 1, at, record, durability }]);
        }
        journal.close();
    });
    assert_eq!(
        stage.told(),
        [
            "r began two_phase_commit resumed=true: done",
            "r commit left - 0: done",
            "r commit right - 0: done",
            "r ended Committed resumed=true: done",
        ]
    );
}
