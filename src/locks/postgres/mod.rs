//! Locks in a PostgreSQL database, shared by all processes that use it.
//!
//! Read it from here down: `shared` is what its tasks share; `state` is what this process asked for
//! and holds, `suspension` what holders hear while the server is silent; `lane` sends `errand`s and
//! `answer` takes in what comes back; `session` keeps the heartbeat and hears of grants; `watch`
//! sweeps what others left and looks for deadlocks; `question` reads; `link` is one connection,
//! which must reach the server itself or a pool by session, not by transaction. The rules
//! themselves run in the database, beside the rows (`db/migrations/postgres/0001_locks.sql`), so
//! that a grant is made by whoever makes room for it, in the same transaction. Not a queue in
//! memory. Invariants: the rows decide, this process only believes; a holder stops being one by its
//! own clock before others may be granted.

mod answer;
mod errand;
mod lane;
mod link;
mod question;
mod session;
mod shared;
mod state;
mod suspension;
mod wait;
mod watch;

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use self::errand::{Errand, QuestionKind};
use self::shared::{Inner, lock};
use self::wait::Ending;
use super::at_once::AtOnce;
use super::downgrade::{self, DowngradeReply};
use super::many::OneByOne;
use super::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, LockMode,
    RequesterId, ResourceId, WaitForGraph, WaitId,
};
use crate::db::postgres::Server;
use crate::reply::Reply;

const WHOSE: &str = "the PostgreSQL lock manager";
/// How long a close waits for what is under way, and then for the goodbye to the server.
const CLOSE_MAX: Duration = Duration::from_secs(3);

/// How a manager works.
#[derive(Clone, Copy, Debug)]
pub struct PostgresLockOptions {
    /// Who is silent for longer holds nothing any more. At least 300 ms.
    pub session_timeout: Duration,
    /// How often circles of waits are looked for while somebody waits; a wait that may close one
    /// is looked at when it begins.
    pub detection_interval: Duration,
    /// Whether circles of waits are looked for at all; otherwise they end by the timeouts of those
    /// who wait.
    pub detects: bool,
    /// Connections for wishes and releases; one more listens, and one watches.
    pub connections: usize,
}

impl Default for PostgresLockOptions {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
            detection_interval: Duration::from_secs(1),
            detects: true,
            connections: 2,
        }
    }
}

/// A lock manager over a PostgreSQL database.
pub struct PostgresLockManager {
    inner: Arc<Inner>,
    handle: Handle,
    running: Mutex<Option<JoinHandle<()>>>,
    at_once: Arc<AtOnce>,
}

impl PostgresLockManager {
    /// A manager over the database that `dsn` names; its tasks run on `handle`'s runtime. Nothing
    /// is opened before it is first used.
    pub fn new(dsn: &str, options: PostgresLockOptions, handle: Handle) -> Result<Self, LockError> {
        let invalid = |message: String| LockError::Invalid { message };
        if options.session_timeout < Duration::from_millis(300)
            || options.detection_interval < Duration::from_millis(10)
            || !(1..=64).contains(&options.connections)
        {
            return Err(invalid(format!(
                "{WHOSE} has session_timeout {:?}, detection_interval {:?} and connections {}; \
                 give at least 300 ms, at least 10 ms, and 1 to 64",
                options.session_timeout, options.detection_interval, options.connections
            )));
        }
        let server = Server::parse(dsn, WHOSE).map_err(|error| invalid(error.to_string()))?;
        let inner = Arc::new(Inner::new(server, options).map_err(invalid)?);
        Ok(Self { inner, handle, running: Mutex::new(None), at_once: Arc::default() })
    }

    /// Starts the tasks at the first use.
    fn start(&self) {
        let mut running = lock(&self.running);
        if running.is_none() && !self.inner.is_closing() {
            *running = Some(self.handle.spawn(run(self.inner.clone())));
        }
    }

    fn ask(&self, kind: QuestionKind, resource: Option<&ResourceId>) {
        if self.inner.is_closing() {
            return kind.refuse(LockError::Closed);
        }
        self.start();
        let index = resource.map_or(0, |resource| self.inner.lane_of(resource));
        self.inner.lanes[index].push(Errand::question(kind));
    }
}

/// Everything that runs, and the goodbye at the end.
async fn run(inner: Arc<Inner>) {
    let mut tasks = JoinSet::new();
    for index in 0..inner.lanes.len() {
        tasks.spawn(lane::run(inner.clone(), index));
    }
    tasks.spawn(watch::run(inner.clone()));
    tasks.spawn(tick(inner.clone()));
    let link = session::run(&inner).await;
    // A wish that is under way must not be granted after the goodbye.
    let _ =
        tokio::time::timeout(CLOSE_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    tasks.shutdown().await;
    let Some(link) = link else { return };
    let mut sessions = inner.state().over.clone();
    sessions.extend(inner.session_id());
    for id in sessions {
        // What this leaves, others sweep.
        let _ = tokio::time::timeout(CLOSE_MAX, session::end(&link, id)).await;
    }
}

/// Does what time alone brings about.
async fn tick(inner: Arc<Inner>) {
    while !inner.is_closing() {
        let mut out = Vec::new();
        let next = inner.state().tick(Instant::now(), &mut out);
        inner.carry_out(out);
        let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = inner.tick_wake.notified() => {}
            () = inner.closing() => return,
        }
    }
}

impl LockManager for PostgresLockManager {
    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        lock(&self.inner.ears).push(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.start();
        self.inner.acquire_one(ask, reply)
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        self.start();
        self.at_once.acquire(self.inner.clone(), asks, reply)
    }

    fn cancel(&self, wait: WaitId) {
        if !self.at_once.cancel(wait) {
            self.inner.cancel_one(wait);
        }
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.start();
        self.inner.release_one(lock_id, requester, reply);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        let inner = &self.inner;
        let numbers: Vec<u64> = {
            let mut state = inner.state();
            for held in state.held.values_mut().filter(|held| held.ask.requester == *requester) {
                held.is_leaving = true;
            }
            let own = state.waits.iter().filter(|(_, wait)| wait.ask.requester == *requester);
            own.map(|(number, _)| *number).collect()
        };
        for number in numbers {
            inner.end(number, Ending::Dropped);
        }
        self.ask(QuestionKind::ReleaseAll(requester.clone(), reply), None);
    }

    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>) {
        let Some((resource, ..)) = LockId::parse(lock_id.as_str()) else {
            return reply.send(Ok(false));
        };
        self.ask(QuestionKind::Renew(lock_id.clone(), lease, reply), Some(&resource));
    }

    fn downgrade(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        mode: LockMode,
        reply: DowngradeReply,
    ) {
        if let Err(error) = downgrade::check(lock_id, mode) {
            return reply.send(Err(error));
        }
        let ask = {
            let state = self.inner.state();
            let held = state.held.get(lock_id).filter(|held| held.ask.requester == *requester);
            held.and_then(|held| held.in_mode(mode))
        };
        match ask {
            Some(ask) => downgrade::by_taking(self.inner.clone(), lock_id.clone(), ask, reply),
            None => reply.send(Ok(None)),
        }
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        let near = resource.clone();
        self.ask(QuestionKind::Status(resource, reply), near.as_ref());
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        self.ask(QuestionKind::Graph(reply), None);
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        lock(&self.inner.deadlocks).iter().cloned().collect()
    }

    fn close(&self) {
        let inner = &self.inner;
        let mut out = Vec::new();
        inner.state().close(&mut out);
        inner.carry_out(out);
        inner.is_closing.send_replace(true);
        if let Some(running) = lock(&self.running).take() {
            let (sender, ended) = mpsc::channel();
            self.handle.spawn(async move {
                let _ = running.await;
                let _ = sender.send(());
            });
            // Where it takes longer, the rest goes on by itself.
            let _ = ended.recv_timeout(2 * CLOSE_MAX);
        }
        for lane in &inner.lanes {
            for errand in lane.take_all(|_| true) {
                errand.refuse(LockError::Closed);
            }
        }
    }
}

impl Drop for PostgresLockManager {
    fn drop(&mut self) {
        self.close();
    }
}
