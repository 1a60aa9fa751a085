//! A simulated store: a participant that keeps its duties while nothing round it helps.
//!
//! What it has prepared or committed survives every crash; what was on its way to it does not.
//! Invariant: it changes nothing that it has prepared unless it is told, or declares that it did.

use std::collections::{BTreeMap, BTreeSet};

use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Decision, Receipt, Vote};
use unanimity::model::time::Timestamp;

use crate::support::random::Random;

/// What it keeps of a coordination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Prepared(Timestamp),
    Committed,
}

/// The store.
#[allow(clippy::struct_excessive_bools, reason = "they are drawn apart from each other")]
pub(super) struct Store {
    pub(super) name: StoreName,
    pub(super) lists_prepared: bool,
    pub(super) single_writer: bool,
    /// It remembers an abort, so a prepare that comes after it leaves nothing behind. A store far
    /// away that cannot list what it prepared has to.
    pub(super) remembers_aborts: bool,
    /// It runs inside of the process that asks: questions of a dead process never reach it.
    pub(super) is_inside: bool,
    /// Grows with every crash of the store; what was on its way before is lost.
    pub(super) life: u64,
    pub(super) kept: BTreeMap<CoordinationId, Kept>,
    pub(super) aborted: BTreeSet<CoordinationId>,
    /// It gives a receipt with its vote, and keeps no marker where it did.
    pub(super) gives_receipts: bool,
    /// The markers of what it has committed; gone once told to forget.
    pub(super) markers: BTreeSet<CoordinationId>,
    /// What it prepared without giving a receipt, because nobody would have kept it.
    unreceipted: BTreeSet<CoordinationId>,
    /// The rows that decide, and which stores had nothing to commit.
    pub(super) rows: BTreeMap<CoordinationId, (Decision, Vec<StoreName>)>,
    /// What it ever promised to commit.
    pub(super) promised: BTreeSet<CoordinationId>,
    /// What it decided alone, against its duties.
    pub(super) heuristic: BTreeSet<CoordinationId>,
}

/// What a store that gives receipts gives for this one.
fn receipt(id: &CoordinationId) -> Receipt {
    Receipt::new(&format!("for {id}"))
}

impl Store {
    pub(super) fn new(name: StoreName, random: &mut Random) -> Self {
        let lists_prepared = random.chance(50);
        let is_inside = random.chance(40);
        Self {
            name,
            lists_prepared,
            single_writer: random.chance(25),
            remembers_aborts: !lists_prepared && !is_inside || random.chance(40),
            is_inside,
            life: 0,
            kept: BTreeMap::new(),
            gives_receipts: false,
            aborted: BTreeSet::new(),
            markers: BTreeSet::new(),
            unreceipted: BTreeSet::new(),
            rows: BTreeMap::new(),
            promised: BTreeSet::new(),
            heuristic: BTreeSet::new(),
        }
    }

    /// Whether its one writer is taken by another coordination.
    pub(super) fn is_busy_for(&self, id: &CoordinationId) -> bool {
        self.single_writer
            && self
                .kept
                .iter()
                .any(|(other, kept)| matches!(kept, Kept::Prepared(_)) && other != id)
    }

    /// Prepares, if it will; `calm` stores always will.
    pub(super) fn prepare(
        &mut self,
        now: Timestamp,
        id: &CoordinationId,
        (calm, keeps_receipt): (bool, bool),
        random: &mut Random,
    ) -> Vote {
        let reason = || "it cannot".to_owned();
        if self.kept.contains_key(id) {
            return self.yes(id);
        }
        if self.aborted.contains(id) && self.remembers_aborts {
            return Vote::Abort { reason: reason() };
        }
        if !keeps_receipt {
            self.unreceipted.insert(id.clone());
        }
        let drawn = if calm { 99 } else { random.below(100) };
        match drawn {
            0..6 => Vote::Abort { reason: reason() },
            6..10 => Vote::Unknown { reason: reason() },
            10..20 => Vote::ReadOnly,
            _ => {
                self.kept.insert(id.clone(), Kept::Prepared(now));
                self.promised.insert(id.clone());
                if drawn < 24 { Vote::Unknown { reason: reason() } } else { self.yes(id) }
            }
        }
    }

    fn yes(&self, id: &CoordinationId) -> Vote {
        let gives = self.gives_receipts && !self.unreceipted.contains(id);
        if gives { Vote::Prepared { receipt: receipt(id) } } else { Vote::Commit }
    }

    pub(super) fn commit(
        &mut self,
        id: &CoordinationId,
        shown: Option<&Receipt>,
        refuses: bool,
    ) -> Acknowledgement {
        match self.kept.get(id) {
            Some(Kept::Prepared(_)) if refuses => {
                self.kept.remove(id);
                self.heuristic.insert(id.clone());
                Acknowledgement::Failed { message: "it rolled back alone".to_owned() }
            }
            Some(Kept::Prepared(_)) => {
                self.kept.insert(id.clone(), Kept::Committed);
                if !self.gives_receipts || self.unreceipted.contains(id) {
                    self.markers.insert(id.clone());
                }
                Acknowledgement::Done
            }
            Some(Kept::Committed) if self.markers.contains(id) => Acknowledgement::Done,
            Some(Kept::Committed) if shown == Some(&receipt(id)) => Acknowledgement::Done,
            _ if self.heuristic.contains(id) => {
                Acknowledgement::Failed { message: "it rolled back alone".to_owned() }
            }
            _ => Acknowledgement::NeverPrepared,
        }
    }

    pub(super) fn abort(&mut self, id: &CoordinationId, refuses: bool) -> Acknowledgement {
        match self.kept.get(id) {
            Some(Kept::Prepared(_)) if refuses => {
                self.kept.insert(id.clone(), Kept::Committed);
                self.heuristic.insert(id.clone());
                Acknowledgement::Failed { message: "it committed alone".to_owned() }
            }
            Some(Kept::Committed) => {
                Acknowledgement::Failed { message: "it has committed".to_owned() }
            }
            _ => {
                self.kept.remove(id);
                self.aborted.insert(id.clone());
                Acknowledgement::Done
            }
        }
    }
}
