//! How far each operation is, as the tables tell people. Pure.
//!
//! Not recovery, and not what machines know. Invariant: it says nothing that the coordination's
//! records do not say.

use super::StoredCoordination;
use crate::model::operation::Operation;
use crate::model::outcome::OutcomeKind;
use crate::model::step::{StepState, StepSummary};
use crate::model::time::Timestamp;

/// What people are told of a coordination that did not go well.
pub(super) fn error_message(stored: &StoredCoordination) -> Option<&str> {
    let outcome = stored.outcome.as_ref().and_then(|outcome| outcome.message.as_deref());
    outcome.or(stored.reason.as_ref().map(|reason| reason.message.as_str()))
}

/// How far one operation is, as its coordination's records tell.
#[derive(Default, PartialEq)]
pub(super) struct Progress<'a> {
    pub(super) state: &'static str,
    pub(super) error_message: Option<&'a str>,
    pub(super) executed_at: Option<Timestamp>,
    pub(super) completed_at: Option<Timestamp>,
    pub(super) retry_count: u32,
}

impl<'a> Progress<'a> {
    /// How far the operation is that stands there in the request.
    pub(super) fn at(
        stored: &'a StoredCoordination,
        sequence: usize,
        operation: &Operation,
    ) -> Self {
        match stored.steps.get(sequence) {
            Some(step) => Self::of_step(step),
            None => Self::of(stored, operation),
        }
    }

    fn of(stored: &'a StoredCoordination, operation: &Operation) -> Self {
        let summary = stored.stores.iter().find(|summary| summary.store == operation.store);
        let executed_at = summary.and_then(|summary| summary.prepare_asked_at);
        let Some(outcome) = &stored.outcome else {
            let state = if stored.decision.is_some() { "executing" } else { "pending" };
            return Self { state, executed_at, ..Self::default() };
        };
        let acknowledged_at = summary.and_then(|summary| summary.acknowledged_at);
        let is_completed = match outcome.kind {
            OutcomeKind::Committed => true,
            OutcomeKind::Heuristic => acknowledged_at.is_some(),
            _ => false,
        };
        let note = summary.and_then(|summary| summary.note.as_deref());
        let error_message = if is_completed { None } else { note.or(error_message(stored)) };
        Self {
            state: if is_completed { "completed" } else { "failed" },
            error_message,
            executed_at,
            completed_at: acknowledged_at.or(stored.completed_at),
            retry_count: 0,
        }
    }

    fn of_step(step: &'a StepSummary) -> Self {
        Self {
            state: match step.state {
                StepState::Executing if step.attempts > 1 => "retrying",
                // The column's own words have none for it.
                StepState::Parked => "failed",
                state => state.as_str(),
            },
            error_message: step.note.as_deref(),
            executed_at: step.started_at,
            completed_at: step.compensated_at.or(step.completed_at),
            retry_count: step.attempts.saturating_sub(1),
        }
    }
}
