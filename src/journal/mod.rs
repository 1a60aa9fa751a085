//! The port of the journal: where records become durable, in one order, once.
//!
//! Not a cache and not a queue: what it acknowledged is on disk, and what it did not acknowledge
//! never counts. Its adapters are the sibling files.
//!
//! Duties of an adapter:
//! 1. Records of one journal stand in one total order, across all processes that have it open.
//! 2. For one coordination the first begin and the first decision in that order stand. A later
//!    begin is answered with [`Answer::Exists`], a later decision with [`Answer::Decided`]; neither
//!    is kept. A begin that appends events stands only if every stream has the version that it
//!    expects, and is answered with [`Answer::Appended`]; it is decided to commit by its begin. A
//!    record of an owner that was deposed (a higher epoch stands) is answered with
//!    [`Answer::Deposed`] and not kept.
//! 3. Answers are given in the order of the appends. [`Durability::Forced`] is answered when the
//!    record is on disk; [`Durability::Accepted`] when its place in the order is certain, which
//!    may be earlier, and is never earlier than rule 2's check; [`Durability::Lazy`] is not
//!    answered, and reaches the disk with the next commit or after a short while.
//! 4. **Group commit**: one writer takes everything that waits and commits it once, at once when
//!    it was idle. What came during a commit is in the next one.
//! 5. When a write fails, waiting begins are answered with [`Answer::Failed`] and forgotten;
//!    everything else is kept and written again until it stands: those records may already be
//!    depended upon by nobody, and dropping a decision is not the journal's to do.

mod fold;
mod fold_steps;
mod meter;
pub mod postgres;
mod progress;
pub mod replicated;
pub mod sqlite;
pub mod streams;
#[cfg(test)]
mod test_kit;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use self::meter::{Meter, MeterReading};
pub use self::postgres::{ConnectionPool, PostgresJournal, PostgresJournalOptions};
pub use self::replicated::ReplicatedJournal;
pub use self::sqlite::{JournalOptions, SqliteJournal, forget_instance_locks_in_child};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName, StreamId};
use crate::model::outcome::{Decision, Outcome, StoreSummary, TransactionState};
pub use crate::model::record::Durability;
use crate::model::record::{Reason, Record};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::StepSummary;
use crate::model::time::Timestamp;
use crate::reply::{LOST, Lost, Reply};

use self::streams::Streams;

/// One record on its way.
#[derive(Clone, Debug)]
pub struct Append {
    /// The caller's mark, given back with the answer.
    pub token: u64,
    /// Whose record.
    pub id: CoordinationId,
    /// The epoch under which the caller owns the coordination.
    pub epoch: u32,
    /// When it became true.
    pub at: Timestamp,
    /// The record.
    pub record: Record,
    /// When to answer.
    pub durability: Durability,
}

/// The journal's word on an append.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It stands.
    Recorded,
    /// A begin that appends events stands, and they with it.
    Appended {
        /// The global position of its last event.
        through: u64,
    },
    /// A begin that appends events does not stand: a stream has another version than it expects.
    VersionMismatch {
        /// Which stream.
        stream: StreamId,
        /// What the request expects; 0: that there is no such stream.
        expected: u64,
        /// What the stream has; 0: there is none.
        actual: u64,
    },
    /// A begin of this id stands already.
    Exists(Box<StoredCoordination>),
    /// A decision on this id stands already.
    Decided(Decision),
    /// Another process owns this coordination now, by a higher epoch.
    Deposed,
    /// It was not written, and will not be.
    Failed(JournalError),
}

/// Takes the answers of a journal, on the journal's own thread, or inside of [`Journal::work`].
/// Must not block.
pub trait AnswerSink: Send + Sync {
    /// Answers, in the order of the appends.
    fn answered(&self, answers: Vec<(u64, Answer)>);

    /// There are events up to this global position, appended by this process or seen of another.
    /// Those of this process are told at once, those of others when it looks at the log next.
    fn events_appended(&self, _through: u64) {}

    /// Another process died or left; what it owned may be adopted. Only journals that hear of it
    /// say so.
    fn owner_died(&self) {}

    /// The journal cannot write (`Some`), or can again (`None`).
    fn health_changed(&self, trouble: Option<JournalError>);
}

/// A coordination as the journal knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredCoordination {
    /// What was asked for.
    pub request: Arc<CoordinationRequest>,
    /// The process that owns (or owned) it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// The public state.
    pub state: TransactionState,
    /// The decision, once made.
    pub decision: Option<Decision>,
    /// Why.
    pub reason: Option<Reason>,
    /// The outcome, once ended.
    pub outcome: Option<Outcome>,
    /// What each store did, once ended.
    pub stores: Vec<StoreSummary>,
    /// What each operation did so far, in a coordination by steps.
    pub steps: Vec<StepSummary>,
    /// When it began.
    pub created_at: Timestamp,
    /// When its last record was made.
    pub updated_at: Timestamp,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// The fencing tokens of its locks, as its begin record has them; empty once it has left the
    /// log.
    pub locks: Vec<u64>,
}

/// A coordination that has no end record.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenCoordination {
    /// Which.
    pub id: CoordinationId,
    /// Its owner.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// Its records, in order, from the begin.
    pub records: Vec<(Timestamp, Record)>,
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryFilter {
    /// Only these states; empty for all.
    pub states: Vec<TransactionState>,
    /// Only this type.
    pub kind: Option<CoordinationType>,
    /// Only those in which this store takes part.
    pub store: Option<String>,
    /// Only those that began at or after this time.
    pub since: Option<Timestamp>,
    /// Only those that began at or before this time.
    pub until: Option<Timestamp>,
    /// Only those that have not ended.
    pub open: bool,
    /// At most this many, the latest first.
    pub limit: usize,
}

/// How much of what the journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// Where it is, for people.
    pub location: String,
    /// What keeps it, with its version, for people.
    pub engine: String,
    /// The version of its tables.
    pub schema: u32,
    /// How many coordinations stand in each state.
    pub states: HashMap<TransactionState, u64>,
    /// The processes that have it open, this one included.
    pub instances_alive: Vec<InstanceId>,
    /// How large it is, where that is known.
    pub space: Option<Space>,
}

/// Room in a journal's file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the tables' file has.
    pub bytes: u64,
    /// Those of them that hold nothing now, and are used before the file grows.
    pub free: u64,
}

/// Trouble with the journal: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file or folder cannot be opened or created.
    #[error("cannot open the journal {path}: {reason}")]
    Open {
        /// Where.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The file is no journal of ours.
    #[error("{path} is not a journal of unanimity: {reason}")]
    Foreign {
        /// Where.
        path: String,
        /// What it is instead.
        reason: String,
    },
    /// The file is damaged.
    #[error("the journal {path} is damaged: {reason}")]
    Damaged {
        /// Where.
        path: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// A later version wrote it.
    #[error(
        "the journal {path} has schema {found}, this version of unanimity knows up to {known}; \
         upgrade unanimity, or use another journal"
    )]
    NewerSchema {
        /// Where.
        path: String,
        /// What it has.
        found: u32,
        /// What we know.
        known: u32,
    },
    /// It was opened, and cannot be written or read now.
    #[error("the journal {path} cannot be used now: {reason}")]
    Unavailable {
        /// Where.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
}

impl<T> Lost for Result<T, JournalError> {
    fn lost() -> Self {
        let reason = LOST.to_owned();
        Err(JournalError::Unavailable { path: String::new(), reason })
    }
}

/// Opens the journal that `location` names: a file, `memory:`, or a PostgreSQL database by a URL.
/// It is made where there is none, or with `must_exist`, in a database, refused. Blocks.
pub fn open(
    location: &str,
    options: JournalOptions,
    must_exist: bool,
) -> Result<Arc<dyn Journal>, JournalError> {
    if postgres::is_postgres(location) {
        let options = PostgresJournalOptions { must_exist, ..(&options).into() };
        return Ok(Arc::new(PostgresJournal::open(location, options)?));
    }
    Ok(Arc::new(SqliteJournal::open(location, options)?))
}

/// The journal as the engine sees it. Methods with a [`Reply`] answer from the journal's threads.
pub trait Journal: Send + Sync {
    /// The id that this journal was born with.
    fn cluster(&self) -> &ClusterId;

    /// The id of this process's hold on it.
    fn instance(&self) -> &InstanceId;

    /// Names who takes the answers. Called once, before the first append.
    fn attach(&self, sink: Arc<dyn AnswerSink>);

    /// Queues records in this order, and leaves `batch` empty, with its room. Does not wait.
    fn append(&self, batch: &mut Vec<Append>);

    /// The same for a caller beside whom nobody else is at work. Where it is true, the journal's
    /// own thread was not woken, and the caller owes a call of [`Journal::work`] as soon as it
    /// holds nothing that others wait for. `can_wait`: whether its thread may wait for the disk.
    fn append_alone(&self, batch: &mut Vec<Append>, _can_wait: bool) -> bool {
        self.append(batch);
        false
    }

    /// Writes what waits, on the caller's thread, and answers there; or wakes the thread that does.
    fn work(&self, _can_wait: bool) {}

    /// Looks one coordination up, finished or not. Sees everything that was appended before.
    fn find(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    );

    /// Lists coordinations, latest first. Sees everything that was appended before.
    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    );

    /// Takes over every open coordination whose owner is dead and whose stores are all among
    /// `stores`; what needs others is left to a process that has them. For each an `Adopted` record
    /// with this instance and a higher epoch is made durable, then they are handed over, records
    /// folded in. What this instance owns already is not among them.
    fn adopt(
        &self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    );

    /// Of these ids, those of which the journal knows nothing.
    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    );

    /// Whether no other live process has the journal open now.
    fn is_alone(&self) -> bool;

    /// The streams of events, where this journal keeps any.
    fn streams(&self) -> Option<&dyn Streams> {
        None
    }

    /// What it counts of its own work, if it counts.
    fn meter(&self) -> Option<&Meter> {
        None
    }

    /// Settings and facts of the server that keeps it, by name, as far as they say whether it can
    /// be relied upon; none where there is no server.
    fn server_facts(&self, reply: Reply<Result<Vec<(String, String)>, JournalError>>) {
        reply.send(Ok(Vec::new()));
    }

    /// Counts and facts for operators.
    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>);

    /// Removes coordinations that ended longer ago than `age`, in small portions. Answers how many.
    fn retain(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        self.retain_some(age, u64::MAX, reply);
    }

    /// The same, at most so many, those that began first before others.
    fn retain_some(&self, age: Duration, at_most: u64, reply: Reply<Result<u64, JournalError>>);

    /// How many [`Journal::retain`] would remove. Changes nothing.
    fn count_ended(&self, age: Duration, reply: Reply<Result<u64, JournalError>>);

    /// Gives room that is free inside of the journal's file back to the disk. Answers how many
    /// bytes; 0 where the journal is no file. Takes long, and as much room again meanwhile.
    fn shrink(&self, reply: Reply<Result<u64, JournalError>>) {
        reply.send(Ok(0));
    }

    /// Writes everything that waits, then closes. Blocks. Later appends are answered
    /// [`Answer::Failed`].
    fn close(&self);
}
