//! Deterministic simulation of choreographed sagas, from a seed that is printed.
//!
//! Several processes around several journals hand slips on over a bus that hands over twice, while
//! processes, answers and messages are lost at every record, every ask and every word. `SEED=7`
//! runs one and prints its trace; `SEEDS=100000` runs that many. Planted bugs prove that the
//! invariants can fail. What one stop does inside is its neighbour `simulation_steps`.

mod bugs;
mod bus;
mod invariants;
mod process;
mod stop;
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
fn every_saga_ends_everywhere_alike_whatever_crashes_is_lost_or_comes_twice() {
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
