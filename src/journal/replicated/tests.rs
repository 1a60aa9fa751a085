//! What the replicated journal promises beside its port's duties, on a cluster in memory.

use std::sync::mpsc::{self, Receiver, Sender};

use super::*;
use crate::cluster::memory::{MemoryCluster, MemoryNode};
use crate::journal::test_kit::{PATIENCE, wait};
use crate::journal::{Answer as Told, Durability};
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::value::Value;

enum Heard {
    Answer(u64, Told),
    Health(Option<JournalError>),
    OwnerDied,
}

struct Listener(Mutex<Sender<Heard>>);

impl Listener {
    fn send(&self, heard: Heard) {
        // A test that is over does not listen any more.
        let _ = self.0.lock().unwrap().send(heard);
    }
}

impl AnswerSink for Listener {
    fn answered(&self, answers: Vec<(u64, Told)>) {
        for (token, answer) in answers {
            self.send(Heard::Answer(token, answer));
        }
    }

    fn owner_died(&self) {
        self.send(Heard::OwnerDied);
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        self.send(Heard::Health(trouble));
    }
}

struct Desk {
    journal: ReplicatedJournal,
    node: Arc<MemoryNode>,
    heard: Receiver<Heard>,
}

impl Desk {
    fn of(cluster: &MemoryCluster, name: &str) -> Self {
        let node = cluster.node(name);
        let journal = ReplicatedJournal::open(node.clone()).unwrap();
        let (sender, heard) = mpsc::channel();
        journal.attach(Arc::new(Listener(Mutex::new(sender))));
        Self { journal, node, heard }
    }

    fn append(&self, token: u64, name: &str, record: Record) {
        let id = CoordinationId::new(name).unwrap();
        let at = Timestamp(i64::try_from(token).unwrap());
        let durability = Durability::Forced;
        self.journal.append(&mut vec![Append { token, id, epoch: 1, at, record, durability }]);
    }

    fn next(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("something is heard")
    }

    /// The next answer, whatever else is heard before it.
    fn answer(&self) -> (u64, Told) {
        loop {
            if let Heard::Answer(token, answer) = self.next() {
                return (token, answer);
            }
        }
    }

    fn put(&self, token: u64, name: &str, record: Record) -> Told {
        self.append(token, name, record);
        let (answered, answer) = self.answer();
        assert_eq!(answered, token);
        answer
    }

    fn begin(&self, name: &str) -> Record {
        let operation =
            Value::Map(vec![("store".into(), "left".into()), ("type".into(), "put".into())]);
        let parts = RequestParts {
            id: name.to_owned(),
            kind: "two_phase_commit".to_owned(),
            stores: vec!["left".to_owned()],
            operations: vec![operation],
            timeout_seconds: 1.0,
            consistency: "strong".to_owned(),
            metadata: Value::Map(Vec::new()),
        };
        let request = Arc::new(CoordinationRequest::check(parts).unwrap());
        let owner = self.journal.instance().clone();
        Record::Begin { request, owner, epoch: 1, locks: Vec::new() }
    }

    fn find(&self, name: &str) -> Option<StoredCoordination> {
        let id = CoordinationId::new(name).unwrap();
        wait(|reply| self.journal.find(id, reply)).unwrap()
    }

    fn adopt(&self) -> Result<Vec<OpenCoordination>, JournalError> {
        let stores = vec![StoreName::new("left").unwrap()];
        wait(|reply| self.journal.adopt(stores, reply))
    }
}

fn decide(decision: Decision) -> Record {
    Record::Decision { decision, reason: None, read_only: Vec::new(), receipts: Vec::new() }
}

fn end() -> Record {
    let outcome = Outcome {
        kind: OutcomeKind::Committed,
        state: TransactionState::Committed,
        code: None,
        message: None,
        operations_completed: 1,
        operations_failed: 0,
    };
    Record::End { outcome, stores: Vec::new(), steps: Vec::new() }
}

#[test]
fn two_processes_agree_on_the_first_begin_and_the_first_decision() {
    let cluster = MemoryCluster::new();
    let (one, two) = (Desk::of(&cluster, "one"), Desk::of(&cluster, "two"));
    assert!(matches!(one.put(1, "x", one.begin("x")), Told::Recorded));
    assert!(matches!(two.put(2, "x", two.begin("x")), Told::Exists(_)));
    assert!(matches!(two.put(3, "x", decide(Decision::Abort)), Told::Recorded));
    let late = one.put(4, "x", decide(Decision::Commit));
    assert!(matches!(late, Told::Decided(Decision::Abort)), "{late:?}");
    assert_eq!(two.find("x").unwrap().state, TransactionState::Aborting);
    assert!(matches!(one.put(5, "ghost", end()), Told::Failed(_)));
}

#[test]
fn a_record_whose_answer_was_lost_is_answered_and_stands_once() {
    let cluster = MemoryCluster::new();
    let desk = Desk::of(&cluster, "one");
    for (token, record) in [(1, desk.begin("x")), (2, decide(Decision::Commit)), (3, end())] {
        cluster.lose_answers(2);
        assert!(matches!(desk.put(token, "x", record), Told::Recorded));
    }
    let mut records = 0;
    desk.node.glance(&mut |replica| {
        records = replica.coordinations().map(|it| it.records.len()).sum();
    });
    assert_eq!(records, 3);
    cluster.restart();
    assert_eq!(desk.find("x").unwrap().state, TransactionState::Committed);
}

#[test]
fn without_a_majority_a_begin_fails_and_a_decision_waits() {
    let cluster = MemoryCluster::new();
    let desk = Desk::of(&cluster, "one");
    desk.put(1, "x", desk.begin("x"));
    cluster.cut_off("one", true);
    desk.append(2, "x", decide(Decision::Commit));
    assert!(matches!(desk.next(), Heard::Health(Some(_))));
    desk.append(3, "y", desk.begin("y"));
    assert!(matches!(desk.answer(), (3, Told::Failed(JournalError::Unavailable { .. }))));
    let id = CoordinationId::new("x").unwrap();
    assert!(wait(|reply| desk.journal.find(id, reply)).is_err(), "a question does not hang");
    cluster.cut_off("one", false);
    assert!(matches!(desk.answer(), (2, Told::Recorded)));
    assert!(matches!(desk.next(), Heard::Health(None)));
    assert_eq!(desk.find("y"), None);
}

#[test]
fn what_a_dead_process_left_is_told_and_adopted_also_when_the_answer_is_lost() {
    let cluster = MemoryCluster::new();
    let (owner, heir) = (Desk::of(&cluster, "owner"), Desk::of(&cluster, "heir"));
    for (token, name) in [(1, "z"), (2, "m"), (3, "done")] {
        owner.put(token, name, owner.begin(name));
    }
    owner.put(4, "done", end());
    assert_eq!(heir.adopt().unwrap(), []);
    cluster.kill(&owner.node);
    assert!(matches!(heir.next(), Heard::OwnerDied));
    cluster.lose_answers(1);
    assert!(heir.adopt().is_err());
    let names: Vec<String> = heir.adopt().unwrap().iter().map(|it| it.id.to_string()).collect();
    assert_eq!(names, ["z", "m"]);
    assert_eq!(heir.adopt().unwrap(), [], "what was handed over is not again");
    let deposed = heir.put(5, "z", decide(Decision::Commit));
    assert!(matches!(deposed, Told::Deposed), "its epoch is the dead owner's");
}

#[test]
fn history_status_and_retention() {
    let cluster = MemoryCluster::new();
    let desk = Desk::of(&cluster, "one");
    for (token, name) in [(1, "x"), (2, "y")] {
        desk.put(token, name, desk.begin(name));
    }
    desk.put(3, "x", end());
    let filter = HistoryFilter { limit: 9, ..HistoryFilter::default() };
    let found = wait(|reply| desk.journal.history(filter, reply)).unwrap();
    let names: Vec<&str> = found.iter().map(|it| it.request.id.as_str()).collect();
    assert_eq!(names, ["y", "x"], "the latest first");
    let status = wait(|reply| desk.journal.status(reply)).unwrap();
    assert_eq!(status.states[&TransactionState::Committed], 1);
    assert_eq!(status.instances_alive, [desk.journal.instance().clone()]);
    assert_eq!(wait(|reply| desk.journal.retain(Duration::ZERO, reply)), Ok(1));
    let ids = ["x", "y"].map(|name| CoordinationId::new(name).unwrap()).to_vec();
    let unknown = wait(|reply| desk.journal.unknown_of(ids.clone(), reply)).unwrap();
    assert_eq!(unknown, ids[..1]);
    desk.journal.close();
    assert!(matches!(desk.put(9, "z", desk.begin("z")), Told::Failed(JournalError::Closed)));
}
