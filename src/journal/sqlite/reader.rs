//! The thread that reads, so that a long list does not keep commits waiting.
//!
//! Not a pool: one connection is enough for people's questions. A journal in memory has only the
//! writer's connection, and reads run there. Invariant: every job runs, or its reply is dropped.

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use super::queue::Job;

/// Where reads run.
pub(super) struct Reader {
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
}

impl Reader {
    /// Reads on the writer's connection.
    pub(super) fn inline() -> Self {
        Self { thread: None }
    }

    /// Reads on a thread of its own.
    pub(super) fn spawn(connection: Connection) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread =
            thread::Builder::new().name("unanimity-journal-read".to_owned()).spawn(move || {
                for job in queue {
                    job(&connection);
                }
            })?;
        Ok(Self { thread: Some((jobs, thread)) })
    }

    /// Runs a job; on `connection` if there is no thread, or it is gone.
    pub(super) fn run(&self, connection: &Connection, job: Job) {
        let job = match &self.thread {
            None => job,
            Some((jobs, _)) => match jobs.send(job) {
                Ok(()) => return,
                Err(mpsc::SendError(job)) => job,
            },
        };
        job(connection);
    }

    /// Runs what is queued, then ends the thread.
    pub(super) fn close(&mut self) {
        if let Some((jobs, thread)) = self.thread.take() {
            drop(jobs);
            if thread.thread().id() != thread::current().id() {
                // A panic in a caller's reply has been reported where it happened.
                let _ = thread.join();
            }
        }
    }
}
