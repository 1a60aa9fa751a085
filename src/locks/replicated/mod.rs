//! Locks in a cluster: the lock table is a part of the state that all nodes share.
//!
//! Not the table (`protocol/replica`) and not the cluster (`crate::cluster` is the port to it).
//! `shared` asks, `hearing` hears, `owing` repeats what must be carried out, `state` is what this
//! process knows of its own waits and locks, `watch` is its clock. An ask is one proposal, however
//! many locks it is for.
//!
//! Invariants: a lock is told to be held only while this process can prove that its session lasts,
//! by an answer of the cluster and its own clock; what is not certain to be gone is given back
//! until it is; nothing is proposed and nobody is told while the mutex is held.

mod hearing;
mod owing;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::Handle;

use self::shared::Shared;
use self::state::{Answerer, Owed};
use super::downgrade::{self, DowngradeReply};
use super::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, RequesterId,
    ResourceId, WaitForGraph, WaitId,
};
use crate::cluster::ReplicatedLog;
use crate::model::lock::LockMode;
use crate::protocol::replica::{Answer, Command, Replica};
use crate::reply::{Lost, Reply};

/// How long closing waits for the cluster; afterwards the end of the session frees what is left.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// The lock manager of one process in a cluster.
pub struct ReplicatedLockManager {
    shared: Arc<Shared>,
}

impl ReplicatedLockManager {
    /// A manager over a log; its timers run on `handle`'s runtime.
    pub fn new(log: Arc<dyn ReplicatedLog>, handle: Handle) -> Self {
        let shared = Shared::new(log, handle);
        shared.log.listen(Arc::new(hearing::Ear(Arc::downgrade(&shared))));
        watch::start(&shared);
        Self { shared }
    }

    fn look<T: Send + 'static>(
        &self,
        reply: Reply<Result<T, LockError>>,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) where
        Result<T, LockError>: Lost,
    {
        let server = self.shared.log.location();
        self.shared.log.read(Box::new(move |replica| {
            reply.send(replica.map(look).map_err(|error| shared::trouble(server, &error)));
        }));
    }
}

impl LockManager for ReplicatedLockManager {
    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&self, ear: Arc<dyn LockEar>) {
        self.shared.lock().ears.push(ear);
    }

    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        self.shared.acquire(vec![ask], Answerer::One(reply))
    }

    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId {
        self.shared.acquire(asks, Answerer::Many(reply))
    }

    fn cancel(&self, wait: WaitId) {
        self.shared.cancel(wait);
    }

    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        let (lock_id, requester) = (lock_id.clone(), requester.clone());
        self.shared.owe(vec![Owed::release(lock_id, requester, Some(reply))]);
    }

    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>) {
        self.shared.release_all(requester, reply);
    }

    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>) {
        self.shared.renew(lock_id, lease, reply);
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
        let (lock_id, requester) = (lock_id.clone(), requester.clone());
        let command =
            Command::Downgrade { lock_id: lock_id.clone(), requester: requester.clone(), mode };
        let shared = Arc::clone(&self.shared);
        self.shared.put(vec![command], move |answers| {
            let changed = answers.map(|mut answers| match answers.pop() {
                Some(Answer::Granted(mut grants)) => grants.pop(),
                _ => None,
            });
            if let Ok(Some(grant)) = &changed {
                shared.lock().exchange(&lock_id, grant);
            }
            reply.send(changed);
        });
    }

    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>) {
        self.look(reply, move |replica| replica.lock_table().status(resource.as_ref()));
    }

    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>) {
        self.look(reply, |replica| replica.lock_table().wait_for_graph());
    }

    fn deadlocks(&self) -> Vec<Deadlock> {
        self.shared.lock().deadlocks.iter().cloned().collect()
    }

    fn close(&self) {
        let Some(owed) = self.shared.shut() else { return };
        if owed.is_empty() {
            return;
        }
        let (sender, done) = mpsc::channel();
        self.shared.put(owed.iter().map(Owed::command).collect(), move |_| {
            // Nobody waits any more where the time was up.
            let _ = sender.send(());
        });
        let _ = done.recv_timeout(CLOSING_MAX);
    }
}

impl Drop for ReplicatedLockManager {
    fn drop(&mut self) {
        self.close();
    }
}
