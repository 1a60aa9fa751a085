//! Strong coordinations of the real engine under the real lock manager of one process.
//!
//! Not the rules (scenarios, simulation) and not the manager (its own tests). The store here votes
//! at once and acknowledges when it is told to, and keeps what it was asked in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use unanimity::engine::{Coordinator, EngineError, Options, Ports};
use unanimity::journal::{Append, Durability, Journal, JournalOptions, SqliteJournal};
use unanimity::locks::local::LocalLockManager;
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, LockMode,
    RequesterId, ResourceId, WaitForGraph, WaitId,
};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::lock::Fence;
use unanimity::model::outcome::{
    Acknowledgement, CoordinationResult, Decision, OutcomeKind, TransactionState, Vote,
};
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::participants::{Abilities, DeliveryAsk, Participant, ParticipantError, PrepareAsk};
use unanimity::reply::Reply;

const LONG: Duration = Duration::from_secs(20);

type Answers<T> = mpsc::Receiver<T>;
type Results = Answers<Result<CoordinationResult, EngineError>>;

/// Votes at once; acknowledges at once, or when it is opened.
#[derive(Default)]
struct Store {
    asked: Mutex<Vec<String>>,
    shut: Mutex<Option<Vec<Reply<Acknowledgement>>>>,
    fences: Mutex<Vec<Fence>>,
    /// Keeps the vote instead of giving it.
    hesitates: AtomicBool,
    vote: Mutex<Option<Reply<Vote>>>,
}

impl Store {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn shut(&self) {
        *self.shut.lock().unwrap() = Some(Vec::new());
    }

    fn open(&self) {
        for reply in self.shut.lock().unwrap().take().unwrap_or_default() {
            reply.send(Acknowledgement::Done);
        }
    }

    fn acknowledge(&self, words: String, reply: Reply<Acknowledgement>) {
        self.asked.lock().unwrap().push(words);
        let mut shut = self.shut.lock().unwrap();
        match shut.as_mut() {
            Some(waiting) => waiting.push(reply),
            None => {
                drop(shut);
                reply.send(Acknowledgement::Done);
            }
        }
    }
}

impl Participant for Store {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn attach(&self, _: &ClusterId, _: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        self.asked.lock().unwrap().push(format!("prepare {}", ask.id()));
        self.fences.lock().unwrap().extend(ask.fences.iter().cloned());
        if self.hesitates.load(Ordering::SeqCst) {
            *self.vote.lock().unwrap() = Some(reply);
        } else {
            reply.send(Vote::Commit);
        }
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.acknowledge(format!("commit {}", ask.id), reply);
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.acknowledge(format!("abort {}", ask.id), reply);
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        reply.send(Ok(Vec::new()));
    }
}

/// An engine over two stores, with what is left of an earlier one on its journal.
struct Stage {
    engine: Coordinator,
    locks: Arc<LocalLockManager>,
    left: Arc<Store>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::after(&[], Arc::default())
    }

    fn after(decided: &[&str], locks: Arc<LocalLockManager>) -> Self {
        Self::under(decided, locks.clone(), locks)
    }

    fn under(decided: &[&str], locks: Arc<LocalLockManager>, port: Arc<dyn LockManager>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.db").display().to_string();
        if !decided.is_empty() {
            leave_behind(&path, decided);
        }
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let left = Arc::new(Store::default());
        let named = |name: &str, store: Arc<Store>| {
            (StoreName::new(name).unwrap(), store as Arc<dyn Participant>, true)
        };
        let ports = Ports {
            journal: Arc::new(SqliteJournal::open(&path, JournalOptions::default()).unwrap()),
            stores: vec![named("left", left.clone()), named("right", Arc::default())],
            consensus: None,
            bus: None,
            event_bus: None,
            alerting: None,
            observers: Vec::new(),
            locks: Some(port),
            options: Options {
                prepare_timeout: Duration::from_secs(10),
                commit_timeout: Duration::from_millis(200),
                ..Options::default()
            },
            runtime: runtime.handle().clone(),
        };
        let engine = Coordinator::start(ports, Reply::new(drop)).unwrap();
        Self { engine, locks, left, _runtime: runtime, _folder: folder }
    }

    fn submit(&self, id: &str, consistency: &str, timeout_seconds: f64) -> Results {
        let (sender, results) = mpsc::channel();
        let waiter = Reply::new(move |result| drop(sender.send(result)));
        self.engine.coordinate(parts(id, consistency, timeout_seconds), None, waiter);
        results
    }

    fn hold(&self, requester: &str, resource: &str, since: Option<Timestamp>) -> Hand {
        let (sender, answers) = mpsc::channel();
        let ask = LockAsk {
            resource: ResourceId::new(resource).unwrap(),
            mode: LockMode::Exclusive,
            requester: RequesterId::new(requester).unwrap(),
            timeout: Some(LONG),
            lease: None,
            working_since: since,
            is_protected: false,
            coordination: None,
        };
        self.locks.acquire(ask, Reply::new(move |answer| drop(sender.send(answer))));
        Hand(answers)
    }

    fn let_go(&self, requester: &str) {
        let requester = RequesterId::new(requester).unwrap();
        self.locks.release_all(&requester, Reply::new(drop));
    }

    fn claims(&self) -> Vec<LockInfo> {
        let (sender, answers) = mpsc::channel();
        self.locks.status(None, Reply::new(move |answer| drop(sender.send(answer))));
        answers.recv_timeout(LONG).unwrap().unwrap()
    }

    /// Until somebody waits for a lock, which is when whoever comes first has come.
    fn until_somebody_waits(&self) {
        let begun = Instant::now();
        while !self.claims().iter().any(|claim| claim.lock_id.is_none()) {
            assert!(begun.elapsed() < LONG, "nobody waits");
            std::thread::yield_now();
        }
    }

    fn until_nothing_is_held(&self) {
        let begun = Instant::now();
        while !self.claims().is_empty() {
            assert!(begun.elapsed() < LONG, "held: {:?}", self.claims());
            std::thread::yield_now();
        }
    }

    fn is_known(&self, id: &str) -> bool {
        let (sender, answers) = mpsc::channel();
        let id = CoordinationId::new(id).unwrap();
        self.engine.look_at(id, Reply::new(move |found| drop(sender.send(found))));
        answers.recv_timeout(LONG).unwrap().unwrap().is_some()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.engine.shut_down();
    }
}

struct Hand(Answers<Result<Grant, LockError>>);

impl Hand {
    fn answer(&self) -> Result<Grant, LockError> {
        self.0.recv_timeout(LONG).expect("an answer")
    }
}

fn result(results: &Results) -> CoordinationResult {
    results.recv_timeout(LONG).expect("an answer").expect("a result")
}

fn kind_and_code(result: &CoordinationResult) -> (OutcomeKind, &str) {
    (result.outcome.kind, result.outcome.code.as_deref().unwrap_or_default())
}

/// A write of the key k of both stores.
fn parts(id: &str, consistency: &str, timeout_seconds: f64) -> RequestParts {
    let operation = |store: &str| {
        let fields = [("store", store), ("type", "put"), ("key", "k")];
        Value::Map(fields.map(|(key, word)| (key.to_owned(), Value::from(word))).into())
    };
    RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["right".to_owned(), "left".to_owned()],
        operations: vec![operation("right"), operation("left")],
        timeout_seconds,
        consistency: consistency.to_owned(),
        metadata: Value::Map(Vec::new()),
    }
}

/// An engine that died with these decided and not delivered.
fn leave_behind(path: &str, ids: &[&str]) {
    let journal = SqliteJournal::open(path, JournalOptions::default()).unwrap();
    let owner = journal.instance().clone();
    for id in ids {
        let request = Arc::new(CoordinationRequest::check(parts(id, "strong", 30.0)).unwrap());
        let (id, decision) = (request.id.clone(), Decision::Commit);
        let begin = Record::Begin { request, owner: owner.clone(), epoch: 1, locks: vec![1; 4] };
        let decision = Record::Decision {
            decision,
            reason: None,
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        for record in [begin, decision] {
            let (id, at, durability) = (id.clone(), Timestamp(1), Durability::Forced);
            journal.append(&mut vec![Append { token: 0, id, epoch: 1, at, record, durability }]);
        }
    }
    journal.close();
}

#[test]
fn a_strong_coordination_waits_for_a_key_that_is_held_and_a_session_one_does_not() {
    let stage = Stage::new();
    stage.hold("hand", "left/k", None).answer().unwrap();
    let waiting = stage.submit("strong", "strong", 30.0);
    stage.until_somebody_waits();
    assert_eq!(
        result(&stage.submit("session", "session", 30.0)).outcome.kind,
        OutcomeKind::Committed
    );
    assert_eq!(stage.left.asked(), ["prepare session", "commit session"]);
    stage.let_go("hand");
    assert_eq!(result(&waiting).outcome.kind, OutcomeKind::Committed);
    stage.until_nothing_is_held();
    let fences = stage.left.fences.lock().unwrap();
    assert!(fences.is_empty(), "tokens of a manager that nobody shares tell nothing: {fences:?}");
}

#[test]
fn a_refused_lock_aborts_with_who_is_in_the_way_asks_nobody_and_leaves_the_id_free() {
    let stage = Stage::new();
    stage.hold("hand", "left/k", None).answer().unwrap();
    let refused = result(&stage.submit("c1", "strong", 1.2));
    assert_eq!(kind_and_code(&refused), (OutcomeKind::Aborted, "transaction.aborted.lock_timeout"));
    let message = refused.outcome.message.unwrap();
    assert!(message.contains("'left/k'") && message.contains("hand"), "{message}");
    assert!(stage.left.asked().is_empty() && !stage.is_known("c1"));
    stage.let_go("hand");
    assert_eq!(result(&stage.submit("c1", "strong", 30.0)).outcome.kind, OutcomeKind::Committed);
    stage.hold("hand", "left/k", None).answer().unwrap();
    // It has run, so a repetition is told how it ended, and not that its locks are refused.
    assert_eq!(result(&stage.submit("c1", "strong", 1.2)).outcome.kind, OutcomeKind::Committed);
}

#[test]
fn a_deadlock_with_a_lock_taken_by_hand_has_a_victim_whose_retry_keeps_its_age() {
    let stage = Stage::new();
    let long_ago = Some(Timestamp(0));
    stage.hold("hand", "right/k", long_ago).answer().unwrap();
    let victim = stage.submit("c1", "strong", 30.0);
    stage.until_somebody_waits();
    let closes_the_circle = stage.hold("hand", "left/k", long_ago);
    let victim = result(&victim);
    assert_eq!(kind_and_code(&victim), (OutcomeKind::Aborted, "transaction.aborted.deadlock"));
    let message = victim.outcome.message.unwrap();
    assert!(message.contains("'c1'") && message.contains("'hand'"), "{message}");
    closes_the_circle.answer().unwrap();
    stage.let_go("hand");
    assert!(stage.left.asked().is_empty());

    // Another hand, which began after the first try of c1 and before its second.
    let between = stage.hold("younger", "right/k", None).answer().unwrap().acquired_at;
    let retried = stage.submit("c1", "strong", 30.0);
    stage.until_somebody_waits();
    let refused = stage.hold("younger", "left/k", Some(between)).answer();
    assert!(matches!(refused, Err(LockError::Deadlock(_))), "{refused:?}");
    stage.let_go("younger");
    assert_eq!(result(&retried).outcome.kind, OutcomeKind::Committed);
}

#[test]
fn an_abort_that_is_asked_for_while_locks_are_waited_for_gives_the_wait_up() {
    let stage = Stage::new();
    stage.hold("hand", "left/k", None).answer().unwrap();
    let waiting = stage.submit("c1", "strong", 30.0);
    stage.until_somebody_waits();
    let (sender, answers) = mpsc::channel();
    let reply = Reply::new(move |aborted| drop(sender.send(aborted)));
    stage.engine.abort(CoordinationId::new("c1").unwrap(), "enough".to_owned(), reply);
    assert_eq!(answers.recv_timeout(LONG).unwrap(), Ok(true));
    assert_eq!(
        kind_and_code(&result(&waiting)),
        (OutcomeKind::Aborted, "transaction.aborted.requested")
    );
    stage.let_go("hand");
    stage.until_nothing_is_held();
    assert!(stage.left.asked().is_empty());
}

#[test]
fn closing_does_not_wait_for_a_coordination_that_waits_for_locks() {
    let stage = Stage::new();
    stage.hold("hand", "left/k", None).answer().unwrap();
    let waiting = stage.submit("c1", "strong", 30.0);
    stage.until_somebody_waits();
    let (sender, closed) = mpsc::channel();
    stage.engine.close(Reply::new(move |answer| drop(sender.send(answer))));
    let message = result(&waiting).outcome.message.unwrap();
    assert!(message.contains("closed before its locks were granted"), "{message}");
    assert_eq!(closed.recv_timeout(Duration::from_secs(5)).unwrap(), Ok(()));
}

#[test]
fn locks_are_held_until_the_end_and_not_only_until_the_caller_is_answered() {
    let stage = Stage::new();
    stage.left.shut();
    let answered = result(&stage.submit("c1", "strong", 30.0));
    assert_eq!(answered.outcome.state, TransactionState::Committing);
    let hand = stage.hold("hand", "left/k", None);
    assert!(hand.0.try_recv().is_err(), "the key is held while the commit is on its way");
    stage.left.open();
    hand.answer().unwrap();
}

#[test]
fn recovery_takes_the_locks_again_before_it_delivers_and_before_new_ones_come() {
    let locks = Arc::new(LocalLockManager::new());
    let held = LockAsk {
        resource: ResourceId::new("left/k").unwrap(),
        mode: LockMode::Exclusive,
        requester: RequesterId::new("hand").unwrap(),
        timeout: None,
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    };
    locks.try_acquire(&held).unwrap();
    let stage = Stage::after(&["old"], locks);
    let new = stage.submit("new", "strong", 30.0);
    stage.until_somebody_waits();
    assert!(stage.left.asked().is_empty(), "nothing is told without the locks");
    stage.let_go("hand");
    assert_eq!(result(&new).outcome.kind, OutcomeKind::Committed);
    assert_eq!(stage.left.asked(), ["commit old", "prepare new", "commit new"]);
    stage.until_nothing_is_held();
}

/// The local manager, as one that others share and that can take a lock away.
#[derive(Default)]
struct Shared {
    inner: Arc<LocalLockManager>,
    ears: Mutex<Vec<Arc<dyn LockEar>>>,
}

impl Shared {
    fn rob(&self, requester: &str, lock_id: &LockId) {
        let requester = RequesterId::new(requester).unwrap();
        assert!(self.inner.release_now(lock_id, &requester), "{lock_id} is not held");
        for ear in self.ears.lock().unwrap().iter() {
            ear.lost(lock_id, &requester, "its session ended");
        }
    }
}

impl LockManager for Shared {
    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        self.ears.lock().unwrap().push(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.inner.acquire(ask, reply)
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        self.inner.acquire_many(asks, reply)
    }

    fn cancel(&self, wait: WaitId) {
        self.inner.cancel(wait);
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.inner.release(lock_id, requester, reply);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        self.inner.release_all(requester, reply);
    }

    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>) {
        self.inner.renew(lock_id, lease, reply);
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        self.inner.status(resource, reply);
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        self.inner.wait_for_graph(reply);
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        self.inner.deadlocks()
    }

    fn close(&self) {
        self.inner.close();
    }
}

/// A stage under a shared manager, with the lock on left/k that c1 holds.
fn robbed_stage(prepare: impl FnOnce(&Store)) -> (Stage, Arc<Shared>, Results, LockId) {
    let shared = Arc::new(Shared::default());
    let stage = Stage::under(&[], shared.inner.clone(), shared.clone());
    prepare(&stage.left);
    let results = stage.submit("c1", "strong", 30.0);
    let begun = Instant::now();
    while stage.left.fences.lock().unwrap().len() < 2 {
        assert!(begun.elapsed() < LONG, "c1 does not prepare");
        std::thread::yield_now();
    }
    let fences = stage.left.fences.lock().unwrap().clone();
    let shown = |fence: &Fence| format!("{} {}", fence.resource, fence.mode);
    let expected = ["left intent_exclusive", "left/k exclusive"];
    assert_eq!(fences.iter().map(shown).collect::<Vec<_>>(), expected, "its own locks, no others");
    let key = &fences[1];
    let lock_id = LockId::new(&key.resource, key.mode, key.token);
    (stage, shared, results, lock_id)
}

#[test]
fn a_lock_that_is_lost_before_the_decision_aborts_and_the_rest_is_let_go() {
    let hesitant = |store: &Store| store.hesitates.store(true, Ordering::SeqCst);
    let (stage, shared, results, lock_id) = robbed_stage(hesitant);
    shared.rob("c1", &lock_id);
    let vote = stage.left.vote.lock().unwrap().take().unwrap();
    vote.send(Vote::Commit);
    let result = result(&results);
    assert_eq!(kind_and_code(&result), (OutcomeKind::Aborted, "transaction.aborted.lock_lost"));
    assert!(result.outcome.message.unwrap().contains("its session ended"));
    stage.until_nothing_is_held();
    assert_eq!(stage.left.asked(), ["prepare c1", "abort c1"]);
}

#[test]
fn a_lock_that_is_lost_after_the_decision_changes_nothing() {
    let (stage, shared, results, lock_id) = robbed_stage(Store::shut);
    assert_eq!(result(&results).outcome.state, TransactionState::Committing);
    shared.rob("c1", &lock_id);
    stage.left.open();
    stage.until_nothing_is_held();
    assert_eq!(stage.left.asked(), ["prepare c1", "commit c1"]);
}
