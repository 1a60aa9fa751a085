//! The port of event streams: what a journal can tell of the events that it holds, and how far each
//! store's projection of them is.
//!
//! Not the append: that is a begin record of the type `event_sourcing`, which the journal judges by
//! the versions that the request expects ([`super::Answer::VersionMismatch`]).
//!
//! Duties of an adapter:
//! 1. The events of a begin that stands stand too, all of them; those of one that does not stand
//!    never existed. Versions and positions follow from the order of the log alone, so that every
//!    process tells the same.
//! 2. What is read is on the disk: nobody is shown an event that a loss of power could take back.
//! 3. Retention of coordinations removes no event.
//! 4. One live process at a time holds a projection. A process that is gone holds nothing.
//! 5. A projection's position reaches the disk some time after it is advanced: after a crash of the
//!    machine it may be an older one, never one that is ahead of what was told.

use crate::model::ids::{CoordinationId, InstanceId, StoreName, StreamId};
use crate::model::stream::{Snapshot, StreamEvent};
use crate::model::time::Timestamp;
use crate::reply::Reply;

use super::JournalError;

/// How far the events have been brought into one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// Which store.
    pub store: StoreName,
    /// The global position of the last event that the store has.
    pub position: u64,
    /// Grows whenever the projection is begun anew or redriven, by whomever.
    pub generation: u64,
    /// The process that runs it, or ran it last.
    pub owner: Option<InstanceId>,
    /// The event that it could not get past.
    pub parked: Option<ParkedProjection>,
    /// When this was last written.
    pub updated_at: Timestamp,
}

/// Why a projection stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedProjection {
    /// The global position of the event.
    pub position: u64,
    /// The coordination that appended it.
    pub coordination: CoordinationId,
    /// Its type.
    pub kind: String,
    /// How often the store was asked to apply it.
    pub attempts: u32,
    /// What the store said last.
    pub message: String,
    /// Since when.
    pub at: Timestamp,
}

/// The answer to a question of this port.
pub type Told<T> = Reply<Result<T, JournalError>>;

/// Streams of events and their projections. Answers come from the journal's threads.
pub trait Streams: Send + Sync {
    /// Events of one stream, from this version on, in order. Sees everything that was appended
    /// before. Empty for a stream that does not exist.
    fn read_stream(&self, stream: StreamId, from: u64, limit: usize, reply: Told<Vec<StreamEvent>>);

    /// Events of all streams behind this global position, in order. Sees everything that was
    /// appended before, by every process.
    fn read_all(&self, after: u64, limit: usize, reply: Told<Vec<StreamEvent>>);

    /// The version of a stream's last event; 0 for a stream that does not exist.
    fn stream_version(&self, stream: StreamId, reply: Told<u64>);

    /// The global position of the last event of all; 0 where there is none.
    fn last_position(&self, reply: Told<u64>);

    /// Keeps a snapshot in the place of an older one. False, and nothing is kept, when the stream
    /// has not come to that version, or a snapshot of a later one is kept.
    fn save_snapshot(&self, snapshot: Snapshot, reply: Told<bool>);

    /// The snapshot of a stream.
    fn load_snapshot(&self, stream: StreamId, reply: Told<Option<Snapshot>>);

    /// Every projection that was ever claimed, by the names of the stores.
    fn projections(&self, reply: Told<Vec<Projection>>);

    /// Makes this process the one that runs the projection, and tells how far it is. `None` while
    /// another live process runs it.
    fn claim_projection(&self, store: StoreName, reply: Told<Option<Projection>>);

    /// Says how far a claimed projection is now, and whether it is parked. False, and nothing is
    /// written, when it belongs to another process by now, or has another generation.
    fn advance_projection(&self, projection: Projection, reply: Told<bool>);

    /// Ends a projection's being parked, and sets its position if one is given; whoever runs it
    /// notices by the generation. `None` if it was never claimed.
    fn restart_projection(
        &self,
        store: StoreName,
        position: Option<u64>,
        reply: Told<Option<Projection>>,
    );
}
