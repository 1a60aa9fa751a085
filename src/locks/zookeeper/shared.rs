//! What a manager's tasks share, and what happens to what is held: its release, its loss, its
//! lease, its audit.
//!
//! Not the way to a grant (`wish`). Invariants: a hold is taken out of the table before anything is
//! done about its node, so exactly one of release, loss and lease ends it; ears are called with no
//! lock held.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep_until;
use zookeeper_client::EventType;

use crate::locks::zookeeper_path::ChildName;
use crate::locks::{LockEar, WaitId};
use crate::model::lock::{Deadlock, LockError, LockId, RequesterId};

use super::detector;
use super::keeper::{Keeper, Owner};
use super::options::Server;
use super::session::{Session, told};
use super::table::{Hold, Table};
use super::turn::Watch;

/// So many deadlocks are remembered.
const DEADLOCKS_MAX: usize = 100;

/// The shared part of a manager.
pub(super) struct Shared {
    pub(super) keeper: Arc<Keeper<Shared>>,
    pub(super) table: Table,
    pub(super) handle: Handle,
    pub(super) wait_began: Arc<Notify>,
    leases_changed: Arc<Notify>,
    ears: RwLock<Vec<Arc<dyn LockEar>>>,
    deadlocks: Mutex<VecDeque<Deadlock>>,
    /// Begins each tag of this manager.
    instance: String,
    tags: AtomicU64,
    is_detecting: AtomicBool,
    is_leasing: AtomicBool,
}

impl Shared {
    pub(super) fn new(server: Arc<Server>, handle: Handle) -> Result<Arc<Self>, LockError> {
        let instance = getrandom::u64().map_err(|error| LockError::Unavailable {
            server: server.label(),
            message: format!("no random number for this manager's nodes: {error}"),
        })?;
        Ok(Arc::new_cyclic(|weak: &Weak<Self>| Self {
            keeper: Arc::new(Keeper::new(server, handle.clone(), weak.clone())),
            table: Table::default(),
            handle,
            wait_began: Arc::default(),
            leases_changed: Arc::default(),
            ears: RwLock::default(),
            deadlocks: Mutex::default(),
            instance: format!("{instance:016x}"),
            tags: AtomicU64::new(0),
            is_detecting: AtomicBool::new(false),
            is_leasing: AtomicBool::new(false),
        }))
    }

    pub(super) fn mint_tag(&self) -> String {
        format!("{}{:x}", self.instance, self.tags.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn listen(&self, ear: Arc<dyn LockEar>) {
        self.ears.write().unwrap_or_else(PoisonError::into_inner).push(ear);
    }

    fn tell(&self, of: impl Fn(&dyn LockEar)) {
        let ears = self.ears.read().unwrap_or_else(PoisonError::into_inner).clone();
        for ear in ears {
            of(ear.as_ref());
        }
    }

    /// Notes that a wait stands behind somebody. It may have closed a circle if its requester
    /// holds something; the timer finds what another process knows of it.
    pub(super) fn waits_behind(self: &Arc<Self>, wait: WaitId, tag: &str) {
        let options = &self.keeper.server.options;
        if options.detects && !self.is_detecting.swap(true, Ordering::AcqRel) {
            let interval = options.detection_interval;
            self.handle.spawn(detector::run(Arc::downgrade(self), interval));
        }
        if self.table.waits_behind(wait, tag) {
            self.wait_began.notify_one();
        }
    }

    /// Remembers a deadlock whose victim was refused here, and tells of it.
    pub(super) fn found(&self, deadlock: Deadlock) {
        self.tell(|ear| ear.deadlock(&deadlock));
        let mut deadlocks = self.deadlocks.lock().unwrap_or_else(PoisonError::into_inner);
        deadlocks.truncate(DEADLOCKS_MAX - 1);
        deadlocks.push_front(deadlock);
    }

    pub(super) fn deadlocks(&self) -> Vec<Deadlock> {
        let deadlocks = self.deadlocks.lock().unwrap_or_else(PoisonError::into_inner);
        deadlocks.iter().cloned().collect()
    }

    /// Deletes the node of what is held no more. Acknowledged when this returns true; false when
    /// the session ended first.
    pub(super) async fn drop_node(&self, hold: &Hold) -> Result<bool, LockError> {
        let deleted = tokio::select! {
            deleted = hold.session.delete(&hold.path) => deleted,
            _ = hold.session.ended() => Ok(false),
        };
        self.table.remove_tag(&hold.tag);
        deleted.map_err(|error| self.keeper.server.unavailable(&told(&error)))
    }

    fn lose(&self, id: &LockId, hold: &Hold, reason: &str) {
        self.table.remove_tag(&hold.tag);
        self.tell(|ear| ear.lost(id, &hold.details.requester, reason));
    }

    /// Watches the node of what is held by one who had to wait: it knows the watch already.
    pub(super) fn watch_own(
        self: &Arc<Self>,
        id: LockId,
        requester: RequesterId,
        session: Arc<Session>,
        own: Watch,
    ) {
        let shared = Arc::downgrade(self);
        self.handle.spawn(async move {
            tokio::select! {
                event = own => if event.event_type == EventType::Session {
                    return;
                },
                // Whoever ended it tells of all that it held.
                _ = session.ended() => return,
            }
            if let Some(shared) = shared.upgrade()
                && let Some(hold) = shared.table.take(&id, &requester)
            {
                shared.lose(&id, &hold, "its node was deleted");
            }
        });
    }

    /// Sees to it that the lease that was just given or renewed ends.
    pub(super) fn mind_leases(self: &Arc<Self>) {
        if !self.is_leasing.swap(true, Ordering::AcqRel) {
            self.handle.spawn(end_leases(Arc::downgrade(self), self.leases_changed.clone()));
        }
        self.leases_changed.notify_one();
    }

    fn end_due_leases(self: &Arc<Self>) {
        for (id, hold) in self.table.take_ended_leases(Instant::now()) {
            // Told before the node goes, and so before anybody else can be granted.
            self.tell(|ear| ear.lost(&id, &hold.details.requester, "its lease ended"));
            let shared = self.clone();
            self.handle.spawn(async move {
                if let Err(error) = shared.drop_node(&hold).await {
                    tracing::warn!(%error, "the node of an ended lease cannot be deleted");
                }
            });
        }
    }

    /// Wakes the tasks that wait for something to do, so that they see the end.
    pub(super) fn wake_tasks(&self) {
        self.wait_began.notify_one();
        self.leases_changed.notify_one();
    }
}

async fn end_leases(weak: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(shared) = weak.upgrade() else { return };
        if shared.table.is_closed() {
            return;
        }
        let next = shared.table.next_lease_end();
        drop(shared);
        match next {
            Some(until) => tokio::select! {
                () = changed.notified() => {}
                () = sleep_until(until.into()) => {}
            },
            None => changed.notified().await,
        }
        if let Some(shared) = weak.upgrade() {
            shared.end_due_leases();
        }
    }
}

impl Owner for Shared {
    fn session_ended(&self, session: &Session, reason: &str) {
        let lost = self.table.take_all(|_, hold| hold.session.number == session.number);
        for (id, hold) in lost {
            self.lose(&id, &hold, reason);
        }
    }

    fn session_suspended(&self, session: &Session) {
        for (id, requester, until) in self.table.mark(session, true) {
            self.tell(|ear| ear.suspended(&id, &requester, until));
        }
    }

    fn session_resumed(&self, session: &Session) {
        for (id, requester, _) in self.table.mark(session, false) {
            self.tell(|ear| ear.resumed(&id, &requester));
        }
    }

    async fn audit(&self, session: &Arc<Session>) {
        let held = self.table.held_paths(session);
        let root = &self.keeper.server.root;
        let Ok(standing) = session.client.list_ephemerals(root).await else { return };
        let standing: std::collections::HashSet<String> = standing.into_iter().collect();
        for (id, path) in held {
            if standing.contains(&path) {
                continue;
            }
            let gone = self.table.take_all(|other, hold| *other == id && hold.path == path);
            for (id, hold) in gone {
                self.lose(&id, &hold, "its node is gone");
            }
        }
        for path in standing {
            let name = path.rsplit('/').next().and_then(ChildName::parse);
            let is_orphan = name.is_some_and(|name| {
                name.tag.starts_with(&self.instance) && !self.table.has_tag(&name.tag)
            });
            // Not by the whole way of a release: whatever fails here is found by the next audit.
            if is_orphan && session.client.delete(&path, None).await.is_ok() {
                tracing::warn!(path, "deleted a node that nobody here knew of");
            }
        }
    }
}
