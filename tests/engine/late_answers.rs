//! Answers of the journal that come late: a decision that is confirmed when its caller's time is
//! over, and a begin that stood already when another process's was taken over meanwhile.
//!
//! The real engine over a real journal, whose answers on decisions are held back by the test. No
//! clock is moved: that the first caller's time is over is known from the answer to a second one,
//! whose time ends later.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use unanimity::engine::open_work::OpenWork;
use unanimity::engine::{Coordinator, EngineError, Options, Ports};
use unanimity::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, Journal, JournalError, JournalOptions,
    JournalStatus, OpenCoordination, SqliteJournal, StoredCoordination,
};
use unanimity::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use unanimity::model::outcome::{Acknowledgement, CoordinationResult, OutcomeKind, Vote};
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::participants::{
    Abilities, DeliveryAsk, MemoryStore, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::Reply;

type Results = mpsc::Receiver<Result<CoordinationResult, EngineError>>;

/// Who takes the answers, and those that are held back.
#[derive(Default)]
struct Gate {
    sink: Mutex<Option<Arc<dyn AnswerSink>>>,
    decisions: Mutex<Vec<u64>>,
    held: Mutex<Option<Vec<(u64, Answer)>>>,
}

impl AnswerSink for Gate {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        let decisions = self.decisions.lock().unwrap();
        let mut held = self.held.lock().unwrap();
        let (late, now): (Vec<_>, Vec<_>) = match held.as_mut() {
            Some(_) => answers.into_iter().partition(|(token, _)| decisions.contains(token)),
            None => (Vec::new(), answers),
        };
        if let Some(held) = held.as_mut() {
            held.extend(late);
        }
        drop((decisions, held));
        self.sink.lock().unwrap().as_ref().unwrap().answered(now);
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        self.sink.lock().unwrap().as_ref().unwrap().health_changed(trouble);
    }
}

struct LateJournal {
    inner: SqliteJournal,
    gate: Arc<Gate>,
    /// Answers on records of this coordination alone are held back.
    late: CoordinationId,
    /// Of its records, those of this kind.
    kind: &'static str,
}

impl Journal for LateJournal {
    fn cluster(&self) -> &ClusterId {
        self.inner.cluster()
    }

    fn instance(&self) -> &InstanceId {
        self.inner.instance()
    }

    fn attach(&self, sink: Arc<dyn AnswerSink>) {
        *self.gate.sink.lock().unwrap() = Some(sink);
        self.inner.attach(Arc::clone(&self.gate) as Arc<dyn AnswerSink>);
    }

    fn append(&self, batch: &mut Vec<Append>) {
        for append in batch.iter().filter(|append| append.id == self.late) {
            if append.record.kind() == self.kind {
                self.gate.decisions.lock().unwrap().push(append.token);
            }
        }
        self.inner.append(batch);
    }

    fn find(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        self.inner.find(id, reply);
    }

    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        self.inner.history(filter, reply);
    }

    fn adopt(
        &self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    ) {
        self.inner.adopt(stores, reply);
    }

    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        self.inner.unknown_of(ids, reply);
    }

    fn is_alone(&self) -> bool {
        self.inner.is_alone()
    }

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        self.inner.status(reply);
    }

    fn retain_some(&self, age: Duration, at_most: u64, reply: Reply<Result<u64, JournalError>>) {
        self.inner.retain_some(age, at_most, reply);
    }

    fn count_ended(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        self.inner.count_ended(age, reply);
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// Keeps its votes to itself.
#[derive(Default)]
struct Silent(Mutex<Vec<Reply<Vote>>>);

impl Participant for Silent {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn attach(&self, _: &ClusterId, _: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, _: PrepareAsk, reply: Reply<Vote>) {
        self.0.lock().unwrap().push(reply);
    }

    fn commit(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn abort(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        reply.send(Ok(Vec::new()));
    }
}

/// An engine whose decisions on `late` are written, and not answered before [`Held::release`].
struct Held {
    engine: Coordinator,
    gate: Arc<Gate>,
    _runtime: tokio::runtime::Runtime,
}

fn start(confirm_wait: Duration) -> Held {
    start_on("memory:", "decision", Options { confirm_wait, ..Options::default() })
}

fn start_on(path: &str, kind: &'static str, options: Options) -> Held {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gate = Arc::new(Gate { held: Mutex::new(Some(Vec::new())), ..Gate::default() });
    let journal = LateJournal {
        inner: SqliteJournal::open(path, JournalOptions::default()).unwrap(),
        kind,
        gate: Arc::clone(&gate),
        late: CoordinationId::new("late").unwrap(),
    };
    let named =
        |name: &str, store: Arc<dyn Participant>| (StoreName::new(name).unwrap(), store, true);
    let ports = Ports {
        journal: Arc::new(journal),
        stores: vec![
            named("left", Arc::new(MemoryStore::new("left"))),
            named("silent", Arc::new(Silent::default())),
        ],
        consensus: None,
        bus: None,
        event_bus: None,
        alerting: None,
        observers: Vec::new(),
        locks: None,
        options,
        runtime: runtime.handle().clone(),
    };
    let engine = Coordinator::start(ports, Reply::new(|_| {})).unwrap();
    Held { engine, gate, _runtime: runtime }
}

fn parts(id: &str, store: &str, timeout_seconds: f64) -> RequestParts {
    let operation = [("store", store), ("type", "put"), ("key", id), ("value", "v")];
    RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![store.to_owned()],
        operations: vec![Value::Map(
            operation.map(|(key, value)| (key.into(), Value::Text(value.into()))).into(),
        )],
        timeout_seconds,
        consistency: "session".to_owned(),
        metadata: Value::Map(Vec::new()),
    }
}

impl Held {
    fn coordinate(&self, id: &str, store: &str, timeout_seconds: f64) -> Results {
        let (sender, results) = mpsc::channel();
        self.engine.coordinate(
            parts(id, store, timeout_seconds),
            None,
            Reply::new(move |result| sender.send(result).unwrap()),
        );
        results
    }

    fn release(&self) {
        let held = self.gate.held.lock().unwrap().take().unwrap();
        assert_eq!(held.len(), 1, "the decision was written, and its answer held back");
        self.gate.answered(held);
    }
}

fn told(results: &Results) -> (OutcomeKind, Option<String>) {
    let result = results.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    (result.outcome.kind, result.outcome.code)
}

/// Until the time of `late` is over: that of the second, which is longer, is over then.
fn until_its_time_is_over(held: &Held) {
    assert_eq!(told(&held.coordinate("second", "silent", 0.2)).0, OutcomeKind::Aborted);
}

#[test]
fn a_decision_that_is_confirmed_shortly_after_the_callers_time_is_told_and_no_doubt() {
    let held = start(Duration::from_secs(60));
    let late = held.coordinate("late", "left", 0.1);
    until_its_time_is_over(&held);
    assert!(late.try_recv().is_err(), "he was told before the journal confirmed");
    held.release();
    assert_eq!(told(&late).0, OutcomeKind::Committed);
    held.engine.shut_down();
}

#[test]
fn a_decision_that_is_not_confirmed_is_told_as_a_doubt_and_its_end_when_it_is() {
    let held = start(Duration::ZERO);
    let late = held.coordinate("late", "left", 0.1);
    let doubt = (OutcomeKind::Unknown, Some("journal.unconfirmed".to_owned()));
    assert_eq!(told(&late), doubt);
    let (sender, ends) = mpsc::channel();
    let waiter = Reply::new(move |result| sender.send(result).unwrap());
    held.engine.wait_for(CoordinationId::new("late").unwrap(), waiter);
    held.release();
    assert_eq!(told(&ends).0, OutcomeKind::Committed);
    held.engine.shut_down();
}

fn open_work(held: &Held, age: Duration) -> OpenWork {
    let (sender, answers) = mpsc::channel();
    held.engine.open_work(age, Reply::new(move |open| sender.send(open).unwrap()));
    answers.recv_timeout(Duration::from_secs(20)).unwrap().unwrap()
}

#[test]
fn one_whose_decision_is_not_confirmed_is_open_work_in_doubt_until_it_is() {
    let held = start(Duration::ZERO);
    let late = held.coordinate("late", "left", 0.1);
    assert_eq!(told(&late).0, OutcomeKind::Unknown);
    let open = open_work(&held, Duration::ZERO);
    assert_eq!(open.in_doubt.count, 1);
    assert_eq!(open.in_doubt.ids[0].as_str(), "late");
    assert!(open.in_doubt.oldest >= Duration::from_millis(100), "{:?}", open.in_doubt);
    assert_eq!((open.undelivered.count, open.parked.count), (0, 0));
    assert_eq!(open_work(&held, Duration::from_secs(3_600)), OpenWork::default(), "it is young");
    let (sender, ends) = mpsc::channel();
    let waiter = Reply::new(move |result| sender.send(result).unwrap());
    held.engine.wait_for(CoordinationId::new("late").unwrap(), waiter);
    held.release();
    assert_eq!(told(&ends).0, OutcomeKind::Committed);
    assert_eq!(open_work(&held, Duration::ZERO).in_doubt.count, 0);
    held.engine.shut_down();
}

#[test]
fn one_that_waits_for_votes_in_its_time_is_no_open_work() {
    let held = start(Duration::from_secs(60));
    let silent = held.coordinate("silent", "silent", 3_600.0);
    assert_eq!(open_work(&held, Duration::ZERO), OpenWork::default());
    held.engine.shut_down();
    drop(silent);
}

#[test]
fn one_that_is_taken_over_while_somebody_asks_for_it_anew_is_resumed_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db").display().to_string();
    let rare = Options { recovery_interval: Duration::from_secs(3_600), ..Options::default() };
    let held = start_on(&path, "begin", rare);
    // Another process begins it and dies.
    let other = SqliteJournal::open(&path, JournalOptions::default()).unwrap();
    let request = Arc::new(CoordinationRequest::check(parts("late", "left", 30.0)).unwrap());
    let owner = other.instance().clone();
    other.append(&mut vec![Append {
        token: 0,
        id: request.id.clone(),
        epoch: 1,
        at: Timestamp(1),
        record: Record::Begin { request, owner, epoch: 1, locks: Vec::new() },
        durability: Durability::Forced,
    }]);
    other.close();
    let late = held.coordinate("late", "left", 30.0);
    let (sender, reports) = mpsc::channel();
    held.engine.recover(Reply::new(move |report| drop(sender.send(report))));
    reports.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    // Only now it hears that its own begin came too late.
    held.release();
    assert_eq!(told(&late).0, OutcomeKind::Aborted);
    held.engine.shut_down();
}
