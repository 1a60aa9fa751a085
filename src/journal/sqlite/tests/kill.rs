//! The journal killed at every step of its files, in a process of its own, then opened here.
//!
//! Not a simulation: the child is this test program again, and it dies by SIGKILL where
//! `UNANIMITY_CRASH_AT` says. What it had been told is written down outside of the journal.

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::db::segments::SegmentSizes;

const FOLDER: &str = "UNANIMITY_TEST_JOURNAL";
const COORDINATIONS: i64 = 120;

/// Steps, and the how-many-th time: early, and when segments come and go.
const POINTS: [&str; 13] = [
    "segment:headed",
    "segment:named",
    "segment:written",
    "segment:written#150",
    "segment:marked",
    "segment:marked#4",
    "segment:full#2",
    "segment:headed#4",
    "segment:named#4",
    "segment:removed",
    "segment:removed#3",
    "segment:renounced",
    "tables:written#3",
];

fn small() -> JournalOptions {
    JournalOptions {
        segments: SegmentSizes { first: 4 << 10, most: 16 << 10, total: None },
        projection_due: 20,
        projection_chunk: 15,
        ..JournalOptions::default()
    }
}

#[test]
#[ignore = "is the child of the test beside it"]
fn a_child_writes_until_it_dies() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let mut told = fs::File::create(folder.join("told")).unwrap();
    let desk = Desk::with(folder.join("journal.db").to_str().unwrap(), small());
    for index in 0..COORDINATIONS {
        let name = format!("c{index}");
        desk.put(forced(&name, index, begin(&*desk.journal, &name)));
        writeln!(told, "{name} begun").unwrap();
        desk.put(forced(&name, index, decide(Decision::Commit)));
        writeln!(told, "{name} decided").unwrap();
        // Some stay open, so that their records outlive their segments.
        if index % 10 != 3 {
            desk.put(forced(&name, index, end(Decision::Commit)));
            writeln!(told, "{name} ended").unwrap();
        }
    }
    desk.journal.close();
}

fn die_at(point: &str, folder: &Path) {
    let name = "journal::sqlite::tests::kill::a_child_writes_until_it_dies";
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored"])
        .env(FOLDER, folder)
        .env("UNANIMITY_CRASH_AT", point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "it did not die at {point}");
}

#[test]
fn whatever_step_of_its_files_a_journal_dies_at_nothing_that_was_told_is_lost() {
    for point in POINTS {
        let (folder, path) = folder();
        die_at(point, folder.path());
        let told = fs::read_to_string(folder.path().join("told")).unwrap_or_default();
        for again in [false, true] {
            let desk = Desk::with(&path, small());
            for line in told.lines() {
                let (name, what) = line.split_once(' ').unwrap();
                let stored = desk.find(name).unwrap_or_else(|| panic!("{point}: {line} is lost"));
                let stands = match what {
                    "begun" => true,
                    "decided" => stored.decision == Some(Decision::Commit),
                    _ => stored.completed_at.is_some(),
                };
                assert!(stands, "{point}: {line} is lost");
            }
            let open = desk.adopt();
            let listed = desk.history(everything()).len();
            let begun = told.lines().filter(|line| line.ends_with("begun")).count();
            assert!((begun..=begun + 1).contains(&listed), "{point}: {listed} of {begun}");
            for one in open {
                let kinds: Vec<_> = one.records.iter().map(|(_, record)| record.kind()).collect();
                assert_eq!((kinds[0], kinds.last()), ("begin", Some(&"adopted")), "{point}");
                assert!(!again || kinds.len() >= 3, "{point}: adopted twice, {kinds:?}");
            }
        }
    }
}
