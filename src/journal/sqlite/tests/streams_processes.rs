//! Events of several real processes on one file: who wins a version, and what a killed one leaves.
//!
//! The children are this test program again. What they were told is written down outside of the
//! journal.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::db::segments::SegmentSizes;
use crate::journal::streams::Streams;

const FOLDER: &str = "UNANIMITY_TEST_STREAMS";
const CHILD: &str = "UNANIMITY_TEST_CHILD";
const CHILDREN: usize = 4;
const WINS: u64 = 40;

/// Steps of the files, and the how-many-th time, at which a lone child dies.
const POINTS: [&str; 9] = [
    "before_record:begin#7",
    "segment:written#30",
    "before_sync:begin#30",
    "after_record:begin#30",
    "segment:marked#2",
    "segment:full#2",
    "segment:named#3",
    "tables:written",
    "tables:written#4",
];

fn small() -> JournalOptions {
    JournalOptions {
        segments: SegmentSizes { first: 8 << 10, most: 16 << 10, total: None },
        projection_due: 20,
        projection_chunk: 15,
        projection_idle: Duration::from_millis(1),
        ..JournalOptions::default()
    }
}

fn spawn(folder: &Path, child: usize, crash_at: Option<&str>) -> Child {
    let name = "journal::sqlite::tests::streams_processes::a_child_wins_versions";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored"]).env(FOLDER, folder);
    command.env(CHILD, child.to_string()).stdout(Stdio::null());
    if let Some(point) = crash_at {
        command.env("UNANIMITY_CRASH_AT", point).stderr(Stdio::null());
    }
    command.spawn().unwrap()
}

/// Appends to one stream at the version it believes in until it has won so many; each time one
/// event goes to a stream of its own as well.
#[test]
#[ignore = "is the child of the tests beside it"]
fn a_child_wins_versions() {
    let (Some(folder), Ok(child)) = (std::env::var_os(FOLDER), std::env::var(CHILD)) else {
        return;
    };
    let folder = Path::new(&folder);
    let mut won = fs::File::create(folder.join(format!("won-{child}"))).unwrap();
    let desk = Desk::with(folder.join("journal.db").to_str().unwrap(), small());
    let name = super::streams::stream("shared");
    let version = wait(|reply| desk.journal.stream_version(name, reply)).unwrap();
    let mut believed = i64::try_from(version).unwrap();
    let (mut wins, mut tries) = (0, 0);
    let own = format!("own-{child}");
    while wins < WINS {
        tries += 1;
        let id = format!("{child}-{tries}");
        let wishes = [("shared", Some(believed)), (own.as_str(), None)];
        match desk.append_events(&id, &wishes) {
            Answer::Appended { .. } => {
                believed += 1;
                wins += 1;
                writeln!(won, "{believed} {id}").unwrap();
                desk.put(forced(&id, 2, end(Decision::Commit)));
            }
            Answer::VersionMismatch { expected, actual, .. } => {
                assert_eq!(i64::try_from(expected), Ok(believed));
                assert_ne!(expected, actual);
                believed = i64::try_from(actual).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    desk.journal.close();
}

/// What the children were told: the winner of each version.
fn winners(folder: &Path, children: usize) -> BTreeMap<u64, String> {
    let mut winners = BTreeMap::new();
    for child in 0..children {
        let told = fs::read_to_string(folder.join(format!("won-{child}"))).unwrap_or_default();
        for line in told.lines() {
            let (version, id) = line.split_once(' ').unwrap();
            let before = winners.insert(version.parse().unwrap(), id.to_owned());
            assert_eq!(before, None, "version {version} has two winners");
        }
    }
    winners
}

#[test]
fn of_four_processes_that_append_to_one_stream_exactly_one_wins_each_version() {
    let (folder, path) = folder();
    let children: Vec<Child> =
        (0..CHILDREN).map(|child| spawn(folder.path(), child, None)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let winners = winners(folder.path(), CHILDREN);
    let desk = Desk::open(&path);
    let events = desk.stream("shared", 0, 10_000);
    let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
    assert_eq!(versions, (1..=CHILDREN as u64 * WINS).collect::<Vec<_>>(), "no gap");
    assert_eq!(winners.len(), versions.len(), "every version has a winner");
    for event in &events {
        assert_eq!(event.coordination.as_str(), winners[&event.version]);
    }
    for child in 0..CHILDREN {
        let own = desk.stream(&format!("own-{child}"), 0, 10_000);
        assert_eq!(own.len() as u64, WINS, "both events of a request, or none");
    }
}

#[test]
fn whatever_step_of_its_files_an_appender_dies_at_its_events_stand_once_and_whole() {
    for point in POINTS {
        let (folder, path) = folder();
        let mut child = spawn(folder.path(), 0, Some(point));
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it did not die at {point}");
        let told = winners(folder.path(), 1).len() as u64;
        for again in [false, true] {
            let desk = Desk::with(&path, small());
            let (shared, own) = (desk.stream("shared", 0, 1_000), desk.stream("own-0", 0, 1_000));
            let stands = shared.len() as u64;
            assert!((told..=told + 1).contains(&stands), "{point}: {stands}, but {told} were told");
            assert_eq!(own.len(), shared.len(), "{point}: both events of a request, or none");
            let all = desk.all(0, 10_000);
            let positions: Vec<u64> = all.iter().map(|event| event.position).collect();
            assert_eq!(positions, (1..=stands * 2).collect::<Vec<_>>(), "{point}, again: {again}");
            let version = i64::try_from(stands).unwrap();
            if again {
                let answer = desk.append_events("heir", &[("shared", Some(version))]);
                assert!(matches!(answer, Answer::Appended { .. }), "{point}: {answer:?}");
            }
        }
    }
}
