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
//!    whatever is held back behind that record and step [`two_phase::Input::Overruled`] with the
//!    standing one. The same decision standing already counts as recorded.
//! 3. Answer every [`Effect::Ask`] exactly once, late rather than never; an answer that got lost
//!    is [`Vote::Unknown`] or [`Acknowledgement::Unknown`].
//! 4. Answer every [`Effect::Acquire`] with [`two_phase::Input::Locked`] or
//!    [`two_phase::Input::LockRefused`], unless an [`Effect::Release`] came in between, which also
//!    gives up a wait. What is granted to a machine that is gone is let go of.
//! 5. Step [`two_phase::Input::TimeReached`] at or after [`Machine::deadline`], and ask for the
//!    deadline again after each step.
//! 6. After a crash build the machine from its records and step [`two_phase::Input::Resumed`].
//!    There is no other way of recovery.
//! 7. When [`two_phase::TwoPhase::is_unbegun`] tells that it ended without a record, tell its
//!    outcome only if the journal knows nothing of its id: another try under it may have run.
//! 8. A machine whose step fails with [`ProtocolError`] has not changed.
//!
//! [`Vote::Unknown`]: crate::model::outcome::Vote::Unknown
//! [`Acknowledgement::Unknown`]: crate::model::outcome::Acknowledgement::Unknown
//! [`Durability::Forced`]: crate::model::record::Durability::Forced
//! [`Durability::Accepted`]: crate::model::record::Durability::Accepted
//! [`Durability::Lazy`]: crate::model::record::Durability::Lazy

pub mod claim;
pub mod deadlock;
mod effect;
pub mod fence;
#[cfg(test)]
mod fence_test;
pub mod lock_plan;
pub mod lock_table;
pub mod retry;
pub mod two_phase;

pub use effect::{Ask, Effect};

use crate::model::outcome::{Decision, Outcome, StoreSummary, TransactionState};
use crate::model::time::Timestamp;

/// A pure state machine; see the module's law and duties.
pub trait Machine {
    /// The facts that it understands.
    type Input;

    /// Takes one fact and lists what is to be done, in the order of the law.
    fn step(&mut self, now: Timestamp, input: Self::Input) -> Result<Vec<Effect>, ProtocolError>;

    /// When it wants to be stepped again at the latest, whatever else happens.
    fn deadline(&self) -> Option<Timestamp>;

    /// How it stands.
    fn view(&self) -> View;
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
    /// What each store did so far.
    pub stores: Vec<StoreSummary>,
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
