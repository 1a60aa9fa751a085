//! The local manager from outside, with threads: every pair of modes, order, ends, circles.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use super::*;
use crate::model::lock::LockMode::{Exclusive, IntentExclusive, IntentShared, Shared as Share};

/// Longer than anything here takes, so that a test that would hang fails.
const LONG: Duration = Duration::from_secs(20);

type Answers<T> = Receiver<Result<T, LockError>>;

fn name(text: &str) -> RequesterId {
    RequesterId::new(text).unwrap()
}

fn resource(text: &str) -> ResourceId {
    ResourceId::new(text).unwrap()
}

fn ask(requester: &str, on: &str, mode: LockMode) -> LockAsk {
    LockAsk {
        resource: resource(on),
        mode,
        requester: name(requester),
        timeout: Some(LONG),
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

fn within(ask: LockAsk, timeout_ms: u64) -> LockAsk {
    LockAsk { timeout: Some(Duration::from_millis(timeout_ms)), ..ask }
}

fn acquire(manager: &LocalLockManager, ask: LockAsk) -> (WaitId, Answers<Grant>) {
    let (sender, answers) = mpsc::channel();
    let wait = manager.acquire(ask, Reply::new(move |answer| drop(sender.send(answer))));
    (wait, answers)
}

fn acquire_many(manager: &LocalLockManager, asks: Vec<LockAsk>) -> (WaitId, Answers<Vec<Grant>>) {
    let (sender, answers) = mpsc::channel();
    let wait = manager.acquire_many(asks, Reply::new(move |answer| drop(sender.send(answer))));
    (wait, answers)
}

fn granted(manager: &LocalLockManager, ask: LockAsk) -> Grant {
    acquire(manager, ask).1.recv_timeout(LONG).expect("an answer").expect("a grant")
}

fn infos(manager: &LocalLockManager) -> Vec<LockInfo> {
    let (sender, answers) = mpsc::channel();
    manager.status(None, Reply::new(move |answer| drop(sender.send(answer))));
    answers.recv_timeout(LONG).expect("an answer").expect("a status")
}

fn assert_nothing_is_left(manager: &LocalLockManager) {
    assert!(manager.shared.lock().table.is_empty(), "{:?}", infos(manager));
    assert!(manager.shared.lock().replies.is_empty());
    assert_eq!(manager.shared.lock().table.deadline(), None);
}

#[test]
fn every_pair_of_modes_is_held_together_exactly_where_grays_matrix_says() {
    for first in LockMode::ALL {
        for second in LockMode::ALL {
            let manager = LocalLockManager::new();
            let held = granted(&manager, ask("a", "r", first));
            let (_, answers) = acquire(&manager, ask("b", "r", second));
            let is_at_once = answers.try_recv().is_ok_and(|answer| answer.is_ok());
            assert_eq!(is_at_once, first.is_compatible_with(second), "{first} then {second}");
            assert!(
                manager.try_acquire(&ask("c", "q", second)).is_some(),
                "another resource is free"
            );
            if !is_at_once {
                assert!(manager.release_now(&held.lock_id, &name("a")));
                let grant = answers.try_recv().expect("answered in the release").expect("granted");
                assert!(grant.fencing_token > held.fencing_token);
            }
        }
    }
}

#[test]
fn a_free_lock_is_answered_before_the_ask_returns_and_no_thread_is_started() {
    let manager = LocalLockManager::new();
    let grant = acquire(&manager, ask("a", "r", Exclusive)).1.try_recv().unwrap().unwrap();
    assert_eq!(LockId::parse(grant.lock_id.as_str()).unwrap().0, resource("r"));
    assert!(manager.shared.lock().timer.is_none());
    assert!(!manager.is_shared());
    assert!(!manager.release_now(&grant.lock_id, &name("b")), "another's");
    assert!(manager.release_now(&grant.lock_id, &name("a")));
    assert!(!manager.release_now(&grant.lock_id, &name("a")), "twice");
    assert_nothing_is_left(&manager);
}

#[test]
fn sixteen_waiters_are_granted_in_the_order_in_which_they_asked() {
    let manager = Arc::new(LocalLockManager::new());
    let first = granted(&manager, ask("first", "r", Exclusive));
    let (sender, order) = mpsc::channel();
    for number in 0..16_u32 {
        let (manager_of_reply, sender) = (Arc::downgrade(&manager), sender.clone());
        let requester = format!("q{number}");
        let wish = ask(&requester, "r", Exclusive);
        manager.acquire(
            wish,
            Reply::new(move |answer: Result<Grant, LockError>| {
                let grant = answer.expect("a grant");
                let manager = manager_of_reply.upgrade().expect("it is held by the test");
                // From another thread, as callers do.
                thread::spawn(move || {
                    sender.send((number, grant.fencing_token)).expect("the test listens");
                    manager.release_now(&grant.lock_id, &name(&format!("q{number}")));
                });
            }),
        );
    }
    drop(sender);
    manager.release_now(&first.lock_id, &name("first"));
    let heard: Vec<(u32, u64)> = order.iter().collect();
    assert!(heard.iter().map(|(number, _)| *number).eq(0..16), "{heard:?}");
    assert!(heard.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens grow: {heard:?}");
}

#[test]
fn a_queue_of_ten_thousand_that_release_inside_of_their_replies_needs_no_deep_stack() {
    let manager = Arc::new(LocalLockManager::new());
    let first = granted(&manager, ask("first", "r", Exclusive));
    let done = Arc::new(AtomicU64::new(0));
    for number in 0..10_000 {
        let (weak, done) = (Arc::downgrade(&manager), done.clone());
        let requester = name(&format!("q{number}"));
        let wish = LockAsk { requester: requester.clone(), ..ask("x", "r", Exclusive) };
        manager.acquire(
            wish,
            Reply::new(move |answer: Result<Grant, LockError>| {
                let manager = weak.upgrade().expect("it is held by the test");
                manager.release_now(&answer.expect("a grant").lock_id, &requester);
                done.fetch_add(1, Ordering::Relaxed);
            }),
        );
    }
    manager.release_now(&first.lock_id, &name("first"));
    assert_eq!(done.load(Ordering::Relaxed), 10_000);
    assert_nothing_is_left(&manager);
}

#[test]
fn a_wait_ends_with_its_timeout_and_says_who_was_in_the_way() {
    let manager = LocalLockManager::new();
    let held = granted(&manager, ask("a", "r", Share));
    let started = Instant::now();
    let (_, answers) = acquire(&manager, within(ask("b", "r", Exclusive), 30));
    let (_, behind) = acquire(&manager, ask("c", "r", Share));
    let error = answers.recv_timeout(LONG).expect("an answer").expect_err("a refusal");
    assert!(started.elapsed() >= Duration::from_millis(30));
    let LockError::Timeout { mode, waited_ms, blockers, .. } = &error else { panic!("{error}") };
    assert_eq!((*mode, blockers.as_str()), (Exclusive, "'a'"));
    assert!(*waited_ms >= 30);
    let behind = behind.recv_timeout(LONG).expect("an answer").expect("who was behind is granted");
    let refused = acquire(&manager, within(ask("d", "r", Exclusive), 0)).1.try_recv().unwrap();
    let told = refused.expect_err("no time to wait").to_string();
    assert_eq!(told, "no exclusive lock on 'r' within 0 ms; 'a', 'c' in the way");
    manager.release_now(&held.lock_id, &name("a"));
    manager.release_now(&behind.lock_id, &name("c"));
    assert_nothing_is_left(&manager);
}

/// Hears, and remembers.
struct Ear(Mutex<Sender<String>>);

impl LockEar for Ear {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        let told = format!("{requester} lost {lock_id}: {reason}");
        self.0.lock().unwrap().send(told).unwrap();
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        self.0.lock().unwrap().send(format!("victim {}", deadlock.victim)).unwrap();
    }
}

#[test]
fn a_lease_that_is_not_renewed_is_lost_and_its_holder_told_before_the_next_is_granted() {
    let manager = LocalLockManager::new();
    let (sender, heard) = mpsc::channel();
    manager.listen(Arc::new(Ear(Mutex::new(sender.clone()))));
    let lease = Some(Duration::from_millis(40));
    let held = granted(&manager, LockAsk { lease, ..ask("a", "r", Exclusive) });
    let (renewed, answers) = mpsc::channel();
    let reply = Reply::new(move |answer| drop(renewed.send(answer)));
    manager.renew(&held.lock_id, Duration::from_millis(60), reply);
    assert_eq!(answers.recv_timeout(LONG).unwrap(), Ok(true));
    let next = ask("b", "r", Exclusive);
    let reply = Reply::new(move |answer: Result<Grant, LockError>| {
        drop(sender.send(format!("granted {}", answer.is_ok())));
    });
    manager.acquire(next, reply);
    let told = heard.recv_timeout(LONG).expect("it is told");
    let lost = format!("a lost {}: its lease ended and was not renewed", held.lock_id);
    assert_eq!(
        (told, heard.recv_timeout(LONG).expect("granted")),
        (lost, "granted true".to_owned())
    );
    assert!(!manager.release_now(&held.lock_id, &name("a")), "it is not held any more");
    let (renewed, answers) = mpsc::channel();
    manager.renew(&held.lock_id, LONG, Reply::new(move |answer| drop(renewed.send(answer))));
    assert_eq!(answers.recv_timeout(LONG).unwrap(), Ok(false));
}

#[test]
fn a_deadlock_is_found_by_the_ask_that_closes_it_and_the_youngest_gives_way() {
    let manager = LocalLockManager::new();
    let (sender, heard) = mpsc::channel();
    manager.listen(Arc::new(Ear(Mutex::new(sender))));
    let aged = |age: i64, ask: LockAsk| LockAsk { working_since: Some(Timestamp(age)), ..ask };
    granted(&manager, aged(1, ask("old", "r1", Exclusive)));
    let young = granted(&manager, aged(2, ask("young", "r2", Exclusive)));
    let (_, of_young) = acquire(&manager, aged(2, ask("young", "r1", Share)));
    let (_, of_old) = acquire(&manager, aged(1, ask("old", "r2", Share)));
    let refused = of_young.try_recv().expect("the answer came at once").expect_err("refused");
    let LockError::Deadlock(deadlock) = refused else { panic!("{refused}") };
    assert_eq!(deadlock.cycle, [name("young"), name("old")]);
    assert_eq!(deadlock.resource, resource("r1"));
    assert_eq!(manager.deadlocks(), [*deadlock]);
    assert_eq!(heard.try_recv().expect("told at once"), "victim young");
    assert!(of_old.try_recv().is_err(), "still in the way: a victim keeps what it holds");
    manager.release_now(&young.lock_id, &name("young"));
    assert!(of_old.try_recv().expect("answered in the release").is_ok());
}

#[test]
fn a_cancel_at_any_point_leaves_nothing_behind() {
    let manager = Arc::new(LocalLockManager::new());
    for round in 0..1_000_u64 {
        let held = granted(&manager, ask("holder", "r", Exclusive));
        let (wait, answers) = acquire(&manager, ask("waiter", "r", Exclusive));
        let (_, behind) = acquire(&manager, ask("behind", "r", Share));
        // The cancel comes before, while and after the lock is let go.
        let other = manager.clone();
        let releases = thread::spawn(move || {
            (0..round % 50).for_each(|_| std::hint::spin_loop());
            other.release_now(&held.lock_id, &name("holder"))
        });
        (0..round % 37).for_each(|_| std::hint::spin_loop());
        manager.cancel(wait);
        match answers.recv_timeout(LONG).expect("one answer") {
            Ok(grant) => assert!(manager.release_now(&grant.lock_id, &name("waiter"))),
            Err(error) => assert_eq!(error, LockError::Cancelled),
        }
        assert!(answers.recv_timeout(LONG).is_err(), "no second answer");
        assert!(releases.join().expect("it ends"));
        let behind = behind.recv_timeout(LONG).expect("an answer").expect("a grant");
        assert!(manager.release_now(&behind.lock_id, &name("behind")));
        assert_nothing_is_left(&manager);
    }
}

#[test]
fn many_locks_are_granted_at_once_where_all_are_free_and_in_the_order_of_the_asks() {
    let manager = LocalLockManager::new();
    let asks = vec![ask("a", "z", Exclusive), ask("a", "y", IntentShared), ask("a", "z", Share)];
    let grants = acquire_many(&manager, asks).1.try_recv().unwrap().unwrap();
    let shown: Vec<String> =
        grants.iter().map(|grant| format!("{} {}", grant.resource, grant.mode)).collect();
    assert_eq!(shown, ["z exclusive", "y intent_shared", "z shared"]);
    assert!(acquire_many(&manager, Vec::new()).1.try_recv().unwrap().unwrap().is_empty());
}

#[test]
fn many_locks_that_are_not_free_are_waited_for_in_one_order_and_come_together() {
    let manager = LocalLockManager::new();
    let first = granted(&manager, ask("x", "b", Exclusive));
    let asks = ["c", "b", "a"].map(|on| ask("many", on, Exclusive)).to_vec();
    let (_, answers) = acquire_many(&manager, asks);
    let waiting = infos(&manager);
    let held: Vec<&str> = waiting
        .iter()
        .filter(|info| info.requester == name("many") && info.state() == "held")
        .map(|info| info.resource.as_str())
        .collect();
    assert_eq!(held, ["a"], "c comes after b");
    manager.release_now(&first.lock_id, &name("x"));
    let grants = answers.try_recv().expect("answered in the release").expect("granted");
    let order: Vec<&str> = grants.iter().map(|grant| grant.resource.as_str()).collect();
    assert_eq!(order, ["c", "b", "a"]);
}

#[test]
fn many_locks_of_which_one_is_refused_or_given_up_are_all_given_back() {
    let manager = LocalLockManager::new();
    let held = granted(&manager, ask("x", "b", Exclusive));
    let asks =
        |timeout_ms| ["a", "b"].map(|on| within(ask("many", on, Share), timeout_ms)).to_vec();
    let (_, answers) = acquire_many(&manager, asks(0));
    assert!(matches!(answers.try_recv().unwrap(), Err(LockError::Timeout { .. })));
    let (_, answers) = acquire_many(&manager, asks(20));
    assert!(matches!(answers.recv_timeout(LONG).unwrap(), Err(LockError::Timeout { .. })));
    let (wait, answers) = acquire_many(&manager, asks(60_000));
    assert!(answers.try_recv().is_err());
    manager.cancel(wait);
    assert_eq!(answers.try_recv().unwrap(), Err(LockError::Cancelled));
    assert!(answers.recv_timeout(LONG).is_err(), "no second answer");
    manager.release_now(&held.lock_id, &name("x"));
    assert_nothing_is_left(&manager);
}

#[test]
fn a_close_answers_every_wait_and_lets_everything_go() {
    let manager = LocalLockManager::new();
    let held = granted(&manager, ask("a", "r", IntentExclusive));
    let (_, one) = acquire(&manager, ask("b", "r", Exclusive));
    let both = ["q", "r"].map(|on| ask("c", on, Share)).to_vec();
    let (_, many) = acquire_many(&manager, both);
    manager.close();
    assert_eq!(one.try_recv().unwrap(), Err(LockError::Closed));
    assert_eq!(many.try_recv().unwrap(), Err(LockError::Closed));
    let late = acquire(&manager, ask("d", "r", Share)).1;
    assert_eq!(late.try_recv().unwrap(), Err(LockError::Closed));
    assert!(manager.try_acquire(&ask("d", "r", Share)).is_none());
    assert!(!manager.release_now(&held.lock_id, &name("a")));
    assert_nothing_is_left(&manager);
    assert!(manager.shared.lock().timer.is_none(), "its thread has ended");
}

#[test]
fn tokens_grow_from_one_manager_to_the_next() {
    let mut last = 0;
    for _ in 0..3 {
        let token = granted(&LocalLockManager::new(), ask("a", "r", Share)).fencing_token;
        assert!(token > last);
        last = token;
    }
}

#[test]
fn all_of_a_requester_is_let_go_together() {
    let manager = LocalLockManager::new();
    granted(&manager, ask("a", "r", Share));
    granted(&manager, ask("a", "q", Exclusive));
    granted(&manager, ask("b", "r", Share));
    let (_, own) = acquire(&manager, ask("a", "r", Exclusive));
    let (_, other) = acquire(&manager, ask("c", "q", Exclusive));
    let (sender, answers) = mpsc::channel();
    manager.release_all(&name("a"), Reply::new(move |answer| drop(sender.send(answer))));
    assert_eq!(answers.try_recv().unwrap(), Ok(2));
    assert_eq!(own.try_recv().unwrap(), Err(LockError::Cancelled));
    assert!(other.try_recv().unwrap().is_ok());
    assert!(infos(&manager).iter().all(|info| info.requester != name("a")));
}
