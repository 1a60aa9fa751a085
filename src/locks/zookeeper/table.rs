//! What this process holds and waits for.
//!
//! Not the queue of a resource, which stands at the server. Invariants: a wait is answered by
//! whoever takes its `end`, or by its grant, never by both; a grant enters only while its session
//! has not ended, and leaves with it; every tag that may have a node is known here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::locks::downgrade::with_lease;
use crate::locks::{LockAsk, WaitId};
use crate::model::lock::{LockError, LockId, LockMode, RequesterId, ResourceId};

use super::node::Details;
use super::session::Session;

/// One that is held.
pub(super) struct Hold {
    pub(super) details: Details,
    pub(super) path: String,
    pub(super) tag: String,
    pub(super) session: Arc<Session>,
    pub(super) lease_until: Option<Instant>,
    /// Whether its holder was told that its session is suspended.
    pub(super) is_suspended: bool,
}

/// One that waits.
pub(super) struct Waiting {
    pub(super) resource: ResourceId,
    pub(super) requester: RequesterId,
    /// Takes why it is given up.
    end: Option<oneshot::Sender<LockError>>,
    /// Its node, once it stands in a queue behind somebody.
    pub(super) tag: Option<String>,
}

#[derive(Default)]
struct Rows {
    is_closed: bool,
    waits: HashMap<WaitId, Waiting>,
    holds: HashMap<LockId, Hold>,
    /// The ends of leases, the first first.
    leases: BTreeSet<(Instant, LockId)>,
    by_requester: HashMap<RequesterId, usize>,
    tags: HashSet<String>,
}

/// The table.
#[derive(Default)]
pub(super) struct Table {
    rows: Mutex<Rows>,
    next_wait: AtomicU64,
}

impl Table {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mint(&self) -> WaitId {
        WaitId(self.next_wait.fetch_add(1, Ordering::Relaxed))
    }

    /// Enters a wait; its end, or nothing when the table is closed.
    pub(super) fn enter(
        &self,
        wait: WaitId,
        resource: &ResourceId,
        requester: &RequesterId,
    ) -> Option<oneshot::Receiver<LockError>> {
        let mut rows = self.rows();
        if rows.is_closed {
            return None;
        }
        let (end, ended) = oneshot::channel();
        let (resource, requester) = (resource.clone(), requester.clone());
        rows.waits.insert(wait, Waiting { resource, requester, end: Some(end), tag: None });
        Some(ended)
    }

    /// Notes that a wait stands behind somebody; whether its requester holds anything here, so
    /// that it may have closed a circle.
    pub(super) fn waits_behind(&self, wait: WaitId, tag: &str) -> bool {
        let mut rows = self.rows();
        let Some(waiting) = rows.waits.get_mut(&wait) else { return false };
        waiting.tag = Some(tag.to_owned());
        let requester = waiting.requester.clone();
        rows.by_requester.contains_key(&requester)
    }

    /// Whether anybody stands behind somebody.
    pub(super) fn has_waits(&self) -> bool {
        self.rows().waits.values().any(|waiting| waiting.tag.is_some())
    }

    /// The waits of a requester for a resource that stand in a queue: their ids and tags.
    pub(super) fn waits_of(
        &self,
        requester: &RequesterId,
        resource: &ResourceId,
    ) -> Vec<(WaitId, String)> {
        let rows = self.rows();
        let is_meant =
            |waiting: &&Waiting| waiting.requester == *requester && waiting.resource == *resource;
        let tagged = |(wait, waiting): (&WaitId, &Waiting)| Some((*wait, waiting.tag.clone()?));
        rows.waits.iter().filter(|(_, waiting)| is_meant(waiting)).filter_map(tagged).collect()
    }

    /// Gives a wait up; false where it is not there, or is answered already.
    pub(super) fn end(&self, wait: WaitId, reason: LockError) -> bool {
        let end = self.rows().waits.get_mut(&wait).and_then(|waiting| waiting.end.take());
        end.is_some_and(|end| end.send(reason).is_ok())
    }

    /// Takes a wait out that was not granted.
    pub(super) fn leave(&self, wait: WaitId) {
        self.rows().waits.remove(&wait);
    }

    /// Turns a wait into a hold. The hold comes back when the wait was given up, or its session
    /// has ended.
    pub(super) fn grant(&self, wait: WaitId, id: &LockId, hold: Hold) -> Result<(), Box<Hold>> {
        let mut rows = self.rows();
        let is_wanted = rows.waits.get(&wait).is_some_and(|waiting| waiting.end.is_some());
        if !is_wanted || !hold.session.is_alive() {
            return Err(Box::new(hold));
        }
        rows.waits.remove(&wait);
        *rows.by_requester.entry(hold.details.requester.clone()).or_default() += 1;
        if let Some(until) = hold.lease_until {
            rows.leases.insert((until, id.clone()));
        }
        rows.holds.insert(id.clone(), hold);
        Ok(())
    }

    /// What to ask for to have a held lock in another mode, if this requester has it.
    pub(super) fn ask_of(
        &self,
        id: &LockId,
        requester: &RequesterId,
        mode: LockMode,
    ) -> Option<LockAsk> {
        let rows = self.rows();
        let hold = rows.holds.get(id).filter(|hold| hold.details.requester == *requester)?;
        let Details { resource, requester, working_since, is_protected, coordination, .. } =
            hold.details.clone();
        let (working_since, timeout) = (Some(working_since), Some(Duration::ZERO));
        let ask = LockAsk {
            resource,
            mode,
            requester,
            timeout,
            lease: None,
            working_since,
            is_protected,
            coordination,
        };
        with_lease(ask, hold.lease_until)
    }

    /// Takes a hold out, if this requester has it.
    pub(super) fn take(&self, id: &LockId, requester: &RequesterId) -> Option<Hold> {
        let mut rows = self.rows();
        if rows.holds.get(id)?.details.requester != *requester {
            return None;
        }
        rows.take(id)
    }

    /// Takes out all holds that are meant.
    pub(super) fn take_all(
        &self,
        is_meant: impl Fn(&LockId, &Hold) -> bool,
    ) -> Vec<(LockId, Hold)> {
        let mut rows = self.rows();
        let ids: Vec<LockId> = rows
            .holds
            .iter()
            .filter(|(id, hold)| is_meant(id, hold))
            .map(|(id, _)| id.clone())
            .collect();
        ids.into_iter().filter_map(|id| rows.take(&id).map(|hold| (id, hold))).collect()
    }

    /// Gives up all waits of a requester, or of everybody.
    pub(super) fn end_all(&self, requester: Option<&RequesterId>, reason: &LockError) {
        let mut rows = self.rows();
        for waiting in rows.waits.values_mut() {
            if requester.is_none_or(|requester| waiting.requester == *requester)
                && let Some(end) = waiting.end.take()
            {
                // One whose end is not awaited any more has its answer.
                let _ = end.send(reason.clone());
            }
        }
    }

    /// Starts a lease anew; what the node is to hold then, with its path. `None` when it is not
    /// held.
    pub(super) fn renew(
        &self,
        id: &LockId,
        until: Instant,
        lease_ms: u64,
    ) -> Option<(Arc<Session>, String, Details)> {
        let mut rows = self.rows();
        let hold = rows.holds.get_mut(id)?;
        if !hold.session.is_alive() {
            return None;
        }
        let before = hold.lease_until.replace(until);
        hold.details.lease_ms = Some(lease_ms);
        let renewed = (hold.session.clone(), hold.path.clone(), hold.details.clone());
        if let Some(before) = before {
            rows.leases.remove(&(before, id.clone()));
        }
        rows.leases.insert((until, id.clone()));
        Some(renewed)
    }

    /// When the first lease ends.
    pub(super) fn next_lease_end(&self) -> Option<Instant> {
        self.rows().leases.first().map(|(until, _)| *until)
    }

    /// Takes out all whose lease has ended.
    pub(super) fn take_ended_leases(&self, now: Instant) -> Vec<(LockId, Hold)> {
        let mut rows = self.rows();
        let ended: Vec<LockId> = rows
            .leases
            .iter()
            .take_while(|(until, _)| *until <= now)
            .map(|(_, id)| id.clone())
            .collect();
        ended.into_iter().filter_map(|id| rows.take(&id).map(|hold| (id, hold))).collect()
    }

    /// Marks what a session holds as suspended, or as not; those that were otherwise, and until
    /// when each is held at the least.
    pub(super) fn mark(
        &self,
        session: &Session,
        is_suspended: bool,
    ) -> Vec<(LockId, RequesterId, Instant)> {
        let mut rows = self.rows();
        let is_meant = |hold: &Hold| {
            hold.session.number == session.number && hold.is_suspended != is_suspended
        };
        let meant = rows.holds.iter_mut().filter(|(_, hold)| is_meant(hold));
        let valid_until = session.valid_until();
        let marked = meant.map(|(id, hold)| {
            hold.is_suspended = is_suspended;
            let until = hold.lease_until.map_or(valid_until, |lease| lease.min(valid_until));
            (id.clone(), hold.details.requester.clone(), until)
        });
        marked.collect()
    }

    /// The paths that a session holds.
    pub(super) fn held_paths(&self, session: &Session) -> Vec<(LockId, String)> {
        let rows = self.rows();
        let is_of = |hold: &&Hold| hold.session.number == session.number;
        let held = rows.holds.iter().filter(|(_, hold)| is_of(hold));
        held.map(|(id, hold)| (id.clone(), hold.path.clone())).collect()
    }

    pub(super) fn add_tag(&self, tag: &str) {
        self.rows().tags.insert(tag.to_owned());
    }

    pub(super) fn remove_tag(&self, tag: &str) {
        self.rows().tags.remove(tag);
    }

    pub(super) fn has_tag(&self, tag: &str) -> bool {
        self.rows().tags.contains(tag)
    }

    pub(super) fn is_held(&self, id: &LockId) -> bool {
        self.rows().holds.contains_key(id)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.rows().is_closed
    }

    /// Lets nobody in any more; false if it was closed before.
    pub(super) fn close(&self) -> bool {
        !std::mem::replace(&mut self.rows().is_closed, true)
    }
}

impl Rows {
    fn take(&mut self, id: &LockId) -> Option<Hold> {
        let hold = self.holds.remove(id)?;
        if let Some(until) = hold.lease_until {
            self.leases.remove(&(until, id.clone()));
        }
        if let Some(count) = self.by_requester.get_mut(&hold.details.requester) {
            *count -= 1;
            if *count == 0 {
                self.by_requester.remove(&hold.details.requester);
            }
        }
        Some(hold)
    }
}
