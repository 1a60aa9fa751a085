//! Deterministic simulation of two-phase commit, from a seed that is printed.
//!
//! Several processes drive the public machine over one journal and many stores, while processes,
//! stores and answers are lost at every record and every ask. `SEED=7` runs one and prints its
//! trace; `SEEDS=100000` runs that many. Planted bugs prove that the invariants can fail.

mod bugs;
mod driver;
mod invariants;
mod journal;
mod last_resource;
mod locks;
mod network;
mod store;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bugs::Bug;
use world::World;

/// How many seeds `make verify` runs.
const SEEDS: u64 = 2_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// Runs one seed; the error is what broke.
fn run(seed: u64, bug: Option<Bug>) -> Result<BTreeSet<u8>, String> {
    let mut world = World::new(seed, bug, false);
    world.run();
    world.failure.map_or(Ok(world.rules), Err)
}

/// The same seed again, with everything that happened.
fn trace(seed: u64) -> String {
    let mut world = World::new(seed, None, true);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut lines = world.trace.unwrap_or_default();
    if ended.is_err() {
        lines.push("the machine panicked".to_owned());
    }
    lines.join("\n")
}

/// Runs many seeds; gives back the rules that were taken.
pub(crate) fn run_all(seeds: impl Iterator<Item = u64>) -> BTreeSet<u8> {
    let mut rules = BTreeSet::new();
    for seed in seeds {
        let ended = catch_unwind(|| run(seed, None));
        match ended.unwrap_or_else(|_| Err("the machine panicked".to_owned())) {
            Ok(taken) => rules.extend(taken),
            Err(broken) => panic!("{}\nseed {seed}: {broken}", trace(seed)),
        }
    }
    rules
}

#[test]
fn stores_and_journal_agree_after_any_crash_loss_and_delay() {
    if let Some(seed) = from_environment("SEED") {
        println!("{}", trace(seed));
        run_all(std::iter::once(seed));
        return;
    }
    let seeds = from_environment("SEEDS").unwrap_or(SEEDS);
    println!("seeds 0..{seeds}");
    run_all(0..seeds);
}

#[test]
fn a_run_is_the_same_each_time() {
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_caught() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let is_caught = |seed: &u64| !matches!(catch_unwind(|| run(*seed, Some(bug))), Ok(Ok(_)));
        match (0..SEEDS).find(is_caught) {
            Some(seed) => {
                let broken = catch_unwind(|| run(seed, Some(bug)));
                println!("{bug:?}: seed {seed}: {broken:?}");
            }
            None => missed.push(bug),
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not caught in {SEEDS} seeds: {missed:?}");
}
