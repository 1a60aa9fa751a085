//! One store inside one coordination: its vote, and how far the decision has reached it.
//!
//! Not the rules. Invariants: a party is done when nothing is left to ask of it; a party whose
//! prepare has not answered is never done, because a late yes must still be undone.

use crate::model::ids::StoreName;
use crate::model::outcome::{Decision, Receipt, StoreSummary, Vote};
use crate::model::time::Timestamp;

/// What is known of a party's prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prepare {
    /// Never asked by this machine.
    NotAsked,
    /// Asked, not answered.
    Asked,
    /// It answered.
    Voted(Ballot),
}

/// A vote without its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ballot {
    Commit,
    ReadOnly,
    Abort,
    Unknown,
    /// It has committed, and its row is the decision.
    Decided,
}

impl Ballot {
    fn as_str(self) -> &'static str {
        match self {
            Self::Commit | Self::Decided => "COMMIT",
            Self::ReadOnly => "READ_ONLY",
            Self::Abort => "ABORT",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// How far the decision has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Nothing is decided.
    Undecided,
    /// Decided; it is told when its prepare has answered.
    AfterVote,
    /// Told; the answer is out.
    Asked,
    /// Told before its vote came; the answer is out, and says nothing of what came with the vote.
    AskedEarly,
    /// The answer was lost; told again then.
    RetryAt(Timestamp),
    /// It acknowledged, or needs not to be told.
    Done,
    /// Its final word is contrary.
    Refused,
}

/// A store inside a coordination.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) store: StoreName,
    pub(super) single_writer: bool,
    pub(super) prepare: Prepare,
    pub(super) delivery: Delivery,
    /// Retries of the delivery that is under way.
    pub(super) attempts: u32,
    /// The reason with its vote, or the last trouble with it.
    pub(super) note: Option<String>,
    /// What it is shown with the decision.
    pub(super) receipt: Option<Receipt>,
    prepare_asked_at: Option<Timestamp>,
    voted_at: Option<Timestamp>,
    delivery_asked_at: Option<Timestamp>,
    acknowledged_at: Option<Timestamp>,
}

impl Party {
    pub(super) fn new(store: StoreName, single_writer: bool) -> Self {
        Self {
            store,
            single_writer,
            prepare: Prepare::NotAsked,
            delivery: Delivery::Undecided,
            attempts: 0,
            note: None,
            receipt: None,
            prepare_asked_at: None,
            voted_at: None,
            delivery_asked_at: None,
            acknowledged_at: None,
        }
    }

    pub(super) fn prepare_asked(&mut self, now: Timestamp) {
        self.prepare = Prepare::Asked;
        self.prepare_asked_at = Some(now);
    }

    pub(super) fn voted(&mut self, now: Timestamp, vote: Vote) -> Ballot {
        let (ballot, note) = match vote {
            Vote::Commit => (Ballot::Commit, None),
            Vote::Prepared { receipt } => {
                self.receipt = Some(receipt);
                (Ballot::Commit, None)
            }
            Vote::ReadOnly => (Ballot::ReadOnly, None),
            Vote::Abort { reason } => (Ballot::Abort, Some(reason)),
            Vote::Unknown { reason } => (Ballot::Unknown, Some(reason)),
        };
        self.prepare = Prepare::Voted(ballot);
        self.voted_at = Some(now);
        self.note = note;
        ballot
    }

    /// It is the last resource, and has said what its row is, or that none can come.
    pub(super) fn decided(&mut self, now: Timestamp, decision: Decision) {
        let ballot = match decision {
            Decision::Commit => Ballot::Decided,
            Decision::Abort => Ballot::Abort,
        };
        self.prepare = Prepare::Voted(ballot);
        self.voted_at = Some(now);
    }

    pub(super) fn delivery_asked(&mut self, now: Timestamp) {
        self.delivery = Delivery::Asked;
        self.attempts += 1;
        self.delivery_asked_at.get_or_insert(now);
    }

    pub(super) fn acknowledged(&mut self, now: Timestamp) {
        self.delivery = Delivery::Done;
        self.acknowledged_at = Some(now);
    }

    /// Whether nothing is left to ask of it, by its own word or an operator's.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.delivery, Delivery::Done | Delivery::Refused) && !self.is_preparing()
    }

    pub(super) fn is_preparing(&self) -> bool {
        self.prepare == Prepare::Asked
    }

    pub(super) fn is_asked(&self) -> bool {
        self.is_preparing() || matches!(self.delivery, Delivery::Asked | Delivery::AskedEarly)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.has_voted(Ballot::ReadOnly)
    }

    pub(super) fn has_voted(&self, ballot: Ballot) -> bool {
        self.prepare == Prepare::Voted(ballot)
    }

    pub(super) fn summary(&self) -> StoreSummary {
        let vote = match self.prepare {
            Prepare::Voted(ballot) => Some(ballot.as_str().to_owned()),
            Prepare::NotAsked | Prepare::Asked => None,
        };
        StoreSummary {
            store: self.store.clone(),
            vote,
            note: self.note.clone(),
            prepare_asked_at: self.prepare_asked_at,
            voted_at: self.voted_at,
            delivery_asked_at: self.delivery_asked_at,
            acknowledged_at: self.acknowledged_at,
            attempts: self.attempts,
        }
    }
}
