//! Long random histories from a seed: five requesters, three resources, everything that can happen.

use std::collections::BTreeSet;
use std::panic::catch_unwind;

use unanimity::model::lock::LockMode;
use unanimity::protocol::claim::is_granted;

use super::action::{Action, BUGS, Bug, Real, Subject, Told, resource};
use super::oracle::Oracle;
use super::{Trial, downgrades};
use crate::support::random::Random;

const SEEDS: u64 = 1_500;
const STEPS: usize = 80;
const REQUESTERS: usize = 5;
const RESOURCES: usize = 3;
/// The oldest and one of the middle are protected in every other history.
const PROTECTED: [usize; 2] = [0, 2];

fn protected(seed: u64) -> Vec<usize> {
    if seed.is_multiple_of(2) { Vec::new() } else { PROTECTED.to_vec() }
}

fn next_action<S: Subject>(trial: &Trial<S>, random: &mut Random) -> Action {
    let claims = &trial.oracle.claims;
    let some = |random: &mut Random, is_held: bool| {
        let found: Vec<_> = claims.iter().filter(|claim| claim.is_held == is_held).collect();
        found.get(random.below(found.len())).map(|claim| (claim.number, claim.mode))
    };
    let number = trial.asks + 1;
    match random.below(100) {
        0..50 => Action::Ask {
            number,
            who: random.below(REQUESTERS),
            on: random.below(RESOURCES),
            mode: LockMode::ALL[random.below(4)],
            timeout: [None, Some(0), Some(5), Some(9)][random.below(8).min(3)],
            lease: [None, Some(4), Some(8)][random.below(8).min(2)],
        },
        50..72 => {
            let found = some(random, true);
            found.map_or(Action::Advance { by: 1 }, |(number, _)| Action::Release { number })
        }
        72..80 => {
            let found = some(random, false);
            // Now and then one that does not wait any more.
            Action::Cancel { number: found.map_or(number / 2, |(number, _)| number) }
        }
        80..84 => match some(random, true) {
            Some((number, mode)) => {
                let all: Vec<Action> = downgrades(number, mode).collect();
                let none = Action::Renew { number, lease: 6 };
                all.get(random.below(all.len())).copied().unwrap_or(none)
            }
            None => Action::Drift { by: 1 },
        },
        84..88 => Action::ReleaseAll { who: random.below(REQUESTERS) },
        88..92 => {
            let found = some(random, true);
            found.map_or(Action::Drift { by: 2 }, |(number, _)| Action::Renew { number, lease: 3 })
        }
        92..96 => Action::Drift { by: 1 + random.below(3) as u64 },
        _ => Action::Advance { by: 1 + random.below(6) as u64 },
    }
}

/// Plays one history, and then lets everybody go; gives back how often a circle was opened.
fn play<S: Subject>(
    trial: &mut Trial<S>,
    seed: u64,
    mut hear: impl FnMut(&Action, &[Told]),
) -> Result<(), String> {
    let mut random = Random::new(seed);
    for step in 0..STEPS {
        let action = next_action(trial, &mut random);
        let told =
            trial.play(&action).map_err(|broken| format!("step {step}, {action:?}\n{broken}"))?;
        hear(&action, &told);
    }
    trial.drain()
}

/// One history of the real table; gives back the rules that it took.
fn run(seed: u64, is_told: bool) -> Result<BTreeSet<u8>, String> {
    let mut trial = Trial::of_the_table(protected(seed));
    play(&mut trial, seed, |action, told| {
        if is_told {
            println!("{action:?}\n    {told:?}");
        }
    })?;
    if !trial.subject.is_empty() {
        return Err("the table keeps something of what has gone".to_owned());
    }
    Ok(trial.subject.table.rules_taken().map(|rule| rule as u8).collect())
}

/// Plays many seeds; gives back the rules that were taken.
pub(crate) fn run_all(seeds: impl Iterator<Item = u64>) -> BTreeSet<u8> {
    let mut rules = BTreeSet::new();
    for seed in seeds {
        let ended = catch_unwind(|| run(seed, false));
        match ended.unwrap_or_else(|_| Err("the table panicked".to_owned())) {
            Ok(taken) => rules.extend(taken),
            Err(broken) => panic!("seed {seed}: {broken}"),
        }
    }
    rules
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty())?.parse().ok()
}

#[test]
fn the_table_does_what_the_oracle_says_in_random_histories() {
    if let Some(seed) = from_environment("SEED") {
        run(seed, true).expect("the history holds");
        return;
    }
    let seeds = from_environment("SEEDS").unwrap_or(SEEDS);
    println!("seeds 0..{seeds}");
    run_all(0..seeds);
}

#[test]
fn the_rule_for_snapshots_judges_as_the_table_does() {
    for seed in 0..200 {
        let mut trial = Trial::of_the_table(protected(seed));
        let mut random = Random::new(seed);
        for _ in 0..STEPS {
            let action = next_action(&trial, &mut random);
            trial.play(&action).expect("another test tells what is wrong");
            for on in 0..RESOURCES {
                assert_judged_alike(&trial.subject, on);
            }
        }
    }
}

fn assert_judged_alike(real: &Real, on: usize) {
    let claims = real.table.claims(&resource(on));
    let held = real.seen().iter().filter(|(at, .., is_held)| *at == on && *is_held).count();
    for (at, claim) in claims.iter().enumerate() {
        let own = claims.iter().filter(|other| other.requester == claim.requester).count();
        // With several waits of one requester the rule lets a later one go ahead with the first.
        if at < held || own == 1 {
            assert_eq!(is_granted(&claims, at), at < held, "{claims:?}, {at}");
        }
    }
}

/// The first seed that shows a bug.
fn seed_that_shows(bug: Option<Bug>) -> Option<u64> {
    (0..200).find(|seed| {
        let subject = Oracle { bug, protected: protected(*seed), ..Oracle::default() };
        play(&mut Trial::new(subject, protected(*seed)), *seed, |_, _| {}).is_err()
    })
}

#[test]
fn planted_bugs_are_found_and_without_one_nothing_is() {
    assert_eq!(seed_that_shows(None), None);
    for bug in BUGS {
        let seed = seed_that_shows(Some(bug));
        println!("{bug:?}: seed {seed:?}");
        assert!(seed.is_some(), "{bug:?} is not found");
    }
}

#[test]
fn a_table_that_tells_nobody_of_some_grants_is_found() {
    /// The real table, but the grants of every fifth step are kept silent.
    struct Lossy(Real, u64);
    impl Subject for Lossy {
        fn apply(&mut self, action: &Action) -> Vec<Told> {
            let told = self.0.apply(action);
            self.1 += 1;
            let is_lost =
                |line: &Told| self.1.is_multiple_of(5) && matches!(line, Told::Granted(_));
            told.into_iter().filter(|line| !is_lost(line)).collect()
        }
        fn seen(&self) -> super::action::Seen {
            self.0.seen()
        }
        fn edges(&self) -> Vec<super::action::Line> {
            self.0.edges()
        }
    }
    let found = (0..20).filter(|seed| {
        let mut trial = Trial::new(Lossy(Real::new(Vec::new()), 0), Vec::new());
        play(&mut trial, *seed, |_, _| {}).is_err()
    });
    assert_eq!(found.count(), 20);
}
