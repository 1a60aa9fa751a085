//! The locks of coordinations at the port: taken for a machine, given back for it, told as lost.
//!
//! Not which (protocol) and not who gets them (a lock manager). A manager may answer before the
//! question returns; its answer is a fact like any other, and waits in the inbox until the step
//! that asked is done. Invariants: what is granted to a machine that is gone is let go of; locks of
//! a coordination whose end nobody knows stay held for as long as the manager is open; one that
//! ended unbegun is told so only when the journal knows nothing else of its id.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::crash;
use crate::locks::{Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockManager, WaitId};
use crate::model::event::CoordinationEvent;
use crate::model::ids::CoordinationId;
use crate::model::lock::{Fence, LockMode, RequesterId, ResourceId};
use crate::model::outcome::{CoordinationResult, Outcome};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;
use crate::protocol::Input;
use crate::protocol::lock_plan::{LockWish, locks_of};
use crate::reply::Reply;

use super::admission::{conflict, refuse};
use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::queries::stored_result;
use super::table::{Entry, SlotKey};
use super::{Found, Waiter};

/// How many first starts of refused coordinations are remembered.
const FIRST_STARTS_MAX: usize = 10_000;

/// What one coordination holds, or waits for.
#[derive(Default)]
pub(super) struct HeldLocks {
    pub(super) wait: Option<WaitId>,
    pub(super) grants: Vec<Grant>,
    /// Since when it is at work, if an earlier try under its id was refused.
    pub(super) working_since: Option<Timestamp>,
    /// A process before may have left locks under its id.
    pub(super) resumed: bool,
}

/// When refused coordinations were first tried: a retry keeps its age, so that the same one is not
/// a deadlock's victim again and again. Bounded; the oldest are forgotten first.
#[derive(Default)]
pub(super) struct FirstStarts {
    at: HashMap<CoordinationId, Timestamp>,
    order: VecDeque<CoordinationId>,
}

impl FirstStarts {
    pub(super) fn of(&self, id: &CoordinationId) -> Option<Timestamp> {
        // The common service has none, and pays no hash.
        if self.at.is_empty() { None } else { self.at.get(id).copied() }
    }

    fn remember(&mut self, id: CoordinationId, at: Timestamp) {
        if self.at.contains_key(&id) {
            return;
        }
        if self.order.len() >= FIRST_STARTS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.at.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.at.insert(id, at);
    }
}

/// The engine's ear at the lock manager; not the engine itself, which holds the manager.
pub(super) struct Ear(pub(super) Weak<Core>);

impl LockEar for Ear {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        if let Some(core) = self.0.upgrade() {
            let (lock_id, requester) = (lock_id.clone(), requester.clone());
            core.post(Fact::LockLost { lock_id, requester, reason: reason.to_owned() });
        }
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        if let Some(core) = self.0.upgrade() {
            let found = core.deadlocks.fetch_add(1, Ordering::Relaxed) + 1;
            let Deadlock { victim, resource, .. } = deadlock;
            let code = "transaction.aborted.deadlock";
            tracing::warn!(%victim, %resource, code, found, "a deadlock was found");
            if let Some(bus) = &core.ports.bus {
                bus.tell(CoordinationEvent::Deadlock(Box::new(deadlock.clone())));
            }
        }
    }
}

impl State {
    /// Asks for the locks. Under the core's lock: a manager answers later or at once, and blocks
    /// for nothing.
    pub(super) fn acquire(
        &mut self,
        core: &Core,
        key: SlotKey,
        locks: &Arc<[LockWish]>,
        timeout: Option<Duration>,
    ) {
        let (Some(entry), Some(manager)) = (self.table.get(key), &core.ports.locks) else { return };
        let id = entry.id();
        let requester = RequesterId::from(id);
        // What recovers waits for as long as it takes.
        let longest = core.ports.options.lock_timeout;
        let timeout = timeout.map(|timeout| longest.map_or(timeout, |most| timeout.min(most)));
        let since = entry.locks.working_since.unwrap_or(entry.machine.began_at());
        let ask = |wish: &LockWish| LockAsk {
            resource: wish.resource.clone(),
            mode: wish.mode,
            requester: requester.clone(),
            timeout,
            lease: None,
            working_since: Some(since),
            is_protected: timeout.is_none(),
            coordination: Some(id.clone()),
        };
        let asks = locks.iter().map(ask).collect();
        let (watch, count) = (core.watch(entry.machine.request()), locks.len());
        let (this, behind) = (core.this.clone(), Arc::downgrade(manager));
        let asker = requester.clone();
        let reply = Reply::new(move |result: Result<Vec<Grant>, LockError>| {
            if let Some(core) = this.upgrade() {
                core.observe_locks(watch.as_ref(), count, &result);
                core.post(Fact::LocksAnswered { key, asker, result });
            } else if let (Some(manager), Ok(grants)) = (behind.upgrade(), result) {
                let_go(manager.as_ref(), &asker, &grants);
            }
        });
        crash::point("before_take", "locks");
        let wait = manager.acquire_many(asks, reply);
        entry.locks.wait = Some(wait);
    }

    /// The manager's word. The machine may be gone, or may have given the wait up.
    pub(super) fn locks_answered(
        &mut self,
        core: &Core,
        key: SlotKey,
        asker: &RequesterId,
        result: Result<Vec<Grant>, LockError>,
    ) {
        let waiting = |entry: &&mut Entry| entry.locks.wait.is_some();
        let Some(entry) = self.table.get(key).filter(waiting) else {
            if let (Ok(grants), Some(manager)) = (result, &core.ports.locks) {
                let_go(manager.as_ref(), asker, &grants);
            }
            return;
        };
        entry.locks.wait = None;
        match result {
            Ok(grants) => {
                crash::point("after_take", "locks");
                let tokens = tokens_of(entry.machine.locks(), &grants);
                entry.locks.grants = grants;
                self.step(core, key, Input::Locked { tokens });
            }
            Err(error) => {
                let began = entry.locks.working_since.unwrap_or(entry.machine.began_at());
                let id = entry.id().clone();
                let code = code_of(&error);
                tracing::info!(coordination = %id, code, %error, "its locks were refused");
                if !entry.locks.resumed {
                    self.first_starts.remember(id, began);
                }
                self.step(core, key, Input::LockRefused { reason: reason_of(&error) });
            }
        }
    }

    pub(super) fn lock_lost(
        &mut self,
        core: &Core,
        lock_id: &LockId,
        requester: &RequesterId,
        reason: &str,
    ) {
        let Ok(id) = CoordinationId::new(requester.as_str()) else { return };
        let Some(key) = self.table.find(&id) else { return };
        let Some(entry) = self.table.get(key) else { return };
        let held = entry.locks.grants.len();
        entry.locks.grants.retain(|grant| grant.lock_id != *lock_id);
        if entry.locks.grants.len() < held {
            let code = "transaction.aborted.lock_lost";
            tracing::warn!(coordination = %id, code, lock = %lock_id, reason, "a lock was lost");
            let message = format!("{lock_id}: {reason}");
            self.step(core, key, Input::LockLost { message });
        }
    }

    /// Lets go of everything that a machine holds or waits for.
    pub(super) fn release(&mut self, core: &Core, key: SlotKey) {
        let (Some(entry), Some(manager)) = (self.table.get(key), &core.ports.locks) else { return };
        let requester = RequesterId::from(entry.id());
        if let Some(wait) = entry.locks.wait.take() {
            manager.cancel(wait);
        }
        let_go(manager.as_ref(), &requester, &entry.locks.grants);
        entry.locks.grants.clear();
    }

    /// A coordination that was resumed has ended: what an engine before held for it under the same
    /// manager goes too. In a shared one, that ended with the session.
    pub(super) fn release_left_behind(&mut self, core: &Core, key: SlotKey) {
        let (Some(entry), Some(manager)) = (self.table.get(key), &core.ports.locks) else { return };
        if !entry.locks.resumed || manager.is_shared() {
            return;
        }
        let reply = Reply::new(|left: Result<usize, LockError>| match left {
            Ok(left) => tracing::debug!(left, "locks that were left behind are released"),
            Err(error) => tracing::warn!(%error, "locks cannot be released"),
        });
        manager.release_all(&RequesterId::from(entry.id()), reply);
    }

    /// No more requests: those that have not begun, because they wait for locks, never will.
    pub(super) fn give_up_waits(&mut self, core: &Core) {
        for id in self.table.ids() {
            let Some(key) = self.table.find(&id) else { continue };
            let waits = |entry: &mut Entry| entry.locks.wait.is_some() && !entry.locks.resumed;
            if self.table.get(key).is_some_and(waits) {
                let reason = "the service was closed before its locks were granted".to_owned();
                self.step(core, key, Input::AbortRequested { reason });
            }
        }
    }

    /// Another process goes on with it, and may not hold the locks yet: they are kept until the
    /// journal knows the end, as that of somebody who is followed.
    pub(super) fn keep_locks(&mut self, core: &Core, entry: &mut Entry) {
        if let (Some(wait), Some(manager)) = (entry.locks.wait.take(), &core.ports.locks) {
            manager.cancel(wait);
        }
        let mut grants = std::mem::take(&mut entry.locks.grants);
        if !grants.is_empty() {
            self.followers.entry(entry.id().clone()).or_default();
            self.kept_locks.entry(entry.id().clone()).or_default().append(&mut grants);
        }
    }

    /// It has ended in another process.
    pub(super) fn release_kept(&mut self, core: &Core, id: &CoordinationId) {
        if let (Some(grants), Some(manager)) = (self.kept_locks.remove(id), &core.ports.locks) {
            let_go(manager.as_ref(), &RequesterId::from(id), &grants);
        }
    }

    /// The engine is shut down. To a shared manager that is the end of a session: the next owner
    /// takes the locks again. One of this process alone keeps them for the next engine.
    pub(super) fn leave_locks(&mut self, core: &Core) {
        let Some(manager) = &core.ports.locks else { return };
        for wait in self.table.entries().filter_map(|entry| entry.locks.wait) {
            manager.cancel(wait);
        }
        if !manager.is_shared() {
            return;
        }
        for entry in self.table.entries() {
            let_go(manager.as_ref(), &RequesterId::from(entry.id()), &entry.locks.grants);
        }
        for (id, grants) in self.kept_locks.drain() {
            let_go(manager.as_ref(), &RequesterId::from(&id), &grants);
        }
    }

    /// What was left open has queued for its locks: others may come behind it.
    pub(super) fn open_admission(&mut self, core: &Core) {
        if !std::mem::replace(&mut self.admits, true) {
            self.begin_next(core);
        }
    }
}

impl Core {
    /// The locks of a request, if anybody can give them.
    pub(super) fn locks_of(&self, request: &CoordinationRequest) -> Arc<[LockWish]> {
        if self.ports.locks.is_none() {
            return Arc::clone(&self.no_locks);
        }
        let locks = locks_of(request);
        if locks.is_empty() { Arc::clone(&self.no_locks) } else { locks.into() }
    }

    /// What a store is shown of the locks under which it is asked. Tokens of a manager that others
    /// do not share begin anew with it, so a store that remembers them would refuse the next one.
    pub(super) fn fences(&self, entry: &Entry, party: usize) -> Arc<[Fence]> {
        if !self.ports.locks.as_ref().is_some_and(|manager| manager.is_shared()) {
            return Arc::default();
        }
        let wishes = entry.machine.locks().iter().filter(|wish| wish.party == party);
        let held = wishes.filter_map(|wish| {
            let grants = &entry.locks.grants;
            let grant = grants.iter().find(|grant| is_for(grant, &wish.resource, wish.mode))?;
            let token = grant.fencing_token;
            Some(Fence { resource: wish.resource.clone(), mode: wish.mode, token })
        });
        held.collect()
    }

    /// New coordinations do not wait for ever for a journal that cannot say what was left open.
    pub(super) fn open_admission_later(&self) {
        let (this, wait) = (self.this.clone(), self.ports.options.recovery_wait);
        if self.ports.locks.is_some() {
            self.ports.runtime.spawn(async move {
                tokio::time::sleep(wait).await;
                if let Some(core) = this.upgrade() {
                    core.post(Fact::AdmissionOpens);
                }
            });
        }
    }

    /// It ended without a record. That says nothing of another try under its id, which may have
    /// run here before, or in another process: what the journal knows goes first.
    pub(super) fn tell_unbegun(&self, entry: &Entry, waiters: Vec<Waiter>, outcome: &Outcome) {
        let request = Arc::clone(entry.machine.request());
        let (this, id, outcome) = (self.this.clone(), request.id.clone(), outcome.clone());
        let began_at = entry.machine.began_at();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let Some(core) = this.upgrade() else { return };
            match found {
                Ok(Some(Found { stored, .. })) if !stored.request.is_same_work(&request) => {
                    for waiter in waiters {
                        refuse(&request, waiter, "request.conflict", conflict(&request.id));
                    }
                }
                Ok(Some(Found { stored, .. })) => match &stored.outcome {
                    Some(outcome) => tell_all(waiters, &stored_result(&stored, outcome.clone())),
                    None => {
                        for waiter in waiters {
                            core.post(Fact::WaitElsewhere { id: request.id.clone(), waiter });
                        }
                    }
                },
                Ok(None) | Err(_) => {
                    tell_all(waiters, &core.result_of(&request, outcome, began_at));
                }
            }
        });
        self.find_stored(&id, reply);
    }
}

/// The answers are of use to nobody; one that did not arrive is made good by the manager, which
/// repeats it or ends its session.
fn let_go(manager: &dyn LockManager, requester: &RequesterId, grants: &[Grant]) {
    if !grants.is_empty() {
        crash::point("before_release", "locks");
    }
    for grant in grants.iter().rev() {
        let reply = Reply::new(|released: Result<bool, LockError>| {
            crash::point("after_release", "locks");
            if let Err(error) = released {
                tracing::warn!(%error, "a lock cannot be released");
            }
        });
        manager.release(&grant.lock_id, requester, reply);
    }
}

fn is_for(grant: &Grant, resource: &ResourceId, mode: LockMode) -> bool {
    grant.mode == mode && grant.resource == *resource
}

/// The tokens in the order of the wishes; a manager gives them in the order of taking, which is
/// the same but for resources that are locked in two modes.
fn tokens_of(wishes: &[LockWish], grants: &[Grant]) -> Vec<u64> {
    let token = |(index, wish): (usize, &LockWish)| {
        let is_its = |grant: &&Grant| is_for(grant, &wish.resource, wish.mode);
        let there = grants.get(index).filter(is_its);
        there.or_else(|| grants.iter().find(is_its)).map_or(0, |grant| grant.fencing_token)
    };
    wishes.iter().enumerate().map(token).collect()
}

/// What its refusal is called in the outcome.
pub(super) fn code_of(error: &LockError) -> &'static str {
    match error {
        LockError::Timeout { .. } => "transaction.aborted.lock_timeout",
        LockError::Deadlock(_) => "transaction.aborted.deadlock",
        LockError::Lost { .. } => "transaction.aborted.lock_lost",
        _ => "transaction.aborted.locks_unavailable",
    }
}

fn reason_of(error: &LockError) -> Reason {
    Reason::new(code_of(error), format!("not begun, its locks were refused: {error}"))
}

fn tell_all(waiters: Vec<Waiter>, result: &CoordinationResult) {
    for waiter in waiters {
        waiter.send(Ok(result.clone()));
    }
}
