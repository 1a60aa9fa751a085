//! What the machine is built from and what it is told. Plain data, no rules.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::{InstanceId, StoreName};
use crate::model::outcome::{Acknowledgement, Decision, Vote};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;

use crate::protocol::lock_plan::LockWish;
use crate::protocol::retry::Backoff;

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
    /// The consensus service answered a proposal: taken, or not (or the answer was lost).
    Proposed {
        /// Whether the proposed decision is the decision, for certain.
        taken: bool,
    },
    /// The consensus service answered a read.
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
    /// The time of [`Machine::deadline`] has come.
    TimeReached,
    /// The machine was built from records, after a crash or a takeover.
    Resumed,
}

impl Input {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::Locked { .. } => "Locked",
            Self::LockRefused { .. } => "LockRefused",
            Self::LockLost { .. } => "LockLost",
            Self::Voted { .. } => "Voted",
            Self::Acknowledged { .. } => "Acknowledged",
            Self::Proposed { .. } => "Proposed",
            Self::DecisionRead(_) => "DecisionRead",
            Self::Overruled(_) => "Overruled",
            Self::AbortRequested { .. } => "AbortRequested",
            Self::Resolved { .. } => "Resolved",
            Self::TimeReached => "TimeReached",
            Self::Resumed => "Resumed",
        }
    }
}

/// What a consensus service says of a coordination.
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

/// What is known of a store before it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyPlan {
    /// Its name.
    pub store: StoreName,
    /// It can list what it has prepared.
    pub lists_prepared: bool,
    /// It holds one prepared transaction at a time.
    pub single_writer: bool,
}

/// What a machine is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Arc<CoordinationRequest>,
    /// Who drives it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// The request's stores, in its order.
    pub parties: Vec<PartyPlan>,
    /// The locks to be held from before the first prepare to the end.
    pub locks: Arc<[LockWish]>,
    /// Whether decisions are proposed to a consensus service.
    pub consensus: bool,
    /// The longest that prepare may take.
    pub prepare_timeout: Duration,
    /// The longest that a caller waits for deliveries, and one delivery for its answer.
    pub commit_timeout: Duration,
    /// The longest that a caller waits for stores to roll back: the outcome is certain by then.
    pub abort_wait: Duration,
    /// How deliveries are repeated.
    pub backoff: Backoff,
}
