//! The thread that writes the tables, beside the writer of the log: commits never wait for it.
//!
//! Not what is written (projection, query). A journal in memory has one connection, the writer's,
//! and everything is done there. Invariants: work is done in the order in which it was given; the
//! writer hears of the end of every portion and every removal.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, TransactionBehavior};

use super::options::JournalOptions;
use super::projection::Portion;
use super::queue::{Note, Queue};
use super::trouble::{Outcome, Trouble};
use super::{log, query};
use crate::crash;
use crate::db::segments::SpareJob;
use crate::db::sqlite::{self as database, Place};
use crate::db::wal::WriteAheadLog;
use crate::model::time::Timestamp;

const NICENESS: i32 = 10;

/// A change, with its own answer.
pub(super) type Change = Box<dyn FnOnce(&mut Tables) + Send>;

/// What there is to do.
pub(super) enum Task {
    /// Bring these into the tables; with `is_durable`, onto the disk before it is told.
    Project { portion: Portion, is_durable: bool },
    /// Remove up to so many coordinations that ended before the time.
    Remove { cutoff: Timestamp, portion: usize },
    /// Change rows that the log does not tell of. Answers by itself.
    Change(Change),
    /// Make something ready that has nothing to do with the tables.
    Spare(SpareJob),
}

/// The tables, open for writing.
pub(super) struct Tables {
    connection: Connection,
    wal: Option<WriteAheadLog>,
    place: Place,
    options: JournalOptions,
    is_connected: bool,
}

impl Tables {
    pub(super) fn new(connection: Connection, place: &Place, options: &JournalOptions) -> Self {
        let wal = match place {
            Place::File(file) => Some(WriteAheadLog::of(file)),
            Place::Memory => None,
        };
        let (place, options) = (place.clone(), options.clone());
        Self { connection, wal, place, options, is_connected: true }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Does one task, and says how it ended.
    pub(super) fn perform(&mut self, task: Task) -> Option<Note> {
        match task {
            Task::Project { portion, is_durable } => {
                let done = self.attempt(|tables| {
                    let watermark = portion.write(&mut tables.connection)?;
                    crash::point("tables", "written");
                    if is_durable {
                        tables.sync()?;
                    }
                    Ok(watermark)
                });
                Some(Note::Projected { done, is_durable })
            }
            Task::Remove { cutoff, portion } => Some(Note::Removed(self.attempt(|tables| {
                // It reads first; as a reader it would be refused when another process writes in
                // between, whatever its patience.
                let behavior = TransactionBehavior::Immediate;
                let transaction = tables.connection.transaction_with_behavior(behavior)?;
                let removed = query::remove_ended(&transaction, cutoff, portion)?;
                transaction.commit()?;
                Ok(removed)
            }))),
            Task::Change(change) => {
                change(self);
                None
            }
            Task::Spare(job) => {
                job();
                None
            }
        }
    }

    /// Says, durably, that there are no segments: everything is in the tables.
    pub(super) fn renounce_segments(&mut self) -> Outcome<()> {
        log::set_has_segments(&self.connection, false)?;
        self.sync()?;
        crash::point("segment", "renounced");
        Ok(())
    }

    fn sync(&mut self) -> Outcome<()> {
        let Some(wal) = &mut self.wal else { return Ok(()) };
        wal.sync().map_err(|error| Trouble::Sync(error.to_string()))
    }

    /// Writes the file anew without the room that is free in it. Answers how many bytes that was.
    pub(super) fn shrink(&mut self) -> Outcome<u64> {
        self.attempt(|tables| {
            let before = query::space(&tables.connection)?;
            // What is written anew stands in a temporary place first, which must not be memory.
            tables.connection.execute_batch("PRAGMA temp_store=FILE")?;
            let done = tables.connection.execute_batch("VACUUM");
            tables.connection.execute_batch("PRAGMA temp_store=MEMORY")?;
            done?;
            // Others may still read the old pages; then the file becomes shorter a little later.
            tables.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            let after = query::space(&tables.connection)?;
            Ok(before.bytes.saturating_sub(after.bytes))
        })
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Does some work, on a new connection if the old one cannot be trusted.
    pub(super) fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<T> {
        if !self.is_connected {
            self.reconnect()?;
        }
        let done = work(self);
        if let Err(trouble) = &done
            && trouble.breaks_connection()
            && self.place != Place::Memory
        {
            self.is_connected = false;
        }
        done
    }

    fn reconnect(&mut self) -> Outcome<()> {
        // The old connection goes first: what it believes of the file must not reach the new one.
        // In between stands an empty database, which has no table that could take a row.
        let empty = Connection::open_in_memory()?;
        drop(std::mem::replace(&mut self.connection, empty));
        self.connection =
            database::open_writer(&self.place, &self.options.opening()).map_err(Trouble::Reopen)?;
        self.is_connected = true;
        // The last connection may have removed the log; the new one has made another.
        if let Some(wal) = &mut self.wal {
            wal.reopen();
        }
        Ok(())
    }
}

/// Nobody waits for the tables, as a rule: commits and callers go first where processors are few.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // Linux counts niceness by thread. A system that refuses it is as right as before.
        let thread = Some(rustix::thread::gettid());
        let _ = rustix::process::setpriority_process(thread, NICENESS);
    }
}

/// Where tasks are done.
pub(super) enum Projector {
    /// Where they are given.
    Inline(Box<Tables>),
    /// On a thread of its own.
    Beside { tasks: Sender<Task>, thread: JoinHandle<Tables>, reading: Connection },
    /// Nowhere any more.
    Ended,
}

impl Projector {
    /// Writes the tables of `file` on a thread of its own.
    pub(super) fn spawn(mut tables: Tables, file: &Path, queue: &Arc<Queue>) -> Outcome<Self> {
        let patience = tables.options.busy_timeout;
        let reading = database::open_reader(file, patience).map_err(Trouble::Reopen)?;
        let (tasks, given) = mpsc::channel::<Task>();
        let queue = Arc::clone(queue);
        let thread = thread::Builder::new().name("unanimity-tables".to_owned());
        let thread = thread
            .spawn(move || {
                give_way();
                for task in given {
                    if let Some(note) = tables.perform(task) {
                        queue.note(note);
                    }
                }
                tables
            })
            .map_err(Trouble::Thread)?;
        Ok(Self::Beside { tasks, thread, reading })
    }

    /// A connection for looking at the tables from the writer's thread.
    pub(super) fn reading(&self) -> Option<&Connection> {
        match self {
            Self::Inline(tables) => Some(tables.connection()),
            Self::Beside { reading, .. } => Some(reading),
            Self::Ended => None,
        }
    }

    /// Has a task done; its note comes through the queue.
    pub(super) fn give(&mut self, task: Task, queue: &Queue) {
        match self {
            Self::Inline(tables) => {
                if let Some(note) = tables.perform(task) {
                    queue.note(note);
                }
            }
            // Its thread ends only when this end is dropped, or by a panic that was reported.
            Self::Beside { tasks, .. } => drop(tasks.send(task)),
            Self::Ended => {}
        }
    }

    /// Waits for what was given, and gives the tables back.
    pub(super) fn end(&mut self) -> Option<Tables> {
        match std::mem::replace(self, Self::Ended) {
            Self::Inline(tables) => Some(*tables),
            Self::Beside { tasks, thread, reading } => {
                drop((tasks, reading));
                thread.join().ok()
            }
            Self::Ended => None,
        }
    }
}
