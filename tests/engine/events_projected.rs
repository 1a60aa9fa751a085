//! Event sourcing on the real engine and journal: appends, projections, rebuilding, two processes.
//!
//! Not the rules (scenarios) and not the journal's order of events (its own tests). The store here
//! keeps what it was handed, and answers as it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use unanimity::engine::{Coordinator, EngineError, Options, Ports};
use unanimity::journal::{Journal, JournalOptions, SqliteJournal};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName, StreamId};
use unanimity::model::outcome::{
    Acknowledgement, CoordinationResult, OutcomeKind, TransactionState, Vote,
};
use unanimity::model::request::{CoordinationType, RequestParts};
use unanimity::model::stream::StreamEvent;
use unanimity::model::value::Value;
use unanimity::participants::{
    Abilities, DeliveryAsk, EventAsk, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::{Lost, Reply};

const LONG: Duration = Duration::from_secs(20);

/// Applies events: at once, or as the next of its answers says.
#[derive(Default)]
struct View {
    lacks_apply: bool,
    applied: Mutex<Vec<Arc<StreamEvent>>>,
    attempts: Mutex<Vec<u32>>,
    answers: Mutex<VecDeque<Acknowledgement>>,
    /// Keeps questions instead of answering them.
    shut: Mutex<Option<Vec<Reply<Acknowledgement>>>>,
    told: Mutex<Option<mpsc::Sender<u64>>>,
}

impl View {
    fn positions(&self) -> Vec<u64> {
        self.applied.lock().unwrap().iter().map(|event| event.position).collect()
    }

    fn answers(&self, next: impl IntoIterator<Item = Acknowledgement>) {
        self.answers.lock().unwrap().extend(next);
    }

    /// Hears the position of each question from now on.
    fn ear(&self) -> mpsc::Receiver<u64> {
        let (sender, heard) = mpsc::channel();
        *self.told.lock().unwrap() = Some(sender);
        heard
    }
}

impl Participant for View {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        let applies = kind == CoordinationType::EventSourcing && !self.lacks_apply;
        if applies { None } else { Some("apply_event") }
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

    fn apply_event(&self, ask: EventAsk, reply: Reply<Acknowledgement>) {
        self.attempts.lock().unwrap().push(ask.attempt);
        if let Some(told) = &*self.told.lock().unwrap() {
            let _ = told.send(ask.event.position);
        }
        if let Some(kept) = self.shut.lock().unwrap().as_mut() {
            return kept.push(reply);
        }
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Acknowledgement::Done);
        if answer == Acknowledgement::Done {
            self.applied.lock().unwrap().push(ask.event);
        }
        reply.send(answer);
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        reply.send(Ok(Vec::new()));
    }
}

/// An engine over the views "left" and "right".
struct Stage {
    engine: Coordinator,
    left: Arc<View>,
    right: Arc<View>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Stage {
    fn on(path: &str) -> Self {
        Self::with(path, [Arc::default(), Arc::default()])
    }

    fn with(path: &str, [left, right]: [Arc<View>; 2]) -> Self {
        let journal = Arc::new(SqliteJournal::open(path, JournalOptions::default()).unwrap());
        Self::over(journal, [left, right])
    }

    fn over(journal: Arc<dyn Journal>, [left, right]: [Arc<View>; 2]) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let named = |name: &str, view: &Arc<View>| {
            (StoreName::new(name).unwrap(), Arc::clone(view) as Arc<dyn Participant>, true)
        };
        let ports = Ports {
            journal,
            stores: vec![named("left", &left), named("right", &right)],
            consensus: None,
            bus: None,
            event_bus: None,
            alerting: None,
            observers: Vec::new(),
            locks: None,
            options: Options {
                retry_base: Duration::from_millis(1),
                retry_cap: Duration::from_millis(4),
                projection_attempts_max: 3,
                ..Options::default()
            },
            runtime: runtime.handle().clone(),
        };
        let engine = Coordinator::start(ports, Reply::new(|_| {})).unwrap();
        Self { engine, left, right, runtime: Some(runtime) }
    }

    fn coordinate(&self, id: &str, request: Events<'_>) -> CoordinationResult {
        wait(|reply| self.engine.coordinate(request.parts(id), None, reply)).unwrap()
    }

    fn wait_for(&self, id: &str) -> CoordinationResult {
        wait(|reply| self.engine.wait_for(CoordinationId::new(id).unwrap(), reply)).unwrap()
    }

    fn rebuild(&self, store: &str) -> Result<u64, EngineError> {
        let store = StoreName::new(store).unwrap();
        wait(|reply| self.engine.rebuild_projection(store, reply))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.engine.shut_down();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LONG);
        }
    }
}

/// A request of events, one on each of these streams.
struct Events<'a> {
    stores: &'a [&'a str],
    streams: &'a [&'a str],
    expected: Option<i64>,
    consistency: &'a str,
    seconds: f64,
}

impl<'a> Events<'a> {
    fn on(streams: &'a [&'a str]) -> Self {
        let (stores, consistency) = (&["left", "right"][..], "session");
        Self { stores, streams, expected: None, consistency, seconds: 20.0 }
    }

    fn parts(&self, id: &str) -> RequestParts {
        let operation = |stream: &&str| {
            let mut body = vec![
                ("store".to_owned(), Value::from(self.stores[0])),
                ("type".to_owned(), Value::from("happened")),
                ("stream".to_owned(), Value::from(*stream)),
            ];
            body.extend(self.expected.map(|it| ("expected_version".to_owned(), Value::from(it))));
            Value::Map(body)
        };
        RequestParts {
            id: id.to_owned(),
            kind: "event_sourcing".to_owned(),
            stores: self.stores.iter().map(|name| (*name).to_owned()).collect(),
            operations: self.streams.iter().map(operation).collect(),
            timeout_seconds: self.seconds,
            consistency: self.consistency.to_owned(),
            metadata: Value::Map(Vec::new()),
        }
    }
}

fn wait<T: Lost + Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, answer) = mpsc::channel();
    ask(Reply::new(move |told| drop(sender.send(told))));
    answer.recv_timeout(LONG).expect("an answer")
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db").display().to_string();
    (folder, path)
}

fn in_both(claim: impl Fn(&str)) {
    let (_folder, path) = folder();
    claim(&path);
    claim("memory:");
}

fn assert_committed(result: &CoordinationResult) {
    let outcome = &result.outcome;
    let told = (outcome.kind, outcome.state);
    assert_eq!(told, (OutcomeKind::Committed, TransactionState::Committed), "{outcome:?}");
}

#[test]
fn whoever_waits_hears_the_end_when_every_store_has_the_events_in_order() {
    in_both(|path| {
        let stage = Stage::on(path);
        for (index, consistency) in ["session", "strong"].into_iter().enumerate() {
            let request = Events { consistency, ..Events::on(&["a", "b", "a"]) };
            let result = stage.coordinate(&format!("c{index}"), request);
            assert_committed(&result);
            assert_eq!(result.outcome.operations_completed, 3);
        }
        for view in [&stage.left, &stage.right] {
            assert_eq!(view.positions(), [1, 2, 3, 4, 5, 6]);
        }
        let events = wait(|reply| {
            stage.engine.read_stream(StreamId::new("a").unwrap(), 0, 10, reply);
        });
        let versions: Vec<u64> = events.unwrap().iter().map(|event| event.version).collect();
        assert_eq!(versions, [1, 2, 3, 4]);
    });
}

#[test]
fn a_store_that_takes_no_part_gets_the_events_too() {
    let stage = Stage::on("memory:");
    let heard = stage.right.ear();
    assert_committed(&stage.coordinate("c1", Events { stores: &["left"], ..Events::on(&["a"]) }));
    assert_eq!(heard.recv_timeout(LONG), Ok(1));
}

#[test]
fn eventual_hears_at_once_that_the_events_stand() {
    in_both(|path| {
        let stage = Stage::on(path);
        *stage.left.shut.lock().unwrap() = Some(Vec::new());
        let heard = stage.left.ear();
        let request = Events { consistency: "eventual", ..Events::on(&["a"]) };
        let outcome = stage.coordinate("c1", request).outcome;
        assert!(outcome.is_success());
        assert_eq!(outcome.state, TransactionState::Committing);
        assert!(outcome.message.unwrap().contains("'left'"));
        heard.recv_timeout(LONG).unwrap();
        let kept = stage.left.shut.lock().unwrap().take().unwrap();
        for reply in kept {
            reply.send(Acknowledgement::Done);
        }
        assert_committed(&stage.wait_for("c1"));
    });
}

#[test]
fn a_version_that_is_not_met_aborts_and_leaves_nothing() {
    in_both(|path| {
        let stage = Stage::on(path);
        assert_committed(&stage.coordinate("c1", Events::on(&["a"])));
        let request = Events { expected: Some(0), ..Events::on(&["b", "a"]) };
        let outcome = stage.coordinate("c2", request).outcome;
        let told = (outcome.kind, outcome.state);
        assert_eq!(told, (OutcomeKind::Aborted, TransactionState::Aborted));
        assert_eq!(outcome.code.as_deref(), Some("transaction.aborted.version"));
        let message = outcome.message.unwrap();
        assert!(message.contains("'a' exists already, at version 1; version 0"), "{message}");
        let again = Events { expected: Some(1), ..Events::on(&["a"]) };
        assert_committed(&stage.coordinate("c2", again));
        assert_eq!(stage.left.positions(), [1, 2]);
    });
}

#[test]
fn an_operation_without_a_stream_and_a_store_without_the_method_are_refused() {
    let lacking = Arc::new(View { lacks_apply: true, ..View::default() });
    let stage = Stage::with("memory:", [Arc::default(), lacking]);
    let outcome = stage.coordinate("c1", Events::on(&["a"])).outcome;
    assert_eq!(outcome.kind, OutcomeKind::Refused);
    let message = outcome.message.unwrap();
    assert!(message.contains("'right'") && message.contains("apply_event"), "{message}");
    let outcome = stage.coordinate("c2", Events { stores: &["left"], ..Events::on(&[""]) }).outcome;
    assert!(outcome.message.unwrap().contains("operations[0] has 'stream'"));
}

#[test]
fn an_event_is_handed_over_again_until_the_store_has_it() {
    let stage = Stage::on("memory:");
    let unknown = || Acknowledgement::Unknown { message: "busy".to_owned() };
    stage.left.answers([unknown(), unknown()]);
    assert_committed(&stage.coordinate("c1", Events::on(&["a", "a"])));
    assert_eq!(stage.left.positions(), [1, 2]);
    assert_eq!(*stage.left.attempts.lock().unwrap(), [1, 2, 3, 1]);
}

#[test]
fn a_parked_projection_holds_up_only_itself_and_goes_on_when_it_is_redriven() {
    in_both(|path| {
        let stage = Stage::on(path);
        assert_committed(&stage.coordinate("c1", Events::on(&["a"])));
        let unknown = || Acknowledgement::Unknown { message: "no such column".to_owned() };
        stage.left.answers((0..3).map(|_| unknown()));
        let outcome = stage.coordinate("c2", Events { seconds: 0.2, ..Events::on(&["a"]) }).outcome;
        assert!(outcome.is_success(), "the events stand");
        assert_eq!(outcome.state, TransactionState::Committing);
        assert!(outcome.message.unwrap().contains("'left'"));
        let other = Events { stores: &["right"], ..Events::on(&["a"]) };
        assert_committed(&stage.coordinate("c3", other));
        // The caller was told by the clock; nobody signals the parking.
        let until = Instant::now() + LONG;
        let letters = loop {
            let letters = wait(|reply| stage.engine.dead_letters(reply)).unwrap();
            if !letters.is_empty() {
                break letters;
            }
            assert!(Instant::now() < until, "it is not parked");
        };
        let letter = &letters[0];
        assert_eq!((letters.len(), letter.operation_id.as_str()), (1, "projection:left"));
        assert_eq!((letter.coordination.as_str(), letter.attempts), ("c2", 3));
        assert_eq!((letter.kind.as_str(), letter.store.as_str()), ("happened", "left"));
        assert!(letter.message.contains("event 2: no such column"), "{}", letter.message);
        assert_eq!(stage.left.positions(), [1], "it stands still");
        let stuck = stage.rebuild("nobody");
        assert!(matches!(stuck, Err(EngineError::CannotProject { .. })), "{stuck:?}");
        let redrive = |id: &str| wait(|reply| stage.engine.redrive(id.to_owned(), None, reply));
        assert_eq!(redrive("projection:right"), Ok(false), "it is not parked");
        assert_eq!(redrive("projection:left"), Ok(true));
        assert_committed(&stage.wait_for("c2"));
        assert_committed(&stage.coordinate("c4", Events::on(&["a"])));
        assert_eq!(stage.left.positions(), [1, 2, 3, 4]);
        assert_eq!(wait(|reply| stage.engine.dead_letters(reply)).unwrap(), []);
    });
}

#[test]
fn a_stores_final_word_parks_at_once() {
    let stage = Stage::on("memory:");
    stage.left.answers([Acknowledgement::Failed { message: "never".to_owned() }]);
    let outcome = stage.coordinate("c1", Events { seconds: 0.1, ..Events::on(&["a"]) }).outcome;
    assert_eq!(outcome.state, TransactionState::Committing);
    assert_eq!(*stage.left.attempts.lock().unwrap(), [1]);
}

#[test]
fn a_projection_is_rebuilt_from_the_first_event_while_others_are_appended() {
    in_both(|path| {
        let stage = Stage::on(path);
        for index in 0..300 {
            let request = Events { consistency: "eventual", ..Events::on(&["a", "b"]) };
            assert!(stage.coordinate(&format!("c{index}"), request).outcome.is_success());
        }
        assert_committed(&stage.coordinate("last", Events::on(&["a"])));
        assert_eq!(stage.left.positions().len(), 601);
        let (sender, rebuilt) = mpsc::channel();
        let store = StoreName::new("left").unwrap();
        let reply = Reply::new(move |told| drop(sender.send(told)));
        stage.engine.rebuild_projection(store, reply);
        for index in 0..50 {
            let request = Events { consistency: "eventual", ..Events::on(&["c"]) };
            stage.coordinate(&format!("meanwhile{index}"), request);
        }
        let count = rebuilt.recv_timeout(LONG).unwrap().unwrap();
        assert!((601..=651).contains(&count), "{count}");
        assert_committed(&stage.coordinate("end", Events::on(&["c"])));
        let positions = stage.left.positions();
        let again = positions.iter().rposition(|position| *position == 1).unwrap();
        assert!(again >= 601, "it began anew");
        assert_eq!(positions[again..], (1..=652).collect::<Vec<u64>>(), "all of them, in order");
    });
}

#[test]
fn what_a_process_left_is_brought_to_the_end_by_the_next() {
    let (_folder, path) = folder();
    let stage = Stage::on(&path);
    *stage.left.shut.lock().unwrap() = Some(Vec::new());
    let request = Events { consistency: "eventual", ..Events::on(&["a", "b"]) };
    assert!(stage.coordinate("c1", request).outcome.is_success());
    drop(stage);
    let heir = Stage::on(&path);
    assert_committed(&heir.wait_for("c1"));
    assert_eq!(heir.left.positions(), [1, 2]);
}

#[test]
fn of_two_processes_one_runs_a_projection_and_the_other_takes_over_when_it_is_gone() {
    let (_folder, path) = folder();
    let one = Stage::on(&path);
    assert_committed(&one.coordinate("c1", Events::on(&["a"])));
    let two = Stage::on(&path);
    assert_committed(&two.coordinate("c2", Events::on(&["a"])));
    assert_committed(&one.coordinate("c3", Events::on(&["a"])));
    assert_eq!(two.left.positions(), [0_u64; 0], "the first runs it");
    assert_eq!(one.left.positions(), [1, 2, 3]);
    assert_eq!(two.rebuild("left"), Ok(3), "from any process");
    assert_eq!(one.left.positions(), [1, 2, 3, 1, 2, 3]);
    drop(one);
    assert_committed(&two.coordinate("c4", Events::on(&["a"])));
    assert_eq!(two.left.positions(), [4], "from where the first was");
}

#[test]
fn who_waits_for_events_gets_them_when_they_come_of_whatever_process() {
    let (_folder, path) = folder();
    let (one, two) = (Stage::on(&path), Stage::on(&path));
    let next = |after| wait(|reply| one.engine.next_events(after, 10, LONG, reply)).unwrap().len();
    let (sender, none) = mpsc::channel();
    let reply = Reply::new(move |told| drop(sender.send(told)));
    one.engine.next_events(0, 10, Duration::ZERO, reply);
    assert_eq!(none.recv_timeout(LONG).unwrap(), Ok(Vec::new()));
    assert_committed(&one.coordinate("c1", Events::on(&["a"])));
    assert_eq!(next(0), 1);
    assert_committed(&two.coordinate("c2", Events::on(&["a", "b"])));
    assert_eq!(next(1), 2);
}
