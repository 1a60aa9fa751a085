//! The embedded journal: one SQLite file, one writer thread, many processes.
//!
//! Not a store for users' data. Where to look: `queue` (what waits), `writer` (group commit and
//! what happens when it fails), `judge` (who may write what), `view` (what is known without
//! asking), `log` (the records), `projection`, `held` and `table` (the tables that people query),
//! `serve` and `query` (questions, adoption, retention), `instance` (who lives).
//!
//! Invariants: only the writer thread writes; the log is the truth and the tables follow it;
//! whatever happens to the file, nothing of it is overwritten that was not understood.

mod fold;
mod held;
mod instance;
mod judge;
mod linger;
mod log;
mod options;
mod projection;
mod query;
mod queue;
mod reader;
mod serve;
mod table;
mod trouble;
mod view;
mod writer;

#[cfg(test)]
mod tests;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

pub use self::instance::forget_instance_locks_in_child;
pub use self::options::JournalOptions;

use self::instance::Instances;
use self::queue::{Ask, Queue};
use self::reader::Reader;
use self::trouble::{Outcome, Trouble};
use self::view::View;
use self::writer::{Parts, Writer};
use super::{
    AnswerSink, Append, HistoryFilter, Journal, JournalError, JournalStatus, OpenCoordination,
    StoredCoordination,
};
use crate::db::sqlite::{self as database, Place};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use crate::reply::Reply;

/// A journal in a SQLite file, or in memory.
pub struct SqliteJournal {
    cluster: ClusterId,
    place: Place,
    queue: Arc<Queue>,
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
        let view = first_view(&mut connection).map_err(|trouble| trouble.at(&path))?;
        let reader = match &place {
            Place::Memory => Reader::inline(),
            Place::File(file) => {
                let reading = database::open_reader(file, options.busy_timeout)?;
                Reader::spawn(reading).map_err(|error| cannot_start(&path, &error))?
            }
        };
        let file = match &place {
            Place::Memory => None,
            Place::File(file) => Some(file.as_path()),
        };
        let instances =
            Arc::new(Instances::join(file).map_err(|error| cannot_start(&path, &error))?);
        let queue = Arc::new(Queue::default());
        let writer = Writer::new(Parts {
            connection,
            view,
            queue: queue.clone(),
            options,
            place: place.clone(),
            instances: instances.clone(),
            reader,
        });
        let thread = thread::Builder::new()
            .name("unanimity-journal".to_owned())
            .spawn(move || run(writer, &path))
            .map_err(|error| cannot_start(&place.describe(), &error))?;
        Ok(Self {
            cluster,
            place,
            queue,
            instances,
            writer: Mutex::new(Some(thread)),
            process: std::process::id(),
        })
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

fn first_view(connection: &mut Connection) -> Outcome<View> {
    let mut view = View::default();
    let transaction = connection.transaction()?;
    view.refresh(&transaction)?;
    transaction.commit()?;
    Ok(view)
}

/// The writer's thread. A panic there is a defect of ours; nobody may wait for it for ever.
fn run(mut writer: Writer, path: &str) {
    if panic::catch_unwind(AssertUnwindSafe(|| writer.run())).is_ok() {
        return;
    }
    let reason = "its writer failed by a defect of unanimity; restart the process".to_owned();
    let error = JournalError::Unavailable { path: path.to_owned(), reason };
    let queue = writer.queue.clone();
    queue.shut(error.clone());
    // The sink itself may be what panicked, so each call to it stands alone.
    let told = [
        panic::catch_unwind(AssertUnwindSafe(|| queue.health_changed(Some(error.clone())))),
        panic::catch_unwind(AssertUnwindSafe(|| writer.give_up(&error))),
        panic::catch_unwind(AssertUnwindSafe(|| queue.drain(&error))),
    ];
    if told.iter().any(Result::is_err) {
        tracing::error!(%error, "the journal's listener failed too");
    }
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

    fn append(&self, batch: Vec<Append>) {
        self.queue.append(batch);
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

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        self.queue.ask(Ask::Status(reply));
    }

    fn retain(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        self.queue.ask(Ask::Retain(age, reply));
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

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        self.close();
    }
}
