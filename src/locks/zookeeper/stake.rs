//! The node of one wish: made, found again, moved ahead, watched, taken away.
//!
//! Not the wish's timeout and not its answer (`wish`). **Round trips**: the node and the list of the
//! queue are asked for in one flight, so a free resource is granted after one; so are the list and
//! the token's write after somebody's leaving.
//!
//! **Tokens.** A token is the number of a transaction on the own node at which the grant is
//! certain: of its creation, where the list shows that the container did not change since; else of
//! a write of its own data, which also proves that the node, and so the session, still stands.
//! Numbers of transactions grow, so whoever is granted later has the greater token, also after an
//! upgrade went ahead.
//!
//! Invariants: `is_uncertain` is set before a request that may make a node leaves, and cleared only
//! by its answer; an error never counts as granted.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use zookeeper_client::{
    Client, CreateMode, Error, MultiWriteError, MultiWriteResult, OneshotWatcher, WatchedEvent,
};

use crate::locks::zookeeper_path::{ChildName, container_name, requester_mark};
use crate::locks::zookeeper_queue::{Overtaking, Queue};
use crate::model::lock::{LockMode, ResourceId};

use super::node::{Details, token_of};
use super::options::Server;
use super::session::{Session, Trouble};

/// A list is read again after that long even if no watch fired.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a container that vanishes again and again is made.
const CONTAINER_TRIES: usize = 5;

/// What ended a try.
pub(super) enum Stop {
    /// Somebody is in the way, and it shall not wait.
    Busy,
    /// The session, or the node, is gone: to be tried again from the start.
    Again,
    /// The server says no.
    Refused(Error),
}

/// A grant by the server.
pub(super) struct Granted {
    pub(super) token: u64,
    pub(super) path: String,
    /// Fires when the node goes; only one who waited has it.
    pub(super) own: Option<Watch>,
}

/// Ends when what is watched goes, or its session.
pub(super) type Watch = Pin<Box<dyn Future<Output = WatchedEvent> + Send>>;

struct Node {
    child: String,
    path: String,
    /// The transaction that made it; zero where that is not known.
    created: i64,
}

/// The node of one wish.
pub(super) struct Stake {
    server: Arc<Server>,
    resource: ResourceId,
    mode: LockMode,
    container: String,
    mark: String,
    pub(super) tag: String,
    data: Vec<u8>,
    node: Option<Node>,
    is_uncertain: bool,
    /// The queue as it was read last.
    pub(super) queue: Queue,
    /// Whether the server has told that somebody is in the way.
    pub(super) is_blocked: watch::Sender<bool>,
}

impl Stake {
    pub(super) fn new(server: Arc<Server>, details: &Details, mode: LockMode, tag: String) -> Self {
        Self {
            container: server.path(&container_name(&details.resource)),
            server,
            resource: details.resource.clone(),
            mode,
            mark: requester_mark(&details.requester),
            tag,
            data: details.to_bytes(),
            node: None,
            is_uncertain: false,
            queue: Queue::default(),
            is_blocked: watch::Sender::new(false),
        }
    }

    /// Goes for the grant until it is there. `waits` hears once that it stands behind somebody.
    pub(super) async fn seek(
        &mut self,
        session: &Session,
        is_patient: bool,
        waits: impl FnOnce(),
    ) -> Result<Granted, Stop> {
        let changed = self.enter(session).await?;
        let index = self.index()?;
        if index < self.queue.granted() {
            let created = self.node.as_ref().map_or(0, |node| node.created);
            if created != 0 && changed == created {
                return Ok(self.granted(created, None));
            }
            let token = self.write(session).await?;
            return Ok(self.granted(token, None));
        }
        waits();
        self.wait(session, is_patient).await
    }

    async fn wait(&mut self, session: &Session, is_patient: bool) -> Result<Granted, Stop> {
        let mut own: Option<Watch> = None;
        loop {
            let index = self.index()?;
            if let Some(overtaking) = self.queue.overtaking(index) {
                own = None;
                self.overtake(session, &overtaking).await?;
                // It may be granted now, so its time is not up yet.
            } else if !is_patient {
                self.is_blocked.send_replace(true);
                return Err(Stop::Busy);
            } else if let Some(watcher) = self.watch(session, index, &mut own).await? {
                tokio::select! {
                    _ = watcher.changed() => {}
                    () = gone(&mut own) => {}
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
            if let Some(token) = self.look(session).await? {
                return Ok(self.granted(token, own));
            }
        }
    }

    /// Watches the nearest blocker, and once the own node. A child's watch on a node without
    /// children fires when the node goes, and not when its data changes.
    async fn watch(
        &self,
        session: &Session,
        index: usize,
        own: &mut Option<Watch>,
    ) -> Result<Option<OneshotWatcher>, Stop> {
        let client = &session.client;
        let Some(blocker) = self.queue.nearest_blocker(index) else { return Ok(None) };
        self.is_blocked.send_replace(true);
        let (blocker, path) = (format!("{}/{blocker}", self.container), self.path());
        let watching = client.list_and_watch_children(&blocker);
        if own.is_none() {
            match client.list_and_watch_children(&path).await {
                Ok((_, watcher)) => *own = Some(Box::pin(watcher.changed())),
                Err(error) => stop_unless_passing(error)?,
            }
        }
        match watching.await {
            Ok((_, watcher)) => Ok(Some(watcher)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => stop_unless_passing(error).map(|()| None),
        }
    }

    fn granted(&self, token: i64, own: Option<Watch>) -> Granted {
        Granted { token: token_of(token), path: self.path(), own }
    }

    fn path(&self) -> String {
        self.node.as_ref().map(|node| node.path.clone()).unwrap_or_default()
    }

    /// Where the node stands in the queue as last read.
    fn index(&mut self) -> Result<usize, Stop> {
        let child = self.node.as_ref().map(|node| node.child.as_str());
        let index = child.and_then(|child| self.queue.index_of(child));
        if index.is_none() {
            // Somebody took the node away.
            self.node = None;
        }
        index.ok_or(Stop::Again)
    }

    /// Makes the node and reads the queue; the transaction that changed the container last.
    async fn enter(&mut self, session: &Session) -> Result<i64, Stop> {
        let client = &session.client;
        let container = self.container.clone();
        let prefix = self.prefix(None);
        for _ in 0..CONTAINER_TRIES {
            self.is_uncertain = true;
            let sent = Instant::now();
            let acls = self.server.acls();
            let resource = self.resource.as_str().as_bytes();
            let as_container = CreateMode::Container.with_acls(acls);
            let making = (!session.knows(&container))
                .then(|| client.create(&container, resource, &as_container));
            let as_child = CreateMode::EphemeralSequential.with_acls(acls);
            let creating = client.create(&prefix, &self.data, &as_child);
            let listing = client.get_children(&container);
            if let Some(making) = making
                && matches!(making.await, Ok(_) | Err(Error::NodeExists))
            {
                session.remember(&container);
            }
            match creating.await {
                Ok((stat, sequence)) => {
                    session.heard_since(sent);
                    self.stands_at(format!("{prefix}{sequence}"), stat.czxid);
                }
                Err(Error::NoNode) => {
                    self.is_uncertain = false;
                    session.forget(&container);
                    self.make_root(client).await?;
                    continue;
                }
                Err(error) if Trouble::of(&error) == Trouble::Passing => {
                    if !self.find(session).await? {
                        continue;
                    }
                }
                Err(error) => {
                    self.is_uncertain = false;
                    return Err(stop(error));
                }
            }
            return match listing.await {
                Ok((children, stat)) => {
                    self.listed(children);
                    Ok(stat.pzxid)
                }
                Err(error) => {
                    stop_unless_passing(error)?;
                    self.list(session).await?;
                    Ok(0)
                }
            };
        }
        Err(Stop::Again)
    }

    fn prefix(&self, before: Option<u32>) -> String {
        let name = ChildName::prefix(self.mode, &self.mark, &self.tag, before);
        format!("{}/{name}", self.container)
    }

    fn stands_at(&mut self, path: String, created: i64) {
        let child = path.rsplit('/').next().unwrap_or_default().to_owned();
        self.node = Some(Node { child, path, created });
        self.is_uncertain = false;
    }

    /// Makes the nodes down to the lock root.
    async fn make_root(&self, client: &Client) -> Result<(), Stop> {
        let options = CreateMode::Persistent.with_acls(self.server.acls());
        let root = &self.server.root;
        let ends = root.match_indices('/').map(|(at, _)| at).skip(1).chain([root.len()]);
        for end in ends {
            match client.create(&root[..end], b"", &options).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(error) => stop_unless_passing(error)?,
            }
        }
        Ok(())
    }

    /// Looks for a node that was asked for without an answer; whether it is there.
    async fn find(&mut self, session: &Session) -> Result<bool, Stop> {
        loop {
            // The create may have been answered by another server than the one asked now.
            let syncing = session.client.sync(&self.container);
            let listing = session.client.list_children(&self.container);
            let (synced, listed) = (syncing.await, listing.await);
            match synced.and(listed) {
                Ok(children) => {
                    let queue = Queue::of(children);
                    self.is_uncertain = false;
                    let found = queue.tagged(&self.tag).map(|place| place.child.clone());
                    return Ok(match found {
                        Some(child) => {
                            self.stands_at(format!("{}/{child}", self.container), 0);
                            true
                        }
                        None => false,
                    });
                }
                Err(Error::NoNode) => {
                    self.is_uncertain = false;
                    return Ok(false);
                }
                Err(error) => stop_unless_passing(error)?,
            }
        }
    }

    fn listed(&mut self, children: Vec<String>) {
        self.queue = Queue::of(children);
    }

    async fn list(&mut self, session: &Session) -> Result<(), Stop> {
        loop {
            match session.client.list_children(&self.container).await {
                Ok(children) => {
                    self.listed(children);
                    return Ok(());
                }
                Err(error) => stop_unless_passing(error)?,
            }
        }
    }

    /// Reads the queue, and in the same flight writes the own node; the token if it is granted.
    async fn look(&mut self, session: &Session) -> Result<Option<i64>, Stop> {
        let sent = Instant::now();
        let path = self.path();
        let listing = session.client.list_children(&self.container);
        let writing = session.client.set_data(&path, &self.data, None);
        let (listed, written) = (listing.await, writing.await);
        match listed {
            Ok(children) => self.listed(children),
            Err(error) => {
                stop_unless_passing(error)?;
                return Ok(None);
            }
        }
        if self.index()? >= self.queue.granted() {
            return Ok(None);
        }
        match written {
            Ok(stat) if stat.ephemeral_owner == session.client.session_id().0 => {
                session.heard_since(sent);
                Ok(Some(stat.mzxid))
            }
            Ok(_) => Err(Stop::Again),
            Err(error) => {
                stop_unless_passing(error)?;
                self.write(session).await.map(Some)
            }
        }
    }

    /// Writes the own node anew; the number of that transaction.
    async fn write(&mut self, session: &Session) -> Result<i64, Stop> {
        loop {
            let sent = Instant::now();
            match session.client.set_data(&self.path(), &self.data, None).await {
                Ok(stat) if stat.ephemeral_owner == session.client.session_id().0 => {
                    session.heard_since(sent);
                    return Ok(stat.mzxid);
                }
                Ok(_) => return Err(Stop::Again),
                Err(error) => stop_unless_passing(error)?,
            }
        }
    }

    /// Moves the node ahead, if the server agrees that nobody whom it passes was granted.
    async fn overtake(&mut self, session: &Session, to: &Overtaking) -> Result<(), Stop> {
        let prefix = self.prefix(Some(to.before));
        let standing = |child: &str| format!("{}/{child}", self.container);
        let options = CreateMode::EphemeralSequential.with_acls(self.server.acls());
        let mut writer = session.client.new_multi_writer();
        let added = writer
            .add_check_version(&standing(&to.first), -1)
            .and_then(|()| writer.add_check_version(&standing(&to.guard), -1))
            .and_then(|()| writer.add_create(&prefix, &self.data, &options))
            .and_then(|()| writer.add_delete(&self.path(), None));
        added.map_err(stop)?;
        self.is_uncertain = true;
        match writer.commit().await {
            Ok(results) => {
                let created = results.into_iter().find_map(|result| match result {
                    MultiWriteResult::Create { path, .. } => Some(path),
                    _ => None,
                });
                if let Some(path) = created {
                    self.stands_at(path, 0);
                }
            }
            // One of the two has gone, and the queue is another one now.
            Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => {
                self.is_uncertain = false;
            }
            Err(MultiWriteError::OperationFailed { source, .. }) => {
                self.is_uncertain = false;
                return Err(stop(source));
            }
            Err(MultiWriteError::RequestFailed { source }) => {
                stop_unless_passing(source)?;
                self.find(session).await?;
            }
        }
        Ok(())
    }

    /// Those in the way, by their nodes' data, for people.
    pub(super) async fn name_blockers(&self, session: &Session, most: usize) -> String {
        let child = self.node.as_ref().map(|node| node.child.as_str());
        let Some(index) = child.and_then(|child| self.queue.index_of(child)) else {
            return "others".to_owned();
        };
        let mut names = Vec::new();
        for blocker in self.queue.blockers(index).into_iter().take(most) {
            let path = format!("{}/{}", self.container, self.queue.places()[blocker].child);
            if let Ok((data, _)) = session.client.get_data(&path).await
                && let Some(details) = Details::from_bytes(&data)
            {
                names.push(format!("'{}'", details.requester));
            }
        }
        if names.is_empty() { "others".to_owned() } else { names.join(", ") }
    }

    /// Takes the node away, wherever a try was given up. Ends when the server acknowledged it, or
    /// the session that owns the node is gone.
    pub(super) async fn leave(mut self, session: &Session) {
        if self.is_uncertain && self.find(session).await.is_err() {
            return;
        }
        if let Some(node) = self.node
            && let Err(error) = session.delete(&node.path).await
        {
            tracing::warn!(%error, path = node.path, "a lock's node cannot be deleted");
        }
    }
}

async fn gone(own: &mut Option<Watch>) {
    match own {
        Some(watch) => {
            watch.await;
            // Polled to its end, it must not be polled again.
            *own = None;
        }
        None => std::future::pending().await,
    }
}

fn stop(error: Error) -> Stop {
    match Trouble::of(&error) {
        Trouble::Passing | Trouble::SessionEnded => Stop::Again,
        // The node went; a fresh start makes it anew.
        Trouble::Refused if error == Error::NoNode => Stop::Again,
        Trouble::Refused => Stop::Refused(error),
    }
}

fn stop_unless_passing(error: Error) -> Result<(), Stop> {
    if Trouble::of(&error) == Trouble::Passing { Ok(()) } else { Err(stop(error)) }
}
