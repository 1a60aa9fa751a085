//! The manager over a cluster in memory, whose time and faults are the test's.
//!
//! Not the rules of the table (`protocol/lock_table`), nor real nodes (tests/python). Invariant:
//! nobody waits for time but where the holder's own clock is the claim.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::ReplicatedLockManager;
use crate::cluster::ReplicatedLog;
use crate::cluster::memory::{LEASE, MemoryCluster, MemoryNode};
use crate::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockManager, LockMode, RequesterId,
    ResourceId,
};
use crate::protocol::replica::Command;
use crate::reply::Reply;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process with a manager, and what its ear hears.
struct Process {
    node: Arc<MemoryNode>,
    manager: ReplicatedLockManager,
    heard: Receiver<String>,
}

struct Heard(Mutex<std::sync::mpsc::Sender<String>>);

impl Heard {
    fn told(&self, what: String) {
        let _ = self.0.lock().unwrap().send(what);
    }
}

impl LockEar for Heard {
    fn lost(&self, _: &LockId, requester: &RequesterId, reason: &str) {
        self.told(format!("{requester} lost: {reason}"));
    }

    fn suspended(&self, _: &LockId, requester: &RequesterId, _: Instant) {
        self.told(format!("{requester} suspended"));
    }

    fn resumed(&self, _: &LockId, requester: &RequesterId) {
        self.told(format!("{requester} resumed"));
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        self.told(format!("deadlock of {}", deadlock.victim));
    }
}

struct World {
    runtime: Runtime,
    cluster: MemoryCluster,
}

impl World {
    fn new() -> Self {
        Self { runtime: Runtime::new().unwrap(), cluster: MemoryCluster::new() }
    }

    fn process(&self, name: &str) -> Process {
        let node = self.cluster.node(name);
        let handle = self.runtime.handle().clone();
        let manager = ReplicatedLockManager::new(Arc::clone(&node) as _, handle);
        let (sender, heard) = channel();
        manager.listen(Arc::new(Heard(Mutex::new(sender))));
        Process { node, manager, heard }
    }
}

fn requester(name: &str) -> RequesterId {
    RequesterId::new(name).unwrap()
}

fn wish(resource: &str, who: &str, timeout: Option<Duration>) -> LockAsk {
    LockAsk {
        resource: ResourceId::new(resource).unwrap(),
        mode: LockMode::Exclusive,
        requester: requester(who),
        timeout,
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

impl Process {
    fn ask(&self, ask: LockAsk) -> Receiver<Result<Grant, LockError>> {
        let (sender, answer) = channel();
        self.manager.acquire(ask, Reply::new(move |it| sender.send(it).unwrap()));
        answer
    }

    fn take(&self, resource: &str, who: &str) -> Result<Grant, LockError> {
        let answer = self.ask(wish(resource, who, Some(Duration::ZERO)));
        answer.recv_timeout(PATIENCE).unwrap()
    }

    fn wait(&self, resource: &str, who: &str) -> Receiver<Result<Grant, LockError>> {
        self.ask(wish(resource, who, None))
    }

    fn begin_release(&self, grant: &Grant, who: &str) -> Receiver<Result<bool, LockError>> {
        let (sender, answer) = channel();
        let reply = Reply::new(move |it| sender.send(it).unwrap());
        self.manager.release(&grant.lock_id, &requester(who), reply);
        answer
    }

    fn release(&self, grant: &Grant, who: &str) -> bool {
        self.begin_release(grant, who).recv_timeout(PATIENCE).unwrap().unwrap()
    }

    fn lives(&self) {
        self.node.propose(vec![Command::KeepAlive { lease: LEASE }], Reply::new(drop));
    }

    fn states(&self, resource: &str) -> Vec<String> {
        let (sender, answer) = channel();
        let resource = ResourceId::new(resource).unwrap();
        self.manager.status(Some(resource), Reply::new(move |it| sender.send(it).unwrap()));
        let infos = answer.recv_timeout(PATIENCE).unwrap().unwrap();
        infos.iter().map(|info| format!("{} {:?}", info.requester, info.state())).collect()
    }
}

fn come<T>(answer: &Receiver<T>) -> T {
    answer.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_lock_passes_from_process_to_process_with_a_higher_token() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let first = a.take("r", "one").unwrap();
    let waiting = b.wait("r", "two");
    assert_eq!(a.states("r").len(), 2);
    assert!(waiting.try_recv().is_err());
    assert!(!b.release(&first, "two"), "only its requester lets go of it");
    assert!(a.release(&first, "one"));
    let second = come(&waiting).unwrap();
    assert!(second.fencing_token > first.fencing_token);
    assert!(!a.release(&first, "one"), "once");
}

#[test]
fn one_that_is_not_free_is_refused_with_who_is_in_the_way() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let _held = a.take("r", "one").unwrap();
    let refused = b.take("r", "two").unwrap_err();
    assert!(matches!(&refused, LockError::Timeout { blockers, .. } if blockers.contains("one")));
    let waiting = b.ask(wish("r", "two", Some(Duration::from_millis(700))));
    world.cluster.time_passes(Duration::from_secs(1));
    let refused = come(&waiting).unwrap_err();
    assert!(matches!(&refused, LockError::Timeout { blockers, .. } if blockers.contains("one")));
    assert_eq!(a.states("r").len(), 1);
}

#[test]
fn several_locks_are_taken_in_one_order_and_told_in_that_of_the_asks() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let many = |process: &Process, names: [&str; 2], who: &str| {
        let (sender, answer) = channel();
        let asks = names.map(|name| wish(name, who, None)).to_vec();
        process.manager.acquire_many(asks, Reply::new(move |it| sender.send(it).unwrap()));
        answer
    };
    let first = come(&many(&a, ["z", "m"], "one")).unwrap();
    let named: Vec<_> = first.iter().map(|grant| grant.resource.to_string()).collect();
    assert_eq!(named, ["z", "m"]);
    let waiting = many(&b, ["m", "z"], "two");
    for grant in &first {
        assert!(a.release(grant, "one"));
    }
    let second = come(&waiting).unwrap();
    let named: Vec<_> = second.iter().map(|grant| grant.resource.to_string()).collect();
    assert_eq!(named, ["m", "z"]);
}

#[test]
fn a_wait_that_is_given_up_leaves_nothing_behind() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("r", "one").unwrap();
    let (sender, answer) = channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    let wait = b.manager.acquire(wish("r", "two", None), reply);
    b.manager.cancel(wait);
    assert_eq!(come(&answer).unwrap_err(), LockError::Cancelled);
    assert_eq!(a.states("r").len(), 1);
    assert!(a.release(&held, "one"));
    assert!(a.states("r").is_empty());
}

#[test]
fn a_circle_over_two_processes_is_broken_and_told_by_its_victims_process_alone() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("left", "old").unwrap();
    let _other = b.take("right", "young").unwrap();
    let waiting = a.wait("right", "old");
    let refused = come(&b.wait("left", "young"));
    let Err(LockError::Deadlock(found)) = refused else { panic!("{refused:?}") };
    assert_eq!(found.victim, requester("young"));
    assert_eq!(come(&b.heard), "deadlock of young");
    assert!(a.heard.try_recv().is_err());
    assert_eq!((a.manager.deadlocks().len(), b.manager.deadlocks().len()), (1, 1));
    let (sender, count) = channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    b.manager.release_all(&requester("young"), reply);
    assert_eq!(come(&count).unwrap(), 1);
    assert!(come(&waiting).is_ok());
    assert!(a.release(&held, "old"));
}

#[test]
fn of_an_ask_whose_answer_is_lost_nothing_stays_behind() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    // That of its giving up too.
    for lost in [1, 2, 3] {
        world.cluster.lose_answers(lost);
        let refused = a.take("r", "one").unwrap_err();
        assert!(matches!(&refused, LockError::Unavailable { .. }), "{refused:?}");
        // Given back by then, or soon: whoever waits gets it.
        let held = come(&b.wait("r", "two")).unwrap();
        assert!(b.release(&held, "two"));
    }
}

#[test]
fn a_release_whose_answer_is_lost_is_repeated_and_says_that_it_was_done() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("r", "one").unwrap();
    world.cluster.lose_answers(1);
    assert!(a.release(&held, "one"));
    assert!(b.take("r", "two").is_ok());
}

#[test]
fn a_holder_who_is_cut_off_is_told_so_and_loses_its_locks_by_its_own_clock() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let began = Instant::now();
    let held = a.take("r", "one").unwrap();
    let waiting = b.wait("r", "two");
    world.cluster.cut_off("a", true);
    assert_eq!(come(&a.heard), "one suspended");
    let lost = come(&a.heard);
    assert!(lost.starts_with("one lost: no majority"), "{lost}");
    assert!(began.elapsed() < LEASE * 20, "by its own clock");
    // The cluster has heard of none of this: its time stood still.
    assert!(waiting.try_recv().is_err());
    for _ in 0..8 {
        world.cluster.time_passes(LEASE / 4);
        b.lives();
    }
    assert!(come(&waiting).unwrap().fencing_token > held.fencing_token);
    world.cluster.cut_off("a", false);
    assert!(!a.release(&held, "one"), "it was freed by the end of the session");
}

#[test]
fn a_holder_who_is_reached_again_in_time_holds_on() {
    let world = World::new();
    let a = world.process("a");
    let held = a.take("r", "one").unwrap();
    world.cluster.cut_off("a", true);
    assert_eq!(come(&a.heard), "one suspended");
    world.cluster.cut_off("a", false);
    assert_eq!(come(&a.heard), "one resumed");
    assert!(a.release(&held, "one"));
}

#[test]
fn a_release_while_nobody_answers_is_carried_out_when_the_cluster_does() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("r", "one").unwrap();
    let waiting = b.wait("r", "two");
    world.cluster.cut_off("a", true);
    let released = a.begin_release(&held, "one");
    assert!(released.try_recv().is_err());
    world.cluster.cut_off("a", false);
    assert!(come(&released).unwrap());
    assert!(come(&waiting).is_ok());
}

#[test]
fn the_end_of_a_session_is_told_to_its_holders_and_waits() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let _other = b.take("other", "two").unwrap();
    let _held = a.take("r", "one").unwrap();
    let waiting = a.wait("other", "one");
    // As if this process had been stopped for so long: its own clock has not seen it.
    world.cluster.time_passes(LEASE * 3);
    assert!(come(&a.heard).starts_with("one lost: its process"));
    assert!(matches!(come(&waiting), Err(LockError::Unavailable { .. })));
    assert!(a.take("free", "one").is_ok(), "a session is opened anew");
}

#[test]
fn a_lease_ends_by_the_holders_clock_unless_it_is_renewed() {
    let world = World::new();
    let a = world.process("a");
    let lease = Duration::from_millis(200);
    let held = come(&a.ask(LockAsk { lease: Some(lease), ..wish("r", "one", None) })).unwrap();
    let (sender, renewed) = channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    a.manager.renew(&held.lock_id, lease * 2, reply);
    assert!(come(&renewed).unwrap());
    assert_eq!(come(&a.heard), "one lost: its lease ended");
}

#[test]
fn a_restart_from_a_snapshot_keeps_what_is_held_and_who_waits() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("r", "one").unwrap();
    let waiting = b.wait("r", "two");
    world.cluster.restart();
    assert!(a.release(&held, "one"));
    assert!(come(&waiting).is_ok());
    assert!(a.heard.try_recv().is_err());
}

#[test]
fn a_weaker_mode_is_held_without_a_moment_in_between() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let held = a.take("r", "one").unwrap();
    let shared = |process: &Process, who: &str| {
        process.ask(LockAsk { mode: LockMode::Shared, ..wish("r", who, None) })
    };
    let waiting = shared(&b, "two");
    let (sender, changed) = channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    a.manager.downgrade(&held.lock_id, &requester("one"), LockMode::Shared, reply);
    let weaker = come(&changed).unwrap().unwrap();
    assert!(weaker.fencing_token > held.fencing_token);
    assert!(come(&waiting).is_ok());
    assert!(a.release(&weaker, "one"));
}

#[test]
fn managers_of_one_process_leave_each_others_waits_alone() {
    let world = World::new();
    let a = world.process("a");
    let handle = world.runtime.handle().clone();
    let other = ReplicatedLockManager::new(Arc::clone(&a.node) as _, handle);
    let held = a.take("r", "one").unwrap();
    let (sender, waiting) = channel();
    other.acquire(wish("r", "two", None), Reply::new(move |it| sender.send(it).unwrap()));
    assert!(a.release(&held, "one"));
    assert!(come(&waiting).is_ok());
    assert!(a.take("r", "three").is_err(), "nobody gave it back");
}

#[test]
fn closing_lets_go_of_everything_and_leaves_the_session_alone() {
    let world = World::new();
    let (a, b) = (world.process("a"), world.process("b"));
    let _held = a.take("r", "one").unwrap();
    let _other = b.take("other", "two").unwrap();
    let waiting = a.wait("other", "one");
    a.manager.close();
    assert_eq!(come(&waiting).unwrap_err(), LockError::Closed);
    assert!(b.take("r", "two").is_ok());
    assert_eq!(a.take("late", "one").unwrap_err(), LockError::Closed);
    // Another manager over the same node goes on: the session is not this one's.
    let again =
        ReplicatedLockManager::new(Arc::clone(&a.node) as _, world.runtime.handle().clone());
    let (sender, answer) = channel();
    again.acquire(wish("late", "one", None), Reply::new(move |it| sender.send(it).unwrap()));
    assert!(come(&answer).is_ok());
}
