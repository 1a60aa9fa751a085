//! Scenarios: text files that say a claim, then commands and exactly what the machine asks for.
//!
//! `UPDATE_SCENARIOS=1` rewrites the expected output; read the difference before you commit it.
//! Not the way to test drivers or stores: only rules, and only by what leaves the machine.

mod events_stage;
mod language;
mod lock_stage;
mod step_stage;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use events_stage::EventsStage;
use language::{Stage, TwoPhaseStage};
use lock_stage::LockStage;
use step_stage::StepStage;

/// The folders of scenarios, and how many there are in each at least.
const FOLDERS: [(&str, usize); 5] =
    [("two_phase", 25), ("lock_table", 20), ("event_sourcing", 14), ("saga", 25), ("eventual", 10)];

fn stage(folder: &str) -> Box<dyn Stage> {
    match folder {
        "two_phase" => Box::new(TwoPhaseStage::new()),
        "event_sourcing" => Box::new(EventsStage::new()),
        "lock_table" => Box::new(LockStage::new()),
        "saga" => Box::new(StepStage::saga()),
        "eventual" => Box::new(StepStage::eventual()),
        _ => panic!("nobody plays the scenarios of {folder}"),
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(folder);
    let entries = fs::read_dir(folder).expect("the scenarios are there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.sort();
    files
}

/// The file as it should be, and the rules that it takes.
fn play(folder: &str, text: &str) -> (String, Vec<u8>) {
    let mut stage = stage(folder);
    let mut played = String::new();
    let mut has_begun = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            has_begun = true;
            let output = stage.run(command);
            let _ = write!(played, "> {command}\n{output}");
        } else if !has_begun || line.is_empty() || line.starts_with('#') {
            played.push_str(line);
            played.push('\n');
        }
    }
    (played, stage.rules())
}

/// Plays everything in a folder; gives back the rules that were taken.
pub(crate) fn play_all(folder: &str) -> BTreeSet<u8> {
    let texts = files(folder).into_iter().map(|file| fs::read_to_string(file).expect("it is text"));
    texts.flat_map(|text| play(folder, &text).1).collect()
}

#[test]
fn every_scenario_asks_for_exactly_what_its_file_says() {
    let is_update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut different = Vec::new();
    let all =
        FOLDERS.iter().flat_map(|(folder, _)| files(folder).into_iter().map(|it| (*folder, it)));
    for (folder, file) in all {
        let expected = fs::read_to_string(&file).expect("a scenario is text");
        let (played, _) = play(folder, &expected);
        if is_update {
            fs::write(&file, &played).expect("the scenario can be written");
        } else if played != expected {
            different.push(format!("{}\n{}", file.display(), first_difference(&expected, &played)));
        }
    }
    assert!(different.is_empty(), "\n{}\n", different.join("\n\n"));
}

fn first_difference(expected: &str, played: &str) -> String {
    let mut pairs = expected.lines().zip(played.lines()).enumerate();
    match pairs.find(|(_, (expected, played))| expected != played) {
        Some((index, (expected, played))) => {
            format!("line {}:\n  expected: {expected}\n  played:   {played}", index + 1)
        }
        None => "one is longer than the other".to_owned(),
    }
}

#[test]
fn every_scenario_opens_with_its_claim_and_stands_alone() {
    for (folder, least) in FOLDERS {
        let files = files(folder);
        assert!(files.len() >= least, "only {} scenarios of {folder}", files.len());
        for file in files {
            let text = fs::read_to_string(&file).expect("a scenario is text");
            let claim = text.split("\n\n").next().unwrap_or_default();
            assert!(claim.len() > 40 && !claim.contains("> "), "{}: no claim", file.display());
        }
    }
}
