//! Tests of the file store, through the port, over real folders.
//!
//! Not deaths of the process: those are in `kill_test.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use tempfile::TempDir;

use super::files::FileStore;
use super::test_kit::{
    Random, abort, answer, ask, attach, check_exists, check_value, commit, delete, id, listed, map,
    prepare, put, refused, send, store_name, wait,
};
use super::*;

type Effects = Vec<(String, Option<String>)>;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn store(&self) -> FileStore {
        let store = FileStore::new(self.root(), "files");
        attach(&store);
        store
    }

    /// Where the tests' store stages.
    fn staged(&self) -> PathBuf {
        self.root().join(".unanimity/cluster-1/store/staged")
    }

    fn text(&self, key: &str) -> Option<String> {
        fs::read_to_string(self.root().join(key)).ok()
    }
}

fn get(store: &FileStore, key: &str) -> Option<Value> {
    answer(|reply| store.get(key.to_owned(), reply)).expect("the key is good")
}

#[test]
fn a_prepared_change_is_seen_by_nobody_until_it_commits() {
    let place = Place::new();
    let store = place.store();
    let operations = vec![put("a", "é"), put("deep/er/b", Value::Bytes(vec![0, 255]))];
    assert_eq!(prepare(&store, "t", operations), Vote::Commit);
    assert_eq!((get(&store, "a"), place.root().join("deep").exists()), (None, false));
    assert_eq!(listed(&store), ["t"]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(get(&store, "a"), Some(Value::Bytes("é".into())));
    assert_eq!(get(&store, "deep/er/b"), Some(Value::Bytes(vec![0, 255])));
    assert_eq!(listed(&store), Vec::<String>::new());
    assert_eq!(fs::read_dir(place.staged()).unwrap().count(), 0);
}

#[test]
fn puts_replace_and_deletes_remove() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t", vec![put("a", "1"), put("b", "1")]);
    commit(&store, "t");
    let operations =
        vec![put("a", "2"), delete("b"), delete("never/was"), put("c", ""), delete("c")];
    assert_eq!(prepare(&store, "u", operations), Vote::Commit);
    assert_eq!(place.text("b").as_deref(), Some("1"));
    assert_eq!(commit(&store, "u"), Acknowledgement::Done);
    assert_eq!((place.text("a").as_deref(), place.text("b")), (Some("2"), None));
    assert_eq!(place.text("c"), None);
}

#[test]
fn an_abort_leaves_nothing_and_frees_the_keys() {
    let place = Place::new();
    let store = place.store();
    assert_eq!(abort(&store, "never"), Acknowledgement::Done);
    assert_eq!(prepare(&store, "t", vec![put("a/b", "1")]), Vote::Commit);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    assert_eq!((place.root().join("a").exists(), listed(&store)), (false, vec![]));
    assert_eq!(prepare(&store, "u", vec![put("a", "2")]), Vote::Commit);
}

#[test]
fn a_crash_keeps_what_was_prepared_and_its_keys() {
    let place = Place::new();
    assert_eq!(prepare(&place.store(), "t", vec![put("a", "1")]), Vote::Commit);
    let store = place.store();
    assert_eq!(listed(&store), ["t"]);
    assert!(refused(prepare(&store, "u", vec![put("a", "2")])).contains("'t'"));
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    drop(store);
    let store = place.store();
    assert_eq!(commit(&store, "t"), Acknowledgement::Done, "the marker outlives the process");
    assert!(matches!(abort(&store, "t"), Acknowledgement::Failed { .. }));
    assert!(refused(prepare(&store, "t", vec![put("b", "2")])).contains("committed"));
    assert_eq!(place.text("a").as_deref(), Some("1"));
    store.forget(vec![id("t")]);
    store.close();
    attach(&store);
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
}

#[test]
fn a_torn_prepare_is_removed_at_the_next_start() {
    let place = Place::new();
    let store = place.store();
    let torn = place.staged().join("t");
    fs::create_dir(&torn).unwrap();
    fs::write(torn.join("0"), "x").unwrap();
    fs::write(torn.join("manifest.new"), "{").unwrap();
    assert_eq!(listed(&store), Vec::<String>::new());
    assert_eq!(prepare(&store, "t", vec![put("a", "1")]), Vote::Commit, "it is written over");
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    fs::create_dir(&torn).unwrap();
    drop(store);
    place.store();
    assert!(!torn.exists());
}

#[test]
fn keys_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    let store = place.store();
    fs::create_dir(place.root().join("folder")).unwrap();
    fs::write(place.root().join("file"), "").unwrap();
    let outside = place.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.root().join("link")).unwrap();
    symlink(outside.join("nothing"), place.root().join("dangling")).unwrap();
    let long = "x".repeat(256);
    let deep = "x/".repeat(2_500) + "x";
    let cases = [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("..", "'..'"),
        ("../x", "'..'"),
        ("a/../../x", "'..'"),
        ("./a", "'.'"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a\0b", "NUL"),
        (".unanimity", "belongs to the store"),
        (".unanimity/lock", "belongs to the store"),
        (".Unanimity/lock", "belongs to the store"),
        (&long, "255"),
        (&deep, "longer"),
        ("folder", "is a folder"),
        ("file/x", "is not a folder"),
        ("link/x", "symbolic link"),
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
    ];
    for (key, part) in cases {
        for operation in [put(key, "v"), delete(key), check_exists(key, false)] {
            let reason = refused(prepare(&store, "t", vec![operation]));
            assert!(reason.contains(part) && reason.contains("'t:0'"), "{key:?}: {reason}");
        }
        let error = answer(|reply| store.get(key.to_owned(), reply)).expect_err("is refused");
        assert!(error.message.contains(part), "{key:?}: {error}");
    }
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    let fine = vec![put("...", "v"), put("a/.unanimity", "v"), put("a b\n\\", "v")];
    assert_eq!(prepare(&store, "t", fine), Vote::Commit);
}

#[test]
fn values_that_no_file_holds_are_refused() {
    let place = Place::new();
    let store = place.store();
    for operation in [put("a", 1), put("a", Value::Null), check_value("a", Value::List(vec![]))] {
        assert!(refused(prepare(&store, "t", vec![operation])).contains("str or bytes"));
    }
    let unknown = map(&[("type", "append".into()), ("key", "a".into())]);
    assert!(refused(prepare(&store, "t", vec![unknown])).contains("'append'"));
}

#[test]
fn a_held_key_refuses_its_own_path_and_those_above_and_below() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    let held = vec![put("a/b", "1"), check_exists("seen", false)];
    assert_eq!(prepare(&store, "first", held), Vote::Commit);
    for key in ["a/b", "a", "a/b/c", "seen"] {
        for store in [&store, &other] {
            for operation in [put(key, "2"), delete(key), check_exists(key, false)] {
                let reason = refused(prepare(store, "second", vec![operation]));
                assert!(reason.contains("'first'"), "{key}: {reason}");
            }
        }
    }
    assert_eq!(prepare(&other, "third", vec![put("a/bc", "3"), put("a/c", "3")]), Vote::Commit);
    assert_eq!(prepare(&store, "fourth", vec![put("ab", "4")]), Vote::Commit);
    assert_eq!(commit(&store, "first"), Acknowledgement::Done);
    assert_eq!(prepare(&other, "fifth", vec![put("a/b", "5")]), Vote::Commit);
}

#[test]
fn one_transaction_cannot_make_a_key_file_and_folder() {
    let place = Place::new();
    let store = place.store();
    let reason = refused(prepare(&store, "t", vec![put("a/b/c", "1"), put("a", "1")]));
    assert!(reason.contains("'a'") && reason.contains("'a/b/c'"), "{reason}");
}

#[test]
fn operations_see_what_earlier_ones_of_their_transaction_did() {
    let place = Place::new();
    let store = place.store();
    let good = vec![
        check_exists("a", false),
        put("a", "1"),
        check_value("a", Value::Bytes(b"1".to_vec())),
        delete("a"),
        check_exists("a", false),
        put("a", "3"),
    ];
    assert_eq!(prepare(&store, "t", good), Vote::Commit);
    commit(&store, "t");
    assert_eq!(prepare(&store, "u", vec![check_value("a", "3")]), Vote::ReadOnly);
    for wrong in [check_value("a", "4"), check_value("a", "33"), check_value("b", "")] {
        assert!(refused(prepare(&store, "v", vec![put("c", "1"), wrong])).contains("check failed"));
    }
    assert_eq!((prepare(&store, "w", vec![]), listed(&store)), (Vote::ReadOnly, vec![]));
}

#[test]
fn a_half_renamed_commit_is_finished_and_cannot_be_aborted() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t0", vec![put("gone", "0")]);
    commit(&store, "t0");
    prepare(&store, "t", vec![put("a", "1"), put("d/b", "2"), delete("gone"), put("c", "3")]);
    drop(store);
    // What a commit that died after its second rename leaves.
    let staged = place.staged().join("t");
    fs::rename(staged.join("0"), place.root().join("a")).unwrap();
    fs::create_dir(place.root().join("d")).unwrap();
    fs::rename(staged.join("1"), place.root().join("d/b")).unwrap();
    let store = place.store();
    assert_eq!(listed(&store), ["t"]);
    assert!(matches!(abort(&store, "t"), Acknowledgement::Failed { .. }));
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    let contents = ["a", "d/b", "c", "gone"].map(|key| place.text(key).unwrap_or_default());
    assert_eq!(contents, ["1", "2", "3", ""]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
}

#[test]
fn a_commit_whose_way_was_blocked_in_between_is_finished_when_it_is_free() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t", vec![put("a", "1"), put("d/b", "2")]);
    let outside = place.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.root().join("d")).unwrap();
    let Acknowledgement::Unknown { message } = commit(&store, "t") else { panic!("not unknown") };
    assert!(message.contains("symbolic link"), "{message}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_file(place.root().join("d")).unwrap();
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!((place.text("a").as_deref(), place.text("d/b").as_deref()), (Some("1"), Some("2")));
}

#[test]
fn a_second_prepare_of_an_id_is_refused_and_keeps_the_first() {
    let place = Place::new();
    let (store, other) = (place.store(), place.store());
    prepare(&store, "t", vec![put("a", "1")]);
    for store in [&store, &other] {
        assert!(refused(prepare(store, "t", vec![put("b", "2")])).contains("'t'"));
    }
    assert_eq!(commit(&other, "t"), Acknowledgement::Done, "another process may end it");
    assert_eq!((place.text("a").as_deref(), place.text("b")), (Some("1"), None));
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(prepare(&store, "u", vec![put("a", "2")]), Vote::Commit, "its keys are free");
}

#[test]
fn another_journals_work_is_respected_and_not_listed() {
    let place = Place::new();
    let other = FileStore::new(place.root(), "files");
    other.attach(&ClusterId::new("Other/Cluster").unwrap(), &store_name()).unwrap();
    prepare(&other, "t", vec![put("a", "1")]);
    let store = place.store();
    assert_eq!(listed(&store), Vec::<String>::new());
    assert!(refused(prepare(&store, "u", vec![put("a", "2")])).contains("'t'"));
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    assert_eq!(commit(&other, "t"), Acknowledgement::Done);
    assert_eq!(prepare(&store, "t", vec![put("a", "2")]), Vote::Commit);
}

#[test]
fn an_abort_that_races_its_prepare_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.store();
    for number in 0..30 {
        let transaction = format!("t{number}");
        let vote = send(|reply| store.prepare(ask(&transaction, vec![put("a", "1")]), reply));
        assert_eq!(abort(&store, &transaction), Acknowledgement::Done);
        assert_eq!(wait(&vote), Vote::Commit);
        assert_eq!(listed(&store), Vec::<String>::new());
    }
    assert_eq!(fs::read_dir(place.staged()).unwrap().count(), 0);
}

#[test]
fn a_damaged_manifest_is_a_final_word_and_keeps_others_out() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t", vec![put("a", "1")]);
    fs::write(place.staged().join("t/manifest.json"), "{}").unwrap();
    assert!(matches!(commit(&store, "t"), Acknowledgement::Failed { .. }));
    drop(store);
    let reason = refused(prepare(&place.store(), "u", vec![put("b", "1")]));
    assert!(reason.contains("manifest.json"), "{reason}");
}

#[test]
fn a_store_that_is_not_open_says_so_and_reads_all_the_same() {
    let place = Place::new();
    let store = FileStore::new(place.root(), "files");
    assert!(refused(prepare(&store, "t", vec![put("a", "1")])).contains("not open"));
    assert!(matches!(commit(&store, "t"), Acknowledgement::Unknown { .. }));
    assert_eq!(get(&store, "a"), None);
    fs::write(place.root(), "a file").unwrap();
    let error = store.attach(&ClusterId::new("c").unwrap(), &store_name()).unwrap_err();
    assert!(error.message.contains("root"), "{error}");
}

#[test]
fn random_histories_with_crashes_leave_what_was_committed() {
    let mut random = Random::new();
    let place = Place::new();
    let mut stores = [place.store(), place.store()];
    let mut model: BTreeMap<String, String> = BTreeMap::new();
    let mut open: Vec<(String, Effects)> = Vec::new();
    for number in 0..300 {
        let which = random.below(2);
        if random.below(10) == 0 {
            stores[which] = place.store();
        }
        let store = &stores[which];
        if random.below(2) == 0 && !open.is_empty() {
            let (transaction, effects) = open.swap_remove(random.below(open.len()));
            if random.below(3) == 0 {
                assert_eq!(abort(store, &transaction), Acknowledgement::Done);
                continue;
            }
            assert_eq!(commit(store, &transaction), Acknowledgement::Done);
            for (key, value) in effects {
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
            }
            continue;
        }
        let effects: Effects = (0..=random.below(3))
            .map(|_| (format!("f{0}/k{0}", random.below(12)), random.below(3)))
            .map(|(key, kind)| (key, (kind > 0).then(|| number.to_string())))
            .collect();
        let operations = effects.iter().map(|(key, value)| match value {
            Some(value) => put(key, value.as_str()),
            None => delete(key),
        });
        let clash = effects
            .iter()
            .any(|(key, _)| open.iter().any(|(_, held)| held.iter().any(|(k, _)| k == key)));
        let transaction = format!("t{number}");
        match prepare(store, &transaction, operations.collect()) {
            Vote::Commit if !clash => open.push((transaction, effects)),
            Vote::Abort { .. } if clash => {}
            vote => panic!("clash {clash}, but {vote:?}"),
        }
    }
    for key in (0..12).map(|key| format!("f{key}/k{key}")) {
        assert_eq!(place.text(&key), model.get(&key).cloned(), "{key}");
    }
}
