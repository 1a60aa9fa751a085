//! Deterministic simulation of event sourcing, from a seed that is printed.
//!
//! Several processes drive the public machine over one journal and hand its events to stores, while
//! processes, answers and events are lost at every record and every ask, and projections are begun
//! anew while writes go on. `SEED=7` runs one and prints its trace; `SEEDS=100000` runs that many.
//! Planted bugs prove that the invariants can fail. Its neighbours are `simulation` and
//! `simulation_steps`.

mod bugs;
mod disk;
mod invariants;
mod process;
mod projecting;
mod world;

use bugs::Bug;
use world::World;

use crate::support::seeds::{self, SEEDS};

fn run(seed: u64, bug: Option<Bug>) -> Result<(), String> {
    let mut world = World::new(seed, bug, false);
    world.run();
    world.failure.map_or(Ok(()), Err)
}

/// The same seed again, with everything that happened.
fn trace(seed: u64) -> String {
    let mut world = World::new(seed, None, true);
    let ended = seeds::caught(|| {
        world.run();
        Ok(())
    });
    let mut lines = world.trace.unwrap_or_default();
    lines.extend(ended.err());
    lines.join("\n")
}

#[test]
fn streams_have_no_gap_and_every_store_gets_every_event_in_order_whatever_crashes_or_is_lost() {
    seeds::run_all(|seed| run(seed, None), trace);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

#[test]
fn every_planted_bug_is_caught() {
    seeds::catch_all(&Bug::ALL, |bug, seed| run(seed, Some(bug)), SEEDS);
}
