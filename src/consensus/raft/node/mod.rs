//! One node of the cluster: starts it, holds its parts together, closes it.
//!
//! Not the protocol (openraft) and not the transport: whoever starts a node gives it the one, and
//! gives the node's handler to the other. The parts are tasks, one of each: `proposer` sends what
//! this process asks for, `leader` writes entries where this node leads, `reader` finds out up to
//! where a reader has to wait, `watch` sees whether there is a majority, `found` begins a cluster.
//!
//! Invariants:
//! - A call returns at once; everything that waits is bounded, and ends when the node does.
//! - A process has one proposal under way; what is asked meanwhile rides in the next.
//! - Tasks are joined, and the folder is free, when `close` returns.

mod found;
pub(super) mod leader;
mod port;
mod proposer;
mod queue;
mod reader;
mod watch;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::mpsc;
use tokio::sync::watch as tokio_watch;
use tokio::task::JoinHandle;

use self::leader::Submission;
use self::queue::Queue;
pub(super) use self::reader::read_index;
use super::error::RaftError;
use super::identity::Identity;
use super::log_store::{LogStore, SIZES};
use super::options::RaftOptions;
use super::peers::Peers;
use super::server::Server;
use super::state_machine::{Applied, Asked, StateMachine};
use super::transport::{Handler, PeerAddress, Transport};
use super::types::{Metrics, Number, Raft, Vote, number};
use crate::cluster::{ClusterError, Look, QuorumLost, ReplicatedLog};
use crate::model::ids::{ID_CHARACTERS_MAX, InstanceId};
use crate::protocol::replica::Command;

/// How many calls may wait to be sent: more than any number of callers that is served well.
const ASKS_MAX: usize = 1 << 16;
/// How many proposals, of all nodes, may wait at a leader: each process has one under way.
const SUBMISSIONS_MAX: usize = 1 << 10;

/// How a node is, as far as its callers are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Well,
    NoQuorum(QuorumLost),
    Stopped(String),
    Closed,
}

impl State {
    /// What callers are told; `None` while all is well.
    pub(super) fn error(&self) -> Option<ClusterError> {
        match self {
            Self::Well => None,
            Self::NoQuorum(lost) => Some(ClusterError::NoQuorum { message: lost.message.clone() }),
            Self::Stopped(message) => Some(ClusterError::Stopped { message: message.clone() }),
            Self::Closed => Some(ClusterError::Closed),
        }
    }

    /// Whether it will never be well again.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Closed)
    }
}

/// What waits to be sent: commands, and the way back of each call.
pub(super) struct Ask {
    pub(super) commands: Vec<Command>,
    pub(super) asked: Asked,
}

/// The parts of a node that its tasks share.
pub(super) struct Inner {
    pub(super) options: RaftOptions,
    pub(super) me: Number,
    pub(super) instance: InstanceId,
    pub(super) raft: Raft,
    pub(super) applied: Arc<Applied>,
    pub(super) peers: Peers,
    pub(super) log: LogStore,
    /// The vote under which it led when it was started again, and its last entry then.
    pub(super) resumed: Option<(Vote, u64)>,
    pub(super) asks: Queue<Ask>,
    pub(super) reads: Queue<Look>,
    pub(super) submissions: mpsc::Sender<Submission>,
    pub(super) state: tokio_watch::Sender<State>,
    /// Leadership is being handed over: nothing is written.
    pub(super) is_handing_over: AtomicBool,
    /// The process has said that it leaves: its session is not opened again.
    pub(super) is_leaving: AtomicBool,
}

impl Inner {
    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    pub(super) fn is_leader(&self) -> bool {
        let server = self.raft.server_metrics();
        let server = server.borrow();
        server.state == ServerState::Leader && server.current_leader == Some(self.me)
    }

    /// Up to where a reader has to wait at least. Openraft goes on leading after a restart, under
    /// its old vote and without a new entry, and knows only a part of what it had committed before.
    pub(super) fn resumed_until(&self) -> u64 {
        let vote = self.raft.server_metrics().borrow().vote;
        self.resumed.filter(|(before, _)| *before == vote).map_or(0, |(_, last)| last)
    }

    /// What comes of the work, unless this node loses its leadership first (`None`). Openraft never
    /// answers for an entry in whose place a snapshot of the next leader comes.
    pub(super) async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut server = self.raft.server_metrics();
        let vote = server.borrow_and_update().vote;
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = server.wait_for(|now| now.vote != vote) => None,
        }
    }

    /// The node that leads, and where it is found.
    pub(super) fn leader(&self) -> Option<(Number, PeerAddress)> {
        let server = self.raft.server_metrics();
        let server = server.borrow();
        let leader = server.current_leader?;
        let member = server.membership_config.membership().get_node(&leader);
        self.peers.place(leader, member).map(|place| (leader, place))
    }

    pub(super) fn has_member(&self, id: &str) -> bool {
        let server = self.raft.server_metrics();
        server.borrow().membership_config.membership().get_node(&number(id)).is_some()
    }

    /// Returns when the node will never be well again.
    pub(super) async fn over(&self) {
        // An error says that the sender is gone, which this node holds.
        let _ = self.state.subscribe().wait_for(State::is_over).await;
    }

    /// How long to wait before something is tried again that failed at once.
    pub(super) fn pause(&self) -> Duration {
        self.options.election_timeout / 20
    }

    /// Sets the state, and answers everybody who waits with it. What ended stays ended.
    pub(super) fn become_(&self, state: State) -> bool {
        let changed = self.state.send_if_modified(|old| {
            let changes = *old != state && *old != State::Closed;
            if changes {
                old.clone_from(&state);
            }
            changes
        });
        if changed && let Some(error) = state.error() {
            let asks = self.asks.drain().into_iter().map(|ask| ask.asked).collect();
            super::state_machine::fail(asks, || error.clone());
            for look in self.reads.drain() {
                look(Err(error.clone()));
            }
        }
        changed
    }
}

/// One node of a cluster.
pub struct RaftNode {
    pub(super) inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl RaftNode {
    /// Starts a node on the runtime of the caller. The transport's other side is to be given
    /// [`RaftNode::handler`].
    pub async fn start(
        options: RaftOptions,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, RaftError> {
        options.check()?;
        let config = Arc::new(options.openraft()?);
        let instance = new_instance(&options.node_id)?;
        let (log, state) = open_storage(&options, instance.clone()).await?;
        let (me, applied) = (number(&options.node_id), Arc::clone(state.applied()));
        let peers = Peers::new(transport, &options.nodes, options.election_timeout / 10);
        let resumed = log.led_until(me);
        let raft = Raft::new(me, config, peers.clone(), log.clone(), state).await;
        let raft = raft.map_err(|error| RaftError::Stopped(error.to_string()))?;
        let (submissions, submitted) = mpsc::channel(SUBMISSIONS_MAX);
        let inner = Arc::new(Inner {
            options,
            me,
            instance,
            raft,
            applied,
            peers,
            log,
            resumed,
            asks: Queue::new(ASKS_MAX),
            reads: Queue::new(ASKS_MAX),
            submissions,
            state: tokio_watch::channel(State::Well).0,
            is_handing_over: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        });
        let tasks = vec![
            tokio::spawn(watch::run(Arc::clone(&inner))),
            tokio::spawn(leader::run(Arc::clone(&inner), submitted)),
            tokio::spawn(proposer::run(Arc::clone(&inner))),
            tokio::spawn(reader::run(Arc::clone(&inner))),
            tokio::spawn(found::run(Arc::clone(&inner))),
        ];
        Ok(Self { inner, tasks: Mutex::new(tasks) })
    }

    /// Answers the other nodes.
    pub fn handler(&self) -> Arc<dyn Handler> {
        Arc::new(Server::new(Arc::clone(&self.inner)))
    }

    /// Says that the process leaves, where a majority hears it in time, and ends the node.
    pub async fn close(&self) {
        let (said, heard) = tokio::sync::oneshot::channel();
        self.inner.is_leaving.store(true, std::sync::atomic::Ordering::SeqCst);
        let reply = crate::reply::Reply::new(move |answer| drop(said.send(answer)));
        self.propose(vec![Command::Leave], reply);
        // The lease ends the session where nobody hears it.
        let _ = tokio::time::timeout(self.inner.options.election_timeout, heard).await;
        self.end().await;
    }

    /// Ends the node as a crash would, as far as the others can tell.
    pub(super) async fn end(&self) {
        self.inner.become_(State::Closed);
        // An error is a panic of openraft's task, which was logged where it happened.
        let _ = self.inner.raft.shutdown().await;
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        let log = self.inner.log.clone();
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
    }
}

impl Drop for RaftNode {
    /// One that was not closed ends as after a crash, as soon as its runtime gets to it.
    fn drop(&mut self) {
        self.inner.become_(State::Closed);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let raft = self.inner.raft.clone();
            runtime.spawn(async move { raft.shutdown().await });
        }
    }
}

/// Opens what the node keeps, on a thread that may block.
async fn open_storage(
    options: &RaftOptions,
    instance: InstanceId,
) -> Result<(LogStore, StateMachine), RaftError> {
    let identity = Identity::new(options.cluster.as_str(), &options.node_id);
    let Some(data_dir) = options.data_dir.clone() else {
        tracing::warn!(
            node = %options.node_id,
            "this node has no data_dir: what it knows and has promised ends with the process. When \
             such nodes are started again, decisions can be lost; give a data_dir in production"
        );
        let state = StateMachine::open(None, instance)?;
        return Ok((LogStore::in_memory().behind(state.covered()), state));
    };
    let work = move || {
        std::fs::create_dir_all(&data_dir).map_err(|error| RaftError::io(&data_dir, error))?;
        // The log first: its lock keeps other processes out of the snapshots.
        let log = LogStore::open(&data_dir, &identity, SIZES)?;
        let state = StateMachine::open(Some(&data_dir), instance)?;
        Ok((log.behind(state.covered()), state))
    };
    #[cfg(test)]
    if crate::simulated::is_on() {
        return work();
    }
    let opened = tokio::task::spawn_blocking(work).await;
    opened.unwrap_or_else(|error| Err(RaftError::Stopped(error.to_string())))
}

/// A name that no process had before: a session that ended never comes back.
fn new_instance(node_id: &str) -> Result<InstanceId, RaftError> {
    let mut bytes = [0; 8];
    let wrong = |words: String| RaftError::Stopped(words);
    getrandom::fill(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    let node: String = node_id.chars().take(ID_CHARACTERS_MAX - 17).collect();
    let text = format!("{node}-{:016x}", u64::from_le_bytes(bytes));
    InstanceId::new(&text).map_err(|error| wrong(format!("the id of the node: {error}")))
}
