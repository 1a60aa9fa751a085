//! Where the writer sits: its own thread, or a caller's that does its work in passing.
//!
//! Not what is written (writer). While many write, the writer's thread does it all, one batch after
//! the other. A caller who is alone would wake that thread, and be woken by it: on a virtual
//! machine each takes as long as the write itself. So where the thread sleeps and the caller can do
//! it, the caller sits down at the desk.
//!
//! Invariants: one at a time has the writer, and records are taken out of the queue only by
//! whoever has it, so they are written in their order; a caller never waits for the desk; a panic
//! ends the journal, whoever sat there.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::queue::{Queue, Wait};
use super::writer::Writer;
use crate::journal::JournalError;

/// The writer, and who may have it.
pub(super) struct Desk {
    /// None when the journal has ended.
    writer: Mutex<Option<Writer>>,
    queue: Arc<Queue>,
    path: String,
}

impl Desk {
    pub(super) fn new(writer: Writer) -> Self {
        let (queue, path) = (Arc::clone(&writer.queue), writer.path.clone());
        Self { writer: Mutex::new(Some(writer)), queue, path }
    }

    /// The writer's thread: works until the queue is shut and empty.
    pub(super) fn run(&self) {
        loop {
            let wait = self.open().as_ref().map(Writer::wait);
            let Some(wait) = wait else { return };
            self.queue.wait(&wait);
            let mut held = self.open();
            self.guarded(&mut held, |writer| {
                let is_last = writer.turn();
                if is_last {
                    writer.finish();
                }
                !is_last
            });
        }
    }

    /// A caller's thread: does the work for which [`Queue::append_alone`] asked it, or wakes the
    /// one that will.
    pub(super) fn work(&self, can_wait: bool) {
        let mut held = match self.writer.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return self.queue.wake(),
        };
        let mut is_done = true;
        self.guarded(&mut held, |writer| {
            is_done = writer.turn_alone(can_wait);
            true
        });
        drop(held);
        if !is_done {
            self.queue.wake();
        }
    }

    /// Works with the writer, which stays as long as `work` says so. A panic is a defect of ours;
    /// nobody may wait for the writer for ever.
    fn guarded(&self, held: &mut Option<Writer>, work: impl FnOnce(&mut Writer) -> bool) {
        let Some(writer) = held else { return };
        match catch_unwind(AssertUnwindSafe(|| work(writer))) {
            Ok(true) => {}
            Ok(false) => *held = None,
            Err(_) => {
                self.collapsed(writer);
                *held = None;
            }
        }
    }

    fn collapsed(&self, writer: &mut Writer) {
        let path = self.path.clone();
        let reason = "its writer failed by a defect of unanimity; restart the process".to_owned();
        let error = JournalError::Unavailable { path, reason };
        let queue = &self.queue;
        queue.shut(error.clone());
        // The sink itself may be what panicked, so each call to it stands alone.
        let told = [
            catch_unwind(AssertUnwindSafe(|| queue.health_changed(Some(error.clone())))),
            catch_unwind(AssertUnwindSafe(|| writer.give_up(&error))),
            catch_unwind(AssertUnwindSafe(|| queue.drain(&error))),
        ];
        if told.iter().any(Result::is_err) {
            tracing::error!(%error, "the journal's listener failed too");
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<Writer>> {
        // What panics with the writer in hand takes it away, so nothing half done is left here.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// What to sleep for before the next turn.
    fn wait(&self) -> Wait {
        let (until, is_pause) = match &self.backoff {
            Some(backoff) => (Some(backoff.retry_at), true),
            None => (self.next_upkeep(), false),
        };
        Wait {
            until,
            is_pause,
            turns: self.queue.turns(),
            batch_max: self.options.batch_size_max,
            lazy_max: self.options.lazy_wait_max,
        }
    }

    fn next_upkeep(&self) -> Option<Instant> {
        if self.upkeep.is_busy() {
            None
        } else if !self.reads.is_empty() || !self.sweeps.is_empty() {
            Some(Instant::now())
        } else if self.view.backlog() > 0 {
            let idle_at = self.worked_at + self.options.projection_idle;
            let until = self.upkeep.paused_until.map_or(idle_at, |paused| paused.max(idle_at));
            // Not longer than the next lazy record may lie, so that it need not wake anybody.
            Some(until.min(Instant::now() + self.options.lazy_wait_max))
        } else {
            None
        }
    }

    /// Writes what waits, and nothing else, for a thread that is not the writer's own; false where
    /// that is not to be done here: something else is to be done too, or would be waited for.
    fn turn_alone(&mut self, can_wait: bool) -> bool {
        let is_easy = self.backoff.is_none() && self.is_trusted && self.batch.is_empty();
        let Some(log) = self.log.as_ref().filter(|_| is_easy && !self.is_far_behind()) else {
            return false;
        };
        if log.lock(Duration::ZERO).is_err() {
            return false;
        }
        let Some(batch) = self.queue.take_alone(self.options.batch_size_max, can_wait) else {
            log.unlock();
            return false;
        };
        self.batch.extend(batch);
        self.write(true);
        self.worked_at = Instant::now();
        self.queue.meter.is_behind_by(self.view.backlog());
        self.tell_events();
        self.queue.turned(self.worked_at + self.options.projection_idle);
        self.backoff.is_none()
    }
}
