//! Random deadlocks: each requester holds a resource and asks for another's; whoever closes a
//! circle has one victim chosen, and everybody else gets what he asked for.

use unanimity::model::lock::LockMode;

use super::action::{Action, Told};
use super::{Real, Trial};
use crate::support::random::Random;

const GRAPHS: u64 = 200;

/// Whose resource each requester asks for: nobody its own.
fn targets(random: &mut Random, requesters: usize) -> Vec<usize> {
    let other =
        |random: &mut Random, who: usize| (who + 1 + random.below(requesters - 1)) % requesters;
    (0..requesters).map(|who| other(random, who)).collect()
}

/// The youngest of each circle of a graph in which everybody waits for one.
fn youngest_of_circles(targets: &[usize]) -> Vec<usize> {
    let mut victims = Vec::new();
    for start in 0..targets.len() {
        let mut way = vec![start];
        let mut at = targets[start];
        while !way.contains(&at) {
            way.push(at);
            at = targets[at];
        }
        if at == start {
            victims.extend(way.iter().max());
        }
    }
    victims.sort_unstable();
    victims.dedup();
    victims
}

fn shuffled(random: &mut Random, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, random.below(at + 1));
    }
    order
}

#[test]
fn every_circle_of_200_random_graphs_has_exactly_one_victim_and_all_others_proceed() {
    let mut circles = 0;
    for seed in 0..GRAPHS {
        let mut random = Random::new(seed);
        let requesters = 2 + random.below(15);
        let targets = targets(&mut random, requesters);
        let mut trial: Trial<Real> = Trial::of_the_table(Vec::new());
        let mode = LockMode::Exclusive;
        let ask = |number: usize, who, on| {
            let (number, timeout, lease) = (number as u64, None, None);
            Action::Ask { number, who, on, mode, timeout, lease }
        };
        let mut told = Vec::new();
        for who in 0..requesters {
            told.extend(trial.play(&ask(who, who, who)).expect("nobody is there yet"));
        }
        for who in shuffled(&mut random, requesters) {
            let action = ask(requesters + who, who, targets[who]);
            told.extend(trial.play(&action).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        }
        let mut victims: Vec<usize> = told
            .iter()
            .filter_map(|line| match line {
                Told::Circle { members, .. } => members.first().copied(),
                _ => None,
            })
            .collect();
        victims.sort_unstable();
        assert_eq!(victims, youngest_of_circles(&targets), "seed {seed}: {targets:?}");
        circles += victims.len();
        let rest = everybody_finishes(&mut trial, &victims, requesters);
        told.extend(rest.unwrap_or_else(|error| panic!("seed {seed}: {error}")));
        let granted = told.iter().filter(|line| matches!(line, Told::Granted(_))).count();
        assert_eq!(granted, 2 * requesters - victims.len(), "seed {seed}: all but the victims");
        assert!(trial.subject.is_empty(), "seed {seed}");
    }
    println!("{circles} circles in {GRAPHS} graphs");
    assert!(circles >= 200);
}

/// Victims let go of everything; then whoever has both of his locks does.
fn everybody_finishes(
    trial: &mut Trial<Real>,
    victims: &[usize],
    requesters: usize,
) -> Result<Vec<Told>, String> {
    let mut told = Vec::new();
    for who in victims {
        told.extend(trial.play(&Action::ReleaseAll { who: *who })?);
    }
    for _ in 0..requesters {
        let waiting: Vec<usize> =
            trial.oracle.claims.iter().filter(|it| !it.is_held).map(|it| it.who).collect();
        let done = trial.oracle.claims.iter().find(|it| !waiting.contains(&it.who));
        let Some(who) = done.map(|claim| claim.who) else { break };
        told.extend(trial.play(&Action::ReleaseAll { who })?);
    }
    Ok(told)
}
