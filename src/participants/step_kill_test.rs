//! The durable stores killed at every point of a step, in a process of its own, then opened here.
//!
//! The child is this test program again (see `kill_test.rs`). Invariant: whatever the point, the
//! effect is there once after the step is asked again, and not at all after it is undone.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::files::FileStore;
use super::redis_test::open_at;
use super::sqlite::SqliteStore;
use super::step_subject_test::statement;
use super::test_kit::{answer, attach, delete, failed, map, put, step, undone_by};
use super::*;

use Work::{Compensate, Execute};

const STORE: &str = "UNANIMITY_TEST_STORE";
const FOLDER: &str = "UNANIMITY_TEST_FOLDER";

/// A point of a store, and whether what is done there stands after a death.
const CASES: [(&str, &str, bool); 10] = [
    ("sqlite", "store_step", false),
    ("sqlite", "store_step_done", false),
    ("sqlite", "store_step_committed", true),
    ("files", "store_step", false),
    ("files", "store_step_staged", false),
    ("files", "store_step_marked", true),
    ("files", "store_step_renamed", true),
    ("files", "store_step_committed", true),
    ("redis", "store_step", false),
    ("redis", "store_step_committed", true),
];

fn open(store: &str, folder: &Path) -> Box<dyn Participant> {
    let opened: Box<dyn Participant> = match store {
        "sqlite" => Box::new(SqliteStore::new(folder.join("data.db"), store)),
        "redis" => Box::new(open_at(folder)),
        _ => Box::new(FileStore::new(folder.join("root"), store)),
    };
    attach(&*opened);
    if store == "sqlite" {
        let create = statement("CREATE TABLE IF NOT EXISTS t (a)", vec![]);
        // Asked again under the same name it is not done again.
        step(&*opened, "create", Execute, create);
    }
    opened
}

/// A change that would be seen if it were made twice.
fn operation(store: &str) -> Value {
    if store != "sqlite" {
        return undone_by(put("d/a", "1"), delete("d/a"));
    }
    let delete = "DELETE FROM t WHERE a = (SELECT a FROM t LIMIT 1) RETURNING a";
    undone_by(statement("INSERT INTO t VALUES (1)", vec![]), statement(delete, vec![]))
}

fn result(store: &str, work: Work) -> Value {
    match (store, work) {
        ("files" | "redis", Execute) => map(&[("existed", Value::Bool(false))]),
        ("files" | "redis", Compensate) => map(&[("existed", Value::Bool(true))]),
        (_, Execute) => map(&[("rows_affected", 1.into())]),
        (_, Compensate) => {
            let rows = Value::List(vec![map(&[("a", 1.into())])]);
            map(&[("rows_affected", 1.into()), ("rows", rows)])
        }
    }
}

fn changes(store: &str, folder: &Path) -> usize {
    if store == "files" {
        return usize::from(folder.join("root/d/a").exists());
    }
    if store == "redis" {
        let value = answer(|reply| open_at(folder).get("d/a".to_owned(), reply)).unwrap();
        return usize::from(value.is_some());
    }
    let reader = SqliteStore::new(folder.join("data.db"), store);
    let text = "SELECT a FROM t".to_owned();
    answer(|reply| reader.fetch(text, vec![], reply)).unwrap().rows.len()
}

/// Runs [`a_child_takes_a_step_and_takes_it_back`] in another process, which must die at the point
/// when it passes it for this time.
fn die_at(store: &str, point: &str, count: u32, folder: &Path) {
    drop(open(store, folder));
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "participants::step_kill_test::a_child_takes_a_step_and_takes_it_back"])
        .arg("--ignored")
        .env(STORE, store)
        .env(FOLDER, folder)
        .env("UNANIMITY_CRASH_AT", format!("{point}:store#{count}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "{store} at {point} #{count} did not die");
}

#[test]
#[ignore = "is the child of the tests beside it"]
fn a_child_takes_a_step_and_takes_it_back() {
    let (Ok(store), Some(folder)) = (std::env::var(STORE), std::env::var_os(FOLDER)) else {
        return;
    };
    let participant = open(&store, &PathBuf::from(folder));
    for work in [Execute, Compensate] {
        let answer = step(&*participant, "c", work, operation(&store));
        assert_eq!(answer, StepAnswer::Done { result: result(&store, work) });
    }
}

/// How often the child passes a point before its step: when it opens the store, SQLite's asks for
/// the table, which stands.
fn passed_before(store: &str, point: &str) -> u32 {
    u32::from(store == "sqlite" && point == "store_step")
}

#[test]
fn after_a_death_at_any_point_a_step_is_done_once_and_undone_once() {
    for (store, point, stands) in CASES {
        let folder = TempDir::new().unwrap();
        die_at(store, point, 1 + passed_before(store, point), folder.path());
        let participant = open(store, folder.path());
        let what = format!("{store} at {point}");
        assert_eq!(changes(store, folder.path()), usize::from(stands), "{what}");
        for (work, changed) in [(Execute, 1), (Execute, 1), (Compensate, 0), (Compensate, 0)] {
            let answer = step(&*participant, "c", work, operation(store));
            assert_eq!(answer, StepAnswer::Done { result: result(store, work) }, "{what}");
            assert_eq!(changes(store, folder.path()), changed, "{what}");
        }
    }
}

#[test]
fn after_a_death_at_any_point_a_step_can_be_undone_whether_it_was_done_or_not() {
    for (store, point, stands) in CASES {
        let folder = TempDir::new().unwrap();
        die_at(store, point, 1 + passed_before(store, point), folder.path());
        let participant = open(store, folder.path());
        let what = format!("{store} at {point}");
        let undone = if stands { result(store, Compensate) } else { Value::Null };
        let answer = step(&*participant, "c", Compensate, operation(store));
        assert_eq!(answer, StepAnswer::Done { result: undone }, "{what}");
        let late = step(&*participant, "c", Execute, operation(store));
        assert_eq!(failed(late), "already compensated", "{what}");
        assert_eq!(changes(store, folder.path()), 0, "{what}");
    }
}

#[test]
fn after_a_death_while_it_is_undone_a_step_is_undone_once() {
    for (store, point, stands) in CASES {
        let folder = TempDir::new().unwrap();
        die_at(store, point, 2 + passed_before(store, point), folder.path());
        let participant = open(store, folder.path());
        let what = format!("{store} at {point}");
        assert_eq!(changes(store, folder.path()), usize::from(!stands), "{what}");
        for _ in 0..2 {
            let answer = step(&*participant, "c", Compensate, operation(store));
            let undone = StepAnswer::Done { result: result(store, Compensate) };
            assert_eq!((answer, changes(store, folder.path())), (undone, 0), "{what}");
        }
    }
}

#[test]
fn a_step_that_a_dead_process_left_half_done_is_ended_before_anybody_else_looks() {
    for point in ["store_step_marked", "store_step_renamed"] {
        let folder = TempDir::new().unwrap();
        let survivor = open("files", folder.path());
        die_at("files", point, 1, folder.path());
        let other =
            map(&[("type", "check".into()), ("key", "d/a".into()), ("exists", Value::Bool(true))]);
        let answer = step(&*survivor, "other", Execute, other);
        assert_eq!(answer, StepAnswer::Done { result: result("files", Compensate) }, "{point}");
        assert_eq!(changes("files", folder.path()), 1);
    }
}
