//! What the engine tells whoever measures or traces it: one [`Observation`] for each thing that has
//! come to its end, with its times.
//!
//! Not events for users (`model/event`), not the log (`tracing`), and nothing that a rule depends
//! on: the machines know nothing of it. What is told of one coordination, in this order:
//!
//! 1. [`Act::Began`], once, when its machine takes its first step here: not when it is refused at
//!    the door, or joins one that runs. One that waits for its turn has not begun.
//! 2. In the order of their answers, from several threads: [`Act::Locks`] for each wait for locks,
//!    [`Act::Call`] for each question to a store, [`Act::Record`] for each record whose answer it
//!    waited for (begin and decision, and with sagas intents and results; not those that are
//!    written behind, such as the end), [`Act::Propose`] and [`Act::ReadDecision`] for each
//!    question to a consensus service.
//! 3. [`Act::Ended`], once, when it leaves this process: nothing is left to do for it, or another
//!    process goes on. Answers that come later than that, or not before the process ends, are
//!    told late, or never.
//!
//! An event that is handed to a projection is a [`Call::Apply`] of the coordination that appended
//! it, and comes whenever it comes, also long after the end.
//!
//! Duties of an observer: `observe` returns at once, never fails, and never calls the engine; it is
//! called from any thread, partly under the engine's lock. Invariant: where nobody observes, no
//! clock is read and nothing is allocated.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::{Acknowledgement, Decision, Outcome, OutcomeKind, Vote};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;

/// Something that has come to its end.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// Of which coordination.
    pub coordination: &'a CoordinationId,
    /// Of which type that is.
    pub kind: CoordinationType,
    /// What.
    pub act: Act<'a>,
    /// When it began, by the engine's clock.
    pub began_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub ending: Ending<'a>,
}

/// What came to its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Act<'a> {
    /// A coordination takes its first step; takes no time. Its duration is told by [`Act::Ended`].
    Began {
        /// What was asked for.
        request: &'a Arc<CoordinationRequest>,
        /// Whether it was left open by a process before, and is resumed.
        is_resumed: bool,
    },
    /// The locks were waited for; also where they are free.
    Locks {
        /// How many.
        count: usize,
    },
    /// A record was written that something waited for.
    Record {
        /// Which kind, as [`crate::model::record::Record::kind`] names it.
        kind: &'static str,
    },
    /// A decision was proposed to the consensus service.
    Propose {
        /// Which.
        decision: Decision,
    },
    /// The consensus service was asked which decision stands.
    ReadDecision,
    /// A store was asked.
    Call {
        /// What it was asked.
        call: Call,
        /// Which.
        store: &'a StoreName,
        /// The operation's id, where it was asked for one; an event's stream for [`Call::Apply`].
        operation: Option<&'a str>,
        /// Counted from 1, where tries are counted: not for commit and abort.
        attempt: Option<u32>,
    },
    /// A coordination left this process. It began when it was accepted, perhaps in another process.
    Ended {
        /// How it stands.
        outcome: &'a Outcome,
        /// As [`Act::Began`] said.
        is_resumed: bool,
    },
}

/// A question to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Can you commit?
    Prepare,
    /// Make it so.
    Commit,
    /// Undo it.
    Abort,
    /// Do one operation.
    Execute,
    /// Undo one operation.
    Compensate,
    /// Take in an event.
    Apply,
}

impl Call {
    /// The word, for labels and names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Abort => "abort",
            Self::Execute => "execute",
            Self::Compensate => "compensate",
            Self::Apply => "apply",
        }
    }
}

impl From<Work> for Call {
    fn from(work: Work) -> Self {
        match work {
            Work::Execute => Self::Execute,
            Work::Compensate => Self::Compensate,
        }
    }
}

/// How it ended. A coordination that was aborted, or that a store contradicts, ended refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending<'a> {
    /// As was asked.
    Done,
    /// By a "no".
    Refused {
        /// Stable, for programs.
        code: &'a str,
        /// For people.
        message: &'a str,
    },
    /// Nobody knows: in doubt is not failed.
    Unknown {
        /// Stable, for programs.
        code: &'a str,
        /// What was seen instead of an answer.
        message: &'a str,
    },
}

impl Ending<'_> {
    /// In one word, for labels: `done`, `refused` or `unknown`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused { .. } => "refused",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// The code of a store's "no".
const REFUSED: &str = "store.refused";
/// The code of an answer of a store that did not come, or is none.
const UNKNOWN: &str = "store.unknown";

impl<'a> From<&'a Vote> for Ending<'a> {
    fn from(vote: &'a Vote) -> Self {
        match vote {
            Vote::Commit | Vote::Prepared { .. } | Vote::ReadOnly => Self::Done,
            Vote::Abort { reason } => Self::Refused { code: REFUSED, message: reason },
            Vote::Unknown { reason } => Self::Unknown { code: UNKNOWN, message: reason },
        }
    }
}

impl<'a> From<&'a Acknowledgement> for Ending<'a> {
    fn from(answer: &'a Acknowledgement) -> Self {
        match answer {
            Acknowledgement::Done => Self::Done,
            Acknowledgement::Failed { message } => Self::Refused { code: REFUSED, message },
            Acknowledgement::Unknown { message } => Self::Unknown { code: UNKNOWN, message },
            Acknowledgement::NeverPrepared => {
                Self::Refused { code: REFUSED, message: "it never prepared this" }
            }
        }
    }
}

impl<'a> From<&'a StepAnswer> for Ending<'a> {
    fn from(answer: &'a StepAnswer) -> Self {
        match answer {
            StepAnswer::Done { .. } => Self::Done,
            StepAnswer::Failed { message, .. } => Self::Refused { code: REFUSED, message },
            StepAnswer::Unknown { message } => Self::Unknown { code: UNKNOWN, message },
        }
    }
}

impl<'a> From<&'a Outcome> for Ending<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        let code = outcome.code.as_deref().unwrap_or_default();
        let message = outcome.message.as_deref().unwrap_or_default();
        match outcome.kind {
            OutcomeKind::Committed => Self::Done,
            OutcomeKind::Unknown => Self::Unknown { code, message },
            OutcomeKind::Aborted | OutcomeKind::Heuristic | OutcomeKind::Refused => {
                Self::Refused { code, message }
            }
        }
    }
}

/// Somebody who measures or traces; the duties are in this file's header.
pub trait Observer: Send + Sync {
    /// Takes note.
    fn observe(&self, of: &Observation<'_>);
}
