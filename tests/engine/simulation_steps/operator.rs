//! What people do to coordinations: they wish them aborted, decide in the journal, and look after
//! what waits for them.
//!
//! Invariant: an operator looks before he speaks: he says what is true of the participants, and
//! only when nothing is on its way to them.

use std::time::Duration;

use unanimity::model::outcome::{Decision, TransactionState};
use unanimity::model::record::Record;
use unanimity::model::step::{StepState, Work};
use unanimity::protocol::Input;

use crate::support::driving::Driving;

use super::world::{Address, Kind, World};

/// So long he hopes that what is tried again will be done.
const PATIENCE: Duration = Duration::from_secs(100);

impl World {
    pub(super) fn wish_abort(&mut self, request: usize) {
        let id = self.requests[request].id.clone();
        for node in 0..self.nodes.len() {
            if let Some(driven) = self.nodes[node].driven.get(&id) {
                let address = Address { node, id: id.clone(), run: driven.held.run };
                let reason = "changed my mind".to_owned();
                self.step(&address, Input::AbortRequested { reason });
            }
        }
    }

    /// From another process, under the epoch that stands. Never commit: steps may be missing.
    pub(super) fn operator_writes_abort(&mut self, request: usize) {
        let id = self.requests[request].id.clone();
        let is_open = self.disk.rows.get(&id).is_some_and(|row| row.outcome.is_none());
        if !is_open || self.disk.decision(&id).is_some() || self.kind == Kind::Eventual {
            return;
        }
        self.resolved.insert(id.clone());
        self.note(|| format!("an operator writes an abort of {id} into the journal"));
        let record = Record::Decision {
            decision: Decision::Abort,
            reason: None,
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        self.write_as_operator(&id, record);
    }

    /// An operator looks after what is parked: now and then, and in the end always.
    pub(super) fn operator_looks(&mut self) {
        let mut parked = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            for (id, driven) in &process.driven {
                if driven.held.machine.is_parked() && !driven.held.waits_for_record {
                    parked.push(Address { node, id: id.clone(), run: driven.held.run });
                }
            }
        }
        if self.calm_for() > PATIENCE {
            self.ends_patience();
        }
        for address in parked {
            if self.random.chance(30) || self.is_calm() {
                self.look_after(&address);
            }
        }
    }

    /// What is tried again for ever he does by hand in the end.
    fn ends_patience(&mut self) {
        let mut endless = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            for (id, driven) in &process.driven {
                let view = driven.held.machine.view();
                let is_out = |step: usize| driven.out.iter().any(|(other, _)| *other == step);
                let waits = view.steps.iter().enumerate().any(|(at, step)| {
                    step.state == StepState::Executing && step.note.is_some() && !is_out(at)
                });
                if view.state == TransactionState::Committing
                    && waits
                    && !driven.held.waits_for_record
                {
                    endless.push(Address { node, id: id.clone(), run: driven.held.run });
                }
            }
        }
        for address in endless {
            self.settle_by_hand(&address, Decision::Commit);
            let reason = "it took too long".to_owned();
            self.step(&address, Input::Resolved { decision: Decision::Commit, reason });
        }
    }

    fn look_after(&mut self, of: &Address) {
        let Some(driven) = self.driven(of) else { return };
        let view = driven.held.machine.view();
        let parked: Vec<usize> = view
            .steps
            .iter()
            .enumerate()
            .filter(|(_, step)| step.state == StepState::Parked)
            .map(|(at, _)| at)
            .collect();
        // In the end he gives up to have it tried again.
        let is_patient = self.calm_for() < PATIENCE;
        if self.random.chance(50) && is_patient {
            for step in parked {
                self.step(of, Input::Redriven { step });
            }
            return;
        }
        let count = view.steps.len();
        let is_quiet =
            (0..count).all(|step| self.participants.cell(&(of.id.clone(), step)).on_the_way == 0);
        if !is_quiet {
            return;
        }
        let decision = match (self.kind, view.decision) {
            (Kind::Eventual, _) if self.random.chance(50) => Decision::Abort,
            (Kind::Eventual, _) => Decision::Commit,
            (Kind::Saga, Some(decision)) => decision,
            // A pivot in doubt: he looks whether it was done.
            (Kind::Saga, None) if self.participants.stands(&(of.id.clone(), parked[0])) => {
                Decision::Commit
            }
            (Kind::Saga, None) => Decision::Abort,
        };
        self.settle_by_hand(of, decision);
        let reason = "looked after by hand".to_owned();
        self.step(of, Input::Resolved { decision, reason });
    }

    /// He does what he says: everything that is in trouble.
    fn settle_by_hand(&mut self, of: &Address, decision: Decision) {
        self.resolved.insert(of.id.clone());
        let Some(driven) = self.driven(of) else { return };
        let view = driven.held.machine.view();
        if view.decision.is_none() {
            // Of a pivot in doubt he says what he saw, and does nothing.
            return;
        }
        let out = driven.out.clone();
        for (step, summary) in view.steps.iter().enumerate() {
            let is_out = out.iter().any(|(other, _)| *other == step);
            let work = match summary.state {
                StepState::Parked | StepState::Executing if decision == Decision::Commit => {
                    Work::Execute
                }
                StepState::Parked | StepState::Compensating if self.kind == Kind::Saga => {
                    Work::Compensate
                }
                _ => continue,
            };
            if !is_out {
                self.participants.cell(&(of.id.clone(), step)).by_hand(work);
            }
        }
    }
}
