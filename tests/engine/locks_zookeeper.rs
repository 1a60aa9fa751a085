//! The ZooKeeper lock manager on a real server: modes, order, waits, leases, deadlocks, names.
//!
//! What breaks servers and connections is in `locks_zookeeper_faults`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use unanimity::locks::zookeeper::{ZooKeeperCredentials, ZooKeeperOptions};
use unanimity::locks::{LockAsk, LockError, LockManager, LockMode, RequesterId};
use unanimity::model::time::Timestamp;
use zookeeper_client::Client;

use crate::support::lock_caller::{
    ANSWER_MAX, Caller, asked, eventually, requester, wish, wish_now,
};
use crate::support::zookeeper::ZooKeeperServer;

use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};

/// The names of all nodes under the lock root, by container.
pub(crate) fn nodes(address: &str, root: &str) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Client::connect(address).await.unwrap();
        let mut found = Vec::new();
        for container in client.list_children(root).await.unwrap_or_default() {
            let path = format!("{root}/{container}");
            for child in client.list_children(&path).await.unwrap_or_default() {
                found.push(format!("{path}/{child}"));
            }
        }
        found
    })
}

/// Where the locks stand.
pub(crate) const ROOT: &str = "/memory_os/locks";

#[test]
fn every_pair_of_modes_excludes_as_the_matrix_says_on_one_manager_and_between_two() {
    let server = ZooKeeperServer::start();
    let (one, two) = (Caller::at(&server.address()), Caller::at(&server.address()));
    for (at, other) in [&one, &two].into_iter().enumerate() {
        for first in LockMode::ALL {
            for second in LockMode::ALL {
                let resource = format!("store/{at}/{first}/{second}");
                let held = one.take(wish(&resource, first, "a")).unwrap();
                let answer = other.take(wish_now(&resource, second, "b"));
                let is_granted = answer.is_ok();
                assert_eq!(is_granted, first.is_compatible_with(second), "{first} then {second}");
                if let Err(error) = answer {
                    let LockError::Timeout { blockers, .. } = &error else { panic!("{error}") };
                    assert_eq!(blockers, "'a'");
                    assert_eq!(one.release(&held.lock_id, "a"), Ok(true));
                    assert!(other.take(wish_now(&resource, second, "b")).is_ok(), "now it is free");
                }
            }
        }
    }
}

#[test]
fn sixteen_waiters_over_two_managers_are_served_in_their_order_with_growing_tokens() {
    let server = ZooKeeperServer::start();
    let callers = [Caller::at(&server.address()), Caller::at(&server.address())];
    let mut last = callers[0].take(wish("hot", Exclusive, "first")).unwrap();
    let mut holder = (0, "first".to_owned());
    let mut waiting = Vec::new();
    for number in 0..16 {
        let at = number % 2;
        waiting.push(callers[at].begin(wish("hot", Exclusive, &format!("r{number}"))));
        callers[at].wait_for_waiters("hot", number + 1);
    }
    let infos = callers[1].status(Some("hot"));
    let names: Vec<&str> = infos.iter().map(|info| info.requester.as_str()).collect();
    assert_eq!((names.len(), names[0], names[1], names[16]), (17, "first", "r0", "r15"));
    assert_eq!((infos[0].state(), infos[1].state(), infos[16].position), ("held", "waiting", 15));
    assert_eq!(infos[0].lock_id, Some(last.lock_id.clone()));
    for (number, waiter) in waiting.iter().enumerate() {
        assert!(waiting[number..].iter().all(|later| later.now().is_none()), "nobody overtakes");
        assert_eq!(callers[holder.0].release(&last.lock_id, &holder.1), Ok(true));
        let grant = waiter.wait().unwrap();
        assert!(grant.fencing_token > last.fencing_token);
        last = grant;
        holder = (number % 2, format!("r{number}"));
    }
    let held = callers[0].status(Some("hot"));
    assert_eq!(held[0].fencing_token, Some(last.fencing_token));
}

#[test]
fn issue_3_those_who_ask_one_manager_at_once_stand_in_the_order_in_which_they_asked() {
    let server = ZooKeeperServer::start();
    let caller = Caller::at(&server.address());
    for round in 0..20 {
        let resource = format!("doc/{round}");
        let held = caller.take(wish(&resource, Exclusive, "first")).unwrap();
        let names: Vec<String> = (0..16).map(|number| format!("r{number:02}")).collect();
        let waits: Vec<_> =
            names.iter().map(|name| caller.begin(wish(&resource, Exclusive, name))).collect();
        caller.wait_for_waiters(&resource, names.len());
        let standing = caller.status(Some(&resource));
        let waiting: Vec<&str> = standing[1..].iter().map(|it| it.requester.as_str()).collect();
        assert_eq!(waiting, names);
        for wait in &waits {
            caller.manager.cancel(wait.1);
        }
        assert_eq!(caller.release(&held.lock_id, "first"), Ok(true));
    }
}

/// Numbers from a seed.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_thousand_waits_that_time_out_or_are_given_up_leave_no_node() {
    let server = ZooKeeperServer::start();
    let caller = Caller::at(&server.address());
    let seed = 0x5eed_2026_u64;
    println!("seed {seed}");
    let mut state = seed;
    let held: Vec<_> = (0..5)
        .map(|key| caller.take(wish(&format!("key/{key}"), Exclusive, "holder")).unwrap())
        .collect();
    let mut granted = 0;
    for _ in 0..50 {
        let waits: Vec<_> = (0..20)
            .map(|number| {
                let key = random(&mut state) % 10;
                let timeout = Duration::from_micros(random(&mut state) % 30_000);
                let mode = if random(&mut state).is_multiple_of(2) { Shared } else { Exclusive };
                let name = format!("r{number}");
                let ask = wish(&format!("key/{key}"), mode, &name);
                let pending = caller.begin(LockAsk { timeout: Some(timeout), ..ask });
                (name, pending, random(&mut state).is_multiple_of(3))
            })
            .collect();
        let pause = Duration::from_micros(random(&mut state) % 5_000);
        let until = Instant::now() + pause;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        for (_, pending, _) in waits.iter().filter(|wait| wait.2) {
            caller.manager.cancel(pending.1);
        }
        for (name, pending, _) in &waits {
            match pending.wait() {
                Ok(grant) => {
                    granted += 1;
                    assert_eq!(caller.release(&grant.lock_id, name), Ok(true));
                }
                Err(LockError::Timeout { .. } | LockError::Cancelled) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(granted > 100, "{granted}");
    let left = nodes(&server.address(), ROOT);
    assert_eq!(left.len(), held.len(), "{left:?}");
    assert!(caller.ear.lost.lock().unwrap().is_empty());
    // A manager that closes answers those who wait, and its nodes go with it.
    let waiting = caller.begin(wish("key/0", Exclusive, "late"));
    caller.wait_for_waiters("key/0", 1);
    caller.manager.close();
    assert_eq!(waiting.wait(), Err(LockError::Closed));
    assert_eq!(nodes(&server.address(), ROOT), Vec::<String>::new());
}

#[test]
fn a_holder_takes_more_of_its_own_and_its_upgrade_waits_for_other_holders_only() {
    let server = ZooKeeperServer::start();
    let (one, two) = (Caller::at(&server.address()), Caller::at(&server.address()));
    let first = one.take(wish("doc", Shared, "a")).unwrap();
    let again = one.take(wish("doc", Shared, "a")).unwrap();
    assert_ne!(first.lock_id, again.lock_id);
    let other = two.take(wish("doc", Shared, "b")).unwrap();
    let writers: Vec<_> =
        ["c", "d"].iter().map(|name| two.begin(wish("doc", Exclusive, name))).collect();
    two.wait_for_waiters("doc", 2);
    let upgrade = one.begin(wish("doc", Exclusive, "a"));
    one.wait_for_waiters("doc", 3);
    // It stands before the writers, who came earlier, once it has moved.
    eventually("the upgrade is ahead", || {
        let waiting = one.status(Some("doc")).into_iter().find(|info| info.lock_id.is_none());
        (waiting?.requester == requester("a")).then_some(())
    });
    assert_eq!(two.release(&other.lock_id, "b"), Ok(true));
    let upgraded = upgrade.wait().unwrap();
    assert!(upgraded.fencing_token > other.fencing_token);
    assert!(one.take(wish_now("doc", Exclusive, "a")).is_ok(), "re-entrant past those who wait");
    assert!(writers.iter().all(|writer| writer.now().is_none()));
    assert_eq!(one.release_all("a"), Ok(4));
    let mut last = upgraded;
    for (writer, name) in writers.iter().zip(["c", "d"]) {
        let grant = writer.wait().unwrap();
        assert!(grant.fencing_token > last.fencing_token, "also when it asked earlier");
        assert_eq!(two.release_all(name), Ok(1));
        last = grant;
    }
}

#[test]
fn issue_3_one_who_agrees_with_all_ahead_is_granted_when_the_waiter_before_it_gives_up() {
    let server = ZooKeeperServer::start();
    let (one, two) = (Caller::at(&server.address()), Caller::at(&server.address()));
    let writer = one.take(wish("store", IntentExclusive, "writer")).unwrap();
    let without_end = |mode, name: &str| LockAsk { timeout: None, ..wish("store", mode, name) };
    let reader = one.begin(without_end(Shared, "reader"));
    one.wait_for_waiters("store", 1);
    let part = two.begin(without_end(IntentShared, "part"));
    two.wait_for_waiters("store", 2);
    one.manager.cancel(reader.1);
    assert_eq!(reader.wait(), Err(LockError::Cancelled));
    // The writer holds on; and nobody else will leave.
    assert!(part.wait().unwrap().fencing_token > writer.fencing_token);
}

#[test]
fn a_release_by_another_is_false_and_many_are_taken_all_or_none() {
    let server = ZooKeeperServer::start();
    let (one, two) = (Caller::at(&server.address()), Caller::at(&server.address()));
    let held = one.take(wish("b", Exclusive, "a")).unwrap();
    assert_eq!(one.release(&held.lock_id, "somebody"), Ok(false));
    assert_eq!(two.release(&held.lock_id, "a"), Ok(false), "another process holds it");
    let asks = |timeout| {
        let names = ["c", "a", "b"].into_iter();
        names.map(|name| LockAsk { timeout, ..wish(name, Shared, "m") }).collect::<Vec<_>>()
    };
    let none = asked(|reply| {
        two.manager.acquire_many(asks(Some(Duration::from_millis(100))), reply);
    });
    assert!(matches!(none, Err(LockError::Timeout { .. })), "{none:?}");
    assert_eq!(two.status(Some("a")), [], "what was taken was given back");
    assert_eq!(one.release(&held.lock_id, "a"), Ok(true));
    assert_eq!(one.release(&held.lock_id, "a"), Ok(false));
    let all = asked(|reply| {
        two.manager.acquire_many(asks(None), reply);
    });
    let names: Vec<String> =
        all.unwrap().iter().map(|grant| grant.resource.as_str().to_owned()).collect();
    assert_eq!(names, ["c", "a", "b"]);
    assert_eq!(two.status(None).len(), 3);
    assert_eq!(two.release_all("m"), Ok(3));
}

#[test]
fn wishes_for_the_same_locks_in_any_order_never_wait_for_each_other() {
    let server = ZooKeeperServer::start();
    let callers = [Caller::at(&server.address()), Caller::at(&server.address())];
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"], ["b", "c", "a"]];
    std::thread::scope(|scope| {
        for (number, order) in orders.into_iter().enumerate() {
            let caller = &callers[number % callers.len()];
            scope.spawn(move || {
                for round in 0..25 {
                    let name = format!("{number}/{round}");
                    let asks = order.map(|resource| wish(resource, Exclusive, &name));
                    let granted = asked(|reply| {
                        caller.manager.acquire_many(asks.into(), reply);
                    });
                    assert_eq!(granted.map(|grants| grants.len()), Ok(3));
                    assert_eq!(caller.release_all(&name), Ok(3));
                }
            });
        }
    });
    assert!(callers.iter().all(|caller| caller.manager.deadlocks().is_empty()));
    assert_eq!(nodes(&server.address(), ROOT), Vec::<String>::new());
}

#[test]
fn a_lease_ends_by_itself_unless_it_is_renewed() {
    let server = ZooKeeperServer::start();
    let (one, two) = (Caller::at(&server.address()), Caller::at(&server.address()));
    let leased = |resource: &str, ms| LockAsk {
        lease: Some(Duration::from_millis(ms)),
        ..wish(resource, Exclusive, "a")
    };
    let renewed = one.take(leased("renewed", 400)).unwrap();
    let long = asked(|reply| one.manager.renew(&renewed.lock_id, ANSWER_MAX, reply));
    assert_eq!(long, Ok(true));
    let short = one.take(leased("short", 200)).unwrap();
    let next = two.begin(wish("short", Exclusive, "b"));
    let (grant, granted_at) = next.wait_with_time();
    assert!(grant.unwrap().fencing_token > short.fencing_token);
    let (lost, reason, told_at) = one.ear.first_loss();
    assert_eq!((&lost, reason.as_str()), (&short.lock_id, "its lease ended"));
    assert!(told_at < granted_at, "the holder hears of it before another holds");
    assert_eq!(one.release(&short.lock_id, "a"), Ok(false));
    let over = asked(|reply| one.manager.renew(&short.lock_id, ANSWER_MAX, reply));
    assert_eq!(over, Ok(false));
    let info = &two.status(Some("renewed"))[0];
    assert_eq!(info.lock_id, Some(renewed.lock_id.clone()), "a renewal changes no token");
    assert!(info.expires_at.is_some_and(|end| end.since(info.since) == ANSWER_MAX));
    assert_eq!(one.release(&renewed.lock_id, "a"), Ok(true));
}

#[test]
fn a_deadlock_over_three_managers_has_one_victim_the_youngest_that_may_be() {
    let server = ZooKeeperServer::start();
    let callers: Vec<Caller> = (0..3).map(|_| Caller::at(&server.address())).collect();
    let ask = |resource: &str, at: usize, age: i64, is_protected| LockAsk {
        working_since: Some(Timestamp(age)),
        is_protected,
        ..wish(resource, Exclusive, &format!("r{at}"))
    };
    // r2 is the youngest, but protected; so r0 gives way.
    let ages = [(20, false), (10, false), (30, true)];
    for (at, (age, is_protected)) in ages.into_iter().enumerate() {
        callers[at].take(ask(&format!("k{at}"), at, age, is_protected)).unwrap();
    }
    let waits: Vec<_> = ages
        .into_iter()
        .enumerate()
        .map(|(at, (age, is_protected))| {
            callers[at].begin(ask(&format!("k{}", (at + 1) % 3), at, age, is_protected))
        })
        .collect();
    let closed = Instant::now();
    let (refused, at) = waits[0].wait_with_time();
    let Err(LockError::Deadlock(deadlock)) = refused else { panic!("{refused:?}") };
    assert!(at - closed < Duration::from_secs(2), "{:?}", at - closed);
    let cycle: Vec<&str> = deadlock.cycle.iter().map(RequesterId::as_str).collect();
    assert_eq!(cycle, ["r0", "r1", "r2"]);
    assert_eq!(callers[0].ear.deadlocks.lock().unwrap().len(), 1);
    assert_eq!(callers[0].manager.deadlocks(), [(*deadlock).clone()]);
    let graph = callers[1].graph();
    assert_eq!(graph.get(&requester("r1")), Some(&vec![requester("r2")]));
    assert_eq!(graph.get(&requester("r0")), None);
    // The others wait on until the victim lets go.
    assert!(waits[1].now().is_none() && waits[2].now().is_none());
    assert_eq!(callers[0].release_all("r0"), Ok(1));
    assert!(waits[2].wait().is_ok());
    assert_eq!(callers[2].release_all("r2"), Ok(2));
    assert!(waits[1].wait().is_ok());
    assert!(callers[1..].iter().all(|caller| caller.manager.deadlocks().is_empty()));
}

#[test]
fn two_upgraders_over_two_managers_are_a_deadlock_and_one_of_them_goes_on() {
    let server = ZooKeeperServer::start();
    let callers: Vec<Caller> = (0..2).map(|_| Caller::at(&server.address())).collect();
    let names = ["old", "young"];
    for (caller, name) in callers.iter().zip(names) {
        caller.take(wish("doc", Shared, name)).unwrap();
    }
    let upgrades = [0, 1].map(|at| {
        let working_since = Some(Timestamp(if at == 0 { 10 } else { 20 }));
        callers[at].begin(LockAsk { working_since, ..wish("doc", Exclusive, names[at]) })
    });
    assert!(matches!(upgrades[1].wait(), Err(LockError::Deadlock(_))));
    assert!(upgrades[0].now().is_none());
    assert_eq!(callers[1].release_all("young"), Ok(1));
    assert!(upgrades[0].wait().is_ok());
}

#[test]
fn any_name_of_a_resource_works_below_a_chroot_and_has_a_queue_of_its_own() {
    let server = ZooKeeperServer::start();
    let caller = Caller::new(ZooKeeperOptions {
        lock_root_path: "/locks".to_owned(),
        ..ZooKeeperOptions::new(&format!("{}/some/chroot", server.address()))
    });
    let long = "\u{1f512}".repeat(256);
    let nearly = format!("{}x", "\u{1f512}".repeat(255));
    let names = [
        "store/key",
        "store",
        "/",
        "//",
        ".",
        "..",
        "zookeeper",
        "a b",
        "%2F",
        "~",
        "a:exclusive:1",
        "\u{e9}\n\t",
        &long,
        &nearly,
    ];
    for name in names {
        let grant = caller.take(wish(name, Exclusive, "a")).unwrap();
        assert!(grant.zk_path.is_some_and(|path| path.starts_with("/some/chroot/locks/")));
        assert_eq!(caller.status(Some(name)).len(), 1);
    }
    let told: BTreeSet<String> =
        caller.status(None).iter().map(|info| info.resource.as_str().to_owned()).collect();
    assert_eq!(told, names.iter().map(|name| (*name).to_owned()).collect());
    let blocked = caller.take(wish_now("..", IntentShared, "b"));
    assert!(matches!(blocked, Err(LockError::Timeout { .. })));
    assert!(caller.take(wish_now("free", IntentExclusive, "b")).is_ok());
}

#[test]
fn nodes_belong_to_their_user_and_another_is_told_so() {
    let server = ZooKeeperServer::start();
    let as_user = |password: Option<&str>| {
        let credentials = password.map(|password| ZooKeeperCredentials {
            user: "anna".to_owned(),
            password: password.to_owned(),
        });
        Caller::new(ZooKeeperOptions { credentials, ..ZooKeeperOptions::new(&server.address()) })
    };
    let (right, again) = (as_user(Some("secret")), as_user(Some("secret")));
    right.take(wish("a", Exclusive, "a")).unwrap();
    assert!(matches!(again.take(wish_now("a", Shared, "b")), Err(LockError::Timeout { .. })));
    for other in [as_user(Some("wrong")), as_user(None)] {
        for resource in ["a", "new"] {
            let refused = other.take(wish(resource, Shared, "b")).unwrap_err().to_string();
            assert!(refused.contains("not authorized"), "{refused}");
            assert!(refused.contains(&server.address()) && !refused.contains("wrong"), "{refused}");
        }
    }
}

#[test]
fn an_unreachable_server_is_named_within_the_timeout() {
    let caller = Caller::at("127.0.0.1:1");
    let started = Instant::now();
    let ask = LockAsk { timeout: Some(Duration::from_millis(600)), ..wish("a", Shared, "a") };
    let refused = caller.take(ask).unwrap_err();
    let LockError::Unavailable { server, message } = &refused else { panic!("{refused}") };
    assert!(server.contains("127.0.0.1:1") && message.contains("no server"), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(5));
    let failed = asked(|reply| caller.manager.connect(Duration::from_millis(100), reply));
    assert!(matches!(failed, Err(LockError::Unavailable { .. })));
    let waiting = caller.begin(LockAsk { timeout: None, ..wish("a", Shared, "a") });
    caller.manager.cancel(waiting.1);
    assert_eq!(waiting.wait(), Err(LockError::Cancelled));
}
