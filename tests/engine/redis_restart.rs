//! The Redis participant when its server is killed, started again, cut off, demoted, or replaced.
//!
//! Not the duties as such (`src/participants/redis_test.rs`). Real servers, each of this test's
//! own. Invariant: whatever happens in between, what was voted is ended as it was decided, and
//! what was lost with the server is told.

use std::time::{Duration, Instant};

use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::participants::ParticipantError;

use crate::support::fenced::{Kind, PATIENCE, Store, answer, delivery};
use crate::support::proxy::Proxy;
use crate::support::redis::RedisServer;

const SHORT: Duration = Duration::from_millis(300);

fn open(url: &str) -> Store {
    Store::open(Kind::Redis, url, "journal")
}

fn prepare(store: &Store, id: &str, key: &str) -> Vote {
    store.prepare(id, store.put(key, 1), &[])
}

fn commit(store: &Store, id: &str) -> Acknowledgement {
    answer(|reply| store.participant().commit(delivery(id), reply))
}

fn listed(store: &Store) -> Result<Vec<String>, ParticipantError> {
    let ids = answer(|reply| store.participant().list_prepared(reply))?;
    let mut ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.sort();
    Ok(ids)
}

/// Asks until the answer is there, as the engine does; a server may be busy changing its part.
fn until<T: PartialEq + std::fmt::Debug>(expected: &T, ask: impl Fn() -> T) {
    let began = Instant::now();
    loop {
        let answer = ask();
        if answer == *expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{answer:?} is no {expected:?}");
    }
}

#[test]
fn what_was_promised_outlives_a_server_that_is_killed() {
    let mut server = RedisServer::start(&[]);
    let store = open(&server.url(0));
    for id in ["first", "second", "third"] {
        assert_eq!(prepare(&store, id, id), Vote::Commit);
    }
    store.commit("first");
    server.kill();
    server.resume();
    assert_eq!(listed(&store).unwrap(), ["second", "third"]);
    assert_eq!(commit(&store, "first"), Acknowledgement::Done, "its marker is there");
    assert!(matches!(prepare(&store, "late", "second"), Vote::Abort { .. }), "the key is held");
    store.commit("second");
    store.abort("third");
    let gotten = ["first", "second", "third"].map(|key| store.get(key));
    assert_eq!(gotten, [Some("1".to_owned()), Some("1".to_owned()), None]);
}

#[test]
fn while_the_server_is_down_nothing_is_taken_for_done() {
    let mut server = RedisServer::start(&[]);
    let store = open(&server.url(0));
    assert_eq!(prepare(&store, "held", "a"), Vote::Commit);
    server.kill();
    // A broken connection leaves one answer open; afterwards it is known that nothing was sent.
    let vote = prepare(&store, "t", "b");
    assert!(matches!(vote, Vote::Unknown { .. } | Vote::Abort { .. }), "{vote:?}");
    let Vote::Abort { reason } = prepare(&store, "u", "c") else { panic!("nothing was sent") };
    assert!(reason.contains("127.0.0.1"), "{reason}");
    assert!(matches!(commit(&store, "held"), Acknowledgement::Unknown { .. }));
    assert!(matches!(store.abort("t"), Acknowledgement::Unknown { .. }));
    assert!(listed(&store).unwrap_err().message.contains("bank"));
    server.resume();
    store.commit("held");
    assert_eq!(store.abort("t"), Acknowledgement::Done);
    assert_eq!(prepare(&store, "v", "b"), Vote::Commit);
}

#[test]
fn a_server_that_lost_everything_is_found_out() {
    let mut server = RedisServer::start(&["--appendonly", "no"]);
    let store = open(&server.url(0));
    assert_eq!(prepare(&store, "t", "a"), Vote::Commit);
    server.kill();
    server.resume();
    until(&Ok(vec![]), || listed(&store));
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
}

#[test]
fn a_vote_that_was_cut_off_is_unknown_and_its_abort_holds() {
    let server = RedisServer::start(&[]);
    let port = server.address()[1].parse().unwrap();
    let proxy = Proxy::before(port);
    let store = open(&format!("redis://127.0.0.1:{}/0", proxy.port));
    // The server does not answer anybody for a while; the question waits in its input.
    assert_eq!(server.ask(&["CLIENT", "PAUSE", "600000", "WRITE"]), "OK");
    let vote = store.prepare_within(SHORT, "t", store.put("a", 1), &[]);
    assert!(matches!(vote, Vote::Unknown { .. }), "{vote:?}");
    proxy.cut();
    assert_eq!(server.ask(&["CLIENT", "UNPAUSE"]), "OK");
    assert_eq!(store.abort("t"), Acknowledgement::Done);
    // The proxy keeps its connection to the server open, so the late prepare was carried out there.
    until(&Ok(vec![]), || listed(&store));
    assert_eq!(prepare(&store, "u", "a"), Vote::Commit);
    proxy.cut();
    store.commit("u");
    assert_eq!(store.get("a").as_deref(), Some("1"));
}

#[test]
fn a_replica_is_refused_until_it_is_promoted_and_then_has_what_was_prepared() {
    let primary = RedisServer::start(&[]);
    let [host, port] = primary.address();
    let replica = RedisServer::start(&["--replicaof", &host, &port]);
    let store = open(&primary.url(0));
    assert_eq!(prepare(&store, "t", "a"), Vote::Commit);
    assert_eq!(primary.ask(&["WAIT", "1", "60000"]), "1");
    let refused = std::panic::catch_unwind(|| open(&replica.url(0)));
    assert!(refused.is_err(), "a replica was let in");
    assert_eq!(replica.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    let next = open(&replica.url(0));
    assert_eq!(listed(&next).unwrap(), ["t"]);
    next.commit("t");
    assert_eq!(next.get("a").as_deref(), Some("1"));
}

#[test]
fn a_primary_that_is_demoted_under_us_takes_nothing_until_it_is_one_again() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url(0));
    assert_eq!(prepare(&store, "held", "a"), Vote::Commit);
    // There is nobody whom it could follow, so it keeps its data.
    assert_eq!(server.ask(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    let Vote::Abort { reason } = prepare(&store, "t", "b") else { panic!("it is a replica") };
    assert!(reason.contains("READONLY") || reason.contains("replica"), "{reason}");
    assert!(matches!(commit(&store, "held"), Acknowledgement::Unknown { .. }));
    assert_eq!(server.ask(&["REPLICAOF", "NO", "ONE"]), "OK");
    until(&Acknowledgement::Done, || commit(&store, "held"));
    assert_eq!(prepare(&store, "t", "b"), Vote::Commit);
}
