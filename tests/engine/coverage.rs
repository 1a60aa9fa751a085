//! Every row of every transition table is taken by some scenario or some simulated run.
//!
//! Not a measure of lines: a row that nothing takes is a rule that nobody has tried.

use unanimity::protocol::two_phase::TRANSITIONS;

use crate::{scenarios, simulation};

#[test]
fn every_row_of_the_table_is_taken() {
    let mut taken = scenarios::play_all();
    taken.extend(simulation::run_all(0..1_000));
    let missed: Vec<_> = TRANSITIONS
        .iter()
        .map(|row| row.rule)
        .filter(|rule| !taken.contains(&(*rule as u8)))
        .collect();
    assert!(missed.is_empty(), "never taken: {missed:?}");
}

#[test]
fn the_bits_of_the_rules_taken_suffice() {
    assert!(TRANSITIONS.len() <= 64);
    let in_order = TRANSITIONS.iter().enumerate().all(|(index, row)| row.rule as usize == index);
    assert!(in_order, "a rule's number is its row");
}
