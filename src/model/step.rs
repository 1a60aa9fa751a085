//! The words of steps: what a participant is asked for one operation, and what it answers.
//!
//! Not the order of steps (the saga's machine). Invariant: an answer that did not come is
//! [`StepAnswer::Unknown`], never a failure.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use super::value::Value;

/// What is asked of a participant for one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Do it.
    Execute,
    /// Undo it: whether it was ever done may be unknown.
    Compensate,
}

impl Work {
    /// The word, as records, crash points and messages use it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::Compensate => "compensate",
        }
    }
}

/// A participant's answer to a step.
#[derive(Clone, Debug, PartialEq)]
pub enum StepAnswer {
    /// It is done, durably, with this result.
    Done {
        /// What the operation gives to later ones.
        result: Value,
    },
    /// It had no effect, by the participant's own word.
    Failed {
        /// Why.
        message: String,
        /// Whether another try may help.
        retryable: bool,
    },
    /// Whether it had an effect is not known: it raised, or gave no answer in time.
    Unknown {
        /// What was seen instead of an answer.
        message: String,
    },
}

/// How far one operation of a coordination by steps is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not asked yet.
    Pending,
    /// Asked, or to be asked again.
    Executing,
    /// Done.
    Completed,
    /// It had no effect, and will have none.
    Failed,
    /// Its undoing was asked, or is to be asked again.
    Compensating,
    /// Undone.
    Compensated,
    /// Its tries are spent: it waits for an operator.
    Parked,
}

impl StepState {
    /// The public name, as in the journal's columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Executing => "executing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Compensating => "compensating",
            Self::Compensated => "compensated",
            Self::Parked => "parked",
        }
    }
}

/// What one operation did within a coordination by steps, for histories and timelines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// The operation's id.
    pub operation_id: String,
    /// How far it is.
    pub state: StepState,
    /// How often it was asked to be done.
    pub attempts: u32,
    /// How often it was asked to be undone.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compensation_attempts: u32,
    /// What it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The last trouble with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When it was first asked.
    pub started_at: Option<Timestamp>,
    /// When it was done, or had failed for good.
    pub completed_at: Option<Timestamp>,
    /// When its undoing was first asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation_started_at: Option<Timestamp>,
    /// When it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensated_at: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
