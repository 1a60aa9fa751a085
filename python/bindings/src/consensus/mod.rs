//! A node of a Raft cluster as Python sees it, and the consensus port behind an object that is
//! given to a service: our own node itself, or an adapter for a user's.
//!
//! Converts and passes on; shapes are in `parts`, opening and closing in `node`. Every method
//! returns at once, and the answer arrives in a future. Invariants: no method blocks; a node that a
//! forked child inherited is refused.

mod client;
mod node;
mod parts;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyList;
use unanimity::cluster::{ClusterError, ReplicatedLog};
use unanimity::consensus::Consensus;
use unanimity::consensus::raft::transport::{PeerAddress, TransportOptions};
use unanimity::consensus::raft::{RaftOptions, RaftStatus};
use unanimity::protocol::replica::{Answer, Command, StandingDecision};
use unanimity::reply::Reply;

use crate::bridge::{Bridge, Make, Shared};
use crate::ports::PythonConsensus;
use crate::{convert, errors, numbers, runtime};

pub(crate) use node::Node;
use node::Running;
use parts::Trouble;

/// One node of a cluster. It may be used from any event loop.
#[pyclass(frozen)]
pub(crate) struct RaftNode {
    node: Arc<Node>,
    forks: u64,
    pid: u32,
}

#[pymethods]
impl RaftNode {
    /// `names`: cluster and node. `times`, in milliseconds: election timeout and heartbeat.
    /// `security`: the files of TLS, or a secret, and whether neither is fine.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "as the Python constructor has them")]
    fn new(
        py: Python<'_>,
        names: (String, String),
        cluster_nodes: Vec<String>,
        times: (u64, u64),
        log_compaction_threshold: u64,
        data_dir: Option<PathBuf>,
        security: parts::SecurityParts,
        listen: Option<&str>,
    ) -> PyResult<Self> {
        let nodes = parts::addresses(py, &cluster_nodes)?;
        let own = nodes.iter().find(|node| node.id == names.1).cloned();
        let own = own.ok_or_else(|| parts::misfit(py, "node_id is none of cluster_nodes"))?;
        let mut raft = RaftOptions::new(parts::cluster(py, &names.0)?, &own.id, nodes);
        raft.election_timeout = Duration::from_millis(times.0);
        raft.heartbeat_interval = Duration::from_millis(times.1);
        raft.log_compaction_threshold = log_compaction_threshold;
        raft.data_dir = data_dir;
        let mut transport = TransportOptions::new(own, parts::security(py, security)?);
        transport.cluster = Some(names.0);
        transport.listen = listen.map(|listen| parts::place(py, listen)).transpose()?;
        // A leader has to find a node that is back before that one stands for election.
        transport.reconnect_max = raft.heartbeat_interval.min(transport.reconnect_max);
        let (forks, pid) = (runtime::forks(), std::process::id());
        Ok(Self { node: Arc::new(Node::new(raft, transport)), forks, pid })
    }

    /// Opens the log and takes part, on a thread of its own, then completes the future.
    fn start(&self, py: Python<'_>, bridge: &Bound<'_, Bridge>, future: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        runtime::keep_node(&self.node);
        let (node, runtime) = (Arc::clone(&self.node), runtime::handle(None)?);
        on_a_thread("unanimity-start", bridge, future, move || node.start(&runtime))
    }

    /// Whether it was started and not closed.
    fn is_running(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(self.node.is_running())
    }

    /// Stops taking part, on a thread of its own, then completes the future.
    fn close(&self, py: Python<'_>, bridge: &Bound<'_, Bridge>, future: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        runtime::let_node_go(&self.node);
        let (node, runtime) = (Arc::clone(&self.node), runtime::handle(None)?);
        on_a_thread("unanimity-close", bridge, future, move || {
            node.close(&runtime);
            Ok(())
        })
    }

    /// Proposes a decision; the future is told whether it stands.
    fn propose(
        &self,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        id: &Bound<'_, PyAny>,
        decision: &Bound<'_, PyAny>,
        evidence: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = evidence.py();
        let log = self.running(py)?.log();
        let id = parts::id(id)?;
        let decision = parts::decision(decision)?;
        let evidence = convert::to_value(evidence).map_err(|bad| parts::unfit(py, bad))?;
        let reply = answer_to(bridge, future, move |py, answers: Vec<Answer>| {
            let is_so = matches!(answers.first(), Some(Answer::Standing(standing))
                if standing.decision == decision);
            parts::truth(py, is_so)
        });
        let reply = Reply::new(move |answer: Result<Vec<Answer>, ClusterError>| {
            // By the contract no majority, and an answer that was lost, say "not taken".
            reply.send(match answer {
                Err(ClusterError::NoQuorum { .. } | ClusterError::Unknown { .. }) => Ok(Vec::new()),
                other => other,
            });
        });
        log.propose(vec![Command::Decide { id, decision, evidence }], reply);
        Ok(())
    }

    /// Reads the decision that stands; the future is given a dict or None.
    fn read(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        id: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let log = self.running(py)?.log();
        let id = parts::id(id)?;
        let shared = Arc::clone(&bridge.get().shared);
        log.read(Box::new(move |replica| {
            let found = replica.map(|replica| replica.decision(&id).cloned());
            shared.complete(
                future,
                made(found, |py, standing: Option<Arc<StandingDecision>>| {
                    standing.map_or_else(|| Ok(py.None()), |one| parts::standing(py, &one))
                }),
            );
        }));
        Ok(())
    }

    /// Takes a node in; the future is told when it votes.
    fn add_node(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        node: String,
    ) -> PyResult<()> {
        let address = parts::address(py, &node)?;
        self.change(py, bridge, future, node::Change::Add(address))
    }

    /// Lets a node go; the future is told when it is no member any more.
    fn remove_node(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        node_id: String,
    ) -> PyResult<()> {
        self.change(py, bridge, future, node::Change::Remove(node_id))
    }

    /// Has another node lead; the future is told when it does.
    fn transfer_leadership(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        node_id: String,
    ) -> PyResult<()> {
        self.change(py, bridge, future, node::Change::Transfer(node_id))
    }

    /// How this node sees the cluster; the future is given a dict.
    fn status(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let running = self.running(py)?;
        let shared = Arc::clone(&bridge.get().shared);
        runtime::handle(None)?.spawn(async move {
            let (status, counts) = (running.status().await, running.counts());
            shared.complete(future, made(status, move |py, s| parts::status(py, &s, counts)));
        });
        Ok(())
    }

    /// Term, vote, commit index, last applied, state and leader, as far as they are known without
    /// asking.
    fn facts(&self, py: Python<'_>) -> PyResult<parts::Facts> {
        self.check_process(py)?;
        Ok(match self.node.running() {
            Ok(running) => parts::facts(running.status_now()),
            Err(_) => {
                let state = if self.node.is_closed() { "shutdown" } else { "follower" };
                (0, None, 0, 0, state, None)
            }
        })
    }

    /// How it stands, as metrics; nothing while it does not run. May be called from any thread.
    fn numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut samples = Vec::new();
        if self.forks == runtime::forks()
            && let Ok(running) = self.node.running()
        {
            numbers::of_node(&running.status_now(), &mut samples);
        }
        numbers::to_python(py, &samples)
    }

    /// The last decisions, as the fields of `LogEntry`.
    fn recent_decisions(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        match self.node.running() {
            Ok(running) => parts::recent(py, &running.status_now()),
            Err(_) => Ok(PyList::empty(py).into_any().unbind()),
        }
    }
}

impl RaftNode {
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.forks == runtime::forks() {
            return Ok(());
        }
        runtime::check_process(py, "this node", self.pid)
    }

    /// The log that its cluster shares, for what else lives there.
    pub(crate) fn log(&self, py: Python<'_>) -> PyResult<Arc<dyn ReplicatedLog>> {
        Ok(self.running(py)?.log())
    }

    fn running(&self, py: Python<'_>) -> PyResult<Arc<Running>> {
        self.check_process(py)?;
        self.node.running().map_err(|trouble| trouble.raised(py))
    }

    fn change(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        change: node::Change,
    ) -> PyResult<()> {
        let running = self.running(py)?;
        let shared = Arc::clone(&bridge.get().shared);
        runtime::handle(None)?.spawn(async move {
            let changed = running.change(change).await;
            shared.complete(future, made(changed, |py, ()| Ok(py.None())));
        });
        Ok(())
    }
}

/// What completes a future with an answer, or with why there is none.
fn made<T: Send + 'static, E: Into<Trouble>>(
    answer: Result<T, E>,
    make: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> Make {
    let answer = answer.map_err(Into::into);
    Box::new(move |py| match answer {
        Ok(answer) => make(py, answer),
        Err(trouble) => Err(trouble.raised(py)),
    })
}

fn answer_to<F>(
    bridge: &Bound<'_, Bridge>,
    future: Py<PyAny>,
    make: F,
) -> Reply<Result<Vec<Answer>, ClusterError>>
where
    F: FnOnce(Python<'_>, Vec<Answer>) -> PyResult<Py<PyAny>> + Send + 'static,
{
    let shared = Arc::clone(&bridge.get().shared);
    Reply::new(move |answer| shared.complete(future, made(answer, make)))
}

fn on_a_thread(
    name: &str,
    bridge: &Bound<'_, Bridge>,
    future: Py<PyAny>,
    work: impl FnOnce() -> Result<(), Trouble> + Send + 'static,
) -> PyResult<()> {
    let shared = Arc::clone(&bridge.get().shared);
    let work = move || {
        let done = errors::unpanicked(work).unwrap_or_else(|words| Err(Trouble::internal(words)));
        shared.complete(future, made(done, |py, ()| Ok(py.None())));
    };
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(Into::into)
}

/// Who makes the decisions of a service.
pub(crate) enum Decider {
    /// The journal, by its first record.
    Journal,
    /// A service that is asked before the journal; with the cluster behind it, where it is ours.
    Service(Arc<dyn Consensus>, Option<Arc<dyn ReplicatedLog>>),
    /// A cluster that keeps the journal too.
    Cluster(Arc<dyn ReplicatedLog>),
}

/// What is behind an object that is given to a service. Where the cluster `keeps_journal`, its
/// decisions are records like the others, and nobody is asked before them.
pub(crate) fn decider_of(
    bridge: &Arc<Shared>,
    object: Option<&Bound<'_, PyAny>>,
    keeps_journal: bool,
) -> PyResult<Decider> {
    let Some(object) = object else { return Ok(Decider::Journal) };
    let Ok(ours) = object.cast::<RaftNode>() else {
        return Ok(Decider::Service(Arc::new(PythonConsensus::adapt(bridge, object)?), None));
    };
    let running = ours.get().running(object.py())?;
    Ok(if keeps_journal {
        Decider::Cluster(running.log())
    } else {
        Decider::Service(running.consensus(), Some(running.log()))
    })
}

/// How our own node stands, asked without waiting; none for a user's service, or while the node
/// does not run.
pub(crate) fn status_of(
    object: Option<&Bound<'_, PyAny>>,
) -> Option<Box<dyn Fn() -> Option<RaftStatus> + Send + Sync>> {
    let ours = object?.cast::<RaftNode>().ok()?.get();
    let (node, pid) = (Arc::clone(&ours.node), ours.pid);
    Some(Box::new(move || {
        let running = (pid == std::process::id()).then(|| node.running().ok()).flatten()?;
        Some(running.status_now())
    }))
}

/// The id and the address of each node, for the checks of a list.
#[pyfunction]
fn node_addresses(py: Python<'_>, nodes: Vec<String>) -> PyResult<Vec<(String, String)>> {
    let known = parts::addresses(py, &nodes)?;
    let parts = |node: PeerAddress| (node.id.clone(), node.place());
    Ok(known.into_iter().map(parts).collect())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(node_addresses, module)?)?;
    module.add_class::<client::RaftClient>()?;
    module.add_class::<RaftNode>()
}
