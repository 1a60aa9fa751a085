//! The port of a store inside a coordination, and a participant's duties in prose.
//!
//! Not the rules (protocol) and not who calls when (engine). A participant's duties:
//!
//! 1. **Prepare** applies or stages everything so that a later commit cannot fail for a reason
//!    that was foreseeable, makes that durable, and only then votes [`Vote::Commit`]. From then on
//!    it neither commits nor rolls back by itself, and isolates what it prepared, also across a
//!    crash of the process. With nothing to write it votes [`Vote::ReadOnly`] and keeps nothing.
//!    [`Vote::Abort`] means that nothing is kept. What it does not know is [`Vote::Unknown`].
//! 2. **Commit** makes the prepared change visible, once. Asked again, it acknowledges again: a
//!    marker, durable with the change itself, remembers it until [`Participant::forget`].
//! 3. **Abort** undoes it. Asked about an id that it does not know, it acknowledges. It may be
//!    asked while its prepare still runs; then prepare leaves nothing behind, or is aborted again
//!    by the engine when its vote comes.
//! 4. A commit of an id that it does not know is [`Acknowledgement::NeverPrepared`] only if it can
//!    tell that from "committed before"; otherwise it says what it can.
//! 5. **List** names what is prepared and undecided under this journal's [`ClusterId`].
//! 6. **Fences**: of the locks under which it is asked to prepare ([`PrepareAsk::fences`]) it
//!    remembers the tokens, durably and before its vote, and votes abort where a later holder was
//!    here before (`protocol/fence.rs`). While it is prepared, nobody with an incompatible lock is.
//!    What is remembered is a few dozen bytes for each resource that was ever locked, and nothing
//!    of it may go while a process lives that could come late: it can be emptied by hand when none
//!    runs, and must be when a lock manager takes over whose tokens begin anew. Without fences
//!    nothing is read or written for them.
//! 7. **Steps** ([`Participant::execute`]): one operation of a saga or of an eventual coordination,
//!    done at once and durably, or undone by its compensation. Asked again (under the same
//!    coordination, operation and work) it does nothing a second time and gives the first result;
//!    asked to undo what it never did, it does nothing, and refuses the operation if that comes
//!    later. A store that cannot keep this says so in its documentation.
//! 8. **Events** ([`Participant::apply_event`]): one event of the journal, in the order of their
//!    global positions, one at a time. An event may come twice, after a crash or when an answer was
//!    lost, and all of them come again when the projection is rebuilt: the store remembers the
//!    position with its own change, or makes changes that bear repetition.
//! 9. **Never block**: every method returns at once and answers through its [`Reply`], from any
//!    thread, also before it returns. A reply that is dropped says that the answer is unknown.
//!
//! Invariant: one reply, one answer.

mod barrier;
pub mod files;
mod files_barrier;
mod files_fence;
mod files_key;
mod files_plan;
mod files_stage;
mod files_step;
mod key_value;
pub mod memory;
mod memory_step;
pub mod outbox;
pub mod postgres;
pub mod redis;
mod result_reference;
pub mod sqlite;
mod sqlite_ending;
mod sqlite_fence;
mod sqlite_guard;
mod sqlite_lock;
mod sqlite_queue;
mod sqlite_schema;
mod sqlite_statement;
mod sqlite_step;
mod sqlite_writer;
mod worker;

#[cfg(test)]
mod files_step_test;
#[cfg(test)]
mod files_test;
#[cfg(test)]
mod kill_test;
#[cfg(test)]
mod memory_test;
#[cfg(test)]
#[path = "../../tests/engine/support/redis.rs"]
mod redis_server_test;
#[cfg(test)]
mod redis_test;
#[cfg(test)]
mod sqlite_step_test;
#[cfg(test)]
mod sqlite_test;
#[cfg(test)]
mod step_history_test;
#[cfg(test)]
mod step_kill_test;
#[cfg(test)]
mod step_subject_test;
#[cfg(test)]
mod step_test;
#[cfg(test)]
mod test_kit;

pub use files::FileStore;
pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use redis::RedisStore;
pub use sqlite::SqliteStore;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::lock::Fence;
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Receipt, Vote};
use crate::model::request::{CoordinationRequest, CoordinationType, STOP_KEY};
use crate::model::step::{StepAnswer, Work};
use crate::model::stream::StreamEvent;
use crate::model::value::Value;
use crate::reply::{LOST, Lost, Reply};

/// Something of the caller's that travels with a request to its stores, unread by the engine:
/// a Python store's operations as the caller gave them, and the context to run them in.
pub type Attachment = Arc<dyn Any + Send + Sync>;

/// The question "can you commit this?".
#[derive(Clone)]
pub struct PrepareAsk {
    /// The coordination; its id is the transaction id.
    pub request: Arc<CoordinationRequest>,
    /// The asked store's name inside the service.
    pub store: StoreName,
    /// How long an answer is of use.
    pub timeout: Duration,
    /// What the caller sent along; `None` after recovery.
    pub attachment: Option<Attachment>,
    /// The locks under which it is asked; empty where none are taken.
    pub fences: Arc<[Fence]>,
    /// Whether a receipt that comes with the vote will be durable with the decision.
    pub keeps_receipt: bool,
}

impl PrepareAsk {
    /// The transaction id.
    pub fn id(&self) -> &CoordinationId {
        &self.request.id
    }

    /// This store's operations, in the caller's order.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.request.operations_of(&self.store)
    }
}

/// "Make it so" or "undo it".
#[derive(Clone)]
pub struct DeliveryAsk {
    /// The coordination.
    pub id: CoordinationId,
    /// How long an answer is of use; the question is repeated afterwards.
    pub timeout: Duration,
    /// What the caller sent along; `None` after recovery.
    pub attachment: Option<Attachment>,
    /// What the participant gave with its vote; `None` where it gave nothing, or its vote was lost.
    pub receipt: Option<Receipt>,
}

/// One operation, to be done at once, or undone.
#[derive(Clone)]
pub struct ExecuteAsk {
    /// The coordination.
    pub request: Arc<CoordinationRequest>,
    /// The index of the operation in the request.
    pub step: usize,
    /// Whether to do it or to undo it.
    pub work: Work,
    /// Counted from 1.
    pub attempt: u32,
    /// What earlier operations gave, by their index; when it is to be undone, also what it gave
    /// itself, if that is known.
    pub context: Vec<(usize, Arc<Value>)>,
    /// How long an answer is of use.
    pub timeout: Duration,
    /// What the caller sent along; `None` after recovery.
    pub attachment: Option<Attachment>,
}

impl ExecuteAsk {
    /// The transaction id.
    pub fn id(&self) -> &CoordinationId {
        self.request.transaction_id()
    }

    /// The operation.
    pub fn operation(&self) -> &Operation {
        &self.request.operations[self.step]
    }

    /// What earlier operations gave, by their ids.
    pub fn results(&self) -> impl Iterator<Item = (&str, &Value)> {
        let own = self
            .context
            .iter()
            .map(|(step, result)| (self.request.operations[*step].id.as_str(), &**result));
        // A stop of a choreographed saga got those of the stops before it with its request.
        let notes = self.request.metadata.get(STOP_KEY).and_then(|stop| stop.get("results"));
        let before = match notes {
            Some(Value::Map(results)) => results.as_slice(),
            _ => &[],
        };
        before.iter().map(|(id, result)| (id.as_str(), result)).chain(own)
    }
}

/// One event, to be brought into the store.
#[derive(Clone, Debug)]
pub struct EventAsk {
    /// The event.
    pub event: Arc<StreamEvent>,
    /// The asked store's name inside the service.
    pub store: StoreName,
    /// Counted from 1.
    pub attempt: u32,
    /// How long an answer is of use.
    pub timeout: Duration,
}

/// What a participant can do beyond the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It lists what it has prepared, so a begin record need not be durable before it is asked.
    pub lists_prepared: bool,
    /// It holds one prepared transaction at a time, and others wait; such participants are asked
    /// in one canonical order, so that two coordinations cannot wait for each other.
    pub single_writer: bool,
}

/// Trouble with a store that is no answer to a question of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParticipantError {
    /// What, where, and how to mend it.
    pub message: String,
}

impl ParticipantError {
    /// With this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl<T> Lost for Result<T, ParticipantError> {
    fn lost() -> Self {
        Err(ParticipantError::new(LOST))
    }
}

/// The rows that a query of an SQL store read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The columns' names, in order.
    pub columns: Vec<String>,
    /// A value for each column.
    pub rows: Vec<Vec<Value>>,
}

/// A store as the engine sees it. The duties are in this module's header.
pub trait Participant: Send + Sync {
    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// The name of a method that coordinations of this type need and the store lacks.
    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        match kind {
            CoordinationType::TwoPhaseCommit => None,
            CoordinationType::EventSourcing => Some("apply_event"),
            _ => Some("execute_operation"),
        }
    }

    /// Whether this operation can be undone. A `compensation` that is given as `None` says that
    /// there is nothing to undo.
    fn can_compensate(&self, operation: &Operation) -> bool {
        matches!(operation.body.get("compensation"), Some(Value::Map(_) | Value::Null))
    }

    /// Called once when a service starts, before every other question, with the journal's id and
    /// the name under which the service knows this store. May open and block.
    fn attach(&self, cluster: &ClusterId, name: &StoreName) -> Result<(), ParticipantError>;

    /// Called when requests are let in: hands what users wrote into the store's outbox to the
    /// sink, until it is closed. Does nothing where there is none.
    fn open_outbox(&self, _sink: Arc<dyn outbox::OutboxSink>) {}

    /// Asks for its vote.
    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>);

    /// Tells it to make the change.
    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>);

    /// Tells it to undo the change.
    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>);

    /// Asks for one operation, or for its undoing.
    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let message = format!("store '{}' cannot execute operations", ask.operation().store);
        reply.send(StepAnswer::Failed { message, retryable: false });
    }

    /// Hands it an event. Only asked of stores that miss nothing for event sourcing.
    fn apply_event(&self, ask: EventAsk, reply: Reply<Acknowledgement>) {
        let message = format!("store '{}' cannot apply events", ask.store);
        reply.send(Acknowledgement::Failed { message });
    }

    /// Asks what it holds prepared.
    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>);

    /// Tells it that these are over everywhere and their markers may go. Needs no answer, and is
    /// lost in a crash: a marker too many is harmless.
    fn forget(&self, _ids: Vec<CoordinationId>) {}

    /// Lets go of files, connections and threads. What is prepared stays prepared.
    fn close(&self) {}
}
