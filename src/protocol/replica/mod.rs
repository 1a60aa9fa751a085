//! The replicated state: what every node of a cluster knows alike, because it carries out the same
//! entries in the same order.
//!
//! # Theory of operation
//!
//! A state machine in the sense of Schneider ("Implementing Fault-Tolerant Services Using the State
//! Machine Approach", 1990): [`Replica::apply`] takes one entry of the log and gives the answers to
//! its proposals and what it means for others. Not the log, not the network, not a clock: the
//! time of the cluster is in the entries.
//!
//! # Invariants
//!
//! - The same entries give the same state, answers and effects, on every node.
//! - The first decision on an id stands for ever, whoever proposes another.
//! - A proposal is carried out once, however often it stands in the log.
//! - [`Replica::restore`] of [`Replica::snapshot`] is the same state.

mod command;

pub use command::{Answer, Command, Coordination, Effect, Entry, Proposal, StandingDecision};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::time::Timestamp;

/// The most by which one entry moves the time of the cluster.
pub const STEP_MAX: Duration = Duration::from_secs(1);

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What came of one proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Whose.
    pub instance: InstanceId,
    /// Which of its proposals.
    pub number: u64,
    /// One answer for each command; `None` if it was carried out by an entry before.
    pub answers: Option<Vec<Answer>>,
}

/// The state of the cluster as one node knows it.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The last entry that was carried out.
    applied: Position,
    now: Timestamp,
    decisions: BTreeMap<CoordinationId, Arc<StandingDecision>>,
    /// By process, the number of its last proposal that was carried out.
    numbers: BTreeMap<InstanceId, u64>,
}

impl Replica {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries out the entry at `position`, the one behind the last.
    pub fn apply(
        &mut self,
        position: Position,
        entry: &Entry,
        effects: &mut Vec<Effect>,
    ) -> Vec<Answered> {
        let _ = effects;
        if self.now == Timestamp::default() {
            self.now = entry.at;
        }
        self.now = self.now + entry.elapsed.min(STEP_MAX);
        self.applied = position;
        entry.proposals.iter().map(|proposal| self.carry_out(proposal)).collect()
    }

    fn carry_out(&mut self, proposal: &Proposal) -> Answered {
        let last = self.numbers.entry(proposal.instance.clone()).or_default();
        let is_new = *last < proposal.number;
        *last = proposal.number.max(*last);
        let answers =
            is_new.then(|| proposal.commands.iter().map(|command| self.obey(command)).collect());
        Answered { instance: proposal.instance.clone(), number: proposal.number, answers }
    }

    fn obey(&mut self, command: &Command) -> Answer {
        match command {
            Command::Decide { id, decision, evidence } => {
                let (applied, decided_at) = (self.applied, self.now);
                let standing = self.decisions.entry(id.clone()).or_insert_with(|| {
                    Arc::new(StandingDecision {
                        decision: *decision,
                        evidence: evidence.clone(),
                        term: applied.term,
                        index: applied.index,
                        decided_at,
                    })
                });
                Answer::Standing(Arc::clone(standing))
            }
            _ => Answer::Done,
        }
    }

    /// The last entry that was carried out.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The time of the cluster.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// When an entry is needed, be it an empty one, because something ends by then.
    pub fn deadline(&self) -> Option<Timestamp> {
        None
    }

    /// The decision that stands on an id.
    pub fn decision(&self, id: &CoordinationId) -> Option<&Arc<StandingDecision>> {
        self.decisions.get(id)
    }

    /// The whole state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let kept = Snapshot {
            applied: self.applied,
            now: self.now,
            decisions: self.decisions.clone(),
            numbers: self.numbers.clone(),
        };
        serde_json::to_vec(&kept).expect("names and values are text")
    }

    /// The state of a snapshot.
    pub fn restore(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let kept: Snapshot = serde_json::from_slice(bytes)?;
        Ok(Self {
            applied: kept.applied,
            now: kept.now,
            decisions: kept.decisions,
            numbers: kept.numbers,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    applied: Position,
    now: Timestamp,
    decisions: BTreeMap<CoordinationId, Arc<StandingDecision>>,
    numbers: BTreeMap<InstanceId, u64>,
}
