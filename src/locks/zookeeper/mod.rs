//! Locks in `ZooKeeper`: seen by all processes, gone with their session.
//!
//! Read it from here down: `wish` carries one ask to its answer by a `stake`, its node in the
//! queue, which waits for its `turn`; who is granted says the pure `zookeeper_queue`. `table` is
//! what this process holds and waits for, `shared` what happens to it; `keeper` makes each
//! `session` and notices its end; `census` reads all queues, `detector` looks for deadlocks in
//! them. The driver is used as a client only, not for its own recipe: that leaves nodes behind when
//! it is cancelled, and knows no modes.
//!
//! Not a table of its own: who holds what is told by the server's nodes alone. Invariants: what is
//! held stands as an ephemeral node of a session that is alive by this process's own clock; a node
//! of this process that nothing here knows is deleted by the audit.

mod census;
mod detector;
mod keeper;
mod node;
mod options;
mod session;
mod shared;
mod stake;
mod table;
mod turn;
mod wish;

use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::model::lock::{
    Deadlock, Grant, LockError, LockId, LockInfo, LockMode, RequesterId, ResourceId,
};
use crate::reply::Reply;

use self::census::Line;
use self::node::whole_ms;
use self::options::Server;
pub use self::options::{ZooKeeperCredentials, ZooKeeperOptions};
use self::session::{Trouble, told};
use self::shared::Shared;
use self::wish::Wish;
use super::at_once::{AtOnce, Habits};
use super::downgrade::{self, DowngradeReply};
use super::many::OneByOne;
use super::{LockAsk, LockEar, LockManager, WaitForGraph, WaitId};

/// How long a question about others' locks waits for the server.
const QUESTION_MAX: Duration = Duration::from_secs(30);
const CLOSE_MAX: Duration = Duration::from_secs(3);
/// A node costs the servers two writes, so where several locks are in demand they are not tried for
/// at once each time.
const HABITS: Habits = Habits { waits_for_server: true, pause: 15 };

/// A lock manager over `ZooKeeper`.
pub struct ZooKeeperLockManager {
    shared: Arc<Shared>,
    door: Arc<Door>,
    at_once: Arc<AtOnce>,
}

impl ZooKeeperLockManager {
    /// A manager whose tasks run on `handle`'s runtime. Nothing is opened before it is needed.
    pub fn new(options: ZooKeeperOptions, handle: Handle) -> Result<Self, LockError> {
        let server = Arc::new(Server::parse(options)?);
        let shared = Shared::new(server, handle)?;
        let at_once = Arc::new(AtOnce::new(HABITS));
        Ok(Self { door: Arc::new(Door(shared.clone())), shared, at_once })
    }

    /// Opens a session now, if there is none; says why where none can be opened in that time.
    pub fn connect(&self, within: Duration, reply: Reply<Result<(), LockError>>) {
        let shared = self.shared.clone();
        self.shared.handle.spawn(async move {
            reply.send(shared.keeper.session(Instant::now() + within).await.map(|_| ()));
        });
    }

    /// Answers a question by a census.
    fn ask<T: Send + 'static>(
        &self,
        resource: Option<ResourceId>,
        only_waits: bool,
        answer: impl FnOnce(&[Line]) -> T + Send + 'static,
        reply: Reply<Result<T, LockError>>,
    ) {
        let shared = self.shared.clone();
        self.shared.handle.spawn(async move {
            let asking = shared.census(resource.as_ref(), only_waits);
            let lines = timeout(QUESTION_MAX, asking).await;
            let lines = lines
                .unwrap_or_else(|_| Err(shared.keeper.server.unavailable("no answer in 30 s")));
            reply.send(lines.map(|lines| answer(&lines)));
        });
    }
}

impl Shared {
    /// Carries out a wish. What it can ask the server now leaves before this returns, so that those
    /// who ask one after the other stand in the queue in that order, once there is a session. The
    /// rest is a task's, whose first poll registers for what this one saw pending.
    fn begin(&self, wish: impl Future<Output = ()> + Send + 'static) {
        let _runtime = self.handle.enter();
        let mut wish = Box::pin(wish);
        if wish.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.handle.spawn(wish);
        }
    }

    async fn census(
        &self,
        resource: Option<&ResourceId>,
        only_waits: bool,
    ) -> Result<Vec<Line>, LockError> {
        loop {
            let until =
                Instant::now() + QUESTION_MAX.min(self.keeper.server.options.session_timeout);
            let session = self.keeper.session(until).await?;
            let taking = census::take(&session, &self.keeper.server, resource, only_waits);
            let taken = tokio::select! {
                taken = taking => taken,
                _ = session.ended() => continue,
            };
            match taken {
                Ok(lines) => return Ok(lines),
                Err(error) if Trouble::of(&error) == Trouble::SessionEnded => {}
                Err(error) => return Err(self.keeper.server.unavailable(&told(&error))),
            }
        }
    }
}

/// Where single wishes come in.
struct Door(Arc<Shared>);

impl OneByOne for Door {
    fn acquire_one(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        let table = &self.0.table;
        let wait = table.mint();
        let Some(end) = table.enter(wait, &ask.resource, &ask.requester) else {
            reply.send(Err(LockError::Closed));
            return wait;
        };
        let shared = self.0.clone();
        self.0.begin(async move {
            let answer = Wish::new(shared.clone(), wait, ask).run(end).await;
            if answer.is_err() {
                shared.table.leave(wait);
            }
            reply.send(answer);
            // One that was granted while its session was suspended is told so, too.
            if let Some(session) = shared.keeper.live() {
                session.poke_if_suspended();
            }
        });
        wait
    }

    fn release_one(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        let Some(hold) = self.0.table.take(lock_id, requester) else {
            return reply.send(Ok(false));
        };
        let (shared, lock_id) = (self.0.clone(), lock_id.clone());
        self.0.handle.spawn(async move {
            reply.send(match shared.drop_node(&hold).await {
                Ok(true) => Ok(true),
                Ok(false) => {
                    let reason = "its session ended before the release was acknowledged".to_owned();
                    Err(LockError::Lost { lock_id, reason })
                }
                Err(error) => Err(error),
            });
        });
    }

    fn cancel_one(&self, wait: WaitId) {
        self.0.table.end(wait, LockError::Cancelled);
    }
}

impl LockManager for ZooKeeperLockManager {
    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        self.shared.listen(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.door.acquire_one(ask, reply)
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        self.at_once.acquire(self.door.clone(), asks, reply)
    }

    fn cancel(&self, wait: WaitId) {
        if !self.at_once.cancel(wait) {
            self.door.cancel_one(wait);
        }
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        self.door.release_one(lock_id, requester, reply);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        self.shared.table.end_all(Some(requester), &LockError::Cancelled);
        let held = self.shared.table.take_all(|_, hold| hold.details.requester == *requester);
        let shared = self.shared.clone();
        self.shared.handle.spawn(async move {
            let count = held.len();
            let leaving: Vec<_> = held
                .into_iter()
                .map(|(_, hold)| {
                    let shared = shared.clone();
                    tokio::spawn(async move { shared.drop_node(&hold).await })
                })
                .collect();
            let mut answer = Ok(count);
            for left in leaving {
                if let Ok(Err(error)) = left.await {
                    answer = Err(error);
                }
            }
            reply.send(answer);
        });
    }

    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>) {
        let until = Instant::now().checked_add(lease);
        let renewed =
            until.and_then(|until| self.shared.table.renew(lock_id, until, whole_ms(lease)));
        let Some((session, path, mut details)) = renewed else { return reply.send(Ok(false)) };
        self.shared.mind_leases();
        details.token = LockId::parse(lock_id.as_str()).map(|(_, _, token)| token);
        let (shared, lock_id) = (self.shared.clone(), lock_id.clone());
        self.shared.handle.spawn(async move {
            let data = details.to_bytes();
            let written = tokio::select! {
                written = session.write(&path, &data) => written,
                _ = session.ended() => Ok(false),
            };
            reply.send(match written {
                // It may have been lost, or let go of, in the meantime.
                Ok(is_there) => Ok(is_there && shared.table.is_held(&lock_id)),
                Err(error) => Err(shared.keeper.server.unavailable(&told(&error))),
            });
        });
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
        // In one transaction the server would not tell the number that is the token.
        match self.shared.table.ask_of(lock_id, requester, mode) {
            Some(ask) => downgrade::by_taking(self.door.clone(), lock_id.clone(), ask, reply),
            None => reply.send(Ok(None)),
        }
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        let infos = |lines: &[Line]| lines.iter().flat_map(Line::infos).collect();
        self.ask(resource, false, infos, reply);
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        self.ask(None, true, census::wait_for, reply);
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        self.shared.deadlocks()
    }

    fn close(&self) {
        if !self.shared.table.close() {
            return;
        }
        self.shared.table.end_all(None, &LockError::Closed);
        drop(self.shared.table.take_all(|_, _| true));
        self.shared.wake_tasks();
        let Some(session) = self.shared.keeper.close() else { return };
        let (done, is_done) = mpsc::channel();
        self.shared.handle.spawn(async move {
            let mut states = session.client.state_watcher();
            // The last one who lets go of the session closes it at the server, with its nodes.
            drop(session);
            while !states.peek_state().is_terminated() {
                states.changed().await;
            }
            let _ = done.send(());
        });
        // A server that does not answer lets the session expire.
        let _ = is_done.recv_timeout(CLOSE_MAX);
    }
}

impl Drop for ZooKeeperLockManager {
    fn drop(&mut self) {
        self.close();
    }
}
