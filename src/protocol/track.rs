//! One operation of a coordination by steps: its tries, and how far it is.
//!
//! Not the rules (the machines) and not the order of operations. Invariants: a result is there
//! exactly when it is done; what may have run stays so, whatever later tries say; tries are counted
//! from 1 and never twice under one number, also across crashes.

use std::sync::Arc;

use crate::model::step::{StepState, StepSummary, Work};
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not asked yet.
    Waiting,
    /// A try is out.
    Out(Work),
    /// It is tried again then.
    RetryAt(Work, Timestamp),
    /// It was done.
    Done,
    /// It is not done, as far as is known, and is not tried again.
    Failed,
    /// It was undone.
    Undone,
    /// Its tries are spent: an operator is needed.
    Parked(Work),
}

/// An operation inside a coordination.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) progress: Progress,
    /// Tries that failed or are unknown, since it was begun, turned or redriven.
    pub(super) failures: u32,
    /// Some try is not known to have had no effect.
    pub(super) may_have_run: bool,
    pub(super) result: Option<Arc<Value>>,
    /// The last trouble with it, or an operator's words.
    pub(super) note: Option<String>,
    attempts: u32,
    undo_attempts: u32,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    undo_started_at: Option<Timestamp>,
    undone_at: Option<Timestamp>,
}

impl Track {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::Waiting,
            failures: 0,
            may_have_run: false,
            result: None,
            note: None,
            attempts: 0,
            undo_attempts: 0,
            started_at: None,
            completed_at: None,
            undo_started_at: None,
            undone_at: None,
        }
    }

    /// A try begins; gives back its number.
    pub(super) fn asked(&mut self, now: Timestamp, work: Work) -> u32 {
        let attempt = self.attempts_of(work) + 1;
        self.asked_as(now, work, attempt);
        attempt
    }

    /// A try of that number begins, or began once.
    pub(super) fn asked_as(&mut self, now: Timestamp, work: Work, attempt: u32) {
        self.progress = Progress::Out(work);
        match work {
            Work::Execute => {
                self.attempts = attempt;
                self.started_at.get_or_insert(now);
            }
            Work::Compensate => {
                self.undo_attempts = attempt;
                self.undo_started_at.get_or_insert(now);
            }
        }
    }

    pub(super) fn attempts_of(&self, work: Work) -> u32 {
        match work {
            Work::Execute => self.attempts,
            Work::Compensate => self.undo_attempts,
        }
    }

    /// Whether this is an answer to the try that is out.
    pub(super) fn is_awaited(&self, work: Work, attempt: u32) -> bool {
        self.progress == Progress::Out(work) && self.attempts_of(work) == attempt
    }

    /// It is done, or undone.
    pub(super) fn settled(&mut self, now: Timestamp, work: Work, result: Arc<Value>) {
        self.failures = 0;
        match work {
            Work::Execute => {
                self.progress = Progress::Done;
                self.result = Some(result);
                self.completed_at = Some(now);
            }
            Work::Compensate => {
                self.progress = Progress::Undone;
                self.undone_at = Some(now);
            }
        }
    }

    /// A try failed, or nobody knows. What follows from it is said by who calls.
    pub(super) fn failed(&mut self, work: Work, message: String, is_unknown: bool) {
        self.failures += 1;
        self.may_have_run |= is_unknown && work == Work::Execute;
        self.note = Some(message);
    }

    /// It is not tried again.
    pub(super) fn given_up(&mut self, now: Timestamp) {
        self.progress = Progress::Failed;
        self.completed_at = Some(now);
    }

    /// The process that had asked is gone, and the answer with it.
    pub(super) fn lost(&mut self) {
        match self.progress {
            Progress::Out(Work::Execute) => {
                self.may_have_run = true;
                self.progress = Progress::Waiting;
            }
            Progress::Out(Work::Compensate) if self.is_done() => self.progress = Progress::Done,
            Progress::Out(Work::Compensate) => self.progress = Progress::Failed,
            _ => {}
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.result.is_some()
    }

    pub(super) fn is_out(&self) -> bool {
        matches!(self.progress, Progress::Out(_))
    }

    pub(super) fn is_parked(&self) -> bool {
        matches!(self.progress, Progress::Parked(_))
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Timestamp> {
        match self.progress {
            Progress::RetryAt(_, at) => Some(at),
            _ => None,
        }
    }

    pub(super) fn summary(&self, operation_id: &str) -> StepSummary {
        StepSummary {
            operation_id: operation_id.to_owned(),
            state: self.state(),
            attempts: self.attempts,
            compensation_attempts: self.undo_attempts,
            result: self.result.as_deref().cloned(),
            note: self.note.clone(),
            started_at: self.started_at,
            completed_at: self.completed_at,
            compensation_started_at: self.undo_started_at,
            compensated_at: self.undone_at,
        }
    }

    fn state(&self) -> StepState {
        match self.progress {
            Progress::Waiting => StepState::Pending,
            Progress::Out(Work::Execute) | Progress::RetryAt(Work::Execute, _) => {
                StepState::Executing
            }
            Progress::Out(Work::Compensate) | Progress::RetryAt(Work::Compensate, _) => {
                StepState::Compensating
            }
            Progress::Done => StepState::Completed,
            Progress::Failed => StepState::Failed,
            Progress::Undone => StepState::Compensated,
            Progress::Parked(_) => StepState::Parked,
        }
    }
}
