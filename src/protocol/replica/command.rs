//! What is asked of every replica, in one order, and what comes of it. Data only.
//!
//! Not who proposes what and when. Invariants: a command says everything that its effect depends
//! on, so that every replica does the same with it; what it means is `replica`'s to say. Answers
//! and effects never cross the network: the process that asked has a replica too, and takes the
//! answer from that one.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::lock::{
    Deadlock, Grant, LockError, LockId, LockMode, RequesterId, ResourceId, WaitId,
};
use crate::model::outcome::Decision;
use crate::model::record::Record;
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// One entry of the replicated log: proposals of several processes that travel together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// How much time passed since the leader's entry before this one, by the leader's monotonic
    /// clock; zero for the first of its term. The time of the cluster is the sum of these, each
    /// cut to [`super::STEP_MAX`]: a leader that was stalled cannot make everybody late at once,
    /// and nobody's wall clock counts.
    pub elapsed: Duration,
    /// The leader's wall clock, for people, and as the beginning of the cluster's time.
    pub at: Timestamp,
    /// In the order of their arrival at the leader.
    pub proposals: Vec<Proposal>,
}

/// What one process asks for at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which process. It has at most one proposal under way, and sends it again until it sees it
    /// carried out.
    pub instance: InstanceId,
    /// Grows by one with each proposal of the process; one that was carried out is not carried
    /// out again.
    pub number: u64,
    /// Carried out in this order, each with an answer.
    pub commands: Vec<Command>,
}

/// One wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// The first decision on an id stands for ever. Answered with [`Answer::Standing`].
    Decide {
        /// Which coordination.
        id: CoordinationId,
        /// Commit or abort.
        decision: Decision,
        /// What led to it.
        evidence: Value,
    },
    /// The process lives, and says so again within `lease` of the cluster's time; otherwise its
    /// locks are lost, and its coordinations may be taken over. Opens its session where it has
    /// none. Answered with [`Answer::Done`].
    KeepAlive {
        /// How long it counts as alive from now.
        lease: Duration,
    },
    /// The process ends in peace: its locks are free, its coordinations may be taken over.
    Leave,
    /// One record of the process's journal. Answered as the port of the journal says: with
    /// `Recorded`, `Exists`, `Decided`, `Deposed` or `NoBegin`.
    Append {
        /// Whose.
        id: CoordinationId,
        /// Under which epoch the process owns the coordination.
        epoch: u32,
        /// When it became true.
        at: Timestamp,
        /// The record.
        record: Record,
    },
    /// Takes over every open coordination whose owner has no session and whose stores are all
    /// among these. Answered with [`Answer::Adopted`].
    Adopt {
        /// The stores that the process has.
        stores: Vec<StoreName>,
    },
    /// Forgets coordinations that ended before `before`, the oldest first, and their decisions.
    /// Answered with [`Answer::Count`].
    Forget {
        /// By the time of their end record.
        before: Timestamp,
        /// At most so many.
        at_most: u32,
    },
    /// Asks for locks of one requester, all or none. Answered with [`Answer::Granted`],
    /// [`Answer::Refused`] or [`Answer::Waits`]; after the last, by an effect.
    Acquire {
        /// The process's number of this wait, not used before.
        wait: WaitId,
        /// By whom.
        requester: RequesterId,
        /// What, each with its mode, in the order in which they are to be taken.
        wanted: Vec<(ResourceId, LockMode)>,
        /// How long to wait; zero not at all, `None` for ever.
        timeout: Option<Duration>,
        /// How long the grants hold without a renewal; `None` while the session lives.
        lease: Option<Duration>,
        /// Since when the requester is at work; `None` for now.
        working_since: Option<Timestamp>,
        /// Never the victim of a deadlock.
        is_protected: bool,
        /// The coordination for which they are taken, for people.
        coordination: Option<CoordinationId>,
    },
    /// Gives a wait up. Answered with [`Answer::Done`]; the wait is answered by an effect, unless
    /// it is over.
    GiveUp {
        /// Which wait of the process.
        wait: WaitId,
    },
    /// Lets go of a lock. Answered with [`Answer::Yes`], or [`Answer::No`] where this requester
    /// does not hold it.
    Release {
        /// Which grant.
        lock_id: LockId,
        /// Whose.
        requester: RequesterId,
    },
    /// Lets go of everything that a requester holds, and ends its waits. Answered with
    /// [`Answer::Count`].
    ReleaseAll {
        /// Whose.
        requester: RequesterId,
    },
    /// Holds a lock in a weaker mode from here on. Answered with [`Answer::Granted`], or
    /// [`Answer::No`] where it is not held so.
    Downgrade {
        /// Which grant.
        lock_id: LockId,
        /// Whose.
        requester: RequesterId,
        /// The weaker mode.
        mode: LockMode,
    },
    /// Starts the lease of a grant anew. Answered with [`Answer::Yes`] or [`Answer::No`].
    Renew {
        /// Which grant.
        lock_id: LockId,
        /// How long from now.
        lease: Duration,
    },
}

/// A decision that stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingDecision {
    /// Commit or abort.
    pub decision: Decision,
    /// What led to it.
    pub evidence: Value,
    /// The term of the entry that made it.
    pub term: u64,
    /// The index of that entry.
    pub index: u64,
    /// When, by the cluster's time.
    pub decided_at: Timestamp,
}

/// What came of one command.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It was carried out.
    Done,
    /// It was so.
    Yes,
    /// It was not so, and nothing changed.
    No,
    /// How many.
    Count(u64),
    /// This decision stands: the one that was proposed, or one before it.
    Standing(Arc<StandingDecision>),
    /// The record stands.
    Recorded,
    /// A begin of this id stands already.
    Exists(Arc<Coordination>),
    /// A decision on this id stands already.
    Decided(Decision),
    /// Another process owns the coordination now.
    Deposed,
    /// The record has no begin before it.
    NoBegin,
    /// These are the process's now, with their records, the `Adopted` included.
    Adopted(Vec<Arc<Coordination>>),
    /// The locks are held.
    Granted(Vec<Grant>),
    /// They are not, and nothing waits.
    Refused(LockError),
    /// An effect will say.
    Waits,
    /// The process has no session: it was away for too long, and lost its locks.
    NoSession,
}

/// A coordination as the replicas know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coordination {
    /// What was asked for.
    pub request: Arc<CoordinationRequest>,
    /// Who owns it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// Grows with each begin: what began before has a lower one.
    pub order: u64,
    /// Its records, from the begin.
    pub records: Vec<(Timestamp, Record)>,
}

/// What an entry means for a process, beside the answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A wait of this process is over: its locks are held.
    Granted {
        /// Which process.
        instance: InstanceId,
        /// Which of its waits.
        wait: WaitId,
        /// What it holds.
        grants: Vec<Grant>,
    },
    /// A wait of this process is over: nothing is held.
    Refused {
        /// Which process.
        instance: InstanceId,
        /// Which of its waits.
        wait: WaitId,
        /// Why.
        error: LockError,
    },
    /// A lock is held no more.
    Lost {
        /// Whose process's.
        instance: InstanceId,
        /// Which grant.
        lock_id: LockId,
        /// Of whom.
        requester: RequesterId,
        /// Why.
        reason: String,
    },
    /// A circle of waits was found; its victim is told by the next effect.
    Deadlock(Deadlock),
    /// A process counts as dead, or has left. What it owned may be taken over.
    SessionEnded {
        /// Which.
        instance: InstanceId,
    },
}
