//! The durable stores killed at every point of theirs, in a process of its own, then opened here.
//!
//! Not a simulation: the child is this test program again, and it dies by SIGKILL where
//! `UNANIMITY_CRASH_AT` says. Invariant: whatever the point, commit or abort ends the transaction.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::files::FileStore;
use super::redis_test::open_at;
use super::sqlite::SqliteStore;
use super::test_kit::{abort, answer, ask, attach, commit, listed, map, prepare, put, refused};
use super::*;

const STORE: &str = "UNANIMITY_TEST_STORE";
const FOLDER: &str = "UNANIMITY_TEST_FOLDER";

/// What must be found after a death at a point.
struct Case {
    store: &'static str,
    point: &'static str,
    is_prepared: bool,
    is_applied: bool,
}

const fn case(
    store: &'static str,
    point: &'static str,
    is_prepared: bool,
    is_applied: bool,
) -> Case {
    Case { store, point, is_prepared, is_applied }
}

const CASES: [Case; 13] = [
    case("sqlite", "store_prepare", false, false),
    case("sqlite", "store_staged", true, false),
    case("sqlite", "store_commit", true, false),
    case("sqlite", "store_committed", false, true),
    case("files", "store_prepare", false, false),
    case("files", "store_staged", true, false),
    case("files", "store_commit", true, false),
    case("files", "store_rename", true, false),
    case("files", "store_committed", false, true),
    case("redis", "store_prepare", false, false),
    case("redis", "store_staged", true, false),
    case("redis", "store_commit", true, false),
    case("redis", "store_committed", false, true),
];

fn open(store: &str, folder: &Path) -> Box<dyn Participant> {
    let store: Box<dyn Participant> = match store {
        "sqlite" => Box::new(SqliteStore::new(folder.join("data.db"), store)),
        "redis" => Box::new(open_at(folder)),
        _ => Box::new(FileStore::new(folder.join("root"), store)),
    };
    attach(&*store);
    store
}

fn operations(store: &str) -> Vec<Value> {
    if store != "sqlite" {
        return vec![put("a", "1"), put("d/b", "1")];
    }
    ["CREATE TABLE t (a)", "INSERT INTO t VALUES (1), (2)"]
        .map(|text| map(&[("type", "execute".into()), ("statement", text.into())]))
        .to_vec()
}

/// How many of the two changes are in place.
fn changes(store: &str, folder: &Path) -> usize {
    if store == "files" {
        return ["root/a", "root/d/b"].iter().filter(|key| folder.join(key).exists()).count();
    }
    if store == "redis" {
        let reader = open_at(folder);
        let get = |key: &str| answer(|reply| reader.get(key.to_owned(), reply)).unwrap();
        return ["a", "d/b"].into_iter().filter_map(get).count();
    }
    let reader = SqliteStore::new(folder.join("data.db"), store);
    let text = "SELECT a FROM t".to_owned();
    // Without the table there is no change.
    answer(|reply| reader.fetch(text, vec![], reply)).map_or(0, |rows| rows.rows.len())
}

/// Runs [`a_child_prepares_and_commits`] in another process, which must die at the point.
fn die_at(case: &Case, folder: &Path) {
    if case.store == "redis" {
        // The server is this process's, and outlives the child.
        drop(open(case.store, folder));
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "participants::kill_test::a_child_prepares_and_commits", "--ignored"])
        .env(STORE, case.store)
        .env(FOLDER, folder)
        .env("UNANIMITY_CRASH_AT", format!("{}:store", case.point))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "{} at {} did not die", case.store, case.point);
}

#[test]
#[ignore = "is the child of the tests beside it"]
fn a_child_prepares_and_commits() {
    let (Ok(store), Some(folder)) = (std::env::var(STORE), std::env::var_os(FOLDER)) else {
        return;
    };
    let participant = open(&store, &PathBuf::from(folder));
    assert_eq!(prepare(&*participant, "t", operations(&store)), Vote::Commit);
    assert_eq!(commit(&*participant, "t"), Acknowledgement::Done);
}

#[test]
fn after_a_death_at_any_point_a_commit_makes_the_change_whole_if_it_was_prepared() {
    for case in &CASES {
        let folder = TempDir::new().unwrap();
        die_at(case, folder.path());
        let what = format!("{} at {}", case.store, case.point);
        let store = open(case.store, folder.path());
        let prepared: &[&str] = if case.is_prepared { &["t"] } else { &[] };
        assert_eq!(listed(&*store), prepared, "{what}");
        let is_known = case.is_prepared || case.is_applied;
        let expected =
            if is_known { Acknowledgement::Done } else { Acknowledgement::NeverPrepared };
        assert_eq!(commit(&*store, "t"), expected, "{what}");
        assert_eq!(changes(case.store, folder.path()), if is_known { 2 } else { 0 }, "{what}");
        assert_eq!(listed(&*store), Vec::<String>::new(), "{what}");
        assert_eq!(commit(&*store, "t"), expected, "{what}, again");
    }
}

#[test]
fn after_a_death_before_the_commit_an_abort_leaves_nothing() {
    for case in CASES.iter().filter(|case| case.point != "store_rename" && !case.is_applied) {
        let folder = TempDir::new().unwrap();
        die_at(case, folder.path());
        let what = format!("{} at {}", case.store, case.point);
        let store = open(case.store, folder.path());
        assert_eq!(abort(&*store, "t"), Acknowledgement::Done, "{what}");
        assert_eq!(changes(case.store, folder.path()), 0, "{what}");
        assert_eq!(listed(&*store), Vec::<String>::new(), "{what}");
        assert_eq!(prepare(&*store, "u", operations(case.store)), Vote::Commit, "{what}");
        assert_eq!(commit(&*store, "u"), Acknowledgement::Done, "{what}");
        assert_eq!(changes(case.store, folder.path()), 2, "{what}");
    }
}

#[test]
fn another_process_cannot_prepare_what_is_held_here() {
    for store in ["sqlite", "files", "redis"] {
        let folder = TempDir::new().unwrap();
        let participant = open(store, folder.path());
        assert_eq!(prepare(&*participant, "held", operations(store)), Vote::Commit);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "participants::kill_test::a_child_is_refused", "--ignored"])
            .env(STORE, store)
            .env(FOLDER, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{store}: {said}");
        assert_eq!(commit(&*participant, "held"), Acknowledgement::Done);
        assert_eq!(changes(store, folder.path()), 2);
    }
}

#[test]
#[ignore = "is the child of the tests beside it"]
fn a_child_is_refused() {
    let (Ok(store), Some(folder)) = (std::env::var(STORE), std::env::var_os(FOLDER)) else {
        return;
    };
    let participant = open(&store, &PathBuf::from(folder));
    assert_eq!(listed(&*participant), ["held"]);
    let timeout = Duration::from_millis(100);
    let ask = PrepareAsk { timeout, ..ask("t", operations(&store)) };
    let vote = answer(|reply| participant.prepare(ask, reply));
    let reason = refused(vote);
    assert!(reason.contains("another process") || reason.contains("'held'"), "{reason}");
}
