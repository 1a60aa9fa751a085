//! The simulated disk of one journal: what is in it has survived every crash.
//!
//! Not a queue: what a process has not brought to the disk is in that process and dies with it.
//! Invariant, unless a bug is planted: the first begin and the first decision stand, and a deposed
//! owner writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::{Decision, Outcome};
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::model::step::Work;
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
}

/// One coordination as the disk has it.
pub(super) struct Row {
    pub(super) request: Arc<CoordinationRequest>,
    /// Its place in the order of acceptance.
    pub(super) order: usize,
    pub(super) owner: InstanceId,
    pub(super) epoch: u32,
    pub(super) records: Vec<(Timestamp, Record)>,
    pub(super) outcome: Option<Outcome>,
}

impl Row {
    pub(super) fn decision(&self) -> Option<Decision> {
        self.records.iter().find_map(|(_, record)| match record {
            Record::Decision { decision, .. } => Some(*decision),
            _ => None,
        })
    }

    /// Whether the disk says that this try was about to be asked.
    pub(super) fn has_intent(&self, asked: (usize, Work, u32)) -> bool {
        self.records.iter().any(|(_, record)| match record {
            Record::StepStarted { step, work, attempt } => {
                (*step as usize, *work, *attempt) == asked
            }
            _ => false,
        })
    }

    pub(super) fn is_done(&self, wanted: usize, wanted_work: Work) -> bool {
        self.records.iter().any(|(_, record)| match record {
            Record::StepDone { step, work, .. } => *step as usize == wanted && *work == wanted_work,
            _ => false,
        })
    }

    /// The steps that are done, in the order of their completion.
    pub(super) fn done(&self) -> Vec<usize> {
        let mut done = Vec::new();
        for (_, record) in &self.records {
            if let Record::StepDone { step, work: Work::Execute, .. } = record
                && !done.contains(&(*step as usize))
            {
                done.push(*step as usize);
            }
        }
        done
    }

    /// Whether an operator gave it up for good.
    pub(super) fn is_given_up(&self, wanted: usize) -> bool {
        self.records.iter().any(|(_, record)| match record {
            Record::StepFailed { step, is_final: true, .. } => *step as usize == wanted,
            _ => false,
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
        match (&append.record, row.decision()) {
            (Record::Begin { .. }, _) => Answer::Exists,
            _ if append.epoch < row.epoch => Answer::Deposed,
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
                order: self.rows.len(),
                owner: owner.clone(),
                epoch: *epoch,
                records: Vec::new(),
                outcome: None,
            };
            self.rows.insert(append.id.clone(), row);
        }
        let row = self.rows.get_mut(&append.id).expect("it was there, or was made just now");
        match &append.record {
            Record::End { outcome, .. } => row.outcome = Some(outcome.clone()),
            Record::Adopted { owner, epoch } => {
                row.owner = owner.clone();
                row.epoch = *epoch;
            }
            _ => {}
        }
        row.records.push((append.at, append.record.clone()));
        answer
    }

    pub(super) fn decision(&self, id: &CoordinationId) -> Option<Decision> {
        self.rows.get(id)?.decision()
    }
}
