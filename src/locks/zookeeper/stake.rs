//! The node of one wish: made, found again, moved ahead, taken away.
//!
//! Not the wait for its turn (`turn`), and not the wish's timeout and answer (`wish`).
//!
//! Invariants: `is_uncertain` is set before a request that may make a node leaves, and cleared only
//! by its answer; a node that may be there is looked for by its tag.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use zookeeper_client::{
    Client, CreateMode, CreateSequence, Error, MultiWriteError, MultiWriteResult, Stat,
};

use crate::locks::zookeeper_path::{ChildName, container_name, requester_mark};
use crate::locks::zookeeper_queue::{Overtaking, Queue};
use crate::model::lock::{LockMode, ResourceId};

use super::node::Details;
use super::options::Server;
use super::session::{Session, Trouble};

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

pub(super) struct Node {
    child: String,
    path: String,
    /// The transaction that made it; zero where that is not known.
    pub(super) created: i64,
}

/// The node of one wish.
pub(super) struct Stake {
    server: Arc<Server>,
    resource: ResourceId,
    mode: LockMode,
    pub(super) container: String,
    mark: String,
    pub(super) tag: String,
    pub(super) data: Vec<u8>,
    pub(super) node: Option<Node>,
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

    pub(super) fn path(&self) -> String {
        self.node.as_ref().map(|node| node.path.clone()).unwrap_or_default()
    }

    /// The path of a child of the container.
    pub(super) fn at(&self, child: &str) -> String {
        format!("{}/{child}", self.container)
    }

    /// Where the node stands in the queue as last read.
    pub(super) fn index(&mut self) -> Result<usize, Stop> {
        let child = self.node.as_ref().map(|node| node.child.as_str());
        let index = child.and_then(|child| self.queue.index_of(child));
        if index.is_none() {
            // Somebody took the node away.
            self.node = None;
        }
        index.ok_or(Stop::Again)
    }

    /// Makes the node and reads the queue; the transaction that changed the container last.
    pub(super) async fn enter(&mut self, session: &Session) -> Result<i64, Stop> {
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
            let is_forbidden = match making {
                Some(making) => self.made(session, making.await),
                None => false,
            };
            match creating.await {
                Ok((stat, sequence)) => {
                    session.heard_since(sent);
                    self.stands_at(format!("{prefix}{sequence}"), stat.czxid);
                }
                Err(Error::NoNode) => {
                    self.is_uncertain = false;
                    session.forget(&container);
                    self.make_root(client).await?;
                    if is_forbidden {
                        return Err(Stop::Refused(Error::NoAuth));
                    }
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

    /// Remembers a container that is there; whether this user may not make it.
    fn made(&self, session: &Session, made: Result<(Stat, CreateSequence), Error>) -> bool {
        if matches!(made, Ok(_) | Err(Error::NodeExists)) {
            session.remember(&self.container);
        }
        made == Err(Error::NoAuth)
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

    /// Makes the nodes down to the lock root. Above it somebody else may have made them, who lets
    /// us not make any.
    async fn make_root(&self, client: &Client) -> Result<(), Stop> {
        let options = CreateMode::Persistent.with_acls(self.server.acls());
        let root = &self.server.root;
        let ends = root.match_indices('/').map(|(at, _)| at).skip(1).chain([root.len()]);
        let mut refused = None;
        for end in ends {
            match client.create(&root[..end], b"", &options).await {
                Ok(_) | Err(Error::NodeExists) => refused = None,
                Err(Error::NoAuth) => refused = Some(Error::NoAuth),
                // Below what was refused.
                Err(Error::NoNode) if refused.is_some() => {}
                Err(error) => stop_unless_passing(error)?,
            }
        }
        match refused {
            Some(error) if client.check_stat(root).await == Ok(None) => Err(Stop::Refused(error)),
            _ => Ok(()),
        }
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
                            self.stands_at(self.at(&child), 0);
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

    pub(super) fn listed(&mut self, children: Vec<String>) {
        self.queue = Queue::of(children);
    }

    pub(super) async fn list(&mut self, session: &Session) -> Result<(), Stop> {
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

    /// Moves the node ahead, if the server agrees that nobody whom it passes was granted.
    pub(super) async fn overtake(
        &mut self,
        session: &Session,
        to: &Overtaking,
    ) -> Result<(), Stop> {
        let prefix = self.prefix(Some(to.before));
        let options = CreateMode::EphemeralSequential.with_acls(self.server.acls());
        let mut writer = session.client.new_multi_writer();
        let added = writer
            .add_check_version(&self.at(&to.first), -1)
            .and_then(|()| writer.add_check_version(&self.at(&to.guard), -1))
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
            let path = self.at(&self.queue.places()[blocker].child);
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

fn stop(error: Error) -> Stop {
    match Trouble::of(&error) {
        Trouble::Passing | Trouble::SessionEnded => Stop::Again,
        // The node went; a fresh start makes it anew.
        Trouble::Refused if error == Error::NoNode => Stop::Again,
        Trouble::Refused => Stop::Refused(error),
    }
}

pub(super) fn stop_unless_passing(error: Error) -> Result<(), Stop> {
    if Trouble::of(&error) == Trouble::Passing { Ok(()) } else { Err(stop(error)) }
}
