//! Every history of a few claims: all orders of ask, grant, release, cancel, upgrade, downgrade
//! and time out, walked as a graph of states in which each state is visited once.
//!
//! Two histories that lead to the same holders, waits and deadlines behave alike from there on, so
//! a state that was seen is not walked again.

use std::collections::{BTreeSet, VecDeque};

use unanimity::model::lock::LockMode;

use super::action::{Action, Real, Subject};
use super::oracle::Claim;
use super::{Trial, downgrades};

/// How wide the search is.
struct Bounds {
    requesters: usize,
    resources: usize,
    modes: &'static [LockMode],
    /// How many claims there are at most at once.
    claims: usize,
    /// The latest wait ends first, or the earliest.
    latest_ends_first: bool,
}

/// What tells one state from another: claims without their numbers, deadlines by their order.
type Key = Vec<(usize, usize, LockMode, (bool, bool), usize)>;

/// Requesters are named in the order in which they stand: they are alike but for their ages, which
/// only choose victims.
fn key(trial: &Trial<Real>) -> Key {
    let mut claims: Vec<&Claim> = trial.oracle.claims.iter().collect();
    claims.sort_by_key(|claim| claim.on);
    let rank = |claim: &Claim| claims.iter().filter(|other| other.until < claim.until).count();
    let mut names: Vec<usize> = Vec::new();
    let mut key = Vec::new();
    for claim in &claims {
        let name = names.iter().position(|who| *who == claim.who).unwrap_or(names.len());
        if name == names.len() {
            names.push(claim.who);
        }
        let marks = (claim.is_held, claim.is_upgrade);
        key.push((claim.on, name, claim.mode, marks, rank(claim)));
    }
    key
}

fn actions(trial: &Trial<Real>, bounds: &Bounds) -> Vec<Action> {
    let claims = &trial.oracle.claims;
    let mut actions = Vec::new();
    if claims.len() < bounds.claims {
        let number = trial.asks + 1;
        // A claim that comes later ends earlier or later than all others.
        let offset = if bounds.latest_ends_first { 1_000_000 - number * 10 } else { number * 10 };
        let timeout = Some(1_000_000 + offset);
        for who in 0..bounds.requesters {
            for on in 0..bounds.resources {
                for mode in bounds.modes.iter().copied() {
                    let lease = None;
                    actions.push(Action::Ask { number, who, on, mode, timeout, lease });
                }
            }
        }
    }
    for claim in claims {
        if claim.is_held {
            actions.push(Action::Release { number: claim.number });
            actions.extend(downgrades(claim.number, claim.mode));
        } else {
            actions.push(Action::Cancel { number: claim.number });
        }
    }
    let next_end = claims.iter().filter_map(|claim| claim.until).min();
    actions.extend(next_end.map(|until| Action::Advance { by: until - trial.oracle.now }));
    actions.extend((0..bounds.requesters).map(|who| Action::ReleaseAll { who }));
    actions
}

/// Visits every state; how many there were, and how many steps led to them.
fn walk(bounds: &Bounds) -> (usize, usize) {
    let (mut seen, mut steps) = (BTreeSet::new(), 0);
    // The nearest states come first, so that no history is long.
    let mut waiting = VecDeque::from([Trial::of_the_table(Vec::new())]);
    while let Some(trial) = waiting.pop_front() {
        for action in actions(&trial, bounds) {
            let mut next = trial.clone();
            steps += 1;
            if let Err(broken) = next.play(&action) {
                panic!("from {:?}\n{action:?}\n{broken}", trial.subject.seen());
            }
            assert_eq!(next.oracle.claims.is_empty(), next.subject.is_empty());
            if seen.insert(key(&next)) {
                let claims = &next.oracle.claims;
                next.subject.forget_all_but(|it| claims.iter().any(|claim| claim.number == it));
                waiting.push_back(next);
            }
        }
    }
    (seen.len(), steps)
}

/// `CLAIMS=6` looks further than `make verify` has the time for.
fn claims(usual: usize) -> usize {
    let text = std::env::var("CLAIMS").ok().filter(|text| !text.is_empty());
    text.map_or(usual, |text| text.parse().expect("a number of claims"))
}

fn assert_every_history(bounds: &Bounds) {
    let (states, steps) = walk(bounds);
    println!("{states} states, {steps} steps");
    assert!(states > 500, "only {states}");
}

#[test]
fn every_history_in_all_modes_on_one_resource() {
    for latest_ends_first in [false, true] {
        let (requesters, resources, modes) = (3, 1, &LockMode::ALL);
        let claims = claims(if latest_ends_first { 3 } else { 4 });
        assert_every_history(&Bounds { requesters, resources, modes, claims, latest_ends_first });
    }
}

#[test]
fn every_history_of_readers_and_writers_on_one_resource() {
    let (requesters, resources, latest_ends_first) = (3, 1, false);
    let (modes, claims) = (&[LockMode::Shared, LockMode::Exclusive], claims(4));
    assert_every_history(&Bounds { requesters, resources, modes, claims, latest_ends_first });
}

#[test]
fn every_history_of_readers_and_writers_on_two_resources() {
    let (requesters, resources, latest_ends_first) = (3, 2, false);
    let (modes, claims) = (&[LockMode::Shared, LockMode::Exclusive], claims(3));
    assert_every_history(&Bounds { requesters, resources, modes, claims, latest_ends_first });
}

#[test]
fn every_history_in_all_modes_on_two_resources() {
    let (requesters, resources, latest_ends_first) = (2, 2, true);
    let (modes, claims) = (&LockMode::ALL, claims(3));
    assert_every_history(&Bounds { requesters, resources, modes, claims, latest_ends_first });
}
