//! The life of a node: made, opened on our own runtime, asked, closed. Not Python's shapes.
//!
//! Invariants: it is opened once, and whoever asks for it meanwhile waits for that; what failed to
//! open may be tried again; a closed one stays closed, and its port and folder are free then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use unanimity::cluster::ReplicatedLog;
use unanimity::consensus::Consensus;
use unanimity::consensus::raft::transport::{
    Network, PeerAddress, TransportCounts, TransportOptions,
};
use unanimity::consensus::raft::{RaftError, RaftNode, RaftOptions, RaftStatus};

use super::parts::Trouble;

/// How long the exit of the interpreter waits for a node to say that it leaves.
const EXIT_WAIT: Duration = Duration::from_secs(2);

/// A change of who belongs to the cluster, or who leads it.
pub(super) enum Change {
    Add(PeerAddress),
    Remove(String),
    Transfer(String),
}

/// A node that takes part.
pub(super) struct Running {
    node: Arc<RaftNode>,
    network: Arc<Network>,
}

enum State {
    New,
    Running(Arc<Running>),
    Closed,
}

/// A node, from before it is opened until after it is closed.
pub(crate) struct Node {
    raft: RaftOptions,
    transport: TransportOptions,
    state: Mutex<State>,
    /// Held by whoever opens or closes it.
    turn: Mutex<()>,
}

impl Node {
    pub(super) fn new(raft: RaftOptions, transport: TransportOptions) -> Self {
        Self { raft, transport, state: Mutex::new(State::New), turn: Mutex::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn id(&self) -> &str {
        &self.raft.node_id
    }

    /// The node, if it takes part now.
    pub(super) fn running(&self) -> Result<Arc<Running>, Trouble> {
        let id = self.id();
        match &*self.state() {
            State::Running(running) => Ok(Arc::clone(running)),
            State::New => Err(Trouble::closed(format!("the node {id} is not started"))),
            State::Closed => Err(Trouble::closed(format!("the node {id} is closed"))),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*self.state(), State::Running(_))
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closed)
    }

    /// Opens it, or waits until whoever is at it has. Blocks.
    pub(super) fn start(&self, runtime: &Handle) -> Result<(), Trouble> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*self.state(), State::New) {
            return self.running().map(drop);
        }
        let running = runtime.block_on(self.open())?;
        *self.state() = State::Running(Arc::new(running));
        Ok(())
    }

    async fn open(&self) -> Result<Running, Trouble> {
        // The port first: where it is taken, the folder is left alone.
        let network = Arc::new(Network::bind(self.transport.clone()).await?);
        let node = match RaftNode::start(self.raft.clone(), network.clone()).await {
            Ok(node) => node,
            Err(error) => {
                network.close().await;
                return Err(error.into());
            }
        };
        network.serve(node.handler());
        Ok(Running { node: Arc::new(node), network })
    }

    /// Closes it. Blocks.
    pub(super) fn close(&self, runtime: &Handle) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let state = std::mem::replace(&mut *self.state(), State::Closed);
        if let State::Running(running) = state {
            runtime.block_on(running.close());
        }
    }

    /// As [`Node::close`], at the exit of the interpreter, when time is short.
    pub(crate) fn close_at_exit(&self, runtime: &Handle) {
        if let Ok(running) = self.running() {
            let closing = async { tokio::time::timeout(EXIT_WAIT, running.close()).await };
            // The others see it by its silence.
            let _ = runtime.block_on(closing);
        }
    }
}

impl Running {
    pub(super) fn log(&self) -> Arc<dyn ReplicatedLog> {
        Arc::clone(&self.node) as _
    }

    pub(super) fn consensus(&self) -> Arc<dyn Consensus> {
        Arc::clone(&self.node) as _
    }

    pub(super) fn status_now(&self) -> RaftStatus {
        self.node.status_now()
    }

    pub(super) async fn status(&self) -> Result<RaftStatus, Trouble> {
        self.node.status().await.map_err(Into::into)
    }

    pub(super) fn counts(&self) -> TransportCounts {
        self.network.counts()
    }

    pub(super) async fn change(&self, change: Change) -> Result<(), Trouble> {
        let changed = match change {
            Change::Add(address) => self.node.add_node(&address).await,
            Change::Remove(id) => self.node.remove_node(&id).await,
            Change::Transfer(id) => self.node.transfer_leadership(&id).await,
        };
        changed.map_err(|error| match error {
            RaftError::NoAnswer(_) => self.unanswered(&error),
            other => other.into(),
        })
    }

    /// Why a change has no answer, as far as this node knows.
    fn unanswered(&self, error: &RaftError) -> Trouble {
        let status = self.status_now();
        let (class, code) = match (status.trouble, status.leader) {
            (Some(_), _) => ("NoQuorum", "consensus.no_quorum"),
            (None, None) => ("NotLeader", "consensus.not_leader"),
            (None, Some(_)) => ("ConsensusError", "consensus.unknown"),
        };
        Trouble::new(class, code, error)
    }

    /// The node first, which says that it leaves.
    async fn close(&self) {
        self.node.close().await;
        self.network.close().await;
    }
}
