//! Who is granted what, and in which order.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use unanimity::locks::LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
use unanimity::locks::{LockAsk, LockError, LockManager, LockMode, ResourceId};
use unanimity::reply::Reply;

use super::{A_WHILE, House, Process, answer, ask, asked, at_once, requester, resource};

fn every_pair(house: &House, one: &Process, other: &Process, prefix: &str) {
    for held in LockMode::ALL {
        for wanted in LockMode::ALL {
            let name = format!("{prefix}/{held}/{wanted}");
            let grant = one.acquire(ask(&name, held, "one")).unwrap();
            let got = other.acquire(at_once(&name, wanted, "other"));
            assert_eq!(got.is_ok(), held.is_compatible_with(wanted), "{held} then {wanted}");
            if let Err(error) = &got {
                let told = error.to_string();
                assert!(told.contains("'one'") && told.contains(&name), "{told}");
                // It waits and is granted when the first lets go.
                let (_, later) = other.wait(house, ask(&name, wanted, "other"));
                assert!(one.release(&grant, "one"));
                assert!(answer(&later).is_ok(), "{held} then {wanted}");
            }
        }
    }
}

#[test]
fn locks_postgres_every_pair_of_modes_follows_the_matrix_in_one_process() {
    let house = House::open();
    let process = house.manager();
    every_pair(&house, &process, &process, "single");
}

#[test]
fn locks_postgres_every_pair_of_modes_follows_the_matrix_between_two_processes() {
    let house = House::open();
    every_pair(&house, &house.manager(), &house.manager(), "between");
}

#[test]
fn locks_postgres_sixteen_waiters_of_two_processes_are_served_in_their_order() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let holder = one.acquire(ask("hot", Exclusive, "holder")).unwrap();
    let waits: Vec<_> = (0..16)
        .map(|index| {
            let process = if index % 3 == 0 { &other } else { &one };
            (process, index, process.wait(&house, ask("hot", Exclusive, &format!("w{index}"))).1)
        })
        .collect();
    let status = one.status(Some("hot"));
    let order: Vec<String> = status.iter().map(|info| info.requester.to_string()).collect();
    let expected: Vec<String> = (0..16).map(|index| format!("w{index}")).collect();
    assert_eq!(order[0], "holder");
    assert_eq!(order[1..], expected);
    assert_eq!(status[16].position, 15);
    assert_eq!(status[3].state(), "waiting");
    one.release(&holder, "holder");
    let mut token = holder.fencing_token;
    for (process, index, wait) in &waits {
        let grant = answer(wait).unwrap();
        assert!(grant.fencing_token > token, "tokens grow");
        token = grant.fencing_token;
        for (_, later, wait) in &waits[index + 1..] {
            assert!(wait.try_recv().is_err(), "{later} was granted beside {index}");
        }
        process.release(&grant, &format!("w{index}"));
    }
    assert_eq!(house.count("distributed_locks") + house.count("lock_wait_queue"), 0);
}

#[test]
fn locks_postgres_sixteen_waiters_of_one_process_keep_their_order_without_waiting_for_each_other() {
    let house = House::open();
    let process = house.manager();
    let holder = process.acquire(ask("hot", Exclusive, "holder")).unwrap();
    let begin = |index: usize| process.begin(ask("hot", Exclusive, &format!("w{index}"))).1;
    let waits: Vec<_> = (0..16).map(begin).collect();
    house.wait_for("waits", "lock_wait_queue", 16);
    process.release(&holder, "holder");
    let mut token = holder.fencing_token;
    for (index, wait) in waits.iter().enumerate() {
        let grant = answer(wait).unwrap();
        assert!(grant.fencing_token > token);
        token = grant.fencing_token;
        process.release(&grant, &format!("w{index}"));
    }
}

#[test]
fn locks_postgres_compatible_neighbours_are_granted_together_and_nobody_overtakes_a_writer() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let reader = one.acquire(ask("r", Shared, "reader")).unwrap();
    let (_, writer) = other.wait(&house, ask("r", Exclusive, "writer"));
    let late: Vec<_> =
        ["a", "b", "c"].map(|by| one.wait(&house, ask("r", Shared, by)).1).into_iter().collect();
    one.release(&reader, "reader");
    let grant = answer(&writer).unwrap();
    assert_eq!(late[0].recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
    other.release(&grant, "writer");
    for wait in &late {
        answer(wait).unwrap();
    }
}

#[test]
fn locks_postgres_a_requester_enters_again_and_its_upgrade_goes_ahead_of_the_queue() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let first = one.acquire(ask("r", Shared, "a")).unwrap();
    let beside = other.acquire(ask("r", Shared, "b")).unwrap();
    let (_, queued) = other.wait(&house, ask("r", Exclusive, "c"));
    let again = one.acquire(at_once("r", Shared, "a")).unwrap();
    assert_ne!(first.lock_id, again.lock_id);
    let (_, upgrade) = one.wait(&house, ask("r", Exclusive, "a"));
    assert!(other.release(&beside, "b"));
    let upgraded = answer(&upgrade).unwrap();
    assert!(queued.try_recv().is_err(), "the queue waits");
    for grant in [&first, &again, &upgraded] {
        assert!(one.release(grant, "a"));
    }
    answer(&queued).unwrap();
}

#[test]
fn locks_postgres_six_is_held_by_holding_shared_and_intent_exclusive() {
    let house = House::open();
    let process = house.manager();
    process.acquire(ask("r", Shared, "a")).unwrap();
    process.acquire(at_once("r", IntentExclusive, "a")).unwrap();
    assert!(process.acquire(at_once("r", IntentShared, "b")).is_ok());
    assert!(process.acquire(at_once("r", IntentExclusive, "c")).is_err());
    assert!(process.acquire(at_once("r", Shared, "d")).is_err());
}

#[test]
fn locks_postgres_release_by_another_or_of_nothing_is_false_and_changes_nothing() {
    let house = House::open();
    let process = house.manager();
    let grant = process.acquire(ask("r", Exclusive, "a")).unwrap();
    assert!(!process.release(&grant, "b"));
    assert!(process.acquire(at_once("r", Shared, "b")).is_err());
    assert!(process.release(&grant, "a"));
    assert!(!process.release(&grant, "a"));
    let nonsense = unanimity::locks::LockId::from_text("no lock");
    let answer = asked(|reply| process.manager.release(&nonsense, &requester("a"), reply));
    assert_eq!(answer, Ok(false));
    assert!(process.lost().is_empty());
}

#[test]
fn locks_postgres_any_process_may_release_for_the_requester() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let grant = one.acquire(ask("r", Exclusive, "a")).unwrap();
    assert!(other.release(&grant, "a"));
    assert!(one.acquire(at_once("r", Exclusive, "b")).is_ok());
}

#[test]
fn locks_postgres_release_all_frees_every_lock_and_gives_up_every_wait() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    for name in ["x", "y", "z"] {
        one.acquire(ask(name, Exclusive, "a")).unwrap();
    }
    other.acquire(ask("blocked", Exclusive, "c")).unwrap();
    let (_, given_up) = one.wait(&house, ask("blocked", Exclusive, "a"));
    let (_, waiting) = other.wait(&house, ask("y", Exclusive, "b"));
    assert_eq!(one.release_all("a"), 3);
    assert_eq!(answer(&given_up), Err(LockError::Cancelled));
    answer(&waiting).unwrap();
    house.wait_for("waits", "lock_wait_queue", 0);
    assert_eq!(one.release_all("a"), 0);
}

#[test]
fn locks_postgres_many_are_all_or_none_in_one_order() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let asks = |names: [&str; 3], by: &str| names.map(|name| ask(name, Exclusive, by)).to_vec();
    let grants = one.many(asks(["c", "a", "b"], "one")).unwrap();
    let names: Vec<&str> = grants.iter().map(|grant| grant.resource.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"], "in the order of the asks");
    let short = LockAsk { timeout: Some(A_WHILE), ..ask("b", Exclusive, "other") };
    let refused = other.many(vec![ask("0", Exclusive, "other"), short]);
    assert!(matches!(refused, Err(LockError::Timeout { .. })), "{refused:?}");
    assert!(one.acquire(at_once("0", Exclusive, "one")).is_ok(), "nothing is kept");
    one.release_all("one");
    // Against each other, in opposite orders, again and again: nobody is a deadlock's victim.
    std::thread::scope(|scope| {
        for (process, names, by) in
            [(&one, ["a", "b", "c"], "one"), (&other, ["c", "b", "a"], "other")]
        {
            scope.spawn(move || {
                for _ in 0..50 {
                    process.many(asks(names, by)).unwrap();
                    assert_eq!(process.release_all(by), 3);
                }
            });
        }
    });
    assert_eq!(house.count("distributed_locks"), 0);
}

#[test]
fn locks_postgres_many_that_wait_are_given_up_whole() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let held = one.acquire(ask("b", Exclusive, "one")).unwrap();
    for round in 0..50 {
        let asks = ["a", "b", "c"].map(|name| ask(name, Exclusive, "other")).to_vec();
        let (sender, told) = channel();
        let reply = Reply::new(move |it| sender.send(it).unwrap());
        let wait = other.manager.acquire_many(asks, reply);
        if round % 5 == 0 {
            house.wait_for("waits", "lock_wait_queue", 1);
        }
        other.manager.cancel(wait);
        assert_eq!(answer(&told), Err(LockError::Cancelled));
        for name in ["a", "c"] {
            let grant = one.acquire(at_once(name, Exclusive, "one")).unwrap();
            one.release(&grant, "one");
        }
    }
    one.release(&held, "one");
    assert_eq!(house.count("distributed_locks") + house.count("lock_wait_queue"), 0);
}

#[test]
fn locks_postgres_names_of_any_kind_lock_and_are_told_apart() {
    let house = House::open();
    let process = house.manager();
    let names =
        ["a/b", "a:b:shared:1", "'; DROP TABLE distributed_locks; --", "\u{e9}{},\"\\", " "];
    for name in names {
        let grant = process.acquire(ask(name, Exclusive, "it's {\"x\"}, \\")).unwrap();
        assert_eq!(grant.resource.as_str(), name);
        assert!(process.acquire(at_once(name, Shared, "b")).is_err());
        assert_eq!(process.status(Some(name))[0].requester.as_str(), "it's {\"x\"}, \\");
    }
    let long = "\u{1f512}".repeat(256);
    let who = "\u{1f512}".repeat(128);
    let grant = process.acquire(ask(&long, IntentExclusive, &who)).unwrap();
    assert!(process.release(&grant, &who));
    assert!(ResourceId::new("").is_err() && ResourceId::new("a\0b").is_err());
}

#[test]
fn locks_postgres_status_and_graph_tell_who_holds_and_who_waits() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let lease = Some(Duration::from_secs(60));
    let held = one.acquire(LockAsk { lease, ..ask("r", Shared, "a") }).unwrap();
    other.acquire(ask("q", Exclusive, "b")).unwrap();
    let (_, _waiting) = other.wait(&house, ask("r", Exclusive, "b"));
    let infos = one.status(Some("r"));
    assert_eq!(infos.len(), 2);
    assert_eq!(infos[0].lock_id.as_ref(), Some(&held.lock_id));
    assert_eq!(infos[0].fencing_token, Some(held.fencing_token));
    assert_eq!(infos[0].since, held.acquired_at);
    assert_eq!(infos[0].expires_at, Some(held.acquired_at + Duration::from_secs(60)));
    assert_eq!((infos[1].state(), infos[1].position, infos[1].mode), ("waiting", 0, Exclusive));
    assert!(infos[1].expires_at.is_some(), "its wait ends");
    assert_eq!(one.status(None).len(), 3);
    assert_eq!(
        other.graph().into_iter().collect::<Vec<_>>(),
        [(requester("b"), vec![requester("a")])]
    );
    assert_eq!(held.lock_id.as_str(), format!("{}:shared:{}", resource("r"), held.fencing_token));
}

#[test]
fn locks_postgres_tokens_grow_across_the_ends_of_managers() {
    let house = House::open();
    let mut last = 0;
    for _ in 0..4 {
        let process = house.manager();
        for _ in 0..3 {
            let grant = process.acquire(ask("r", Exclusive, "a")).unwrap();
            assert!(grant.fencing_token > last);
            last = grant.fencing_token;
            process.release(&grant, "a");
        }
        process.acquire(ask("r", Exclusive, "a")).map(|grant| last = grant.fencing_token).unwrap();
        process.manager.close();
        assert_eq!(house.count("distributed_locks"), 0, "a goodbye leaves nothing");
        assert_eq!(house.count("lock_sessions"), 0);
    }
}
