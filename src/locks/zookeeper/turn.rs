//! A node's turn: whether it is granted, whom it watches until then, and with which token.
//!
//! Not the node itself (`stake`). **Events**: a wait is ended by the leaving of those whom the
//! queue names (`to_watch`). An event is said once, and nobody repeats it as all else is repeated;
//! so the queue is also read after each session timeout without one, which is how long a dead
//! holder may keep others waiting anyway.
//!
//! **Round trips**: the node and the list of the queue are asked for in one flight, so a free
//! resource is granted after one; so are the list and the token's write after somebody's leaving.
//!
//! **Tokens.** A token is the number of a transaction on the own node at which the grant is
//! certain: of its creation, where the list shows that the container did not change since; else of
//! a write of its own data, which also proves that the node, and so the session, still stands.
//! Numbers of transactions grow, so whoever is granted later has the greater token, also after an
//! upgrade went ahead.
//!
//! Invariant: an error never counts as granted.

use std::pin::Pin;
use std::time::Instant;

use tokio::time::sleep;
use zookeeper_client::{Error, OneshotWatcher, WatchedEvent};

use super::node::token_of;
use super::session::Session;
use super::stake::{Stake, Stop, stop_unless_passing};

/// A grant by the server.
pub(super) struct Granted {
    pub(super) token: u64,
    pub(super) path: String,
    /// Fires when the node goes; only one who waited has it.
    pub(super) own: Option<Watch>,
}

/// Ends when what is watched goes, or its session.
pub(super) type Watch = Pin<Box<dyn Future<Output = WatchedEvent> + Send>>;

impl Stake {
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
            } else {
                let watchers = self.watch(session, index, &mut own).await?;
                if let Some(watchers) = watchers {
                    self.rest(session, watchers, &mut own).await?;
                }
            }
            if let Some(token) = self.look(session).await? {
                return Ok(self.granted(token, own));
            }
        }
    }

    /// Watches those whose leaving may be the grant, and once the own node; `None` where one of
    /// them has left. A child's watch on a node without children fires when the node goes, and not
    /// when its data changes.
    async fn watch(
        &self,
        session: &Session,
        index: usize,
        own: &mut Option<Watch>,
    ) -> Result<Option<Vec<OneshotWatcher>>, Stop> {
        let client = &session.client;
        let paths: Vec<String> =
            self.queue.to_watch(index).iter().map(|child| self.at(child)).collect();
        if paths.is_empty() {
            return Ok(None);
        }
        self.is_blocked.send_replace(true);
        let watching: Vec<_> =
            paths.iter().map(|path| client.list_and_watch_children(path)).collect();
        if own.is_none() {
            match client.list_and_watch_children(&self.path()).await {
                Ok((_, watcher)) => *own = Some(Box::pin(watcher.changed())),
                Err(error) => stop_unless_passing(error)?,
            }
        }
        let mut watchers = Vec::with_capacity(watching.len());
        for watching in watching {
            match watching.await {
                Ok((_, watcher)) => watchers.push(watcher),
                Err(Error::NoNode) => return Ok(None),
                Err(error) => return stop_unless_passing(error).map(|()| None),
            }
        }
        Ok(Some(watchers))
    }

    /// Waits until one of those that are watched leaves, or the queue is seen to have changed so
    /// that others are to be watched.
    async fn rest(
        &mut self,
        session: &Session,
        watchers: Vec<OneshotWatcher>,
        own: &mut Option<Watch>,
    ) -> Result<(), Stop> {
        let mut watchers = watchers.into_iter();
        let (one, other) = (watchers.next(), watchers.next());
        let (one, other) = (changed(one), changed(other));
        tokio::pin!(one, other);
        let watched = self.watched()?;
        loop {
            tokio::select! {
                () = &mut one => return Ok(()),
                () = &mut other => return Ok(()),
                () = gone(own) => return Ok(()),
                () = sleep(session.client.session_timeout()) => {
                    self.list(session).await?;
                    if self.watched()? != watched {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn watched(&mut self) -> Result<Vec<String>, Stop> {
        let index = self.index()?;
        Ok(self.queue.to_watch(index).into_iter().map(str::to_owned).collect())
    }

    fn granted(&self, token: i64, own: Option<Watch>) -> Granted {
        Granted { token: token_of(token), path: self.path(), own }
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
}

async fn changed(watcher: Option<OneshotWatcher>) {
    match watcher {
        Some(watcher) => drop(watcher.changed().await),
        None => std::future::pending().await,
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
