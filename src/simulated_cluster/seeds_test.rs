//! Runs the simulation over seeds, each in a process of its own, and holds that bugs are caught.
//!
//! `SEED=7` tells one run step by step; `SEEDS=2000` runs so many.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use super::planted::Bug;
use super::world::World;
use crate::simulated;

/// How many seeds `make verify` runs.
const SEEDS: u64 = 200;
/// Within how many seeds each planted bug has to be caught.
const SEEDS_FOR_A_BUG: u64 = 100;
/// What has to happen in some of the runs, or they prove less than they say.
const HAPPENS: &[&str] = &[
    "adopted",
    "cuts",
    "deadlocks",
    "deaths with lost writes",
    "deposed",
    "granted",
    "lost",
    "reads",
    "sessions ended",
    "snapshots taken over",
    "stalls",
    "waits",
];
/// How a run is told what it is.
const RUN: &str = "UNANIMITY_SIMULATED_RUN";

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// What a run printed at its end.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    ended: String,
    digest: String,
    counts: String,
}

/// Runs a seed in a process of its own.
fn run(seed: u64, bug: Option<Bug>, is_traced: bool) -> Output {
    let itself = std::env::current_exe().expect("a program has a place");
    let bug = bug.map_or_else(String::new, |bug| format!("{bug:?}"));
    let mut command = Command::new(itself);
    command.args(["--exact", "simulated_cluster::seeds_test::one_run", "--nocapture"]);
    command.env(RUN, format!("{seed} {is_traced} {bug}"));
    command.output().expect("it can be started")
}

fn told(output: &Output) -> Told {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found.map_or_else(
            || format!("the process ended: {}", String::from_utf8_lossy(&output.stderr)),
            |rest| rest.trim().to_owned(),
        )
    };
    Told { ended: line("ended:"), digest: line("digest:"), counts: line("counts:") }
}

/// The run itself, where the environment asks for one.
#[test]
fn one_run() {
    let Ok(asked) = std::env::var(RUN) else { return };
    let mut words = asked.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (seed, is_traced) = (next().parse().expect("a seed"), next() == "true");
    let bug = Bug::parse(next());
    // A thread on which nobody has drawn from chance yet.
    let done = std::thread::spawn(move || {
        simulated::begin(seed, bug.and_then(Bug::flaw));
        let mut world = World::new(seed, bug, is_traced);
        let ended = world.run();
        let witness = world.witness.lock();
        println!("{}", witness.trace());
        println!("counts: {:?}", witness.counts);
        println!("digest: {:016x} at {}", witness.digest(), world.now.0);
        println!("ended: {}", ended.err().unwrap_or_else(|| "well".to_owned()));
        drop(witness);
        // What is left of the processes ends with this one.
        std::process::exit(0);
    });
    assert!(done.join().is_ok(), "the run panicked");
}

#[test]
fn the_cluster_keeps_its_promises_under_crashes_cuts_stalls_and_loss() {
    if let Some(seed) = number("SEED") {
        println!("{}", String::from_utf8_lossy(&run(seed, None, true).stdout));
        assert_eq!(told(&run(seed, None, false)).ended, "well", "seed {seed}");
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    println!("seeds 0..{seeds}");
    let mut happened: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let told = told(&run(seed, None, false));
        let counts: BTreeMap<String, u64> = serde_json::from_str(&told.counts).unwrap_or_default();
        for (what, count) in counts {
            *happened.entry(what).or_default() += count;
        }
        if told.ended != "well" {
            println!("{}", String::from_utf8_lossy(&run(seed, None, true).stdout));
            panic!("seed {seed}: {}; SEED={seed} tells it", told.ended);
        }
    }
    println!("{happened:?}");
    let never: Vec<_> = HAPPENS.iter().filter(|what| !happened.contains_key(**what)).collect();
    assert!(never.is_empty() || seeds < SEEDS, "in no run: {never:?}");
}

#[test]
fn a_run_is_the_same_each_time() {
    for seed in 0..5 {
        let (one, two) = (run(seed, None, false), run(seed, None, false));
        assert_eq!(told(&one), told(&two), "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_caught_for_its_reason() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let is_it = |ended: &str| bug.catches().iter().any(|words| ended.contains(words));
        let mut ends =
            (0..SEEDS_FOR_A_BUG).map(|seed| (seed, told(&run(seed, Some(bug), false)).ended));
        match ends.find(|(_, ended)| is_it(ended)) {
            Some((seed, ended)) => println!("{bug:?}: seed {seed}: {ended}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not caught in {SEEDS_FOR_A_BUG} seeds: {missed:?}");
}
