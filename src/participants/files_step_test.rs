//! Tests of steps in the file store: prepared keys, what a folder refuses, what is on the disk.
//!
//! Not the rules of the barrier, which all stores share (`step_test.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use super::files::FileStore;
use super::test_kit::{
    abort, attach, commit, delete, failed, map, passing, prepare, put, step, undone_by,
};
use super::*;

use Work::{Compensate, Execute};

struct Place {
    folder: TempDir,
    store: FileStore,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = FileStore::new(folder.path().join("root"), "files");
        attach(&store);
        Self { folder, store }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn step(&self, id: &str, operation: Value) -> StepAnswer {
        step(&self.store, id, Execute, operation)
    }

    /// The files in which rows stand.
    fn rows(&self) -> Vec<PathBuf> {
        let steps = self.root().join(".unanimity/cluster-1/store/steps");
        let mut rows = Vec::new();
        for folder in fs::read_dir(steps).into_iter().flatten() {
            let files = fs::read_dir(folder.unwrap().path()).unwrap();
            rows.extend(files.map(|file| file.unwrap().path()));
        }
        rows
    }

    fn slot(&self) -> PathBuf {
        self.root().join(".unanimity/step.now")
    }
}

fn done(existed: bool) -> StepAnswer {
    StepAnswer::Done { result: map(&[("existed", Value::Bool(existed))]) }
}

#[test]
fn a_key_that_is_prepared_or_on_its_way_is_neither_seen_nor_overwritten() {
    let place = Place::new();
    prepare(&place.store, "held", vec![put("a/b", "1")]);
    for operation in [put("a/b", "2"), delete("a/b"), put("a", "2"), put("a/b/c", "2")] {
        let reason = passing(place.step("c", operation));
        assert!(reason.contains("'held'") && reason.contains("'c:0'"), "{reason}");
    }
    assert_eq!(place.step("free", put("a/c", "2")), done(false));
    commit(&place.store, "held");
    assert_eq!(place.step("c", put("a/b", "2")), done(true));
    assert_eq!(fs::read_to_string(place.root().join("a/b")).unwrap(), "2");
    assert_eq!(prepare(&place.store, "t", vec![put("a/b", "3")]), Vote::Commit);
    assert_eq!(abort(&place.store, "t"), Acknowledgement::Done);
}

#[test]
fn what_a_folder_cannot_hold_fails_for_good_and_leaves_nothing() {
    let place = Place::new();
    place.step("first", put("file", "1"));
    let cases = [
        (put("../x", "1"), "'..'"),
        (put("file/below", "1"), "not a folder"),
        (put("x", 1), "type int"),
        (put(".unanimity/x", "1"), "belongs to the store"),
        (map(&[("type", "push".into())]), "'push'"),
    ];
    for (operation, part) in cases {
        let reason = failed(place.step("c", operation));
        assert!(reason.contains(part) && reason.contains("'c:0'"), "{reason}");
    }
    assert_eq!(place.rows().len(), 1);
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 2);
}

#[test]
fn nothing_stays_in_the_slot_and_one_file_keeps_both_rows() {
    let place = Place::new();
    let operation = undone_by(put("a", "1"), delete("a"));
    place.step("c", operation.clone());
    step(&place.store, "c", Compensate, operation);
    assert_eq!(place.rows().len(), 1);
    assert!(!place.slot().join("row.json").exists() && !place.slot().join("content").exists());
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 1);
}

#[test]
fn a_decided_step_that_cannot_be_moved_into_place_is_undone_by_the_next_start() {
    let place = Place::new();
    place.step("c", put("a", "1"));
    // As if a process had died before the move, and somebody had put a folder there.
    let row = fs::read_to_string(&place.rows()[0]).unwrap();
    fs::remove_file(&place.rows()[0]).unwrap();
    fs::remove_file(place.root().join("a")).unwrap();
    fs::create_dir(place.root().join("a")).unwrap();
    fs::write(place.slot().join("row.json"), row).unwrap();
    fs::write(place.slot().join("content"), "1").unwrap();
    attach(&place.store);
    assert!(!place.slot().join("row.json").exists() && place.rows().is_empty());
    fs::remove_dir(place.root().join("a")).unwrap();
    assert_eq!(place.step("c", put("a", "1")), done(false));
}

#[test]
fn a_damaged_row_is_in_doubt_and_names_its_file() {
    let place = Place::new();
    place.step("c", put("a", "1"));
    let row = place.rows().remove(0);
    fs::write(&row, "what").unwrap();
    let StepAnswer::Unknown { message } = place.step("c", put("a", "1")) else {
        panic!("a row that cannot be read tells nothing")
    };
    assert!(message.contains(&row.display().to_string()), "{message}");
}

#[test]
fn a_folder_that_cannot_be_written_is_found_before_anything_is_decided() {
    if rustix::process::geteuid().is_root() {
        return; // Root may write everywhere.
    }
    let place = Place::new();
    fs::create_dir(place.root().join("d")).unwrap();
    fs::set_permissions(place.root().join("d"), fs::Permissions::from_mode(0o500)).unwrap();
    assert!(failed(place.step("c", put("d/a", "1"))).contains("cannot be written"));
}
