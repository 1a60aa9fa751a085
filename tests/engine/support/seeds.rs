//! Runs simulations over many seeds: all of them, one that is named, or until a bug is caught.
//!
//! Not a simulation. Invariant: whatever fails is printed with its seed, and with its trace.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many seeds of each kind `make verify` runs.
pub(crate) const SEEDS: u64 = 2_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no whole number")))
}

/// What a run comes to; a panic is a failure too.
pub(crate) fn caught(run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let ended = catch_unwind(AssertUnwindSafe(run));
    ended.unwrap_or_else(|_| Err("the machine panicked".to_owned()))
}

/// Runs the seed that `SEED` names, with its trace, or as many as `SEEDS` says.
pub(crate) fn run_all(run: impl Fn(u64) -> Result<(), String>, trace: impl Fn(u64) -> String) {
    if let Some(seed) = from_environment("SEED") {
        println!("{}", trace(seed));
        assert_eq!(run(seed), Ok(()));
        return;
    }
    let seeds = from_environment("SEEDS").unwrap_or(SEEDS);
    println!("seeds 0..{seeds}");
    for seed in 0..seeds {
        if let Err(broken) = caught(|| run(seed)) {
            panic!("{}\nseed {seed}: {broken}", trace(seed));
        }
    }
}

/// Looks for a seed that catches each bug.
pub(crate) fn catch_all<B: Copy + std::fmt::Debug>(
    bugs: &[B],
    run: impl Fn(B, u64) -> Result<(), String>,
    seeds: u64,
) {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in bugs {
        let mut ends = (0..seeds).map(|seed| (seed, caught(|| run(*bug, seed))));
        match ends.find(|(_, ended)| ended.is_err()) {
            Some((seed, ended)) => println!("{bug:?}: seed {seed}: {ended:?}"),
            None => missed.push(format!("{bug:?}")),
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not caught in {seeds} seeds: {missed:?}");
}
