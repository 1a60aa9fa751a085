//! Tests of the store in memory, through the port.
//!
//! Not of its speed. Invariant: nothing here waits, because the store answers inline.

use std::collections::BTreeMap;

use super::memory::MemoryStore;
use super::test_kit::{
    Random, abort, answer, ask, attach, check_exists, check_value, commit, delete, delivery, id,
    listed, prepare, put, refused,
};
use super::*;

type Effects = Vec<(String, Option<i64>)>;

fn store() -> MemoryStore {
    let store = MemoryStore::new("memory");
    attach(&store);
    store
}

fn get(store: &MemoryStore, key: &str) -> Option<Value> {
    answer(|reply| store.get(key.to_owned(), reply)).expect("memory can be read")
}

#[test]
fn a_prepared_change_is_seen_by_nobody_until_it_commits() {
    let store = store();
    assert_eq!(prepare(&store, "t", vec![put("a", 1)]), Vote::Commit);
    assert_eq!(get(&store, "a"), None);
    assert_eq!(listed(&store), ["t"]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(get(&store, "a"), Some(1.into()));
    assert_eq!(listed(&store), Vec::<String>::new());
}

#[test]
fn an_abort_leaves_nothing_and_frees_the_keys() {
    let store = store();
    assert_eq!(prepare(&store, "t", vec![put("a", 1), delete("b")]), Vote::Commit);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(get(&store, "a"), None);
    assert_eq!(prepare(&store, "u", vec![put("a", 2), put("b", 2)]), Vote::Commit);
}

#[test]
fn a_held_key_refuses_the_second_transaction_and_names_the_first() {
    let store = store();
    prepare(&store, "first", vec![put("a", 1), check_exists("b", false)]);
    for second in [put("a", 2), delete("a"), check_exists("a", false), put("b", 1)] {
        let reason = refused(prepare(&store, "second", vec![put("free", 1), second]));
        assert!(reason.contains("'first'") && reason.contains("second:1"), "{reason}");
    }
    assert_eq!(prepare(&store, "third", vec![put("free", 1)]), Vote::Commit);
}

#[test]
fn a_commit_is_acknowledged_again_until_it_is_forgotten() {
    let store = store();
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    prepare(&store, "t", vec![put("a", 1)]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert!(matches!(abort(&store, "t"), Acknowledgement::Failed { .. }));
    store.forget(vec![id("t"), id("never")]);
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
}

#[test]
fn the_memory_of_commits_is_bounded_and_drops_the_oldest() {
    let store = store();
    for number in 0..70_000 {
        let id = format!("t{number}");
        prepare(&store, &id, vec![put("a", number)]);
        commit(&store, &id);
    }
    assert_eq!(commit(&store, "t0"), Acknowledgement::NeverPrepared);
    assert_eq!(commit(&store, "t69999"), Acknowledgement::Done);
}

#[test]
fn a_second_prepare_of_an_id_is_refused_and_keeps_the_first() {
    let store = store();
    prepare(&store, "t", vec![put("a", 1)]);
    assert!(refused(prepare(&store, "t", vec![put("b", 2)])).contains("'t'"));
    commit(&store, "t");
    assert_eq!((get(&store, "a"), get(&store, "b")), (Some(1.into()), None));
    assert!(refused(prepare(&store, "t", vec![put("b", 2)])).contains("committed"));
}

#[test]
fn checks_alone_and_nothing_at_all_are_read_only() {
    let store = store();
    assert_eq!(prepare(&store, "empty", vec![]), Vote::ReadOnly);
    assert_eq!(prepare(&store, "check", vec![check_exists("a", false)]), Vote::ReadOnly);
    assert_eq!(prepare(&store, "t", vec![put("a", 1)]), Vote::Commit);
    assert_eq!(listed(&store), ["t"]);
}

#[test]
fn operations_see_what_earlier_ones_of_their_transaction_did() {
    let store = store();
    let good = vec![
        check_exists("a", false),
        put("a", 1),
        check_value("a", 1),
        delete("a"),
        check_exists("a", false),
        put("a", 3),
    ];
    assert_eq!(prepare(&store, "t", good), Vote::Commit);
    commit(&store, "t");
    assert_eq!(get(&store, "a"), Some(3.into()));
    let reason = refused(prepare(&store, "u", vec![delete("a"), check_value("a", 3)]));
    assert!(reason.contains("check failed") && reason.contains("u:1"), "{reason}");
    assert_eq!(get(&store, "a"), Some(3.into()));
}

#[test]
fn another_journal_is_not_shown_what_this_one_prepared() {
    let store = store();
    prepare(&store, "t", vec![put("a", 1)]);
    let other = ClusterId::new("cluster-2").unwrap();
    store.attach(&other, &StoreName::new("store").unwrap()).unwrap();
    assert_eq!(listed(&store), Vec::<String>::new());
    attach(&store);
    assert_eq!(listed(&store), ["t"]);
}

#[test]
fn an_answer_may_ask_the_store_again() {
    let store = Arc::new(store());
    let again = Arc::clone(&store);
    let (sender, answers) = std::sync::mpsc::channel();
    let reply = Reply::new(move |_: Vote| {
        again.commit(delivery("t"), Reply::new(move |done| sender.send(done).unwrap()));
    });
    store.prepare(ask("t", vec![put("a", 1)]), reply);
    assert_eq!(answers.recv().unwrap(), Acknowledgement::Done);
}

#[test]
fn random_histories_leave_what_was_committed() {
    let mut random = Random::new();
    let store = store();
    let mut model: BTreeMap<String, i64> = BTreeMap::new();
    let mut open: Vec<(String, Effects)> = Vec::new();
    for number in 0..3_000_i64 {
        if random.below(2) == 0 && !open.is_empty() {
            let (id, effects) = open.swap_remove(random.below(open.len()));
            if random.below(3) == 0 {
                assert_eq!(abort(&store, &id), Acknowledgement::Done);
                continue;
            }
            assert_eq!(commit(&store, &id), Acknowledgement::Done);
            for (key, value) in effects {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
            continue;
        }
        let effects: Effects = (0..=random.below(3))
            .map(|_| (format!("k{}", random.below(12)), (random.below(3) > 0).then_some(number)))
            .collect();
        let operations = effects
            .iter()
            .map(|(key, value)| value.map_or_else(|| delete(key), |value| put(key, value)))
            .collect();
        let clash = effects
            .iter()
            .any(|(key, _)| open.iter().any(|(_, held)| held.iter().any(|(k, _)| k == key)));
        let id = format!("t{number}");
        match prepare(&store, &id, operations) {
            Vote::Commit if !clash => open.push((id, effects)),
            Vote::Abort { .. } if clash => {}
            vote => panic!("clash {clash}, but {vote:?}"),
        }
    }
    for key in (0..12).map(|key| format!("k{key}")) {
        assert_eq!(get(&store, &key), model.get(&key).copied().map(Value::from), "{key}");
    }
}
