//! Facts: everything that a machine of a coordination may be told. Plain data, no rules.
//!
//! One list for all machines, so that whoever drives them need not know which kind it has; a fact
//! that a kind has no use for is ignored by it, or impossible.

use crate::model::ids::{StoreName, StreamId};
use crate::model::outcome::{Acknowledgement, Decision, Vote};
use crate::model::record::Reason;
use crate::model::step::{StepAnswer, StepSummary, Work};

/// A fact about one coordination.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The request was accepted.
    Started,
    /// The locks are held.
    Locked {
        /// Their fencing tokens, in the order of the plan's locks.
        tokens: Vec<u64>,
    },
    /// The locks are not held, and nothing waits for them any more.
    LockRefused {
        /// Why, and who stands in the way.
        reason: Reason,
    },
    /// A lock that was held is held no more, though nobody let go of it.
    LockLost {
        /// Which, and why.
        message: String,
    },
    /// A store answered prepare.
    Voted {
        /// Which.
        party: usize,
        /// Its answer.
        vote: Vote,
    },
    /// A store answered commit or abort.
    Acknowledged {
        /// Which.
        party: usize,
        /// Its answer.
        answer: Acknowledgement,
    },
    /// A participant answered a step of it, or the undoing of one.
    StepAnswered {
        /// Which: the index of the operation in the request.
        step: usize,
        /// What was asked.
        work: Work,
        /// Which try, as it was asked: an answer to an earlier one does not count.
        attempt: u32,
        /// Its answer.
        answer: StepAnswer,
    },
    /// Every coordination that stood before this one in a key's line has left it.
    TurnCame {
        /// Which: the index in [`super::Effect::EnterTurns`].
        turn: usize,
    },
    /// An operator wants a parked step to be tried again.
    Redriven {
        /// Which: the index of the operation in the request.
        step: usize,
    },
    /// The journal did not keep the begin: a stream has another version than it expects.
    VersionRefused {
        /// Which stream.
        stream: StreamId,
        /// What the request expects; 0: that there is no such stream.
        expected: u64,
        /// What the stream has; 0: there is none.
        actual: u64,
    },
    /// A store has applied every event of the request, by its projection.
    Projected {
        /// Which: the index of the store in the request.
        party: usize,
    },
    /// A choreographed saga came to its end.
    RouteEnded(RouteEnd),
    /// The consensus service, or the last resource, answered a proposal: taken, or not (or the
    /// answer was lost).
    Proposed {
        /// Whether the proposed decision is the decision, for certain.
        taken: bool,
    },
    /// The last resource cannot commit: it rolled back, for certain, and has no row.
    ProposalRefused {
        /// Why.
        reason: String,
    },
    /// The consensus service, or the last resource, answered a read.
    DecisionRead(Standing),
    /// The journal holds a decision already.
    Overruled(Decision),
    /// Somebody wants it aborted.
    AbortRequested {
        /// Why, in his words.
        reason: String,
    },
    /// An operator decided.
    Resolved {
        /// What.
        decision: Decision,
        /// Why, in his words.
        reason: String,
    },
    /// The time of [`super::Machine::deadline`] has come.
    TimeReached,
    /// The machine was built from records, after a crash or a takeover.
    Resumed,
}

impl Input {
    /// The fact's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Locked { .. } => "Locked",
            Self::LockRefused { .. } => "LockRefused",
            Self::LockLost { .. } => "LockLost",
            Self::Voted { .. } => "Voted",
            Self::Acknowledged { .. } => "Acknowledged",
            Self::StepAnswered { .. } => "StepAnswered",
            Self::TurnCame { .. } => "TurnCame",
            Self::Redriven { .. } => "Redriven",
            Self::VersionRefused { .. } => "VersionRefused",
            Self::Projected { .. } => "Projected",
            Self::RouteEnded(_) => "RouteEnded",
            Self::Proposed { .. } => "Proposed",
            Self::ProposalRefused { .. } => "ProposalRefused",
            Self::DecisionRead(_) => "DecisionRead",
            Self::Overruled(_) => "Overruled",
            Self::AbortRequested { .. } => "AbortRequested",
            Self::Resolved { .. } => "Resolved",
            Self::TimeReached => "TimeReached",
            Self::Resumed => "Resumed",
        }
    }
}

/// How a choreographed saga ended, as its last message tells.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteEnd {
    /// Why it was undone; `None` when every operation is done.
    pub undone: Option<Reason>,
    /// What each operation did, in the order of the request.
    pub steps: Vec<StepSummary>,
}

/// What a consensus service, or a last resource, says of a coordination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This decision stands.
    Decided {
        /// Commit or abort.
        decision: Decision,
        /// The stores that had nothing to commit, by the evidence that was proposed with it; empty
        /// where the service keeps none. After a crash nobody else knows, and a store without
        /// work would be taken for one that lost it.
        read_only: Vec<StoreName>,
    },
    /// None stands, for certain.
    Open,
    /// It did not answer.
    Unknown,
}
