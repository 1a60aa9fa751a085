//! The embedded journal: a log in segments, a SQLite file of tables behind it, many processes.
//!
//! Not a store for users' data. Where to look: `queue` and `queued` (what waits), `writer` (group
//! commit and what happens when it fails), `desk` (whose thread does it), `judge` (who may write
//! what), `view` (what is known without asking), `sight` (what others wrote), `log` (the records),
//! `projector`, `projection`, `held` and `table` (the tables that people query), `streams` and
//! `event_table` (events), `serve`, `serve_streams` and `query` (questions, adoption, retention),
//! `instance` (who lives).
//!
//! Invariants: only the writer writes the log, under its lock; the log is the truth and the
//! tables follow it; a segment goes only when the tables that tell the same are on the disk;
//! whatever happens to the files, nothing of them is overwritten that was not understood.

mod desk;
mod event_table;
mod held;
mod judge;
mod linger;
mod log;
mod options;
mod projection;
mod projector;
mod query;
mod queue;
mod queued;
mod reader;
mod serve;
mod serve_streams;
mod sight;
mod streams;
mod table;
mod trouble;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

pub use self::options::JournalOptions;

use self::desk::Desk;
use self::projector::{Projector, Tables};
use self::queue::{Ask, Queue};
use self::reader::Reader;
use self::serve_streams::StreamAsk;
use self::trouble::{Outcome, Trouble};
use self::view::View;
use self::writer::{Parts, Writer};
use super::streams::{Projection, Streams, Told};
use super::{
    AnswerSink, Append, HistoryFilter, Journal, JournalError, JournalStatus, Meter,
    OpenCoordination, StoredCoordination,
};
use crate::db::instance::{self, Instances};
use crate::db::segments::{SegmentLog, Tag};
use crate::db::sqlite::{self as database, Place};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName, StreamId};
use crate::model::stream::{Snapshot, StreamEvent};
use crate::reply::Reply;

/// Lets go of the locks that a forked child inherited, without releasing the parent's. To be
/// called in the child; never blocks. False when another thread of the parent was just at them:
/// then the child keeps the parent's locks alive for as long as it lives.
pub fn forget_instance_locks_in_child() -> bool {
    let instances = instance::forget_locks_in_child();
    let logs = crate::db::segments::forget_locks_in_child();
    instances && logs
}

/// A journal in a file, or in memory.
pub struct SqliteJournal {
    cluster: ClusterId,
    place: Place,
    queue: Arc<Queue>,
    desk: Arc<Desk>,
    instances: Arc<Instances>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The process that opened it. A forked child has a copy without the threads.
    process: u32,
}

impl SqliteJournal {
    /// Opens the journal at a path, made if it is not there; `memory:` for one that is gone with
    /// the process. Blocks.
    pub fn open(location: &str, options: JournalOptions) -> Result<Self, JournalError> {
        let place = Place::parse(location);
        let path = place.describe();
        let mut connection = database::open_writer(&place, &options.opening())?;
        let cluster = cluster_id(&mut connection).map_err(|trouble| trouble.at(&path))?;
        let file = match &place {
            Place::Memory => None,
            Place::File(file) => Some(file.as_path()),
        };
        let instances =
            Arc::new(Instances::join(file).map_err(|error| cannot_start(&path, &error))?);
        let queue = Arc::new(Queue::default());
        let opening = Opening { connection, place: &place, cluster: &cluster, options };
        let opened = opening.open(&queue, &instances);
        let writer = opened.map_err(|trouble| {
            instances.leave();
            trouble.at(&path)
        })?;
        let desk = Arc::new(Desk::new(writer));
        let seat = Arc::clone(&desk);
        let thread = thread::Builder::new()
            .name("unanimity-journal".to_owned())
            .spawn(move || seat.run())
            .map_err(|error| cannot_start(&place.describe(), &error))?;
        Ok(Self {
            cluster,
            place,
            queue,
            desk,
            instances,
            writer: Mutex::new(Some(thread)),
            process: std::process::id(),
        })
    }
}

/// A journal that is being opened.
struct Opening<'a> {
    connection: Connection,
    place: &'a Place,
    cluster: &'a ClusterId,
    options: JournalOptions,
}

impl Opening<'_> {
    fn open(self, queue: &Arc<Queue>, instances: &Arc<Instances>) -> Outcome<Writer> {
        let (view, log, reader) = match self.place {
            Place::Memory => (View::load(&self.connection)?, None, Reader::inline()),
            Place::File(file) => {
                let (view, log) = self.open_log()?;
                let reading = database::open_reader(file, self.options.busy_timeout)
                    .map_err(Trouble::Reopen)?;
                (view, Some(log), Reader::spawn(reading).map_err(Trouble::Thread)?)
            }
        };
        let tables = Tables::new(self.connection, self.place, &self.options);
        let projector = match self.place {
            Place::Memory => Projector::Inline(Box::new(tables)),
            Place::File(file) => Projector::spawn(tables, file, queue)?,
        };
        Ok(Writer::new(Parts {
            view,
            log,
            queue: queue.clone(),
            options: self.options,
            path: self.place.describe(),
            instances: instances.clone(),
            reader,
            projector,
        }))
    }

    /// Reads everything under the log's lock, so that nothing of it moves meanwhile. Others wait
    /// for as long as their tables are behind their log, which is short unless they are busy.
    fn open_log(&self) -> Outcome<(View, SegmentLog)> {
        let folder = PathBuf::from(trouble::log_folder(&self.place.describe()));
        let (sizes, patience) = (self.options.segments, self.options.busy_timeout);
        let mut loaded = None;
        let mut log = SegmentLog::open_locked(&folder, self.tag(), sizes, patience, || {
            if log::has_segments(&self.connection)? && !SegmentLog::exists(&folder) {
                let missing = format!("the folder {} has no segments", folder.display());
                return Err(Trouble::Row(missing));
            }
            let view = loaded.insert(View::load(&self.connection)?);
            Ok(view.tail())
        })?;
        let mut view = loaded.unwrap_or_default();
        let read = sight::read_on(&mut log, &mut view, &self.connection)
            .and_then(|()| Ok(log.settle()?))
            .and_then(|()| Ok(log.skip_to(view.tail())?))
            .and_then(|()| log::set_has_segments(&self.connection, true));
        log.unlock();
        read.map(|()| (view, log))
    }

    /// The journal's id, as far as it fits into the header of a segment.
    fn tag(&self) -> Tag {
        let mut tag = Tag::default();
        for (to, from) in tag.iter_mut().zip(self.cluster.as_str().bytes()) {
            *to = from;
        }
        tag
    }
}

fn cannot_start(path: &str, error: &std::io::Error) -> JournalError {
    let reason = format!(
        "{error}; this process must be able to start threads, and to write the folder \
         {path}-instances"
    );
    JournalError::Open { path: path.to_owned(), reason }
}

/// The id that the journal was born with, minted by whoever opens it first.
fn cluster_id(connection: &mut Connection) -> Outcome<ClusterId> {
    let minted = instance::mint_cluster_id()
        .map_err(|error| Trouble::Row(format!("no random bytes from the system: {error}")))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let stored: Option<String> = transaction
        .query_row("SELECT value FROM journal_meta WHERE key = 'cluster'", [], |row| row.get(0))
        .optional()?;
    let cluster = if let Some(text) = stored {
        ClusterId::new(&text)
            .map_err(|error| Trouble::Row(format!("the cluster id {text:?}: {error}")))?
    } else {
        let sql = "INSERT INTO journal_meta (key, value) VALUES ('cluster', ?1)";
        transaction.execute(sql, [minted.as_str()])?;
        minted
    };
    transaction.commit()?;
    Ok(cluster)
}

impl Journal for SqliteJournal {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn instance(&self) -> &InstanceId {
        self.instances.own()
    }

    fn attach(&self, sink: Arc<dyn AnswerSink>) {
        self.queue.attach(sink);
    }

    fn append(&self, batch: &mut Vec<Append>) {
        self.queue.append(batch);
    }

    fn append_alone(&self, batch: &mut Vec<Append>, can_wait: bool) -> bool {
        self.queue.append_alone(batch, can_wait)
    }

    fn work(&self, can_wait: bool) {
        self.desk.work(can_wait);
    }

    fn find(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        self.queue.ask(Ask::Find(id, reply));
    }

    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        self.queue.ask(Ask::History(filter, reply));
    }

    fn adopt(
        &self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    ) {
        self.queue.ask(Ask::Adopt(stores, reply));
    }

    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        self.queue.ask(Ask::UnknownOf(ids, reply));
    }

    fn is_alone(&self) -> bool {
        self.place == Place::Memory || self.instances.alive().len() == 1
    }

    fn streams(&self) -> Option<&dyn Streams> {
        Some(self)
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.queue.meter)
    }

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        self.queue.ask(Ask::Status(reply));
    }

    fn retain_some(&self, age: Duration, at_most: u64, reply: Reply<Result<u64, JournalError>>) {
        self.queue.ask(Ask::Retain(age, at_most, reply));
    }

    fn count_ended(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        self.queue.ask(Ask::CountEnded(age, reply));
    }

    fn shrink(&self, reply: Reply<Result<u64, JournalError>>) {
        self.queue.ask(Ask::Shrink(reply));
    }

    fn close(&self) {
        // In a forked child there is no writer to wait for, a mutex may be held for ever by a
        // thread that was not copied, and the instance's file is the parent's.
        if std::process::id() != self.process {
            return;
        }
        self.queue.shut(JournalError::Closed);
        let thread = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // Called from an answer, on the writer's own thread, it must not wait for itself.
        if thread.thread().id() != thread::current().id() {
            // A panic of the writer was told to the sink when it happened.
            let _ = thread.join();
        }
        self.instances.leave();
    }
}

impl Streams for SqliteJournal {
    fn read_stream(
        &self,
        stream: StreamId,
        from: u64,
        limit: usize,
        reply: Told<Vec<StreamEvent>>,
    ) {
        self.ask_streams(StreamAsk::Read { stream, from, limit, reply });
    }

    fn read_all(&self, after: u64, limit: usize, reply: Told<Vec<StreamEvent>>) {
        self.ask_streams(StreamAsk::ReadAll { after, limit, reply });
    }

    fn stream_version(&self, stream: StreamId, reply: Told<u64>) {
        self.ask_streams(StreamAsk::Version { stream, reply });
    }

    fn last_position(&self, reply: Told<u64>) {
        self.ask_streams(StreamAsk::Last { reply });
    }

    fn save_snapshot(&self, snapshot: Snapshot, reply: Told<bool>) {
        self.ask_streams(StreamAsk::SaveSnapshot { snapshot, reply });
    }

    fn load_snapshot(&self, stream: StreamId, reply: Told<Option<Snapshot>>) {
        self.ask_streams(StreamAsk::LoadSnapshot { stream, reply });
    }

    fn projections(&self, reply: Told<Vec<Projection>>) {
        self.ask_streams(StreamAsk::Projections { reply });
    }

    fn claim_projection(&self, store: StoreName, reply: Told<Option<Projection>>) {
        self.ask_streams(StreamAsk::Claim { store, reply });
    }

    fn advance_projection(&self, projection: Projection, reply: Told<bool>) {
        self.ask_streams(StreamAsk::Advance { projection, reply });
    }

    fn restart_projection(
        &self,
        store: StoreName,
        position: Option<u64>,
        reply: Told<Option<Projection>>,
    ) {
        self.ask_streams(StreamAsk::Restart { store, position, reply });
    }
}

impl SqliteJournal {
    fn ask_streams(&self, ask: StreamAsk) {
        self.queue.ask(Ask::Streams(ask));
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        self.close();
    }
}
