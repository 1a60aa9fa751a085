//! Questions about streams and their projections.
//!
//! Not the fold (streams) and not the rows (`event_table`). Invariants: an answer sees every record
//! that was queued before its question, of every process, and only what is on the disk; a
//! projection's row is changed in one transaction that looked at it first, so that of two processes
//! one runs it.

use rusqlite::{Transaction, TransactionBehavior};

use super::event_table;
use super::instance::{Instances, Life};
use super::projector::Task;
use super::serve::now;
use super::trouble::Outcome;
use super::writer::Writer;
use crate::journal::JournalError;
use crate::journal::streams::{Projection, Told};
use crate::model::ids::{StoreName, StreamId};
use crate::model::stream::{Snapshot, StreamEvent};
use crate::reply::Lost;

/// A question of the port `Streams`.
pub(super) enum StreamAsk {
    Read { stream: StreamId, from: u64, limit: usize, reply: Told<Vec<StreamEvent>> },
    ReadAll { after: u64, limit: usize, reply: Told<Vec<StreamEvent>> },
    Version { stream: StreamId, reply: Told<u64> },
    Last { reply: Told<u64> },
    SaveSnapshot { snapshot: Snapshot, reply: Told<bool> },
    LoadSnapshot { stream: StreamId, reply: Told<Option<Snapshot>> },
    Projections { reply: Told<Vec<Projection>> },
    Claim { store: StoreName, reply: Told<Option<Projection>> },
    Advance { projection: Projection, reply: Told<bool> },
    Restart { store: StoreName, position: Option<u64>, reply: Told<Option<Projection>> },
}

impl StreamAsk {
    /// Answers with the reason why there is no answer.
    pub(super) fn fail(self, error: JournalError) {
        match self {
            Self::Read { reply, .. } | Self::ReadAll { reply, .. } => reply.send(Err(error)),
            Self::Version { reply, .. } | Self::Last { reply } => reply.send(Err(error)),
            Self::SaveSnapshot { reply, .. } | Self::Advance { reply, .. } => {
                reply.send(Err(error));
            }
            Self::LoadSnapshot { reply, .. } => reply.send(Err(error)),
            Self::Projections { reply } => reply.send(Err(error)),
            Self::Claim { reply, .. } | Self::Restart { reply, .. } => reply.send(Err(error)),
        }
    }
}

impl Writer {
    pub(super) fn serve_streams(&mut self, ask: StreamAsk) {
        if let Err(trouble) = self.look().and_then(|()| self.sync_events()) {
            return ask.fail(trouble.at(&self.path));
        }
        match ask {
            StreamAsk::Read { stream, from, limit, reply } => {
                self.read_stream(stream, from, limit, reply);
            }
            StreamAsk::ReadAll { after, limit, reply } => self.read_all(after, limit, reply),
            StreamAsk::Version { stream, reply } => {
                self.tell(reply, |writer| writer.stream_version(&stream));
            }
            StreamAsk::Last { reply } => reply.send(Ok(self.view.streams().last())),
            StreamAsk::SaveSnapshot { snapshot, reply } => self.save_snapshot(snapshot, reply),
            StreamAsk::LoadSnapshot { stream, reply } => {
                self.query(reply, move |connection| {
                    event_table::load_snapshot(connection, &stream)
                });
            }
            StreamAsk::Projections { reply } => self.query(reply, event_table::projections),
            StreamAsk::Claim { store, reply } => {
                let instances = self.instances.clone();
                self.change(reply, move |rows| claim(rows, &instances, store));
            }
            StreamAsk::Advance { projection, reply } => {
                self.change(reply, move |rows| advance(rows, projection));
            }
            StreamAsk::Restart { store, position, reply } => {
                self.change(reply, move |rows| restart(rows, &store, position));
            }
        }
    }

    fn tell<T>(&self, reply: Told<T>, answer: impl FnOnce(&Self) -> Outcome<T>)
    where
        Result<T, JournalError>: Lost,
    {
        reply.send(answer(self).map_err(|trouble| trouble.at(&self.path)));
    }

    /// Answers from the tables, beside the writer.
    fn query<T: 'static>(
        &self,
        reply: Told<T>,
        answer: impl FnOnce(&rusqlite::Connection) -> Outcome<T> + Send + 'static,
    ) where
        Result<T, JournalError>: Lost,
    {
        let path = self.path.clone();
        self.read(Box::new(move |connection| {
            reply.send(answer(connection).map_err(|trouble| trouble.at(&path)));
        }));
    }

    /// Changes rows beside the log, where the tables are written.
    fn change<T: 'static>(
        &mut self,
        reply: Told<T>,
        work: impl FnOnce(&Transaction<'_>) -> Outcome<T> + Send + 'static,
    ) where
        Result<T, JournalError>: Lost,
    {
        let path = self.path.clone();
        let task = Task::Change(Box::new(move |tables| {
            let done = tables.attempt(|tables| {
                let connection = tables.connection_mut();
                let rows = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let answer = work(&rows)?;
                rows.commit()?;
                Ok(answer)
            });
            reply.send(done.map_err(|trouble| trouble.at(&path)));
        }));
        self.projector.give(task, &self.queue);
    }

    fn stream_version(&self, stream: &StreamId) -> Outcome<u64> {
        match self.projector.reading() {
            None => Ok(0),
            Some(tables) => {
                let next = self.view.tail() + 1;
                self.view.streams().version(tables, stream.as_str(), next)
            }
        }
    }

    fn read_stream(
        &self,
        stream: StreamId,
        from: u64,
        limit: usize,
        reply: Told<Vec<StreamEvent>>,
    ) {
        let streams = self.view.streams();
        let (ahead, known) = match streams.read_stream(&stream, from, limit) {
            Ok(read) => read,
            Err(trouble) => return reply.send(Err(trouble.at(&self.path))),
        };
        if known.is_some_and(|known| from > known) {
            return reply.send(Ok(ahead));
        }
        // The tables may be further than this look at the log, which alone is known to be on disk.
        let through = streams.projected_last();
        self.query(reply, move |connection| {
            let rows = event_table::read_stream(connection, &stream, (from, through), limit)?;
            Ok(joined(rows, ahead, limit))
        });
    }

    fn read_all(&self, after: u64, limit: usize, reply: Told<Vec<StreamEvent>>) {
        let streams = self.view.streams();
        let ahead = match streams.read_all(after, limit) {
            Ok(ahead) => ahead,
            Err(trouble) => return reply.send(Err(trouble.at(&self.path))),
        };
        let through = streams.projected_last();
        if after >= through {
            return reply.send(Ok(ahead));
        }
        self.query(reply, move |connection| {
            let rows = event_table::read_all(connection, (after, through), limit)?;
            Ok(joined(rows, ahead, limit))
        });
    }

    fn save_snapshot(&mut self, snapshot: Snapshot, reply: Told<bool>) {
        match self.stream_version(&snapshot.stream) {
            Err(trouble) => reply.send(Err(trouble.at(&self.path))),
            Ok(version) if version < snapshot.version => reply.send(Ok(false)),
            Ok(_) => {
                self.change(reply, move |rows| event_table::save_snapshot(rows, &snapshot));
            }
        }
    }
}

/// What the tables tell, and what is ahead of them.
fn joined(mut rows: Vec<StreamEvent>, ahead: Vec<StreamEvent>, limit: usize) -> Vec<StreamEvent> {
    let room = limit.saturating_sub(rows.len());
    rows.extend(ahead.into_iter().take(room));
    rows
}

/// The lock of a dead owner is held until the row says who is the new one.
fn claim(
    rows: &Transaction<'_>,
    instances: &Instances,
    store: StoreName,
) -> Outcome<Option<Projection>> {
    let found = event_table::projection(rows, &store)?;
    let is_own = |projection: &Projection| projection.owner.as_ref() == Some(instances.own());
    if found.as_ref().is_some_and(is_own) {
        return Ok(found);
    }
    let owner = found.as_ref().and_then(|projection| projection.owner.as_ref());
    let _life = match owner.map(|owner| instances.probe(owner)) {
        Some(Life::Alive) => return Ok(None),
        life => life,
    };
    let fresh = Projection {
        store,
        position: 0,
        generation: 1,
        owner: None,
        parked: None,
        updated_at: now(),
    };
    let mut projection = found.unwrap_or(fresh);
    projection.owner = Some(instances.own().clone());
    projection.updated_at = now();
    event_table::put_projection(rows, &projection)?;
    Ok(Some(projection))
}

fn advance(rows: &Transaction<'_>, projection: Projection) -> Outcome<bool> {
    let found = event_table::projection(rows, &projection.store)?;
    let stands = found.is_some_and(|found| {
        found.owner == projection.owner && found.generation == projection.generation
    });
    if stands {
        event_table::put_projection(rows, &Projection { updated_at: now(), ..projection })?;
    }
    Ok(stands)
}

fn restart(
    rows: &Transaction<'_>,
    store: &StoreName,
    position: Option<u64>,
) -> Outcome<Option<Projection>> {
    let Some(mut projection) = event_table::projection(rows, store)? else { return Ok(None) };
    projection.position = position.unwrap_or(projection.position);
    projection.generation += 1;
    projection.parked = None;
    projection.updated_at = now();
    event_table::put_projection(rows, &projection)?;
    Ok(Some(projection))
}
