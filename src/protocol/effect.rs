//! Everything that a machine may ask for. Requests, in the imperative; carrying them out is the
//! engine's. The order in which they may become visible is the law in this folder's `mod.rs`.

use std::sync::Arc;
use std::time::Duration;

use crate::model::event::CoordinationEvent;
use crate::model::outcome::{Decision, Outcome};
use crate::model::record::{Durability, Record};
use crate::model::step::Work;
use crate::model::value::Value;

use super::key_order::TurnKey;
use super::lock_plan::LockWish;

/// One request of a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write this; what follows waits for it as `durability` says.
    Record {
        /// What to write.
        record: Record,
        /// What must have happened to it before the next effect.
        durability: Durability,
    },
    /// Take these locks, all or none.
    Acquire {
        /// Which.
        locks: Arc<[LockWish]>,
        /// How long to wait for them. `None`: for ever, and never as the victim of a deadlock,
        /// because what was prepared or decided cannot give way.
        timeout: Option<Duration>,
    },
    /// Let go of the locks, and give up the wait for them.
    Release,
    /// Ask the consensus service to make this the decision; or, where
    /// [`super::Machine::last_resource`] names one, that store: to commit its operations with the
    /// row that decides, or to see to it that this row never comes.
    Propose {
        /// Commit or abort.
        decision: Decision,
    },
    /// Ask the consensus service, or the last resource, which decision stands.
    ReadDecision,
    /// Ask a store.
    Ask {
        /// Which party: the index of the store in the request.
        party: usize,
        /// What to ask.
        ask: Ask,
        /// How long an answer is of use.
        timeout: Duration,
    },
    /// Ask a participant for one operation, or to undo it.
    Execute {
        /// Which step: the index of the operation in the request.
        step: usize,
        /// What to ask.
        work: Work,
        /// Counted from 1.
        attempt: u32,
        /// What earlier operations gave, by their index, in the order in which they were done.
        context: Vec<(usize, Arc<Value>)>,
        /// How long an answer is of use.
        timeout: Duration,
    },
    /// Send a choreographed saga on its way from store to store, under this number: what is sent
    /// under another number is another message, and hosts that did their part answer for it again.
    Walk {
        /// Grows with every time.
        walk: u32,
    },
    /// Step [`super::Input::Projected`] for each store of the request once its projection has come
    /// as far as the events that the begin appended, now or later.
    AwaitProjections,
    /// Stand in line for these keys, behind every coordination that was accepted before: the driver
    /// enters a ticket of this one in each key's queue ([`super::key_order::KeyOrder`]) and steps
    /// [`super::Input::TurnCame`] for each whose turn it is, now or later. A machine that is gone
    /// leaves every line.
    EnterTurns {
        /// Which; inputs and [`Effect::LeaveTurn`] name them by their index.
        turns: Arc<[TurnKey]>,
    },
    /// Leave the line of a key: what this coordination does there is done. The driver steps
    /// [`super::Input::TurnCame`] of the coordination whose turn it is by that.
    LeaveTurn {
        /// The index in [`Effect::EnterTurns`].
        turn: usize,
    },
    /// Tell whoever waits for the outcome, though deliveries may go on.
    Answer(Outcome),
    /// Tell the event bus, never on the way of anything else.
    Publish(CoordinationEvent),
    /// Tell an operator that a store went its own way, or that the tries of a step are spent.
    Alert {
        /// What happened, and what to do.
        message: String,
    },
    /// Tell everybody who waits that this is how it ends.
    Finish(Outcome),
    /// Forget the machine: nothing more will be asked of it.
    Close,
}

/// A question to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Can you commit?
    Prepare,
    /// Make it so.
    Commit,
    /// Undo it.
    Abort,
}

impl Ask {
    /// The word, as crash points and messages use it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Abort => "abort",
        }
    }
}
