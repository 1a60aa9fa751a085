//! The port of a lock manager: who may touch a resource, in which mode, in which order.
//!
//! Not the rules (`protocol/lock_table`) and not who locks what for a coordination (engine).
//! Duties of an adapter:
//!
//! 1. Holders of one resource are compatible, or one requester's own. First come, first served;
//!    compatible neighbours are granted together; an upgrade goes ahead of the queue.
//! 2. A wait ends: by a grant, by its timeout, as a deadlock's victim, by [`LockManager::cancel`],
//!    or because the manager is closed. Its reply is answered exactly once. After an answer that is
//!    no grant nothing of it is left behind: no row, no node, no place in the queue.
//! 3. A fencing token of a resource grows with every grant; where a manager outlives its process
//!    ([`LockManager::is_shared`]), also across restarts.
//! 4. A release is acknowledged when others can see it; [`LockManager::release`] of what the
//!    requester does not hold answers false and changes nothing.
//! 5. A holder whose lease or session ended hears of it through [`LockEar::lost`], and by its own
//!    clock no later than anybody else could be granted the lock. Before that, as long as the
//!    server is silent, it is told that the lock is suspended, and then that it is resumed or lost.
//! 6. **Never block**: every method returns at once and answers through its [`Reply`], from any
//!    thread, also before it returns.

mod at_once;
mod downgrade;
pub mod local;
pub mod many;
pub mod postgres;
pub mod replicated;
mod telling;
pub mod zookeeper;
mod zookeeper_path;
mod zookeeper_queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::ids::CoordinationId;
pub use crate::model::lock::{
    Deadlock, Grant, LockError, LockId, LockInfo, LockMode, RequesterId, ResourceId, WaitId,
};
use crate::model::time::Timestamp;
use crate::reply::{LOST, Lost, Reply};

/// One wish.
#[derive(Clone, Debug)]
pub struct LockAsk {
    /// What.
    pub resource: ResourceId,
    /// How.
    pub mode: LockMode,
    /// By whom.
    pub requester: RequesterId,
    /// How long to wait; zero takes it only if it is free now, `None` waits for ever.
    pub timeout: Option<Duration>,
    /// How long the grant holds without a renewal; `None` for until it is released, or the
    /// manager's session ends.
    pub lease: Option<Duration>,
    /// Since when the requester is at work: of those in a deadlock the youngest gives way, so a
    /// retry keeps its age. `None` for now.
    pub working_since: Option<Timestamp>,
    /// Never the victim of a deadlock: it is prepared or decided, and cannot be undone.
    pub is_protected: bool,
    /// The coordination for which it is taken, for people.
    pub coordination: Option<CoordinationId>,
}

/// Who waits for whom: for each requester that waits, those that it waits for.
pub type WaitForGraph = BTreeMap<RequesterId, Vec<RequesterId>>;

/// Hears what no question asked for. Must not block.
pub trait LockEar: Send + Sync {
    /// A lock that was held is held no more.
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str);

    /// The server does not answer: a lock is held until then, and is lost if it does not answer
    /// before.
    fn suspended(&self, _lock_id: &LockId, _requester: &RequesterId, _until: Instant) {}

    /// The server answers again: a lock that was suspended is held as before.
    fn resumed(&self, _lock_id: &LockId, _requester: &RequesterId) {}

    /// A circle of waits was found, and its victim refused.
    fn deadlock(&self, deadlock: &Deadlock);
}

impl<T> Lost for Result<T, LockError> {
    fn lost() -> Self {
        Err(LockError::Unavailable { server: "lock manager".to_owned(), message: LOST.to_owned() })
    }
}

/// A lock manager. The duties are in this module's header.
pub trait LockManager: Send + Sync {
    /// Whether holders in other processes are seen too. Then tokens tell old holders from new ones
    /// across processes, and stores check them.
    fn is_shared(&self) -> bool;

    /// Names one more who hears of losses and deadlocks.
    fn listen(&self, ear: Arc<dyn LockEar>);

    /// Asks for a lock. The wait's id is of use until the reply is answered.
    fn acquire(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId;

    /// Asks for several locks of one requester: all or none. They are taken in the order of their
    /// resources' names (then modes), whatever the order here, so that two such wishes cannot
    /// wait for each other.
    fn acquire_many(
        &self,
        asks: Vec<LockAsk>,
        reply: Reply<Result<Vec<Grant>, LockError>>,
    ) -> WaitId;

    /// Gives a wait up. If no grant is on its way yet, the reply says
    /// [`LockError::Cancelled`] and nothing is held; else it says granted, and the caller
    /// releases.
    fn cancel(&self, wait: WaitId);

    /// Lets go of a lock; false where this requester does not hold it.
    fn release(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    );

    /// Lets go of all that a requester holds, and gives up what it waits for. Answers how many it
    /// held.
    fn release_all(&self, requester: &RequesterId, reply: Reply<Result<usize, LockError>>);

    /// Starts the lease anew from now, `lease` long; false where the lock is not held.
    fn renew(&self, lock_id: &LockId, lease: Duration, reply: Reply<Result<bool, LockError>>);

    /// Changes a lock for one in a weaker mode, with no moment in between in which the requester
    /// does not hold the weaker one; `None` where this requester does not hold it. The new lock has
    /// a token of its own, and the lease stays. A mode that is not weaker is
    /// [`LockError::Invalid`].
    fn downgrade(
        &self,
        lock_id: &LockId,
        _requester: &RequesterId,
        mode: LockMode,
        reply: Reply<Result<Option<Grant>, LockError>>,
    ) {
        let message = format!(
            "this lock manager cannot change {lock_id} for a {mode} lock; take that one as \
             well, and then release this one"
        );
        reply.send(Err(LockError::Invalid { message }));
    }

    /// Who holds a resource, then who waits for it, in order; of all resources for `None`.
    fn status(&self, resource: Option<ResourceId>, reply: Reply<Result<Vec<LockInfo>, LockError>>);

    /// Who waits for whom now.
    fn wait_for_graph(&self, reply: Reply<Result<WaitForGraph, LockError>>);

    /// The last deadlocks that this manager found, the latest first.
    fn deadlocks(&self) -> Vec<Deadlock>;

    /// Ends every wait, lets go of every lock of this process, and closes connections. Blocks for a
    /// bounded time.
    fn close(&self);
}
