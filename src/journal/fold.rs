//! What a coordination's records say together. Pure.
//!
//! Not recovery: machines fold records themselves; this is for the tables, for answers, and for
//! people. Invariant: the first decision stands, whatever comes later.

use super::{StoredCoordination, fold_steps};
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::{Reason, Record};
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;

/// The coordination that a begin record makes; `None` for any other record.
pub(super) fn begun(at: Timestamp, record: &Record) -> Option<StoredCoordination> {
    let Record::Begin { request, owner, epoch, locks } = record else { return None };
    // Events stand with the begin that appends them: there is nothing left to decide.
    let appends = request.kind == CoordinationType::EventSourcing;
    let decision = appends.then_some(Decision::Commit);
    Some(StoredCoordination {
        request: request.clone(),
        owner: owner.clone(),
        epoch: *epoch,
        state: match decision {
            Some(_) => TransactionState::Committing,
            None => TransactionState::Preparing,
        },
        decision,
        reason: None,
        outcome: None,
        stores: Vec::new(),
        steps: fold_steps::begun(request),
        created_at: at,
        updated_at: at,
        completed_at: None,
        locks: locks.clone(),
    })
}

/// Adds a later record.
pub(super) fn apply(stored: &mut StoredCoordination, at: Timestamp, record: &Record) {
    match record {
        Record::Begin { .. } => return,
        Record::Adopted { owner, epoch } => {
            stored.owner = owner.clone();
            stored.epoch = *epoch;
        }
        Record::Decision { decision, reason, .. } => {
            if stored.decision.is_none() {
                stored.decision = Some(*decision);
                stored.reason.clone_from(reason);
                if stored.completed_at.is_none() {
                    stored.state = match decision {
                        Decision::Commit => TransactionState::Committing,
                        Decision::Abort => TransactionState::Aborting,
                    };
                }
            }
        }
        Record::Heuristic { store, expected, message } => {
            if stored.completed_at.is_none() {
                // Whatever the others do, only an operator ends it now.
                stored.state = TransactionState::Failed;
                let decided = expected.as_str();
                let message = format!(
                    "manual intervention required: {decided} was decided, but store '{store}' \
                     gave a contrary final word: {message}; repair it, then resolve the \
                     coordination"
                );
                stored.reason = Some(Reason::new("transaction.heuristic", message));
            }
        }
        Record::End { outcome, stores, steps } => {
            stored.state = outcome.state;
            stored.outcome = Some(outcome.clone());
            stored.stores.clone_from(stores);
            if !steps.is_empty() {
                stored.steps.clone_from(steps);
            }
            stored.completed_at = Some(at);
        }
        Record::StepStarted { .. }
        | Record::StepDone { .. }
        | Record::StepFailed { .. }
        | Record::Parked { .. }
        | Record::Redriven { .. } => fold_steps::apply(stored, at, record),
    }
    stored.updated_at = at;
}
