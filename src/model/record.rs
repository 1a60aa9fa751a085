//! What the journal keeps of a coordination, in the order in which it became true.
//!
//! Not the tables that people query: those are a projection of these records.
//! Invariants: for one id the first [`Record::Begin`] and the first [`Record::Decision`] in the
//! journal's order stand; later ones are refused by the journal, not by the reader.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{InstanceId, StoreName};
use super::outcome::{Decision, Outcome, Receipt, StoreSummary};
use super::request::CoordinationRequest;
use super::step::{StepSummary, Work};
use super::value::Value;

/// What must have happened to a record before anything listed after it may leave the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing; it is written soon, and lost in a crash before that.
    Lazy,
    /// Its place in the journal's order is certain; it may still be lost in a crash.
    Accepted,
    /// It is on disk.
    Forced,
}

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Record {
    /// The coordination exists and belongs to `owner`.
    Begin {
        /// What was asked for.
        request: Arc<CoordinationRequest>,
        /// The process that drives it.
        owner: InstanceId,
        /// Grows with every change of owner.
        epoch: u32,
        /// The fencing tokens of the locks that it holds, in the order of
        /// [`crate::protocol::lock_plan`], which says what they are.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        locks: Vec<u64>,
    },
    /// A dead owner's coordination belongs to another process now.
    Adopted {
        /// The process that drives it from here.
        owner: InstanceId,
        /// Higher than the one before.
        epoch: u32,
    },
    /// The point of no return.
    Decision {
        /// Commit or abort.
        decision: Decision,
        /// Why it was aborted, or an operator's words.
        reason: Option<Reason>,
        /// The stores that had nothing to commit, and are asked nothing more.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        read_only: Vec<StoreName>,
        /// What stores gave with their votes, by which they can tell later whether they committed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        receipts: Vec<(StoreName, Receipt)>,
    },
    /// A store decided alone, or an operator did for it.
    Heuristic {
        /// Which store.
        store: StoreName,
        /// What was decided for all.
        expected: Decision,
        /// What the store said.
        message: String,
    },
    /// Nothing is left to do.
    End {
        /// How it ended.
        outcome: Outcome,
        /// What each store did; empty for a coordination by steps.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stores: Vec<StoreSummary>,
        /// What each operation did, in a coordination by steps.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<StepSummary>,
    },
    /// A participant is about to be asked for a step, or for the undoing of one.
    StepStarted {
        /// The index of the operation.
        step: u32,
        /// What is asked.
        work: Work,
        /// Counted from 1.
        attempt: u32,
    },
    /// A participant has done it.
    StepDone {
        /// The index of the operation.
        step: u32,
        /// What was asked.
        work: Work,
        /// What it gave.
        result: Arc<Value>,
    },
    /// A try had no effect, or nobody knows.
    StepFailed {
        /// The index of the operation.
        step: u32,
        /// What was asked.
        work: Work,
        /// Why.
        message: String,
        /// What was seen: whether nobody knows if it had an effect.
        is_unknown: bool,
        /// Whether no other try is to be made.
        is_final: bool,
    },
    /// The tries of a step, or of its undoing, are spent: an operator is needed.
    Parked {
        /// The index of the operation.
        step: u32,
        /// What was asked.
        work: Work,
        /// The last trouble.
        message: String,
    },
    /// An operator wants a parked step to be tried again.
    Redriven {
        /// The index of the operation.
        step: u32,
    },
}

impl Record {
    /// The kind as a stable word, for columns and crash points.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Adopted { .. } => "adopted",
            Self::Decision { .. } => "decision",
            Self::Heuristic { .. } => "heuristic",
            Self::End { .. } => "end",
            Self::StepStarted { .. } => "step_started",
            Self::StepDone { .. } => "step_done",
            Self::StepFailed { .. } => "step_failed",
            Self::Parked { .. } => "parked",
            Self::Redriven { .. } => "redriven",
        }
    }
}

/// Why something was aborted or resolved: a code for programs, words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable, with a page in the docs.
    pub code: String,
    /// What, where, and what to do.
    pub message: String,
}

impl Reason {
    /// Both parts.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}
