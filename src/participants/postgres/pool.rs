//! A small pool of connections: the one that was used last is used next.
//!
//! Not a queue of questions. Prepares and reads leave some connections to commits and aborts:
//! a prepare may wait for a row that only the commit of another one sets free.
//! Invariants: never more than `max` connections; a connection goes back only when its user says
//! that nothing is open on it, and otherwise it is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::Session;
use crate::db::postgres::{Server, carry};

/// A connection beyond the least that nobody used for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(300);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Prepares and reads.
    Work,
    /// Commits, aborts and the rest, which must get through.
    Delivery,
}

/// The pool.
pub(super) struct Pool {
    pub(super) server: Server,
    name: String,
    min: usize,
    max: usize,
    idle: Mutex<Vec<Session>>,
    all: Arc<Semaphore>,
    work: Arc<Semaphore>,
    is_closed: AtomicBool,
}

impl Pool {
    /// Nothing is opened yet. `max` is at least 2.
    pub(super) fn new(server: Server, name: &str, min: usize, max: usize) -> Self {
        let reserved = (max / 4).max(1);
        Self {
            server,
            name: name.to_owned(),
            min,
            max,
            idle: Mutex::new(Vec::new()),
            all: Arc::new(Semaphore::new(max)),
            work: Arc::new(Semaphore::new(max - reserved)),
            is_closed: AtomicBool::new(false),
        }
    }

    /// A connection, waited for; or why there is none.
    pub(super) async fn lease(self: &Arc<Self>, purpose: Purpose) -> Result<Lease, String> {
        let mut permits = Vec::with_capacity(2);
        if purpose == Purpose::Work {
            permits.push(self.permit(&self.work).await?);
        }
        permits.push(self.permit(&self.all).await?);
        let session = match self.pop() {
            Some(session) => session,
            None => self.open().await?,
        };
        Ok(Lease {
            pool: self.clone(),
            session: Some(session),
            is_clean: false,
            is_spoilt: false,
            _permits: permits,
        })
    }

    /// Opens the least number of connections, so that the first questions need not.
    pub(super) async fn warm(&self) -> Result<(), String> {
        self.is_closed.store(false, Ordering::Release);
        let missing = self.min.max(1).saturating_sub(self.idle().len());
        for _ in 0..missing {
            let session = self.open().await?;
            self.idle().push(session);
        }
        Ok(())
    }

    /// Closes what is idle; what is in use is closed when it comes back.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.idle().clear();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    async fn permit(&self, of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, String> {
        if self.is_closed() {
            return Err(format!("the PostgreSQL store '{}' is closed", self.name));
        }
        // The semaphores are never closed, so this only waits.
        of.clone().acquire_owned().await.map_err(|error| error.to_string())
    }

    async fn open(&self) -> Result<Session, String> {
        match self.server.connect().await {
            Ok((client, connection)) => {
                // It ends with the client, or with the server.
                tokio::spawn(carry(connection));
                Ok(Session::new(client))
            }
            Err(error) => {
                let whose = format!("the PostgreSQL store '{}'", self.name);
                Err(self.server.unreachable(&whose, &error))
            }
        }
    }

    fn pop(&self) -> Option<Session> {
        let mut idle = self.idle();
        while let Some(session) = idle.pop() {
            if !session.client.is_closed() {
                return Some(session);
            }
        }
        None
    }

    fn push(&self, mut session: Session) {
        if self.is_closed() || session.client.is_closed() {
            return;
        }
        session.idle_since = Instant::now();
        let mut idle = self.idle();
        idle.push(session);
        // The bottom one is the one that was idle longest.
        if idle.len() > self.min && idle[0].idle_since.elapsed() > IDLE_MAX {
            idle.remove(0);
        }
        debug_assert!(idle.len() <= self.max, "more connections than permits");
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        // Nothing that holds it can leave the list half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Dropped without [`Lease::clean`] it is closed.
pub(super) struct Lease {
    pool: Arc<Pool>,
    session: Option<Session>,
    is_clean: bool,
    is_spoilt: bool,
    // Held for its drop, after the connection went back.
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Lease {
    pub(super) fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a lease has its session until it is dropped")
    }

    /// Says that nothing is open on the connection now.
    pub(super) fn clean(&mut self) {
        self.is_clean = true;
    }

    /// Says that the connection must not be used again, clean or not.
    pub(super) fn spoil(&mut self) {
        self.is_spoilt = true;
    }

    /// Says that something is open on it again.
    pub(super) fn soil(&mut self) {
        self.is_clean = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && self.is_clean
            && !self.is_spoilt
        {
            self.pool.push(session);
        }
    }
}
