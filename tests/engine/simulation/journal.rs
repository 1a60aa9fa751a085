//! The simulated disk of one journal: what is in it has survived every crash.
//!
//! Not a queue: what a process has not brought to the disk is in that process (`node.rs`) and dies
//! with it. Invariant, unless a bug is planted: the first begin and the first decision stand, and
//! a deposed owner writes nothing, as duty 2 of `unanimity::journal` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimity::model::ids::{CoordinationId, InstanceId, StoreName};
use unanimity::model::outcome::{Decision, Outcome};
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::model::time::Timestamp;

use super::bugs::Bug;

/// A record on its way to the disk.
#[derive(Clone)]
pub(super) struct Append {
    pub(super) id: CoordinationId,
    pub(super) epoch: u32,
    pub(super) at: Timestamp,
    pub(super) record: Record,
    pub(super) durability: Durability,
    /// Which run of the machine waits for the answer.
    pub(super) run: u64,
}

/// The disk's word on a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Recorded,
    Exists,
    Decided(Decision),
    Deposed,
    Failed,
}

/// One coordination as the disk has it.
pub(super) struct Row {
    pub(super) request: Arc<CoordinationRequest>,
    pub(super) owner: InstanceId,
    pub(super) epoch: u32,
    pub(super) records: Vec<(Timestamp, Record)>,
    pub(super) decision: Option<Decision>,
    pub(super) outcome: Option<Outcome>,
}

impl Row {
    /// The stores that were declared to have gone their own way.
    pub(super) fn heuristics(&self) -> impl Iterator<Item = &StoreName> {
        self.records.iter().filter_map(|(_, record)| match record {
            Record::Heuristic { store, .. } => Some(store),
            _ => None,
        })
    }
}

/// The disk.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeMap<CoordinationId, Row>,
    pub(super) bug: Option<Bug>,
}

impl Disk {
    /// What the disk would say.
    pub(super) fn judge(&self, append: &Append) -> Answer {
        let Some(row) = self.rows.get(&append.id) else {
            return match append.record {
                Record::Begin { .. } => Answer::Recorded,
                // Its begin was refused or lost; nothing of it may come after.
                _ => Answer::Deposed,
            };
        };
        match (&append.record, row.decision) {
            (Record::Begin { .. }, _) => Answer::Exists,
            _ if append.epoch < row.epoch && self.bug != Some(Bug::DeposedOwnerWrites) => {
                Answer::Deposed
            }
            (Record::Decision { .. }, Some(standing))
                if self.bug != Some(Bug::LastDecisionStands) =>
            {
                Answer::Decided(standing)
            }
            _ => Answer::Recorded,
        }
    }

    /// Writes it, if it may stand.
    pub(super) fn write(&mut self, append: &Append) -> Answer {
        let answer = self.judge(append);
        if answer != Answer::Recorded {
            return answer;
        }
        if let Record::Begin { request, owner, epoch, .. } = &append.record {
            let row = Row {
                request: Arc::clone(request),
                owner: owner.clone(),
                epoch: *epoch,
                records: Vec::new(),
                decision: None,
                outcome: None,
            };
            self.rows.insert(append.id.clone(), row);
        }
        let row = self.rows.get_mut(&append.id).expect("it was there, or was made just now");
        match &append.record {
            Record::Decision { decision, .. } => row.decision = Some(*decision),
            Record::End { outcome, .. } => row.outcome = Some(outcome.clone()),
            Record::Adopted { owner, epoch } => {
                row.owner = owner.clone();
                row.epoch = *epoch;
            }
            _ => {}
        }
        let mut record = append.record.clone();
        if let (Record::Decision { receipts, .. }, Some(Bug::ReceiptsLost)) =
            (&mut record, self.bug)
        {
            receipts.clear();
        }
        row.records.push((append.at, record));
        answer
    }

    /// The decision that stands: the first.
    pub(super) fn decision(&self, id: &CoordinationId) -> Option<Decision> {
        self.rows.get(id)?.records.iter().find_map(|(_, record)| match record {
            Record::Decision { decision, .. } => Some(*decision),
            _ => None,
        })
    }
}
