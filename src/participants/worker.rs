//! Threads of a store's own that do its blocking work, so that no caller's thread ever waits.
//!
//! Not a scheduler: a store chooses the thread for each piece of work. Invariants: what one thread
//! is given it does in that order; what is refused because the threads have ended is dropped, and
//! the replies inside say so; closing waits for what was accepted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

type Job = Box<dyn FnOnce() + Send>;

struct Worker {
    queue: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

/// A fixed number of threads that start with the first piece of work.
pub(super) struct Workers {
    name: String,
    count: usize,
    running: Mutex<Vec<Worker>>,
}

impl Workers {
    /// None are started yet.
    pub(super) fn new(name: String, count: usize) -> Self {
        Self { name, count, running: Mutex::default() }
    }

    /// Queues work on the thread that this number falls to; equal numbers keep their order.
    pub(super) fn run(&self, number: u64, job: impl FnOnce() + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_empty() {
            for index in 0..self.count {
                // Without a thread the job is dropped, and its reply says that it was.
                let Ok(worker) = start(format!("{}-{index}", self.name)) else { break };
                running.push(worker);
            }
        }
        let count = u64::try_from(running.len()).unwrap_or(u64::MAX);
        let index = number.checked_rem(count).and_then(|index| usize::try_from(index).ok());
        if let Some(worker) = index.and_then(|index| running.get(index)) {
            // The receiver lives as long as its thread, which ends only after the sender is gone.
            drop(worker.queue.send(Box::new(job)));
        }
    }

    /// Waits for what was queued, then ends the threads. Work that comes later starts new ones.
    pub(super) fn close(&self) {
        let ended =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for Worker { queue, thread } in ended {
            drop(queue);
            // A reply may close its store from one of these threads, which cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

fn start(name: String) -> std::io::Result<Worker> {
    let (queue, jobs) = mpsc::channel::<Job>();
    let thread = thread::Builder::new().name(name).spawn(move || {
        for job in jobs {
            // A panic drops the replies of its own job, which say so; the next job is another's.
            drop(catch_unwind(AssertUnwindSafe(job)));
        }
    })?;
    Ok(Worker { queue, thread })
}
