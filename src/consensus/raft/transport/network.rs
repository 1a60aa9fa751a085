//! Framed TCP between the nodes of a cluster, as a [`Transport`].
//!
//! Not a directory of nodes: whoever calls says where the peer is. Invariants: one connection for
//! each peer that is called, whatever the number of calls; every task is owned here and ends when
//! the network is closed or dropped.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::counts::{Counts, TransportCounts};
use super::greet::{Guard, Identity};
use super::listener::{self, Door};
use super::options::{SetupError, TransportOptions, check_exposure};
use super::peer::Peer;
use super::port::{Handler, PeerAddress, Transport, TransportError};

/// One node's end of the network.
pub struct Network {
    identity: Arc<Identity>,
    counts: Arc<Counts>,
    options: Arc<TransportOptions>,
    runtime: Handle,
    port: u16,
    state: Mutex<State>,
}

struct State {
    /// Until somebody answers.
    listener: Option<TcpListener>,
    door: Option<JoinHandle<()>>,
    peers: HashMap<String, (Arc<Peer>, JoinHandle<()>)>,
    is_closed: bool,
}

impl Network {
    /// Listens, so that nobody else can; connections wait until [`Network::serve`]. To be called on
    /// the runtime on which everything of it runs.
    pub async fn bind(options: TransportOptions) -> Result<Self, SetupError> {
        check_exposure(&options.security, &options.own.host)?;
        check_exposure(&options.security, options.listens().0)?;
        let guard = Guard::load(&options.security, Some(&options.own.id))?;
        let bound = TcpListener::bind(options.listens()).await;
        let listener = bound.map_err(|error| cannot_listen(&options, &error))?;
        let port = listener.local_addr().map_or(options.listens().1, |address| address.port());
        let identity = Arc::new(Identity {
            node: options.own.id.clone(),
            cluster: Mutex::new(options.cluster.clone()),
            guard,
            frame_max: options.frame_bytes_max,
        });
        let state =
            State { listener: Some(listener), door: None, peers: HashMap::new(), is_closed: false };
        Ok(Self {
            identity,
            counts: Arc::default(),
            options: Arc::new(options),
            runtime: Handle::current(),
            port,
            state: Mutex::new(state),
        })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers other nodes from now on; only the first handler does.
    pub fn serve(&self, handler: Arc<dyn Handler>) {
        let mut state = self.state();
        let Some(listener) = state.listener.take() else { return };
        let door = Door {
            identity: self.identity.clone(),
            handler,
            counts: self.counts.clone(),
            places: Semaphore::new(self.options.connections_max),
            clients: Semaphore::new(self.options.clients_max),
            options: self.options.clone(),
        };
        state.door = Some(self.runtime.spawn(listener::run(listener, Arc::new(door))));
    }

    /// Names the cluster, once it is known; for connections that are opened from now on.
    pub fn set_cluster(&self, cluster: &str) {
        let mut own = self.identity.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        *own = Some(cluster.to_owned());
    }

    /// What happened at the door.
    pub fn counts(&self) -> TransportCounts {
        self.counts.read()
    }

    /// Ends every connection and every call, and frees the port.
    pub async fn close(&self) {
        for task in self.stop() {
            // It was aborted: that is how it ends.
            let _ = task.await;
        }
    }

    fn stop(&self) -> Vec<JoinHandle<()>> {
        let mut state = self.state();
        state.is_closed = true;
        state.listener = None;
        let peers = std::mem::take(&mut state.peers);
        let mut tasks: Vec<_> = state.door.take().into_iter().collect();
        for (peer, task) in peers.into_values() {
            peer.close();
            tasks.push(task);
        }
        tasks.iter().for_each(JoinHandle::abort);
        tasks
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to a peer; a new one when it is somewhere else now.
    fn peer(&self, to: &PeerAddress) -> Result<Arc<Peer>, TransportError> {
        let exposed = check_exposure(&self.options.security, &to.host);
        exposed.map_err(|error| TransportError::Refused(error.to_string()))?;
        let mut state = self.state();
        if state.is_closed {
            return Err(TransportError::Closed);
        }
        match state.peers.get(&to.id) {
            Some((peer, _)) if peer.address == *to => return Ok(peer.clone()),
            Some((peer, task)) => {
                peer.close();
                task.abort();
            }
            None => {}
        }
        let (identity, counts) = (self.identity.clone(), self.counts.clone());
        let (peer, errands) = Peer::new(to.clone(), identity, counts, self.options.clone());
        let task = self.runtime.spawn(peer.clone().run(errands));
        state.peers.insert(to.id.clone(), (peer.clone(), task));
        Ok(peer)
    }
}

#[cfg(test)]
impl Network {
    /// Who it is to others.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.identity.clone()
    }

    /// One that says it is somebody else.
    pub(super) fn identity_as(&self, node: &str) -> Identity {
        let guard = match &self.identity.guard {
            Guard::Open => Guard::Open,
            Guard::Secret(secret) => Guard::Secret(secret.clone()),
            Guard::Tls(tls) => Guard::Tls(tls.clone()),
        };
        let frame_max = self.identity.frame_max;
        Identity { node: node.to_owned(), cluster: Mutex::default(), guard, frame_max }
    }
}

impl Transport for Network {
    fn call(
        &self,
        to: &PeerAddress,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let peer = self.peer(to);
        Box::pin(async move { peer?.call(request, timeout).await })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop();
    }
}

fn cannot_listen(options: &TransportOptions, error: &io::Error) -> SetupError {
    let (host, port) = options.listens();
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is taken; stop what listens there, or give this node another port".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; give the node one that it has, or say where it \
             is to listen"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "the system does not allow it; give the node a port above 1023".to_owned()
        }
        _ => error.to_string(),
    };
    let place = PeerAddress { id: String::new(), host: host.to_owned(), port }.place();
    SetupError::Bind { node: options.own.id.clone(), place, reason }
}
