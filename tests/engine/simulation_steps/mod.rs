//! Deterministic simulation of sagas and of eventual consistency, from a seed that is printed.
//!
//! Several processes drive the public machines over one journal, while processes, questions and
//! answers are lost at every record and every ask. `SEED=7` runs one and prints its trace;
//! `SEEDS=100000` runs that many. Planted bugs prove that the invariants can fail. The one of
//! two-phase commit is its neighbour `simulation`.

mod bugs;
mod disk;
mod driver;
mod invariants;
mod network;
mod operator;
mod participant;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bugs::Bug;
use world::{Kind, World};

/// How many seeds of each kind `make verify` runs.
const SEEDS: u64 = 2_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// Runs one seed; the error is what broke.
fn run(kind: Kind, seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(kind, seed, bug, false);
    world.run();
    world.failure.map_or(Ok(()), Err)
}

/// The same seed again, with everything that happened.
fn trace(kind: Kind, seed: u64) -> String {
    let mut world = World::new(kind, seed, None, true);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut lines = world.trace.unwrap_or_default();
    if ended.is_err() {
        lines.push("the machine panicked".to_owned());
    }
    lines.join("\n")
}

fn run_all(kind: Kind) {
    if let Some(seed) = from_environment("SEED") {
        println!("{}", trace(kind, seed));
        assert_eq!(run(kind, seed, None), Ok(()));
        return;
    }
    let seeds = from_environment("SEEDS").unwrap_or(SEEDS);
    println!("seeds 0..{seeds}");
    for seed in 0..seeds {
        let ended = catch_unwind(|| run(kind, seed, None));
        if let Err(broken) = ended.unwrap_or_else(|_| Err("the machine panicked".to_owned())) {
            panic!("{}\n{kind:?} seed {seed}: {broken}", trace(kind, seed));
        }
    }
}

#[test]
fn every_saga_ends_whole_or_undone_after_any_crash_loss_and_delay() {
    run_all(Kind::Saga);
}

#[test]
fn every_accepted_operation_is_delivered_in_order_after_any_crash_loss_and_delay() {
    run_all(Kind::Eventual);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for kind in [Kind::Saga, Kind::Eventual] {
        for seed in 0..20 {
            assert_eq!(trace(kind, seed), trace(kind, seed), "{kind:?} seed {seed}");
        }
    }
}

#[test]
fn every_planted_bug_is_caught() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let all = (0..SEEDS).flat_map(|seed| [(Kind::Saga, seed), (Kind::Eventual, seed)]);
        let mut broken = all.map(|(kind, seed)| {
            let ended = catch_unwind(|| run(kind, seed, Some(bug)));
            (kind, seed, ended.unwrap_or_else(|_| Err("the machine panicked".to_owned())))
        });
        match broken.find(|(.., ended)| ended.is_err()) {
            Some((kind, seed, ended)) => println!("{bug:?}: {kind:?} seed {seed}: {ended:?}"),
            None => missed.push(bug),
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not caught in {SEEDS} seeds: {missed:?}");
}
