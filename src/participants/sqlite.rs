//! A store over one SQLite file of the user's: SQL statements that commit with everything else.
//!
//! Not the journal, which is another file and ours alone. A prepared transaction is staged (its
//! statements, durable in a table of the same file) and held open with them applied, so there is
//! one at a time and others queue; after a crash the staged statements are applied again. Therefore
//! they should mean the same when they run again: give times and random numbers as parameters.
//!
//! Invariant: data and the marker that they were applied are one commit of SQLite.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::barrier;
use super::last_resource::{DecideAsk, Deciding, LastResource, LastResourceUse, RowAsk};
use super::sqlite_guard::Guard;
use super::sqlite_lock::PlaceLock;
use super::sqlite_queue::{Ask, Running};
use super::sqlite_schema::{self as schema, Owner};
use super::sqlite_statement;
use super::sqlite_writer::{BUSY, Writer};
use super::worker::Workers;
use super::{Abilities, DeliveryAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk, Rows};
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::operation::Operation;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::CoordinationType;
use crate::model::step::StepAnswer;
use crate::model::value::Value;
use crate::protocol::Standing;
use crate::reply::Reply;

/// How long opening and reading wait for another writer.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

const DETACHED: &str = "the store is not open; it opens when a service that has it starts";

/// The writing thread.
struct Attached {
    asks: Sender<Ask>,
    thread: JoinHandle<()>,
    running: Arc<Running>,
}

/// A store over one SQLite file.
///
/// What an outside writer can do: between a crash and the next start it can change what the staged
/// statements meet. And another copy of SQLite in this process (Python's own `sqlite3`) does not
/// see our locks: to read there does not endanger the file (`sqlite_guard.rs`), though a read that
/// lasts while we commit may see both sides; to write there while something is prepared here does.
/// Use [`SqliteStore::fetch`] to read, and operations of a coordination to write.
/// The file is switched to a write-ahead log, and its `-wal` file stays while this process lives.
pub struct SqliteStore {
    path: PathBuf,
    name: String,
    attached: Mutex<Option<Attached>>,
    reader: Arc<Mutex<Option<Connection>>>,
    readers: Workers,
    usage: LastResourceUse,
}

impl SqliteStore {
    /// A store over this file, which is made when the store is attached. Touches nothing yet.
    pub fn new(path: impl Into<PathBuf>, name: impl Into<String>) -> Self {
        let (path, name) = (path.into(), name.into());
        let readers = Workers::new(format!("unanimity-sqlite-{name}-read"), 1);
        let (attached, usage) = (Mutex::default(), LastResourceUse::Never);
        Self { path, name, attached, reader: Arc::default(), readers, usage }
    }

    /// The same, as the last resource of coordinations where `usage` says so.
    #[must_use]
    pub fn with_last_resource(mut self, usage: LastResourceUse) -> Self {
        self.usage = usage;
        self
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads committed state by a statement that writes nothing.
    pub fn fetch(
        &self,
        statement: String,
        parameters: Vec<Value>,
        reply: Reply<Result<Rows, ParticipantError>>,
    ) {
        let (reader, path) = (Arc::clone(&self.reader), self.path.clone());
        self.readers.run(0, move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            let rows = open_reader(&mut reader, &path).and_then(|connection| {
                sqlite_statement::query(connection, &statement, &parameters)
            });
            drop(reader);
            let explain = |what| ParticipantError::new(format!("{}: {what}", path.display()));
            reply.send(rows.map_err(explain));
        });
    }

    /// Tells the thread, or gives back what could not be told.
    fn tell(&self, ask: Ask) -> Result<(), Ask> {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        match &*attached {
            Some(attached) => attached.asks.send(ask).map_err(|returned| returned.0),
            None => Err(ask),
        }
    }

    /// Cuts the statements of this one short, if they run.
    fn interrupt(&self, id: &CoordinationId) {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attached) = &*attached {
            attached.running.interrupt(id);
        }
    }

    fn open(&self, owner: Owner) -> Result<Attached, String> {
        let guard = Guard::open(&self.path).map_err(|error| error.to_string())?;
        let connection = open_writer(&self.path).map_err(|error| error.to_string())?;
        // Not before the write-ahead log is chosen, for which SQLite wants the file alone.
        guard.keep_open().map_err(|error| format!("its guard: {error}"))?;
        // One file has one lock file, by whatever way the file was found.
        let path = self.path.canonicalize().map_err(|error| error.to_string())?;
        let mut shared_memory = path.clone().into_os_string();
        shared_memory.push("-shm");
        let shared_memory = Guard::open(Path::new(&shared_memory))
            .map_err(|error| format!("its shared memory: {error}"))?;
        let lock = PlaceLock::open(&path, shared_memory)
            .map_err(|error| format!("its lock file: {error}"))?;
        let running = Arc::new(Running::new(connection.get_interrupt_handle()));
        let mut writer = Writer::new(connection, lock, owner, path, Arc::clone(&running));
        writer.recover()?;
        let (asks, received) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("unanimity-sqlite-{}", self.name))
            .spawn(move || writer.run(&received))
            .map_err(|error| format!("its thread: {error}"))?;
        Ok(Attached { asks, thread, running })
    }

    fn detach(&self) {
        let attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Attached { asks, thread, .. }) = attached {
            // An error means that the thread has ended already.
            drop(asks.send(Ask::Stop));
            // A reply may close its store from that very thread, which cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(OPEN_PATIENCE)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(mode, path = %path.display(), "SQLite does not use a write-ahead log here");
    }
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    connection.set_prepared_statement_cache_capacity(64);
    schema::create(&connection)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn open_reader<'a>(
    reader: &'a mut Option<Connection>,
    path: &Path,
) -> Result<&'a Connection, String> {
    if reader.is_none() {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(OPEN_PATIENCE)?;
            connection.execute_batch("PRAGMA query_only = ON")?;
            Ok(connection)
        };
        *reader = Some(open().map_err(|error: rusqlite::Error| error.to_string())?);
    }
    reader.as_ref().ok_or_else(|| DETACHED.to_owned())
}

impl Participant for SqliteStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: true, single_writer: true }
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        barrier::missing_for(kind)
    }

    fn can_compensate(&self, operation: &Operation) -> bool {
        barrier::can_compensate(operation, &["execute"], "statement")
    }

    fn attach(&self, cluster: &ClusterId, name: &StoreName) -> Result<(), ParticipantError> {
        self.detach();
        let owner = Owner { cluster: cluster.clone(), store: name.clone() };
        let attached = self.open(owner).map_err(|what| {
            let path = self.path.display();
            ParticipantError::new(format!("cannot open the SQLite file {path}: {what}"))
        })?;
        *self.attached.lock().unwrap_or_else(PoisonError::into_inner) = Some(attached);
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let deadline = Instant::now() + ask.timeout;
        if let Err(Ask::Prepare { reply, .. }) = self.tell(Ask::Prepare { ask, deadline, reply }) {
            reply.send(Vote::Abort { reason: DETACHED.to_owned() });
        }
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let deadline = Instant::now() + ask.timeout;
        if let Err(Ask::Commit { reply, .. }) =
            self.tell(Ask::Commit { id: ask.id, deadline, reply })
        {
            reply.send(Acknowledgement::Unknown { message: DETACHED.to_owned() });
        }
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        let deadline = Instant::now() + ask.timeout;
        self.interrupt(&ask.id);
        if let Err(Ask::Abort { reply, .. }) = self.tell(Ask::Abort { id: ask.id, deadline, reply })
        {
            reply.send(Acknowledgement::Unknown { message: DETACHED.to_owned() });
        }
    }

    fn last_resource(&self) -> Option<&dyn LastResource> {
        Some(self)
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let deadline = Instant::now() + ask.timeout;
        if let Err(Ask::Execute { reply, .. }) = self.tell(Ask::Execute { ask, deadline, reply }) {
            reply.send(barrier::try_again(DETACHED));
        }
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        if let Err(Ask::List(reply)) = self.tell(Ask::List(reply)) {
            reply.send(Err(ParticipantError::new(DETACHED)));
        }
    }

    fn forget(&self, ids: Vec<CoordinationId>) {
        // Without a thread they are forgotten later, or stay: a marker too many is harmless.
        drop(self.tell(Ask::Forget(ids)));
    }

    fn close(&self) {
        self.detach();
        self.readers.close();
        drop(self.reader.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl LastResource for SqliteStore {
    fn usage(&self) -> LastResourceUse {
        self.usage
    }

    fn only_reads(&self, operation: &Operation) -> bool {
        sqlite_statement::is_read(operation)
    }

    fn decide(&self, ask: DecideAsk, reply: Reply<Deciding>) {
        let deadline = Instant::now() + ask.work.timeout;
        let ask = Box::new(ask);
        if let Err(Ask::Decide { reply, .. }) = self.tell(Ask::Decide { ask, deadline, reply }) {
            reply.send(Deciding::Refused { reason: DETACHED.to_owned() });
        }
    }

    fn forbid(&self, ask: RowAsk, reply: Reply<Standing>) {
        let deadline = Instant::now() + ask.timeout;
        self.interrupt(&ask.id);
        // Without a thread it is dropped, which says unknown.
        drop(self.tell(Ask::Forbid { id: ask.id, deadline, reply }));
    }

    fn read(&self, ask: RowAsk, reply: Reply<Standing>) {
        drop(self.tell(Ask::ReadRow { id: ask.id, reply }));
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}
