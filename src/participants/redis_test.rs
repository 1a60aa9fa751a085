//! Tests of the Redis store through the port, on real servers: what it shares with the other
//! key-value stores, and what Redis alone has (times to live, types, lost scripts, a full memory).
//!
//! Kills and restarts of the server are in `tests/engine/redis*.rs`.

use std::fs;
use std::path::Path;

use super::redis::{Durability, RedisStore};
use super::redis_server_test::RedisServer;
use super::test_kit::{
    abort, answer, ask, attach, check_exists, check_value, cluster, commit, delete, delivery,
    failed, id, listed, map, passing, prepare, put, refused, runtime, send, step, store_name,
    undone_by, wait,
};
use super::*;
use crate::model::lock::{LockMode, ResourceId};

use Work::{Compensate, Execute};

fn store_at(url: &str) -> RedisStore {
    RedisStore::new(url, "redis", "", true, runtime().handle().clone()).expect("the url is good")
}

/// The store whose database belongs to a folder, for tests of several processes; not attached.
pub(super) fn open_at(folder: &Path) -> RedisStore {
    let note = folder.join("redis-url");
    if !note.exists() {
        fs::write(&note, RedisServer::shared().fresh_url()).unwrap();
    }
    let store = store_at(&fs::read_to_string(note).unwrap());
    attach(&store);
    store
}

/// A store in a database of its own, and the number of that.
fn store() -> (RedisStore, u32) {
    let url = RedisServer::shared().fresh_url();
    let number = url.rsplit('/').next().unwrap().parse().unwrap();
    let store = store_at(&url);
    attach(&store);
    (store, number)
}

fn get(store: &RedisStore, key: &str) -> Option<Vec<u8>> {
    match answer(|reply| store.get(key.to_owned(), reply)).expect("it is read") {
        Some(Value::Bytes(bytes)) => Some(bytes),
        Some(other) => panic!("expected bytes, got {other:?}"),
        None => None,
    }
}

fn has(store: &RedisStore, key: &str, value: &str) -> bool {
    get(store, key).as_deref() == Some(value.as_bytes())
}

fn redis(number: u32, words: &[&str]) -> String {
    RedisServer::shared().ask_in(number, words)
}

/// Names of ours that are left, those that belong to no transaction aside.
fn left(number: u32) -> Vec<String> {
    let found = redis(number, &["KEYS", "unanimity:*"]);
    let lasting = ["version", "tokens", "committed", "aborted", "steps", "synced"];
    let is_lasting =
        |name: &str| lasting.iter().any(|word| name.starts_with(&format!("unanimity:{word}")));
    found.lines().filter(|name| !is_lasting(name)).map(str::to_owned).collect()
}

fn with(body: Value, name: &str, value: impl Into<Value>) -> Value {
    let Value::Map(mut entries) = body else { panic!("an operation is a map") };
    entries.push((name.to_owned(), value.into()));
    Value::Map(entries)
}

#[test]
fn what_is_prepared_is_seen_by_nobody_until_it_is_committed() {
    let (store, number) = store();
    let bytes = Value::Bytes(vec![0, 255]);
    let operations =
        vec![put("a", "\u{e9}"), put("b", 7), put("c", bytes), put("d", 1), delete("d")];
    assert_eq!(prepare(&store, "t", operations), Vote::Commit);
    assert_eq!((get(&store, "a"), listed(&store)), (None, vec!["t".to_owned()]));
    for _ in 0..2 {
        assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    }
    assert!(has(&store, "a", "\u{e9}") && has(&store, "b", "7"));
    assert_eq!((get(&store, "c"), get(&store, "d")), (Some(vec![0, 255]), None));
    assert_eq!((listed(&store), left(number)), (vec![], vec![]));
    assert_eq!(redis(number, &["GET", "b"]), "7");
}

#[test]
fn an_abort_leaves_nothing_and_shuts_the_id() {
    let (store, number) = store();
    prepare(&store, "before", vec![put("a", 1)]);
    commit(&store, "before");
    assert_eq!(prepare(&store, "t", vec![put("a", 2), delete("b")]), Vote::Commit);
    for _ in 0..2 {
        assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    }
    assert!(has(&store, "a", "1"));
    assert_eq!((listed(&store), left(number)), (vec![], vec![]));
    let reason = refused(prepare(&store, "t", vec![put("a", 3)]));
    assert!(reason.contains("aborted here before"), "{reason}");
    assert_eq!(
        commit(&store, "t"),
        Acknowledgement::Failed { message: "it was aborted here before".to_owned() }
    );
}

#[test]
fn what_was_never_prepared_is_told_from_what_was_committed() {
    let (store, _) = store();
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    prepare(&store, "t", vec![put("a", 1)]);
    commit(&store, "t");
    assert!(refused(prepare(&store, "t", vec![put("a", 2)])).contains("committed here before"));
    assert!(matches!(abort(&store, "t"), Acknowledgement::Failed { .. }));
    store.forget(vec![id("t")]);
    // Questions of one connection go in their order, but the forgetting is a task of its own.
    while commit(&store, "t") != Acknowledgement::NeverPrepared {}
}

#[test]
fn a_key_that_is_held_is_refused_until_its_transaction_ends() {
    let (store, _) = store();
    prepare(&store, "held", vec![put("a", 1), check_exists("b", false)]);
    for operation in [put("a", 2), delete("a"), check_exists("a", false), put("b", 1)] {
        let reason = refused(prepare(&store, "t", vec![put("z", 1), operation.clone()]));
        assert!(reason.contains("'held' holds it") && reason.contains("'t:1'"), "{reason}");
        assert!(passing(step(&store, "c", Execute, operation)).contains("'held'"));
    }
    commit(&store, "held");
    assert_eq!(prepare(&store, "t", vec![put("a", 2), put("b", 2)]), Vote::Commit);
    assert_eq!(prepare(&store, "u", vec![put("c", 2)]), Vote::Commit);
}

#[test]
fn one_that_is_prepared_already_is_not_answered_with_a_vote() {
    let (store, _) = store();
    prepare(&store, "t", vec![put("a", 1)]);
    assert!(matches!(prepare(&store, "t", vec![put("b", 1)]), Vote::Unknown { .. }));
    assert_eq!(listed(&store), ["t"]);
}

#[test]
fn checks_see_what_earlier_operations_make_of_a_key() {
    let (store, number) = store();
    prepare(&store, "before", vec![put("a", "x"), put("n", 5)]);
    commit(&store, "before");
    redis(number, &["RPUSH", "list", "x"]);
    let good = vec![
        check_value("a", "x"),
        check_value("n", 5),
        check_exists("list", true),
        check_exists("none", false),
        delete("a"),
        check_exists("a", false),
        put("a", "y"),
        check_value("a", "y"),
    ];
    assert_eq!(prepare(&store, "good", good), Vote::Commit);
    abort(&store, "good");
    let cases = [
        (check_value("a", "y"), "it has another value"),
        (check_value("none", "y"), "it has no value"),
        (check_exists("none", true), "it has no value"),
        (check_exists("a", false), "it has a value"),
        (check_value("list", "x"), "a Redis list"),
    ];
    for (number, (check, part)) in cases.into_iter().enumerate() {
        let reason = refused(prepare(&store, &format!("bad {number}"), vec![put("z", 1), check]));
        assert!(reason.contains(part) && reason.contains(":1'"), "{reason}");
    }
    assert_eq!((listed(&store), left(number)), (vec![], vec![]));
}

#[test]
fn checks_alone_keep_nothing() {
    let (store, number) = store();
    assert_eq!(prepare(&store, "t", vec![check_exists("a", false)]), Vote::ReadOnly);
    assert_eq!(prepare(&store, "u", vec![]), Vote::ReadOnly);
    assert_eq!((listed(&store), left(number)), (vec![], vec![]));
}

#[test]
fn a_put_may_have_a_time_to_live_that_begins_with_the_commit() {
    let (store, number) = store();
    let long = with(put("a", 1), "ttl_seconds", 1000);
    let short = with(put("b", 1), "ttl_seconds", Value::Float(0.001));
    assert_eq!(prepare(&store, "t", vec![long, short, put("c", 1)]), Vote::Commit);
    commit(&store, "t");
    let left = |key: &str| redis(number, &["PTTL", key]).parse::<i64>().unwrap();
    assert!((1..=1_000_000).contains(&left("a")));
    while get(&store, "b").is_some() {}
    assert_eq!(left("c"), -1);
    // A put without one takes it away, as SET does.
    prepare(&store, "u", vec![put("a", 2)]);
    commit(&store, "u");
    assert_eq!(left("a"), -1);
}

#[test]
fn a_key_that_was_checked_does_not_expire_before_the_end() {
    let (store, number) = store();
    let left = |key: &str| redis(number, &["PTTL", key]).parse::<i64>().unwrap();
    for (end, key) in [("commit", "a"), ("abort", "b")] {
        redis(number, &["SET", key, "1", "PX", "1000000"]);
        let operations = vec![check_value(key, 1), put("other", 1)];
        assert_eq!(prepare(&store, end, operations), Vote::Commit);
        assert_eq!(left(key), -1);
        if end == "commit" {
            commit(&store, end)
        } else {
            abort(&store, end)
        };
        assert!((1..=1_000_000).contains(&left(key)), "{end}");
    }
    // One whose time came meanwhile goes with the end.
    redis(number, &["SET", "c", "1", "PX", "200"]);
    if prepare(&store, "t", vec![check_value("c", 1), put("other", 2)]) == Vote::Commit {
        let script = "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)";
        let now = || redis(number, &["EVAL", script, "0"]).parse::<i64>().unwrap();
        let began = now();
        while now() < began + 300 {}
        assert!(has(&store, "c", "1"));
        commit(&store, "t");
        while get(&store, "c").is_some() {}
    }
}

#[test]
fn a_put_replaces_a_value_of_another_type_and_reading_one_says_what_it_is() {
    let (store, number) = store();
    redis(number, &["RPUSH", "a", "x"]);
    let error = answer(|reply| store.get("a".to_owned(), reply)).unwrap_err();
    assert!(error.message.contains("WRONGTYPE") && error.message.contains("'redis'"), "{error}");
    prepare(&store, "t", vec![put("a", 1)]);
    commit(&store, "t");
    assert!(has(&store, "a", "1"));
}

#[test]
fn all_prefixes_of_a_database_meet_in_one_key() {
    let url = RedisServer::shared().fresh_url();
    let handle = runtime().handle().clone();
    let prefixed = RedisStore::new(&url, "redis", "app:", true, handle).unwrap();
    prefixed.attach(&ClusterId::new("cluster-2").unwrap(), &store_name()).unwrap();
    let plain = store_at(&url);
    attach(&plain);
    prepare(&prefixed, "t", vec![put("a", 1)]);
    let reason = refused(prepare(&plain, "u", vec![put("app:a", 2)]));
    assert!(reason.contains("'t' holds it"), "{reason}");
    commit(&prefixed, "t");
    assert!(has(&prefixed, "a", "1") && has(&plain, "app:a", "1") && get(&plain, "a").is_none());
}

#[test]
fn two_journals_share_a_database_and_list_their_own() {
    let url = RedisServer::shared().fresh_url();
    let (one, other) = (store_at(&url), store_at(&url));
    attach(&one);
    other.attach(&ClusterId::new("cluster-2").unwrap(), &store_name()).unwrap();
    prepare(&one, "t", vec![put("a", 1)]);
    assert!(refused(prepare(&other, "u", vec![put("a", 2)])).contains("'t' holds it"));
    prepare(&other, "t", vec![put("b", 1)]);
    assert_eq!((listed(&one), listed(&other)), (vec!["t".to_owned()], vec!["t".to_owned()]));
    abort(&other, "t");
    commit(&one, "t");
    assert!(has(&one, "a", "1") && get(&one, "b").is_none());
}

#[test]
fn scripts_that_the_server_lost_are_sent_again() {
    let server = RedisServer::start(&[]);
    let store = store_at(&server.fresh_url());
    attach(&store);
    prepare(&store, "t", vec![put("a", 1)]);
    for transaction in ["t", "u"] {
        assert_eq!(server.ask(&["SCRIPT", "FLUSH"]), "OK");
        assert_eq!(commit(&store, "t"), Acknowledgement::Done);
        assert_eq!(server.ask(&["SCRIPT", "FLUSH"]), "OK");
        let vote = prepare(&store, transaction, vec![put("b", 1)]);
        assert_eq!(vote == Vote::Commit, transaction == "u");
    }
}

#[test]
fn a_full_server_refuses_what_is_new_and_ends_what_is_prepared() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let store = store_at(&server.fresh_url());
    attach(&store);
    let long = "x".repeat(1_000);
    for transaction in ["t", "u"] {
        let key = format!("key of {transaction}");
        assert_eq!(prepare(&store, transaction, vec![put(&key, long.as_str())]), Vote::Commit);
    }
    let undone = undone_by(put("s", 1), put("s", 2));
    step(&store, "c", Execute, undone.clone());
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert!(refused(prepare(&store, "v", vec![put("b", 1)])).contains("OOM"));
    assert!(passing(step(&store, "d", Execute, put("b", 1))).contains("OOM"));
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(abort(&store, "u"), Acknowledgement::Done);
    assert_eq!(abort(&store, "never"), Acknowledgement::Done);
    assert!(matches!(step(&store, "c", Compensate, undone), StepAnswer::Done { .. }));
    assert!(has(&store, "key of t", &long) && has(&store, "s", "2"));
    // A new process can reach it too.
    let next = store_at(&server.url(0));
    attach(&next);
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    assert_eq!(prepare(&next, "w", vec![put("b", 1)]), Vote::Commit);
}

#[test]
fn a_server_that_evicts_any_key_is_refused_with_the_cure() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let store = store_at(&server.fresh_url());
    let error = store.attach(&cluster(), &store_name()).unwrap_err();
    assert!(error.message.contains("allkeys-lru") && error.message.contains("noeviction"));
    assert_eq!(server.ask(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]), "OK");
    let store = store_at(&server.url(0));
    attach(&store);
    assert_eq!(prepare(&store, "t", vec![put("a", 1)]), Vote::Commit);
}

#[test]
fn a_node_of_a_cluster_is_refused_with_the_cure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    // Its usual second port, 10,000 above the first, may be none.
    let server = RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &port]);
    let store = store_at(&server.url(0));
    let error = store.attach(&cluster(), &store_name()).unwrap_err();
    assert!(error.message.contains("Redis Cluster"), "{error}");
}

#[test]
fn what_the_server_promises_is_told() {
    let cases: [(&[&str], Durability); 3] = [
        (&[], Durability::Always),
        (&["--appendfsync", "no"], Durability::System),
        (&["--appendonly", "no"], Durability::Snapshots),
    ];
    for (settings, expected) in cases {
        let server = RedisServer::start(settings);
        let store = store_at(&server.url(0));
        assert_eq!(store.durability(), None);
        attach(&store);
        assert_eq!(store.durability(), Some(expected), "{settings:?}");
    }
}

#[test]
fn an_answer_waits_for_the_disk_where_the_server_knows_how() {
    let server = RedisServer::start(&["--appendfsync", "everysec"]);
    let hasty = RedisStore::new(&server.url(0), "redis", "", false, runtime().handle().clone());
    let hasty = hasty.unwrap();
    attach(&hasty);
    assert_eq!(hasty.durability(), Some(Durability::EverySecond));
    let store = store_at(&server.url(0));
    attach(&store);
    if store.durability() == Some(Durability::EverySecond) {
        println!("skipped: the server is older than 7.2; UNANIMITY_TEST_REDIS_SERVER names one");
        return;
    }
    assert_eq!(store.durability(), Some(Durability::Waited));
    let votes: Vec<_> = (0..20)
        .map(|number| {
            let operations = vec![put(&format!("key {number}"), 1)];
            send(|reply| store.prepare(ask(&format!("t{number}"), operations), reply))
        })
        .collect();
    assert!(votes.iter().all(|vote| wait(vote) == Vote::Commit));
    let ends: Vec<_> = (0..20)
        .map(|number| send(|reply| store.commit(delivery(&format!("t{number}")), reply)))
        .collect();
    assert!(ends.iter().all(|end| wait(end) == Acknowledgement::Done));
    let file = server.ask(&["INFO", "persistence"]);
    assert!(file.contains("aof_pending_bio_fsync:0"), "{file}");
    // Where nobody syncs any more nothing is promised.
    assert_eq!(server.ask(&["CONFIG", "SET", "appendonly", "no"]), "OK");
    assert!(matches!(prepare(&store, "late", vec![put("a", 1)]), Vote::Unknown { .. }));
}

#[test]
fn a_user_without_rights_is_told_which_it_needs() {
    let server = RedisServer::start(&[]);
    let user = "ACL SETUSER app on >secret ~data:* ~unanimity:* +@all -CONFIG -@dangerous +INFO";
    let words: Vec<&str> = user.split(' ').collect();
    assert_eq!(server.ask(&words), "OK");
    let url = server.url(0).replace("redis://", "redis://app:secret@");
    let store = store_at(&url);
    attach(&store);
    // CONFIG is forbidden, so it is only known where the disk can be waited for.
    assert!(matches!(store.durability(), Some(Durability::Unknown | Durability::Waited)));
    assert_eq!(prepare(&store, "t", vec![put("data:a", 1)]), Vote::Commit);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    for operation in [put("other", 1), delete("other")] {
        let reason = refused(prepare(&store, "u", vec![operation.clone()]));
        assert!(reason.contains("(ACL)"), "{reason}");
        assert!(failed(step(&store, "c", Execute, operation)).contains("(ACL)"));
    }
    assert_eq!(server.ask(&["ACL", "SETUSER", "app", "resetkeys", "~data:*"]), "OK");
    let store = store_at(&url);
    let error = store.attach(&cluster(), &store_name()).unwrap_err();
    assert!(error.message.contains("unanimity:*") && !error.message.contains("secret"), "{error}");
    let wrong = store_at(&url.replace("secret", "other-secret"));
    let error = wrong.attach(&cluster(), &store_name()).unwrap_err();
    assert!(!error.message.contains("other-secret"), "{error}");
}

#[test]
fn a_bad_url_is_refused_without_its_password() {
    for url in ["http://u:secret@h", "redis://u:secret@h:port", "secret", "redis://:secret@h/x"] {
        let made = RedisStore::new(url, "redis", "", true, runtime().handle().clone());
        let error = made.err().expect("it is refused");
        assert!(error.message.contains("redis://") && !error.message.contains("secret"), "{error}");
    }
}

fn fenced(transaction: &str, key: &str, fences: &[(&str, LockMode, u64)]) -> PrepareAsk {
    let fences = fences.iter().map(|(resource, mode, token)| Fence {
        resource: ResourceId::new(resource).unwrap(),
        mode: *mode,
        token: *token,
    });
    PrepareAsk { fences: fences.collect(), ..ask(transaction, vec![put(key, 1)]) }
}

#[test]
fn a_late_token_is_refused_and_nobody_passes_one_who_is_prepared() {
    use LockMode::{Exclusive, Shared};
    const HIGH: u64 = u64::MAX - 1;
    let (store, number) = store();
    let vote = |transaction: &str, key: &str, fences: &[(&str, LockMode, u64)]| {
        answer(|reply| store.prepare(fenced(transaction, key, fences), reply))
    };
    assert_eq!(vote("a", "a", &[("r", Shared, 7)]), Vote::Commit);
    // Readers hold together, whatever their order.
    assert_eq!(vote("b", "b", &[("r", Shared, 3), ("s", Exclusive, HIGH)]), Vote::Commit);
    let reason = refused(vote("c", "c", &[("r", Exclusive, 9)]));
    assert!(reason.contains("stands on the shared lock of 'r'"), "{reason}");
    commit(&store, "a");
    assert!(refused(vote("d", "c", &[("r", Exclusive, 9)])).contains("'b' stands"));
    abort(&store, "b");
    let reason = refused(vote("e", "c", &[("r", Exclusive, 5)]));
    assert!(reason.contains("the shared token 7") && reason.contains("token 5"), "{reason}");
    let reason = refused(vote("f", "c", &[("s", Exclusive, HIGH - 1)]));
    assert!(reason.contains(&format!("token {HIGH}")), "{reason}");
    assert_eq!(vote("g", "c", &[("r", Exclusive, 9), ("r", Shared, 10)]), Vote::Commit);
    assert_eq!(commit(&store, "g"), Acknowledgement::Done);
    assert_eq!(left(number), Vec::<String>::new());
    assert!(refused(vote("h", "c", &[("r", Shared, 8)])).contains("exclusive token 9"));
}

#[test]
fn rows_of_steps_stay_for_their_time_and_old_ones_go_with_later_steps() {
    let (store, number) = store();
    step(&store, "c", Execute, put("a", 1));
    let times = "unanimity:steps-by-time:9:cluster-1:store";
    let field = redis(number, &["ZRANGE", times, "0", "-1"]);
    assert_eq!(field, "execute:1:c:c:0");
    redis(number, &["ZADD", times, "1", &field]);
    step(&store, "d", Execute, put("a", 2));
    assert_eq!(redis(number, &["ZRANGE", times, "0", "-1"]), "execute:1:d:d:0");
    assert_eq!(redis(number, &["HLEN", "unanimity:steps:9:cluster-1:store"]), "1");
}

#[test]
fn a_result_is_the_same_when_it_is_asked_for_again() {
    let (store, _) = store();
    let existed =
        |existed: bool| StepAnswer::Done { result: map(&[("existed", Value::Bool(existed))]) };
    for _ in 0..2 {
        assert_eq!(step(&store, "c", Execute, put("a", 1)), existed(false));
    }
    assert_eq!(step(&store, "d", Execute, put("a", 1)), existed(true));
}
