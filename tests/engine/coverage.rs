//! Every row of every transition table is taken by some scenario or some simulated run.
//!
//! Not a measure of lines: a row that nothing takes is a rule that nobody has tried.

use std::collections::BTreeSet;

use unanimity::protocol::{choreography, event_sourcing, eventual, lock_table, saga, two_phase};

use crate::{scenarios, simulation};

#[test]
fn every_row_of_two_phase_commit_is_taken() {
    let mut taken = scenarios::play_all("two_phase");
    taken.extend(simulation::run_all(0..1_000));
    let missed = missed(two_phase::TRANSITIONS.iter().map(|row| row.rule), |it| it as u8, &taken);
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

#[test]
fn every_row_of_a_saga_is_taken() {
    let taken = scenarios::play_all("saga");
    let missed = missed(saga::TRANSITIONS.iter().map(|row| row.rule), |it| it as u8, &taken);
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

#[test]
fn every_row_of_eventual_consistency_is_taken() {
    let taken = scenarios::play_all("eventual");
    let missed = missed(eventual::TRANSITIONS.iter().map(|row| row.rule), |it| it as u8, &taken);
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

#[test]
fn every_row_of_the_lock_table_is_taken() {
    let mut taken = scenarios::play_all("lock_table");
    taken.extend(crate::lock_table::run_all(0..100));
    let missed = missed(lock_table::TRANSITIONS.iter().map(|row| row.rule), |it| it as u8, &taken);
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

#[test]
fn every_row_of_event_sourcing_is_taken() {
    let taken = scenarios::play_all("event_sourcing");
    let rules = event_sourcing::TRANSITIONS.iter().map(|row| row.rule);
    let missed = missed(rules, |it| it as u8, &taken);
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

fn missed<R: Copy>(
    rules: impl Iterator<Item = R>,
    number: impl Fn(R) -> u8,
    taken: &BTreeSet<u8>,
) -> Vec<R> {
    rules.filter(|rule| !taken.contains(&number(*rule))).collect()
}

#[test]
fn the_bits_of_the_rules_taken_suffice() {
    let numbers: [Vec<usize>; 6] = [
        event_sourcing::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
        choreography::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
        two_phase::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
        lock_table::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
        saga::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
        eventual::TRANSITIONS.iter().map(|row| row.rule as usize).collect(),
    ];
    for numbers in numbers {
        assert!(numbers.len() <= 64, "{} rows", numbers.len());
        assert!(numbers.iter().copied().eq(0..numbers.len()), "a rule's number is its row");
    }
}
