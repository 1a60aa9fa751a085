//! Choreographed sagas over real buses: several services, each with a store and a journal of its
//! own, on one durable bus in a file.
//!
//! Not processes that die (the Python tests do that). The stores here do what they are told to, and
//! keep what they were asked, in order.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use unanimity::engine::{Coordinator, EngineError, Options, Ports};
use unanimity::events::journal::JournalEventBus;
use unanimity::events::{Delivery, EventBus, EventHandler, Handled, SubscribeAsk, SubscriptionId};
use unanimity::journal::{JournalOptions, SqliteJournal};
use unanimity::locks::local::LocalLockManager;
use unanimity::locks::{LockAsk, LockManager, LockMode, RequesterId, ResourceId};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::operation::Operation;
use unanimity::model::outcome::{Acknowledgement, CoordinationResult, OutcomeKind, Vote};
use unanimity::model::request::{CoordinationType, RequestParts};
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::value::Value;
use unanimity::participants::{
    Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::Reply;

const LONG: Duration = Duration::from_secs(60);
/// How long a stop waits for its locks.
const LOCK_WAIT: Duration = Duration::from_millis(300);

type Asked = Arc<Mutex<Vec<String>>>;

/// Does its part, or fails for good where the operation says so.
struct Part {
    asked: Asked,
}

impl Participant for Part {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn missing_for(&self, _kind: CoordinationType) -> Option<&'static str> {
        None
    }

    fn can_compensate(&self, _operation: &Operation) -> bool {
        true
    }

    fn attach(&self, _: &ClusterId, _: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, _: PrepareAsk, reply: Reply<Vote>) {
        reply.send(Vote::Commit);
    }

    fn commit(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn abort(&self, _: DeliveryAsk, reply: Reply<Acknowledgement>) {
        reply.send(Acknowledgement::Done);
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let operation = ask.operation();
        let known: Vec<&str> = ask.results().map(|(id, _)| id).collect();
        let line = format!(
            "{} {} of {} knowing [{}]",
            ask.work.as_str(),
            operation.id,
            ask.id(),
            known.join(" ")
        );
        self.asked.lock().unwrap().push(line);
        if ask.work == Work::Execute && operation.body.get("fails").is_some() {
            let message = "it is told to".to_owned();
            return reply.send(StepAnswer::Failed { message, retryable: false });
        }
        reply.send(StepAnswer::Done { result: Value::Text(format!("{} done", operation.id)) });
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        reply.send(Ok(Vec::new()));
    }
}

/// A service with some of the stores.
struct Service {
    engine: Coordinator,
    bus: Arc<JournalEventBus>,
}

/// Three services on one bus, and what all of their stores were asked.
struct Stage {
    services: HashMap<&'static str, Service>,
    asked: Asked,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    locks: Arc<LocalLockManager>,
}

impl Stage {
    fn new() -> Self {
        let mut stage = Self {
            services: HashMap::new(),
            asked: Asked::default(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            folder: tempfile::tempdir().unwrap(),
            locks: Arc::new(LocalLockManager::new()),
        };
        for (name, stores) in [("front", &[][..]), ("left", &["a", "c"]), ("right", &["b"])] {
            stage.start(name, stores);
        }
        stage
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self, name: &'static str, stores: &[&str]) {
        let journal = self.path(&format!("{name}.db")).display().to_string();
        let bus = open_bus(&self.path("bus"), &self.runtime);
        let asked = &self.asked;
        let named = |store: &&str| {
            let part: Arc<dyn Participant> = Arc::new(Part { asked: Arc::clone(asked) });
            (StoreName::new(store).unwrap(), part, false)
        };
        let ports = Ports {
            journal: Arc::new(SqliteJournal::open(&journal, JournalOptions::default()).unwrap()),
            stores: stores.iter().map(named).collect(),
            consensus: None,
            bus: None,
            event_bus: Some(Arc::clone(&bus) as Arc<dyn EventBus>),
            alerting: None,
            observers: Vec::new(),
            locks: Some(Arc::clone(&self.locks) as Arc<dyn LockManager>),
            options: Options { prepare_timeout: LOCK_WAIT, ..Options::default() },
            runtime: self.runtime.handle().clone(),
        };
        let engine = Coordinator::start(ports, Reply::new(|_| {})).unwrap();
        self.services.insert(name, Service { engine, bus });
    }

    fn stop(&mut self, name: &str) {
        if let Some(service) = self.services.remove(name) {
            service.engine.shut_down();
            service.bus.close();
        }
    }

    fn submit(&self, at: &str, parts: RequestParts) -> mpsc::Receiver<Answer> {
        let (sender, results) = mpsc::channel();
        let waiter = Reply::new(move |result| drop(sender.send(result)));
        self.services[at].engine.coordinate(parts, None, waiter);
        results
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for name in ["front", "left", "right"] {
            self.stop(name);
        }
    }
}

type Answer = Result<CoordinationResult, EngineError>;

fn open_bus(path: &Path, runtime: &tokio::runtime::Runtime) -> Arc<JournalEventBus> {
    Arc::new(JournalEventBus::open(path, runtime.handle().clone()).unwrap())
}

fn operation(keys: &[(&str, &str)]) -> Value {
    Value::Map(keys.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect())
}

fn parts(id: &str, operations: Vec<Value>) -> RequestParts {
    let with_undo = operations.into_iter().map(|operation| match operation {
        Value::Map(mut keys) => {
            let undo = self::operation(&[("type", "undo")]);
            keys.push(("compensation".to_owned(), undo));
            Value::Map(keys)
        }
        other => other,
    });
    RequestParts {
        id: id.to_owned(),
        kind: "saga_choreography".to_owned(),
        stores: ["a", "b", "c"].map(str::to_owned).to_vec(),
        operations: with_undo.collect(),
        timeout_seconds: 60.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(Vec::new()),
    }
}

fn three(last: &[(&str, &str)]) -> Vec<Value> {
    let step = |store: &'static str, id: &'static str| {
        vec![("store", store), ("type", "do"), ("operation_id", id)]
    };
    let mut third = step("c", "third");
    third.extend(last);
    vec![operation(&step("a", "first")), operation(&step("b", "second")), operation(&third)]
}

fn result(answers: &mpsc::Receiver<Answer>) -> CoordinationResult {
    answers.recv_timeout(LONG).unwrap().unwrap()
}

#[test]
fn a_saga_goes_from_service_to_service_and_results_go_with_it() {
    let stage = Stage::new();
    let done = result(&stage.submit("front", parts("trip", three(&[]))));
    assert_eq!(done.outcome.kind, OutcomeKind::Committed, "{:?}", done.outcome);
    assert_eq!(
        stage.asked(),
        [
            "execute first of trip knowing []",
            "execute second of trip knowing [first]",
            "execute third of trip knowing [first second]",
        ]
    );
}

#[test]
fn a_failure_travels_back_and_undoes_what_was_done_in_reverse() {
    let stage = Stage::new();
    let failed = result(&stage.submit("front", parts("trip", three(&[("fails", "yes")]))));
    assert_eq!(failed.outcome.kind, OutcomeKind::Aborted);
    let message = failed.outcome.message.unwrap();
    assert!(message.contains("'third'") && message.contains("it is told to"), "{message}");
    assert_eq!(
        stage.asked()[2..],
        [
            "execute third of trip knowing [first second]",
            "compensate second of trip knowing [first second]",
            "compensate first of trip knowing [first second]",
        ]
    );
}

#[test]
fn a_stop_that_cannot_have_its_locks_now_waits_and_nothing_is_undone() {
    let stage = Stage::new();
    let ask = LockAsk {
        resource: ResourceId::new("b/key").unwrap(),
        mode: LockMode::Exclusive,
        requester: RequesterId::new("somebody else").unwrap(),
        timeout: None,
        lease: None,
        working_since: None,
        is_protected: true,
        coordination: None,
    };
    let held = stage.locks.try_acquire(&ask).unwrap();
    let mut operations = three(&[]);
    operations[1] =
        operation(&[("store", "b"), ("type", "do"), ("operation_id", "second"), ("key", "key")]);
    let strong = RequestParts { consistency: "strong".to_owned(), ..parts("trip", operations) };
    let answers = stage.submit("front", strong);
    let waits = |stage: &Stage| {
        let (sender, infos) = mpsc::channel();
        let reply = Reply::new(move |infos| drop(sender.send(infos)));
        stage.locks.status(Some(ask.resource.clone()), reply);
        infos.recv_timeout(LONG).unwrap().unwrap().len() > 1
    };
    // Its wait ends without the locks, and another one begins: twice.
    for wanted in [true, false, true, false] {
        let until = std::time::Instant::now() + LONG;
        while waits(&stage) != wanted {
            assert!(std::time::Instant::now() < until, "{:?}", answers.try_recv());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    assert!(answers.try_recv().is_err(), "nobody knows yet how it ends");
    assert!(stage.locks.release_now(&held.lock_id, &ask.requester));
    let done = result(&answers);
    assert_eq!(done.outcome.kind, OutcomeKind::Committed, "{:?}", done.outcome);
    let asked = stage.asked();
    assert!(asked.iter().all(|line| line.starts_with("execute")) && asked.len() == 3, "{asked:?}");
}

#[test]
fn events_lead_the_way_and_others_may_listen_to_them() {
    struct Ear(Mutex<mpsc::Sender<Value>>);
    impl EventHandler for Ear {
        fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
            let _ = self.0.lock().unwrap().send(delivery.event.body.clone());
            reply.send(Handled::Done);
        }
    }
    let stage = Stage::new();
    let (sender, heard) = mpsc::channel();
    let (taken, subscribed) = mpsc::channel();
    stage.services["front"].bus.subscribe(
        SubscribeAsk {
            kind: Some("PAID".to_owned()),
            group: None,
            handler: Arc::new(Ear(Mutex::new(sender))),
            attempts_max: 3,
            in_flight_max: 1,
            timeout: LONG,
        },
        Reply::new(move |answer: Result<SubscriptionId, _>| drop(taken.send(answer))),
    );
    subscribed.recv_timeout(LONG).unwrap().unwrap();
    let step = |store, id, more: &[(&'static str, &'static str)]| {
        let mut keys = vec![("store", store), ("type", "do"), ("operation_id", id)];
        keys.extend(more);
        operation(&keys)
    };
    let operations = vec![
        step("a", "order", &[("emits", "ORDERED")]),
        step("b", "ship", &[("on", "PAID")]),
        step("c", "pay", &[("on", "ORDERED"), ("emits", "PAID")]),
    ];
    let done = result(&stage.submit("front", parts("trip", operations)));
    assert_eq!(done.outcome.kind, OutcomeKind::Committed, "{:?}", done.outcome);
    let order: Vec<String> = stage.asked().iter().map(|line| line[8..12].to_owned()).collect();
    assert_eq!(order, ["orde", "pay ", "ship"]);
    let paid = heard.recv_timeout(LONG).unwrap();
    assert_eq!(paid.get("result"), Some(&Value::from("pay done")));
    assert_eq!(paid.get("coordination_id"), Some(&Value::from("trip")));
}

#[test]
fn whoever_began_it_may_be_gone_and_hears_the_end_when_it_is_back() {
    let mut stage = Stage::new();
    // The second stop is away, so the saga stands still when its beginner goes.
    stage.stop("right");
    let begun = stage.submit("front", parts("trip", three(&[])));
    let deadline = std::time::Instant::now() + LONG;
    while stage.asked().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the first stop was never asked");
        std::thread::yield_now();
    }
    stage.stop("front");
    assert!(begun.recv_timeout(LONG).unwrap().is_err(), "nobody can know the end");
    stage.start("right", &["b"]);
    while stage.asked().len() < 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", stage.asked());
        std::thread::yield_now();
    }
    stage.start("front", &[]);
    let (sender, ended) = mpsc::channel();
    let waiter = Reply::new(move |result| drop(sender.send(result)));
    stage.services["front"].engine.wait_for(CoordinationId::new("trip").unwrap(), waiter);
    assert_eq!(result(&ended).outcome.kind, OutcomeKind::Committed);
    assert_eq!(stage.asked().len(), 3, "nothing was done twice: {:?}", stage.asked());
}

#[test]
fn without_a_durable_bus_it_is_refused_and_says_what_to_give() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ports = Ports {
        journal: Arc::new(SqliteJournal::open("memory:", JournalOptions::default()).unwrap()),
        stores: Vec::new(),
        consensus: None,
        bus: None,
        event_bus: None,
        alerting: None,
        observers: Vec::new(),
        locks: None,
        options: Options::default(),
        runtime: runtime.handle().clone(),
    };
    let engine = Coordinator::start(ports, Reply::new(|_| {})).unwrap();
    let (sender, results) = mpsc::channel();
    let waiter = Reply::new(move |result| drop(sender.send(result)));
    engine.coordinate(parts("trip", three(&[])), None, waiter);
    let refused = result(&results).outcome;
    assert_eq!(refused.code.as_deref(), Some("request.no_durable_bus"));
    assert!(refused.message.unwrap().contains("JournalEventBus"));
    engine.shut_down();
}
