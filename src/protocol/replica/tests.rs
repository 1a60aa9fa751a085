//! The rules of the replicated state, one test a claim, and random histories on three replicas.
//!
//! The file is long because each rule is a test, and the random histories use the same words.

use super::*;
use crate::model::ids::StoreName;
use crate::model::lock::{LockError, LockMode, RequesterId, ResourceId};
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::record::Record;
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::value::Value;

const LEASE: Duration = Duration::from_secs(5);

fn name(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn id(text: &str) -> CoordinationId {
    CoordinationId::new(text).unwrap()
}

fn stores() -> Vec<StoreName> {
    ["left", "right"].map(|store| StoreName::new(store).unwrap()).to_vec()
}

fn begin(owner: &str, text: &str) -> Record {
    let operation = |store: &str| {
        Value::Map(vec![("store".into(), store.into()), ("type".into(), "put".into())])
    };
    let parts = RequestParts {
        id: text.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["left".to_owned(), "right".to_owned()],
        operations: vec![operation("left"), operation("right")],
        timeout_seconds: 1.0,
        consistency: "strong".to_owned(),
        metadata: Value::Map(Vec::new()),
    };
    let request = Arc::new(CoordinationRequest::check(parts).unwrap());
    Record::Begin { request, owner: name(owner), epoch: 1, locks: Vec::new() }
}

fn decision(decision: Decision) -> Record {
    Record::Decision { decision, reason: None, read_only: Vec::new(), receipts: Vec::new() }
}

fn end() -> Record {
    let outcome = Outcome {
        kind: OutcomeKind::Committed,
        state: TransactionState::Committed,
        code: None,
        message: None,
        operations_completed: 2,
        operations_failed: 0,
    };
    Record::End { outcome, stores: Vec::new(), steps: Vec::new() }
}

fn append(text: &str, epoch: u32, at: i64, record: Record) -> Command {
    Command::Append { id: id(text), epoch, at: Timestamp(at), record }
}

fn acquire(wait: u64, who: &str, wanted: &[(&str, LockMode)], millis: Option<u64>) -> Command {
    Command::Acquire {
        wait: WaitId(wait),
        requester: RequesterId::new(who).unwrap(),
        wanted: wanted.iter().map(|(on, mode)| (ResourceId::new(on).unwrap(), *mode)).collect(),
        timeout: millis.map(Duration::from_millis),
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

/// One replica, fed by hand.
#[derive(Default)]
struct Feed {
    replica: Replica,
    index: u64,
    number: u64,
    effects: Vec<Effect>,
}

impl Feed {
    /// With sessions of these.
    fn of(instances: &[&str]) -> Self {
        let mut feed = Self::default();
        for instance in instances {
            feed.put(instance, Command::KeepAlive { lease: LEASE });
        }
        feed
    }

    fn entry(&mut self, elapsed: Duration, proposals: Vec<Proposal>) -> Vec<Answered> {
        self.index += 1;
        self.effects.clear();
        let entry = Entry { elapsed, at: Timestamp(1_000_000), proposals };
        let position = Position { term: 1, index: self.index };
        self.replica.apply(position, &entry, &mut self.effects)
    }

    fn put(&mut self, instance: &str, command: Command) -> Answer {
        self.number += 1;
        let commands = vec![command];
        let proposal = Proposal { instance: name(instance), number: self.number, commands };
        let mut answered = self.entry(Duration::ZERO, vec![proposal]);
        answered.remove(0).answers.unwrap().remove(0)
    }

    fn pass(&mut self, time: Duration) {
        self.entry(time, Vec::new());
    }
}

use LockMode::{Exclusive, Shared};

#[test]
fn the_first_decision_stands_whether_proposed_or_recorded() {
    let mut feed = Feed::of(&["a"]);
    feed.put("a", append("x", 1, 1, begin("a", "x")));
    let decide =
        |decision| Command::Decide { id: id("x"), decision, evidence: Value::Text("v".to_owned()) };
    assert!(matches!(feed.put("a", decide(Decision::Abort)), Answer::Standing(_)));
    let commit = append("x", 1, 2, decision(Decision::Commit));
    assert_eq!(feed.put("a", commit), Answer::Decided(Decision::Abort));
    assert_eq!(feed.put("a", append("x", 1, 2, decision(Decision::Abort))), Answer::Recorded);
    feed.put("a", append("y", 1, 1, begin("a", "y")));
    feed.put("a", append("y", 1, 2, decision(Decision::Commit)));
    let late = Command::Decide { id: id("y"), decision: Decision::Abort, evidence: Value::Null };
    let Answer::Standing(standing) = feed.put("b", late) else { panic!() };
    assert_eq!(standing.decision, Decision::Commit);
}

#[test]
fn an_append_whose_answer_was_lost_is_answered_as_it_was_and_kept_once() {
    let mut feed = Feed::of(&["a"]);
    for record in [begin("a", "x"), decision(Decision::Commit), end()] {
        for _ in 0..2 {
            assert_eq!(feed.put("a", append("x", 1, 7, record.clone())), Answer::Recorded);
        }
    }
    assert_eq!(feed.replica.coordination(&id("x")).unwrap().records.len(), 3);
    assert!(matches!(feed.put("a", append("x", 1, 8, begin("a", "x"))), Answer::Exists(_)));
    assert_eq!(feed.put("a", append("ghost", 1, 1, end())), Answer::NoBegin);
}

#[test]
fn a_proposal_is_carried_out_once() {
    let mut feed = Feed::of(&["a"]);
    let proposal = Proposal {
        instance: name("a"),
        number: 50,
        commands: vec![acquire(1, "r", &[("k", Exclusive)], None)],
    };
    let answered = feed.entry(Duration::ZERO, vec![proposal.clone(), proposal]);
    assert!(answered[0].answers.is_some());
    assert_eq!(answered[1].answers, None);
    assert_eq!(feed.replica.lock_table().status(None).len(), 1);
}

#[test]
fn what_a_dead_owner_left_is_adopted_in_order_and_the_deposed_one_writes_nothing() {
    let mut feed = Feed::of(&["a", "b"]);
    for text in ["z", "m", "done"] {
        feed.put("a", append(text, 1, 1, begin("a", text)));
    }
    feed.put("a", append("done", 1, 2, end()));
    let adopt = || Command::Adopt { stores: stores() };
    assert_eq!(feed.put("b", adopt()), Answer::Adopted(Vec::new()), "its owner lives");
    assert_eq!(feed.put("c", adopt()), Answer::NoSession);
    for _ in 0..7 {
        feed.pass(STEP_MAX);
        feed.put("b", Command::KeepAlive { lease: LEASE });
    }
    let few = Command::Adopt { stores: stores()[..1].to_vec() };
    assert_eq!(feed.put("b", few), Answer::Adopted(Vec::new()), "it lacks a store");
    let Answer::Adopted(adopted) = feed.put("b", adopt()) else { panic!() };
    let names: Vec<&str> = adopted.iter().map(|it| it.request.id.as_str()).collect();
    assert_eq!(names, ["z", "m"]);
    assert!(adopted.iter().all(|it| it.owner == name("b") && it.epoch == 2));
    for record in [decision(Decision::Commit), end()] {
        assert_eq!(feed.put("a", append("z", 1, 9, record)), Answer::Deposed);
    }
    assert_eq!(feed.replica.decision(&id("z")), None);
}

#[test]
fn a_session_ends_by_the_clusters_time_and_its_locks_with_it() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.put("a", acquire(1, "r", &[("k", Exclusive)], None));
    assert_eq!(feed.put("b", acquire(1, "s", &[("k", Exclusive)], None)), Answer::Waits);
    assert!(feed.replica.deadline().is_some());
    for _ in 0..4 {
        feed.pass(STEP_MAX);
        assert_eq!(feed.effects, []);
    }
    feed.put("b", Command::KeepAlive { lease: LEASE });
    feed.pass(STEP_MAX);
    assert!(matches!(&feed.effects[0], Effect::Lost { instance, .. } if *instance == name("a")));
    assert!(matches!(&feed.effects[1], Effect::Granted { instance, .. } if *instance == name("b")));
    assert_eq!(feed.effects[2], Effect::SessionEnded { instance: name("a") });
    assert_eq!(feed.put("a", acquire(2, "r", &[("k", Shared)], None)), Answer::NoSession);
}

#[test]
fn the_entry_of_a_stalled_leader_ends_no_session() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.pass(Duration::from_secs(86_400));
    assert_eq!(feed.effects, []);
    assert_eq!(feed.replica.instances().count(), 2);
}

#[test]
fn one_that_leaves_frees_its_locks_at_once() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.put("a", acquire(1, "r", &[("k", Exclusive)], None));
    feed.put("b", acquire(1, "s", &[("k", Exclusive)], None));
    feed.put("a", Command::Leave);
    assert!(matches!(&feed.effects[0], Effect::Granted { instance, .. } if *instance == name("b")));
}

#[test]
fn several_locks_are_granted_together_or_not_at_all() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.put("a", acquire(1, "r", &[("k2", Exclusive)], None));
    let both = [("k1", Exclusive), ("k2", Exclusive)];
    assert!(matches!(feed.put("b", acquire(1, "s", &both, Some(0))), Answer::Refused(_)));
    assert_eq!(feed.replica.lock_table().status(None).len(), 1, "nothing is left behind");
    assert_eq!(feed.put("b", acquire(2, "s", &both, Some(900))), Answer::Waits);
    feed.pass(STEP_MAX);
    assert!(matches!(
        &feed.effects[..],
        [Effect::Refused { wait: WaitId(2), error: LockError::Timeout { .. }, .. }]
    ));
    assert_eq!(feed.replica.lock_table().status(None).len(), 1);
    assert_eq!(feed.put("b", acquire(3, "s", &both, None)), Answer::Waits);
    feed.put("a", Command::ReleaseAll { requester: RequesterId::new("r").unwrap() });
    let Effect::Granted { grants, wait: WaitId(3), .. } = &feed.effects[0] else { panic!() };
    assert_eq!(grants.iter().map(|it| it.resource.as_str()).collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!(feed.replica.grants_of(&name("b"), WaitId(3)), *grants);
}

#[test]
fn a_process_that_withdraws_everything_leaves_nothing_behind() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.put("a", acquire(1, "r", &[("k", Shared)], None));
    feed.put("b", acquire(1, "s", &[("k", Exclusive)], None));
    // Behind the exclusive wait, and free of its way once that one goes: both are b's.
    feed.put("b", acquire(2, "t", &[("k", Shared)], None));
    feed.put("b", Command::Leave);
    assert_eq!(feed.replica.lock_table().status(None).len(), 1);
}

#[test]
fn a_deadlock_between_processes_has_one_victim() {
    let mut feed = Feed::of(&["a", "b"]);
    feed.put("a", acquire(1, "r", &[("k1", Exclusive)], None));
    feed.pass(Duration::from_millis(1));
    feed.put("b", acquire(1, "s", &[("k2", Exclusive)], None));
    assert_eq!(feed.put("a", acquire(2, "r", &[("k2", Exclusive)], None)), Answer::Waits);
    assert_eq!(feed.put("b", acquire(2, "s", &[("k1", Exclusive)], None)), Answer::Waits);
    assert!(matches!(feed.effects[0], Effect::Deadlock(_)));
    assert!(matches!(
        &feed.effects[1],
        Effect::Refused { instance, error: LockError::Deadlock(_), .. } if *instance == name("b")
    ));
}

#[test]
fn tokens_are_no_lower_than_the_index_and_outlive_a_snapshot() {
    let mut feed = Feed::of(&["a"]);
    feed.index = 1_000;
    let token = |feed: &mut Feed, wait| {
        let Answer::Granted(grants) = feed.put("a", acquire(wait, "r", &[("k", Shared)], None))
        else {
            panic!()
        };
        feed.put("a", Command::ReleaseAll { requester: RequesterId::new("r").unwrap() });
        grants[0].fencing_token
    };
    let first = token(&mut feed, 1);
    assert!(first >= 1_001);
    feed.replica = Replica::restore(&feed.replica.snapshot()).unwrap();
    assert!(token(&mut feed, 2) > first);
}

#[test]
fn only_what_has_ended_is_forgotten_the_oldest_first() {
    let mut feed = Feed::of(&["a"]);
    for (at, text) in [(1, "x"), (2, "y"), (3, "open")] {
        feed.put("a", append(text, 1, at, begin("a", text)));
        if text != "open" {
            feed.put("a", append(text, 1, at, end()));
        }
    }
    let forget = |at_most| Command::Forget { before: Timestamp(9), at_most };
    assert_eq!(feed.put("a", forget(1)), Answer::Count(1));
    assert!(feed.replica.coordination(&id("x")).is_none());
    assert_eq!(feed.put("a", forget(5)), Answer::Count(1));
    assert_eq!(feed.replica.coordinations().count(), 1);
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pick(&mut self, bound: u64) -> usize {
        usize::try_from(self.below(bound)).unwrap()
    }

    fn command(&mut self, owner: &str, at: i64, replica: &Replica) -> Command {
        let text = format!("c{}", self.below(6));
        let epoch = 1 + u32::try_from(self.below(3)).unwrap();
        let whose = RequesterId::new(&format!("r{}", self.below(5))).unwrap();
        let mode = LockMode::ALL[usize::try_from(self.below(4)).unwrap()];
        let some = if self.below(2) == 0 { Decision::Commit } else { Decision::Abort };
        let held = replica.lock_table().status(None);
        let held = held.into_iter().filter(|it| it.lock_id.is_some()).nth(self.pick(3));
        match (self.below(12), held) {
            (0, _) => append(&text, epoch, at, begin(owner, &text)),
            (1, _) => append(&text, epoch, at, decision(some)),
            (2, _) => append(&text, epoch, at, end()),
            (3, _) => Command::Decide { id: id(&text), decision: some, evidence: Value::Null },
            (4, _) => Command::Adopt { stores: stores() },
            (5, _) => Command::ReleaseAll { requester: whose },
            (6, Some(held)) => {
                Command::Release { lock_id: held.lock_id.unwrap(), requester: held.requester }
            }
            (7, Some(held)) => Command::Renew { lock_id: held.lock_id.unwrap(), lease: LEASE },
            (8, _) if self.below(4) == 0 => Command::Leave,
            (9, _) => Command::KeepAlive { lease: LEASE },
            (10, _) => Command::GiveUp { wait: WaitId(self.below(at.unsigned_abs() + 1)) },
            _ => {
                let count = 1 + self.below(3);
                let wanted = (0..count)
                    .map(|_| (ResourceId::new(&format!("k{}", self.below(4))).unwrap(), mode));
                Command::Acquire {
                    wait: WaitId(at.unsigned_abs()),
                    requester: whose,
                    wanted: wanted.collect(),
                    timeout: [None, Some(Duration::ZERO), Some(LEASE)][self.pick(3)],
                    lease: [None, Some(LEASE)][self.pick(2)],
                    working_since: None,
                    is_protected: self.below(4) == 0,
                    coordination: None,
                }
            }
        }
    }
}

/// What must hold in every state; the highest token that was seen grows.
fn assert_sound(replica: &Replica, seed: u64) {
    let held: Vec<_> = replica.lock_table().status(None);
    for one in held.iter().filter(|it| it.lock_id.is_some()) {
        let owner = replica.holder_of(one.lock_id.as_ref().unwrap());
        let owner = owner.unwrap_or_else(|| panic!("seed {seed}: {one:?} is nobody's"));
        assert!(replica.instances().any(|it| it == owner), "seed {seed}: {owner} is dead");
        for other in held.iter().filter(|it| it.lock_id.is_some()) {
            let is_fine = one.resource != other.resource
                || one.requester == other.requester
                || one.mode.is_compatible_with(other.mode);
            assert!(is_fine, "seed {seed}: {one:?} beside {other:?}");
        }
    }
}

fn random_history(seed: u64) {
    let mut random = Random(seed);
    let mut replicas = [Replica::new(), Replica::new(), Replica::new()];
    let mut numbers = [0; 3];
    let mut last_token = 0;
    let mut decided: std::collections::BTreeMap<CoordinationId, Decision> =
        std::collections::BTreeMap::new();
    let mut before: Option<Proposal> = None;
    for index in 1..150 {
        let mut proposals: Vec<Proposal> = Vec::new();
        for _ in 0..random.below(4) {
            let who = usize::try_from(random.below(3)).unwrap();
            numbers[who] += 1;
            let owner = format!("p{who}");
            let count = 1 + random.below(3);
            let at = |of| i64::try_from(index * 100 + of + 10 * proposals.len() as u64).unwrap();
            let commands =
                (0..count).map(|of| random.command(&owner, at(of), &replicas[0])).collect();
            proposals.push(Proposal { instance: name(&owner), number: numbers[who], commands });
        }
        // The copy of an older one, as a process sends it that heard no answer.
        proposals.extend(before.take());
        before = proposals.first().filter(|_| random.below(2) == 0).cloned();
        let elapsed = Duration::from_millis([0, 10, 700, 9_000_000][random.pick(4)]);
        let entry = Entry { elapsed, at: Timestamp(5), proposals };
        let position = Position { term: 1, index };
        if random.below(3) == 0 {
            replicas[1] = Replica::restore(&replicas[1].snapshot()).unwrap();
        }
        let mut effects = [Vec::new(), Vec::new(), Vec::new()];
        let mut answered = Vec::new();
        for (at, replica) in replicas.iter_mut().enumerate() {
            // The third one reads the entry from bytes.
            let copy = serde_json::to_vec(&entry).unwrap();
            let copy: Entry = serde_json::from_slice(&copy).unwrap();
            let entry = if at == 2 { &copy } else { &entry };
            answered.push(replica.apply(position, entry, &mut effects[at]));
        }
        assert!(effects[1..].iter().all(|it| *it == effects[0]), "seed {seed}, entry {index}");
        assert!(answered[1..].iter().all(|it| *it == answered[0]), "seed {seed}, entry {index}");
        assert_sound(&replicas[0], seed);
        if index % 8 == 0 {
            let bytes = replicas[0].snapshot();
            assert!(replicas[1..].iter().all(|it| it.snapshot() == bytes), "seed {seed}, {index}");
        }
        let next = replicas[0].lock_table().next_token();
        assert!(next >= last_token && next >= index, "seed {seed}: tokens went back");
        last_token = next;
        for coordination in replicas[0].coordinations() {
            let id = &coordination.request.id;
            if let Some(standing) = replicas[0].decision(id) {
                let first = *decided.entry(id.clone()).or_insert(standing.decision);
                assert_eq!(first, standing.decision, "seed {seed}: {id} was decided otherwise");
            }
        }
    }
}

#[test]
fn random_histories_leave_three_replicas_alike_whatever_is_restored_or_repeated() {
    for seed in 0..12 {
        random_history(seed);
    }
}
