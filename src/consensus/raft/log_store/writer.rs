//! The thread that writes a node's log: what waits is written and synced once, then answered.
//!
//! Not who asks (openraft, through `log_store`), and not what a frame means (`frame`). Invariants:
//! - Frames stand in the order in which they were handed over, and nothing is answered before it
//!   is on the disk.
//! - The first write or sync that fails is the last: nobody knows what of it is on the disk, so
//!   everything after it is answered with the same error, and the node stops.
//! - A segment goes when the purge that makes it needless is on the disk.
//!
//! The queue needs no bound of its own: openraft waits for each append and each vote before it
//! hands over the next.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use super::frame::Frame;
use crate::consensus::raft::types::{Entry, LogId, Types, Vote};
use crate::crash;
use crate::db::segments::{Batch, SegmentLog};

/// What is to be written.
pub(super) enum Job {
    Entries(Vec<Entry>, LogFlushed<Types>),
    Vote(Vote, oneshot::Sender<io::Result<()>>),
    Truncate(u64),
    Purge { purged: LogId, vote: Option<Vote>, committed: Option<LogId> },
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    /// The last commit mark. It waits for something else to be written: it makes a restart
    /// quicker, and no promise depends on it.
    committed: Option<LogId>,
    is_closing: bool,
    /// Plays a disk whose sync fails.
    #[cfg(test)]
    is_disk_failing: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The same, for a task in the place of the thread.
    #[cfg(test)]
    came: tokio::sync::Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A queue is whole at every moment, also after a panic elsewhere.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Begins to write behind what `log` holds; `places` are the index and the position of each
    /// entry in it.
    pub(super) fn start(log: SegmentLog, places: VecDeque<(u64, i64)>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut work = Work {
            shared: Arc::clone(&shared),
            log,
            places,
            batch: Batch::default(),
            failed: None,
            runtime: tokio::runtime::Handle::try_current().ok(),
        };
        #[cfg(test)]
        if crate::simulated::is_on() {
            tokio::spawn(async move { while work.serve_simulated().await {} });
            return Ok(Self { shared, thread: Mutex::new(None) });
        }
        let thread = std::thread::Builder::new()
            .name("unanimity-raft-log".to_owned())
            .spawn(move || while work.serve() {})?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn push(&self, job: Job) {
        self.shared.lock().jobs.push(job);
        self.shared.wake.notify_one();
        #[cfg(test)]
        self.shared.came.notify_one();
    }

    pub(super) fn mark_committed(&self, id: LogId) {
        self.shared.lock().committed = Some(id);
    }

    /// Writes what waits, and lets go of the log. Blocks.
    pub(super) fn close(&self) {
        self.shared.lock().is_closing = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the thread was told by the panic itself; its jobs were answered by drop.
            let _ = thread.join();
        }
    }

    #[cfg(test)]
    pub(super) fn lose_mark(&self) {
        self.shared.lock().committed = None;
    }

    #[cfg(test)]
    pub(super) fn fail_disk(&self) {
        self.shared.lock().is_disk_failing = true;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Work {
    shared: Arc<Shared>,
    log: SegmentLog,
    places: VecDeque<(u64, i64)>,
    batch: Batch,
    failed: Option<String>,
    runtime: Option<tokio::runtime::Handle>,
}

impl Work {
    /// One round; false when there will be no other.
    fn serve(&mut self) -> bool {
        let (jobs, committed) = {
            let mut queue = self.shared.lock();
            while queue.jobs.is_empty() && !queue.is_closing {
                queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            #[cfg(test)]
            if queue.is_disk_failing {
                self.failed.get_or_insert_with(|| "a test says that the disk failed".to_owned());
            }
            if queue.jobs.is_empty() && queue.committed.is_none() {
                return false;
            }
            (std::mem::take(&mut queue.jobs), queue.committed.take())
        };
        self.attempt(|work| work.write(&jobs, committed));
        self.attempt(Self::sync);
        self.answer(jobs);
        if self.failed.is_none()
            && let (Some(job), Some(runtime)) = (self.log.spare_job(), &self.runtime)
        {
            runtime.spawn_blocking(job);
        }
        true
    }

    /// As `serve`, with the disk's time in between, in which the node may die.
    #[cfg(test)]
    async fn serve_simulated(&mut self) -> bool {
        self.shared.came.notified().await;
        loop {
            let (jobs, committed) = {
                let mut queue = self.shared.lock();
                if queue.jobs.is_empty() {
                    // The mark of a commit waits for something else here too.
                    return !queue.is_closing;
                }
                (std::mem::take(&mut queue.jobs), queue.committed.take())
            };
            self.attempt(|work| work.write(&jobs, committed));
            tokio::time::sleep(crate::simulated::sync_time()).await;
            self.attempt(Self::sync);
            self.answer(jobs);
        }
    }

    /// Does a part of the work, unless one before it failed.
    fn attempt(&mut self, part: impl FnOnce(&mut Self) -> Result<(), String>) {
        if self.failed.is_none()
            && let Err(words) = part(self)
        {
            tracing::error!(error = %words, "the log of this node failed; the node stops");
            self.failed = Some(words);
        }
    }

    fn write(&mut self, jobs: &[Job], committed: Option<LogId>) -> Result<(), String> {
        self.batch.clear();
        let mut next = self.log.tail() + 1;
        let mut put = Put { batch: &mut self.batch, began: next, next: &mut next };
        for job in jobs {
            put.job(job, &mut self.places)?;
        }
        // Behind the entries: a mark never stands before what it marks.
        if let Some(id) = committed {
            put.frame(&Frame::Committed(id))?;
        }
        self.log.append(&self.batch).map_err(|error| error.to_string())?;
        crash::point("raft_log", "written");
        Ok(())
    }

    fn sync(&mut self) -> Result<(), String> {
        self.log.sync().map_err(|error| error.to_string())?;
        crash::point("raft_log", "synced");
        Ok(())
    }

    fn answer(&mut self, jobs: Vec<Job>) {
        let outcome = || self.failed.clone().map_or(Ok(()), |words| Err(io::Error::other(words)));
        let mut purges = false;
        for job in jobs {
            match job {
                Job::Entries(_, flushed) => flushed.log_io_completed(outcome()),
                Job::Vote(_, reply) => drop(reply.send(outcome())),
                Job::Truncate(_) => {}
                Job::Purge { .. } => purges = outcome().is_ok(),
            }
        }
        if purges {
            self.remove_needless();
        }
    }

    fn remove_needless(&mut self) {
        let first = self.places.front().map_or(self.log.tail(), |(_, position)| *position);
        if let Err(error) = self.log.remove_through(first - 1) {
            // They take room, and nothing else; the next purge tries again.
            tracing::warn!(%error, "segments of the raft log that are not needed stay");
        }
    }
}

/// Puts frames into a batch.
struct Put<'a> {
    batch: &'a mut Batch,
    began: i64,
    next: &'a mut i64,
}

impl Put<'_> {
    fn job(&mut self, job: &Job, places: &mut VecDeque<(u64, i64)>) -> Result<(), String> {
        match job {
            Job::Entries(entries, _) => {
                for entry in entries {
                    places.push_back((entry.log_id.index, *self.next));
                    // The clone shares its payload.
                    self.frame(&Frame::Entry(entry.clone()))?;
                }
                Ok(())
            }
            #[cfg(test)]
            Job::Vote(..) if crate::simulated::has(crate::simulated::Flaw::VoteNotWritten) => {
                Ok(())
            }
            Job::Vote(vote, _) => self.frame(&Frame::Vote(*vote)),
            Job::Truncate(index) => {
                while places.back().is_some_and(|(last, _)| last >= index) {
                    places.pop_back();
                }
                self.frame(&Frame::Truncate(*index))
            }
            Job::Purge { purged, vote, committed } => {
                while places.front().is_some_and(|(first, _)| *first <= purged.index) {
                    places.pop_front();
                }
                let (purged, vote, committed) = (*purged, *vote, *committed);
                self.frame(&Frame::Purge { purged, vote, committed })
            }
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), String> {
        let began = self.began;
        self.batch
            .push(*self.next, |bytes| frame.write(began, bytes))
            .map_err(|error| error.to_string())?;
        *self.next += 1;
        Ok(())
    }
}
