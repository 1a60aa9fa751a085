//! What callers ask of streams and projections. Not how projections run.
//!
//! Invariant: a wait is bounded, or ends with the engine.

use std::sync::Arc;
use std::time::Duration;

use crate::journal::JournalError;
use crate::journal::streams::{Projection, Streams};
use crate::model::ids::{StoreName, StreamId};
use crate::model::stream::{Snapshot, StreamEvent};
use crate::reply::{Lost, Reply, asked};

use super::super::Coordinator;
use super::super::core::Core;
use super::super::error::EngineError;
use super::POLL;
use super::parked::PREFIX;

/// An answer of the engine about streams.
pub(super) type Answered<T> = Reply<Result<T, EngineError>>;

impl Coordinator {
    /// Events of one stream from this version on, in order; empty for a stream that does not exist.
    pub fn read_stream(
        &self,
        stream: StreamId,
        from: u64,
        limit: usize,
        reply: Answered<Vec<StreamEvent>>,
    ) {
        self.of_streams(reply, |streams, reply| streams.read_stream(stream, from, limit, reply));
    }

    /// The version of a stream's last event; 0 for one that does not exist.
    pub fn stream_version(&self, stream: StreamId, reply: Answered<u64>) {
        self.of_streams(reply, |streams, reply| streams.stream_version(stream, reply));
    }

    /// Keeps a snapshot; false when the stream is not that far, or a later one is kept.
    pub fn save_snapshot(&self, snapshot: Snapshot, reply: Answered<bool>) {
        self.of_streams(reply, |streams, reply| streams.save_snapshot(snapshot, reply));
    }

    /// The snapshot of a stream.
    pub fn load_snapshot(&self, stream: StreamId, reply: Answered<Option<Snapshot>>) {
        self.of_streams(reply, |streams, reply| streams.load_snapshot(stream, reply));
    }

    /// How far each store's projection is.
    pub fn projections(&self, reply: Answered<Vec<Projection>>) {
        self.of_streams(reply, |streams, reply| streams.projections(reply));
    }

    /// Events behind a global position, of one stream or of all, as soon as there are any; none
    /// when there were none within `patience`. Those of other processes are seen within a tenth of
    /// a second.
    pub fn next_events(
        &self,
        after: u64,
        limit: usize,
        patience: Duration,
        reply: Answered<Vec<StreamEvent>>,
    ) {
        let core = Arc::clone(&self.core);
        self.core.ports.runtime.spawn(async move {
            let until = tokio::time::Instant::now() + patience;
            let signals = Arc::clone(&core.signals);
            loop {
                let woken = signals.appended.notified();
                tokio::pin!(woken);
                woken.as_mut().enable();
                let events = core.read_all(after, limit).await;
                let is_over = tokio::time::Instant::now() >= until;
                if is_over || events.as_ref().map_or(true, |events| !events.is_empty()) {
                    return reply.send(events);
                }
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        });
    }

    /// Hands every event to the store again, from the first, while others go on being appended.
    /// Answers how many there were, when it has come to where the events ended at the call.
    pub fn rebuild_projection(&self, store: StoreName, reply: Answered<u64>) {
        let core = Arc::clone(&self.core);
        self.core.ports.runtime.spawn(async move { reply.send(core.rebuild(store).await) });
    }

    fn of_streams<T: 'static>(
        &self,
        reply: Answered<T>,
        ask: impl FnOnce(&dyn Streams, Reply<Result<T, JournalError>>),
    ) where
        Result<T, EngineError>: Lost,
        Result<T, JournalError>: Lost,
    {
        match self.core.streams() {
            Ok(streams) => ask(
                streams,
                Reply::new(move |told: Result<T, JournalError>| {
                    reply.send(told.map_err(of_journal));
                }),
            ),
            Err(error) => reply.send(Err(error)),
        }
    }
}

/// A journal that is closed was closed with the service.
fn of_journal(error: JournalError) -> EngineError {
    match error {
        JournalError::Closed => EngineError::Closed,
        error => error.into(),
    }
}

impl Core {
    async fn read_all(&self, after: u64, limit: usize) -> Result<Vec<StreamEvent>, EngineError> {
        let streams = self.streams()?;
        asked(|reply| streams.read_all(after, limit, reply)).await.map_err(of_journal)
    }

    async fn rebuild(&self, store: StoreName) -> Result<u64, EngineError> {
        let streams = self.streams()?;
        let refused =
            |reason: String| EngineError::CannotProject { store: store.to_string(), reason };
        let through = asked(|reply| streams.last_position(reply)).await.map_err(of_journal)?;
        let wanted = store.clone();
        let begun = asked(|reply| streams.restart_projection(wanted, Some(0), reply)).await;
        let begun = begun.map_err(of_journal)?;
        let Some(begun) = begun else {
            let reason = "no process has ever run one for a store of this name; give the store the \
                          method apply_event(), and start a service that has it";
            return Err(refused(reason.to_owned()));
        };
        self.signals.appended.notify_waiters();
        loop {
            let moved = self.signals.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let rows = asked(|reply| streams.projections(reply)).await.map_err(of_journal)?;
            let Some(row) = rows.into_iter().find(|row| row.store == store) else {
                return Err(refused("its row is gone".to_owned()));
            };
            if row.generation < begun.generation {
                return Err(refused("its row went back to an older one".to_owned()));
            }
            if let Some(parked) = row.parked {
                return Err(refused(format!(
                    "it is parked at event {}: {}; mend the cause, then redrive \
                     '{PREFIX}{store}': it goes on from there",
                    parked.position, parked.message
                )));
            }
            if row.position >= through {
                return Ok(through);
            }
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }
}
