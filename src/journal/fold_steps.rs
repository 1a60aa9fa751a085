//! What the records of a coordination by steps say of its operations. Pure.
//!
//! Not the saga's machine, which folds the same records for itself. Invariants: a record of a step
//! that the request does not have changes nothing; a coordination by votes, or of events, has
//! no steps.

use super::StoredCoordination;
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::{Reason, Record};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::{StepState, StepSummary, Work};
use crate::model::time::Timestamp;

/// The operations of a coordination that has just begun.
pub(super) fn begun(request: &CoordinationRequest) -> Vec<StepSummary> {
    let by_steps =
        !matches!(request.kind, CoordinationType::TwoPhaseCommit | CoordinationType::EventSourcing);
    if !by_steps {
        return Vec::new();
    }
    let pending = |operation: &crate::model::operation::Operation| StepSummary {
        operation_id: operation.id.clone(),
        state: StepState::Pending,
        attempts: 0,
        compensation_attempts: 0,
        result: None,
        note: None,
        started_at: None,
        completed_at: None,
        compensation_started_at: None,
        compensated_at: None,
    };
    request.operations.iter().map(pending).collect()
}

/// Adds a record of a step; of any other it takes no notice.
pub(super) fn apply(stored: &mut StoredCoordination, at: Timestamp, record: &Record) {
    let began_at = stored.created_at;
    match record {
        Record::StepStarted { step, work, attempt } => {
            with(stored, *step, |summary| started(summary, at, *work, *attempt));
        }
        Record::StepDone { step, work, result } => with(stored, *step, |summary| match work {
            Work::Execute => {
                tried(summary, began_at);
                summary.state = StepState::Completed;
                summary.result = Some((**result).clone());
                summary.completed_at = Some(at);
            }
            Work::Compensate => {
                summary.state = StepState::Compensated;
                summary.compensated_at = Some(at);
            }
        }),
        Record::StepFailed { step, work, message, is_unknown, is_final } => {
            with(stored, *step, |summary| {
                if *work == Work::Execute {
                    tried(summary, began_at);
                }
                summary.note = Some(message.clone());
                if *is_final && !is_unknown && *work == Work::Execute {
                    summary.state = StepState::Failed;
                    summary.completed_at = Some(at);
                }
            });
        }
        Record::Parked { step, work, message } => parked(stored, *step, *work, message),
        Record::Redriven { step } => redriven(stored, *step),
        _ => {}
    }
}

fn with(stored: &mut StoredCoordination, step: u32, change: impl FnOnce(&mut StepSummary)) {
    if let Some(summary) = stored.steps.get_mut(step as usize) {
        change(summary);
    }
}

/// The begin is the first try of the steps that depend on none: no other record tells of it.
fn tried(summary: &mut StepSummary, began_at: Timestamp) {
    if summary.attempts == 0 {
        summary.attempts = 1;
        summary.started_at.get_or_insert(began_at);
    }
}

fn started(summary: &mut StepSummary, at: Timestamp, work: Work, attempt: u32) {
    match work {
        Work::Execute => {
            summary.state = StepState::Executing;
            summary.attempts = attempt;
            summary.started_at.get_or_insert(at);
        }
        Work::Compensate => {
            summary.state = StepState::Compensating;
            summary.compensation_attempts = attempt;
            summary.compensation_started_at.get_or_insert(at);
        }
    }
}

fn parked(stored: &mut StoredCoordination, step: u32, work: Work, message: &str) {
    with(stored, step, |summary| {
        summary.state = StepState::Parked;
        summary.note = Some(message.to_owned());
    });
    let id = stored.steps.get(step as usize).map_or("", |summary| &summary.operation_id);
    let message = format!(
        "the tries to {} operation '{id}' are spent: {message}; mend the cause, then redrive it",
        work.as_str()
    );
    stored.state = TransactionState::Failed;
    stored.reason = Some(Reason::new("step.parked", message));
}

fn redriven(stored: &mut StoredCoordination, step: u32) {
    with(stored, step, |summary| {
        summary.state = match summary.compensation_started_at {
            Some(_) => StepState::Compensating,
            None => StepState::Executing,
        };
    });
    if stored.steps.iter().any(|summary| summary.state == StepState::Parked) {
        return;
    }
    stored.reason = None;
    stored.state = match stored.decision {
        None => TransactionState::Preparing,
        Some(Decision::Commit) => TransactionState::Committing,
        Some(Decision::Abort) => TransactionState::Aborting,
    };
}
