//! The ZooKeeper lock manager when things break: processes, connections, sessions, servers.
//!
//! Faults are made before a real server, by signals and by a proxy that knows its frames.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::{Exclusive, Shared};
use unanimity::locks::zookeeper::ZooKeeperOptions;
use unanimity::locks::{LockAsk, LockError, LockId, LockManager};
use unanimity::reply::Reply;

use crate::locks_zookeeper::{ROOT, nodes};
use crate::support::keeper_proxy::{CREATE, DELETE, KeeperProxy, MULTI, SET_DATA};
use crate::support::lock_caller::{ANSWER_MAX, Caller, eventually, wish, wish_now};
use crate::support::zookeeper::{SESSION_MAX, ZooKeeperServer};

/// The session timeout of [`Caller::at`].
const SESSION: Duration = Duration::from_secs(2);
/// A server looks for ended sessions once a tick, and this machine may be busy.
const SLACK: Duration = Duration::from_secs(3);
const ADDRESS: &str = "UNANIMITY_TEST_ZOOKEEPER";

#[test]
fn the_lock_of_a_killed_process_is_free_within_the_session_timeout() {
    let server = ZooKeeperServer::start();
    let caller = Caller::at(&server.address());
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "locks_zookeeper_faults::holds_until_it_is_killed", "--ignored"])
        .arg("--nocapture")
        .env(ADDRESS, server.address())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let token = lines
        .find_map(|line| line.unwrap().strip_prefix("held ").map(str::to_owned))
        .expect("the child holds");
    let waiting = caller.begin(wish("a", Exclusive, "next"));
    caller.wait_for_waiters("a", 1);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let killed = Instant::now();
    let (grant, at) = waiting.wait_with_time();
    assert!(grant.unwrap().fencing_token > token.parse::<u64>().unwrap());
    assert!(at - killed < SESSION + SLACK, "{:?}", at - killed);
}

#[test]
#[ignore = "the child of another test"]
fn holds_until_it_is_killed() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let caller = Caller::at(&address);
    let grant = caller.take(wish("a", Exclusive, "holder")).unwrap();
    println!("\nheld {}", grant.fencing_token);
    loop {
        std::thread::park();
    }
}

#[test]
fn a_holder_whose_heartbeats_stop_hears_of_it_by_its_own_clock_before_another_holds() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (stalled, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    let held = stalled.take(wish("a", Exclusive, "a")).unwrap();
    let waiting = other.begin(wish("a", Exclusive, "b"));
    other.wait_for_waiters("a", 1);
    proxy.stall(true);
    let (grant, granted_at) = waiting.wait_with_time();
    let grant = grant.unwrap();
    assert!(grant.fencing_token > held.fencing_token);
    let (lost, reason, told_at) = stalled.ear.first_loss();
    assert_eq!(
        (lost, reason.as_str()),
        (held.lock_id.clone(), "no heartbeat was acknowledged in time")
    );
    assert!(told_at < granted_at, "{:?} too late", told_at - granted_at);
    assert_eq!(stalled.release(&held.lock_id, "a"), Ok(false));
    // Once it can, it goes on with a new session, behind the new holder.
    let again = stalled.begin(wish("a", Exclusive, "a"));
    proxy.stall(false);
    other.wait_for_waiters("a", 1);
    assert_eq!(other.release(&grant.lock_id, "b"), Ok(true));
    assert!(again.wait().unwrap().fencing_token > grant.fencing_token);
    assert_eq!(stalled.ear.lost.lock().unwrap().len(), 1, "told once");
}

#[test]
fn holders_hear_that_a_stopped_server_is_silent_and_that_it_goes_on_or_that_they_lost() {
    let mut server = ZooKeeperServer::start();
    let session_timeout = Duration::from_secs(8);
    let options = ZooKeeperOptions { session_timeout, ..ZooKeeperOptions::new(&server.address()) };
    let caller = Caller::new(options);
    let held = caller.take(wish("a", Exclusive, "a")).unwrap();
    server.freeze(true);
    let [(id, until)] = &caller.ear.suspensions(1)[..] else { panic!("told once") };
    assert_eq!(*id, held.lock_id);
    let until = until.expect("suspended");
    assert!(until > Instant::now(), "told in time");
    server.freeze(false);
    assert_eq!(caller.ear.suspensions(2)[1], (held.lock_id.clone(), None));
    assert!(caller.ear.lost.lock().unwrap().is_empty());
    assert_eq!(caller.status(Some("a"))[0].lock_id, Some(held.lock_id.clone()));
    // The second time it stays away.
    server.freeze(true);
    let until = caller.ear.suspensions(3)[2].1.expect("suspended");
    let (lost, _, at) = caller.ear.first_loss();
    assert!(lost == held.lock_id && at >= until, "held until then");
    server.freeze(false);
    assert_eq!(caller.ear.suspensions(3).len(), 3, "what is lost is not resumed");
}

#[test]
fn a_lost_connection_suspends_at_once_and_a_new_one_resumes() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let options = ZooKeeperOptions {
        session_timeout: Duration::from_secs(20),
        ..ZooKeeperOptions::new(&proxy.address())
    };
    let caller = Caller::new(options);
    let held = caller.take(wish("a", Exclusive, "a")).unwrap();
    let let_go = caller.take(wish("b", Exclusive, "a")).unwrap();
    assert_eq!(caller.release(&let_go.lock_id, "a"), Ok(true));
    proxy.refuse(true);
    let told = caller.ear.suspensions(1);
    assert!(told.len() == 1 && told[0].0 == held.lock_id, "{told:?}");
    proxy.refuse(false);
    assert_eq!(caller.ear.suspensions(2)[1], (held.lock_id.clone(), None));
    assert_eq!(caller.release(&held.lock_id, "a"), Ok(true));
}

#[test]
fn one_who_waits_through_the_end_of_its_session_enters_the_queue_again() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (cut_off, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    let held = other.take(wish("a", Exclusive, "holder")).unwrap();
    let own = cut_off.take(wish("b", Shared, "w")).unwrap();
    let waiting =
        cut_off.begin(LockAsk { timeout: Some(Duration::from_secs(20)), ..wish("a", Shared, "w") });
    let short =
        cut_off.begin(LockAsk { timeout: Some(Duration::from_secs(4)), ..wish("a", Shared, "s") });
    other.wait_for_waiters("a", 2);
    proxy.refuse(true);
    other.wait_for_waiters("a", 0);
    assert_eq!(cut_off.ear.first_loss().0, own.lock_id);
    assert!(matches!(short.wait(), Err(LockError::Unavailable { .. })), "answered in its time");
    assert!(waiting.now().is_none());
    proxy.refuse(false);
    other.wait_for_waiters("a", 1);
    assert_eq!(other.release(&held.lock_id, "holder"), Ok(true));
    let grant = waiting.wait().unwrap();
    assert!(grant.fencing_token > own.fencing_token.max(held.fencing_token));
    assert_eq!(other.status(Some("a")).len(), 1);
}

#[test]
fn a_short_cut_of_the_connection_loses_nothing() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (cut_off, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    let held = cut_off.take(wish("a", Exclusive, "a")).unwrap();
    let first = other.take(wish("b", Exclusive, "b")).unwrap();
    let waiting = cut_off.begin(wish("b", Exclusive, "a"));
    other.wait_for_waiters("b", 1);
    proxy.refuse(true);
    // What goes while nobody hears of it is heard of afterwards.
    assert_eq!(other.release(&first.lock_id, "b"), Ok(true));
    proxy.refuse(false);
    assert!(waiting.wait().unwrap().fencing_token > first.fencing_token);
    assert!(matches!(other.take(wish_now("a", Shared, "b")), Err(LockError::Timeout { .. })));
    assert_eq!(cut_off.release(&held.lock_id, "a"), Ok(true));
    assert!(cut_off.ear.lost.lock().unwrap().is_empty());
}

#[test]
fn a_node_whose_reply_was_lost_is_found_again_and_a_lost_release_is_repeated() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (unlucky, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    let warm = unlucky.take(wish("a", Shared, "a")).unwrap();
    assert_eq!(unlucky.release(&warm.lock_id, "a"), Ok(true));
    let mut last = warm;
    for round in 1..=3 {
        proxy.lose_reply_of(CREATE);
        let grant = unlucky.take(wish("a", Shared, "a")).unwrap();
        assert!(grant.fencing_token > last.fencing_token);
        assert_eq!(nodes(&server.address(), ROOT), [grant.zk_path.clone().unwrap()]);
        proxy.lose_reply_of(DELETE);
        assert_eq!(unlucky.release(&grant.lock_id, "a"), Ok(true));
        assert_eq!(nodes(&server.address(), ROOT), Vec::<String>::new());
        assert_eq!(proxy.lost(), 2 * round);
        last = grant;
    }
    // The write of a token, after a wait; and the move of an upgrade.
    let held = other.take(wish("a", Shared, "b")).unwrap();
    let own = unlucky.take(wish("a", Shared, "a")).unwrap();
    let writer = other.begin(wish("a", Exclusive, "c"));
    other.wait_for_waiters("a", 1);
    proxy.lose_reply_of(MULTI);
    let upgrade = unlucky.begin(wish("a", Exclusive, "a"));
    eventually("the upgrade is ahead", || {
        let waiting = other.status(Some("a")).into_iter().find(|info| info.lock_id.is_none())?;
        (waiting.requester.as_str() == "a").then_some(())
    });
    eventually("the reply is lost", || (proxy.lost() == 7).then_some(()));
    assert_eq!(nodes(&server.address(), ROOT).len(), 4);
    proxy.lose_reply_of(SET_DATA);
    assert_eq!(other.release(&held.lock_id, "b"), Ok(true));
    let upgraded = upgrade.wait().unwrap();
    assert!(upgraded.fencing_token > own.fencing_token.max(held.fencing_token));
    assert_eq!(proxy.lost(), 8);
    assert_eq!(unlucky.release_all("a"), Ok(2));
    assert!(writer.wait().unwrap().fencing_token > upgraded.fencing_token);
}

#[test]
fn several_locks_are_all_asked_for_before_the_first_is_answered() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let caller = Caller::at(&proxy.address());
    let warm = caller.take(wish("warm", Shared, "a")).unwrap();
    assert_eq!(caller.release(&warm.lock_id, "a"), Ok(true));
    proxy.hold_replies(true);
    let (sender, answers) = channel();
    let asks = ["d", "b", "c", "a"].map(|name| wish(name, Exclusive, "a"));
    caller.manager.acquire_many(asks.into(), Reply::new(move |it| drop(sender.send(it))));
    eventually("all stand", || (nodes(&server.address(), ROOT).len() == 4).then_some(()));
    proxy.hold_replies(false);
    let granted: Vec<_> = answers.recv_timeout(ANSWER_MAX).unwrap().unwrap();
    let names: Vec<&str> = granted.iter().map(|grant| grant.resource.as_str()).collect();
    assert_eq!(names, ["d", "b", "c", "a"]);
    assert_eq!(caller.release_all("a"), Ok(4));
}

#[test]
fn one_who_waits_for_an_event_that_never_comes_sees_by_itself_that_it_is_its_turn() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (unlucky, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    let held = other.take(wish("a", Exclusive, "a")).unwrap();
    let waiting = unlucky.begin(LockAsk { timeout: None, ..wish("a", Exclusive, "b") });
    eventually("it watches the holder and itself", || (proxy.watches() == 2).then_some(()));
    proxy.lose_events(1);
    assert_eq!(other.release(&held.lock_id, "a"), Ok(true));
    assert!(waiting.wait().unwrap().fencing_token > held.fencing_token);
    assert_eq!(proxy.lost(), 1);
}

#[test]
fn a_wait_given_up_while_its_create_is_unanswered_leaves_no_node() {
    let server = ZooKeeperServer::start();
    let proxy = KeeperProxy::before(server.port);
    let (unlucky, other) = (Caller::at(&proxy.address()), Caller::at(&server.address()));
    assert!(unlucky.take(wish("warm", Shared, "a")).is_ok());
    proxy.stall(true);
    let ask = LockAsk { timeout: Some(Duration::from_millis(50)), ..wish("a", Exclusive, "a") };
    let waiting = unlucky.begin(ask);
    let cancelled = unlucky.begin(wish("a", Exclusive, "b"));
    assert!(matches!(waiting.wait(), Err(LockError::Unavailable { .. })));
    unlucky.manager.cancel(cancelled.1);
    proxy.stall(false);
    assert_eq!(cancelled.wait(), Err(LockError::Cancelled));
    // The creations that were held up may arrive late; whatever they made goes away again.
    eventually("nothing is left in the way", || other.take(wish_now("a", Exclusive, "c")).ok());
    eventually("nothing else is left", || (other.status(Some("a")).len() == 1).then_some(()));
}

#[test]
fn a_node_deleted_by_hand_is_a_loss_for_its_holder_and_a_new_start_for_one_who_waits() {
    let server = ZooKeeperServer::start();
    let caller = Caller::at(&server.address());
    let held = caller.take(wish("a", Exclusive, "a")).unwrap();
    let waiting = caller.begin(wish("a", Exclusive, "b"));
    caller.wait_for_waiters("a", 1);
    let before = nodes(&server.address(), ROOT);
    let path = before.iter().find(|path| held.zk_path.as_ref() != Some(path)).unwrap();
    delete(&server.address(), path);
    eventually("it stands again", || {
        let now = nodes(&server.address(), ROOT);
        (now.len() == 2 && !now.contains(path)).then_some(())
    });
    delete(&server.address(), &held.zk_path.unwrap());
    assert_eq!(caller.ear.first_loss().0, held.lock_id);
    let grant = waiting.wait().unwrap();
    delete(&server.address(), &grant.zk_path.unwrap());
    eventually("that one is told too", || {
        let lost = caller.ear.lost.lock().unwrap();
        lost.iter().any(|loss| loss.0 == grant.lock_id).then_some(())
    });
}

fn delete(address: &str, path: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = zookeeper_client::Client::connect(address).await.unwrap();
        client.delete(path, None).await.unwrap();
    });
}

/// A manager whose session outlives the servers' absence.
fn patient(hosts: &str) -> Caller {
    Caller::new(ZooKeeperOptions { session_timeout: SESSION_MAX, ..ZooKeeperOptions::new(hosts) })
}

fn without_end(name: &str) -> LockAsk {
    LockAsk { timeout: None, ..wish("a", Exclusive, name) }
}

/// Who stands at "a", in the order of the queue, with the holder's lock.
fn standing(caller: &Caller) -> (Option<LockId>, Vec<String>) {
    let infos = caller.status(Some("a"));
    let names = infos.iter().map(|info| info.requester.as_str().to_owned()).collect();
    (infos.first().and_then(|info| info.lock_id.clone()), names)
}

#[test]
fn a_killed_server_that_comes_back_in_time_costs_nobody_a_lock() {
    let mut server = ZooKeeperServer::start();
    let (one, two) = (patient(&server.address()), patient(&server.address()));
    let held = one.take(wish("a", Exclusive, "a")).unwrap();
    let waiting = two.begin(without_end("b"));
    two.wait_for_waiters("a", 1);
    let before = standing(&two);
    server.kill();
    let during = one.begin(LockAsk { timeout: None, ..wish("b", Exclusive, "a") });
    server.resume();
    assert!(during.wait().unwrap().fencing_token > held.fencing_token);
    assert_eq!(standing(&two), before);
    assert!(waiting.now().is_none());
    assert_eq!(one.release(&held.lock_id, "a"), Ok(true));
    let grant = waiting.wait().unwrap();
    assert!(grant.fencing_token > held.fencing_token);
    assert_eq!(standing(&one), (Some(grant.lock_id), vec!["b".to_owned()]));
    assert!([one, two].iter().all(|caller| caller.ear.lost.lock().unwrap().is_empty()));
}

#[test]
fn a_killed_leader_of_three_costs_nobody_a_lock_or_a_place() {
    let mut servers = ZooKeeperServer::start_ensemble();
    let hosts: Vec<String> = servers.iter().map(ZooKeeperServer::address).collect();
    let (one, two) = (patient(&hosts.join(",")), patient(&hosts.join(",")));
    let held = one.take(wish("a", Exclusive, "a")).unwrap();
    let first = two.begin(without_end("b"));
    two.wait_for_waiters("a", 1);
    let second = one.begin(without_end("c"));
    two.wait_for_waiters("a", 2);
    let before = standing(&two);
    let leader = eventually("one leads", || servers.iter().position(ZooKeeperServer::is_leader));
    servers[leader].kill();
    assert_eq!(standing(&one), before);
    assert!(first.now().is_none() && second.now().is_none());
    assert_eq!(one.release(&held.lock_id, "a"), Ok(true));
    let grant = first.wait().unwrap();
    assert!(grant.fencing_token > held.fencing_token);
    assert!(second.now().is_none());
    assert_eq!(two.release(&grant.lock_id, "b"), Ok(true));
    let last = second.wait().unwrap();
    assert!(last.fencing_token > grant.fencing_token);
    // The one that was killed follows the others when it comes back.
    servers[leader].resume();
    assert_eq!(
        standing(&patient(&servers[leader].address())),
        (Some(last.lock_id), vec!["c".into()])
    );
    assert!([one, two].iter().all(|caller| caller.ear.lost.lock().unwrap().is_empty()));
}
