//! The rules: pure state machines. No clock, await, thread, socket, random or lock below here.
//!
//! Time and answers are inputs, effects are outputs; the same inputs give the same effects.
//! Inputs are facts in the past tense, effects are requests in the imperative.
//!
//! # The ordering law
//!
//! Effects are listed in the order in which they may become visible. Nothing that is listed after
//! an [`Effect::Record`] may leave the process before the record is as durable as it asks for
//! ([`Durability::Forced`]: on disk; [`Durability::Accepted`]: its place in the journal is
//! certain; [`Durability::Lazy`]: no wait). Between two such records, effects may run in parallel.
//!
//! # The caller's duties
//!
//! 1. Carry out the effects of one step before (in the sense of the law) those of the next: what
//!    a later step lists waits behind what an earlier one still holds back.
//! 2. When the journal answers a decision record with another decision that stands already, drop
//!    whatever is held back behind that record and step [`Input::Overruled`] with the
//!    standing one. The same decision standing already counts as recorded.
//!    When the journal does not keep a begin because a stream has another version than it expects,
//!    drop what is held back behind it and step [`Input::VersionRefused`].
//! 3. Answer every [`Effect::Ask`] and [`Effect::Execute`] exactly once, late rather than never; an
//!    answer that got lost is [`Vote::Unknown`], [`Acknowledgement::Unknown`] or
//!    [`StepAnswer::Unknown`].
//!    A step is answered with the attempt that was asked.
//! 4. Answer every [`Effect::Acquire`] with [`Input::Locked`] or
//!    [`Input::LockRefused`], unless an [`Effect::Release`] came in between, which also
//!    gives up a wait. What is granted to a machine that is gone is let go of.
//! 5. Step [`Input::TimeReached`] at or after [`Machine::deadline`], and ask for the
//!    deadline again after each step.
//! 6. After a crash build the machine from its records and step [`Input::Resumed`].
//!    There is no other way of recovery.
//! 7. When [`Machine::is_unbegun`] tells that it ended without a record, tell its
//!    outcome only if the journal knows nothing of its id: another try under it may have run.
//! 8. A machine whose step fails with [`ProtocolError`] has not changed.
//! 9. Carry out [`Effect::EnterTurns`] in the order in which begins became durable; those of
//!    resumed machines, in the same order, before those of any new one.
//!
//! [`Vote::Unknown`]: crate::model::outcome::Vote::Unknown
//! [`Acknowledgement::Unknown`]: crate::model::outcome::Acknowledgement::Unknown
//! [`StepAnswer::Unknown`]: crate::model::step::StepAnswer::Unknown
//! [`Durability::Forced`]: crate::model::record::Durability::Forced
//! [`Durability::Accepted`]: crate::model::record::Durability::Accepted
//! [`Durability::Lazy`]: crate::model::record::Durability::Lazy

pub mod choreography;
pub mod claim;
mod coordination;
pub mod deadlock;
mod effect;
pub mod event_sourcing;
pub mod eventual;
pub mod fence;
#[cfg(test)]
mod fence_test;
mod input;
pub mod key_order;
pub mod lock_plan;
pub mod lock_table;
mod locking;
pub mod replica;
pub mod retry;
pub mod saga;
mod step_records;
pub mod table;
mod track;
pub mod two_phase;

pub use coordination::Coordination;
pub use effect::{Ask, Effect};
pub use input::{Input, RouteEnd, Standing};

use std::fmt;
use std::sync::Arc;

use crate::model::ids::StoreName;
use crate::model::outcome::{Decision, Outcome, Receipt, StoreSummary, TransactionState};
use crate::model::request::CoordinationRequest;
use crate::model::step::StepSummary;
use crate::model::time::Timestamp;

use self::lock_plan::LockWish;

/// The pure machine of one coordination; see the module's law and duties.
pub trait Machine: fmt::Debug + Send {
    /// Takes one fact and lists what is to be done, in the order of the law.
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError>;

    /// When it wants to be stepped again at the latest, whatever else happens.
    fn deadline(&self) -> Option<Timestamp>;

    /// How it stands.
    fn view(&self) -> View;

    /// The request it coordinates.
    fn request(&self) -> &Arc<CoordinationRequest>;

    /// Under which epoch it runs.
    fn epoch(&self) -> u32;

    /// When it was accepted.
    fn began_at(&self) -> Timestamp;

    /// The locks that it holds from before its begin to its end.
    fn locks(&self) -> &Arc<[LockWish]>;

    /// Whether its caller waits for an answer.
    fn awaits_answer(&self) -> bool;

    /// Whether the decision is abort, or nothing else was proposed.
    fn is_to_abort(&self) -> bool;

    /// Whether it ended while it waited for its locks: no record tells of it.
    fn is_unbegun(&self) -> bool;

    /// Whether it waits for an operator.
    fn is_parked(&self) -> bool;

    /// Whether no question of it is out: it waits for time or for an operator, or has ended.
    fn is_quiet(&self) -> bool;

    /// What this party gave with its vote, to be shown when it is told the decision.
    fn receipt(&self, _party: usize) -> Option<Receipt> {
        None
    }

    /// The store that decides by a row of its own, and until when it may begin to: it is asked what
    /// else a consensus service is asked.
    fn last_resource(&self) -> Option<(usize, Timestamp)> {
        None
    }

    /// The stores that have nothing to commit, as far as their votes are known.
    fn read_only_stores(&self) -> Vec<StoreName> {
        Vec::new()
    }

    /// After a commit by votes: the stores that keep a marker of it.
    fn stores_with_markers(&self) -> Option<Vec<StoreName>> {
        None
    }
}

/// How a coordination stands, for status and describe.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The public state.
    pub state: TransactionState,
    /// The decision, once made.
    pub decision: Option<Decision>,
    /// What a caller would be told now.
    pub outcome: Outcome,
    /// What each store did so far; empty for a coordination by steps.
    pub stores: Vec<StoreSummary>,
    /// What each operation did so far, in a coordination by steps.
    pub steps: Vec<StepSummary>,
}

/// A fact that cannot be: a mistake of whoever drives the machine, or of the machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A party that the coordination does not have.
    #[error("there is no party {party}")]
    NoSuchParty {
        /// The index that was given.
        party: usize,
    },
    /// A step that the coordination does not have.
    #[error("there is no step {step}")]
    NoSuchStep {
        /// The index that was given.
        step: usize,
    },
    /// A line that the coordination does not stand in.
    #[error("there is no turn {turn}")]
    NoSuchTurn {
        /// The index that was given.
        turn: usize,
    },
    /// A fact that the state does not allow.
    #[error("{input} is impossible in state {state}")]
    Impossible {
        /// The fact.
        input: &'static str,
        /// The machine's state.
        state: &'static str,
    },
    /// An operator's word against a decision that stands.
    #[error("{standing} stands for all stores; it cannot be resolved as {asked}")]
    Contradicts {
        /// What stands.
        standing: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
}
