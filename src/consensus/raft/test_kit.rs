//! Nodes in one process, on a network whose links can be cut. For tests only.
//!
//! Waiting is on what openraft says of itself, with a bound that only a hang reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::transport::{Handler, PeerAddress, Transport, TransportError};
use super::types::Metrics;
use super::{RaftNode, RaftOptions};
use crate::cluster::{ClusterError, ReplicatedLog};
use crate::model::ids::{ClusterId, CoordinationId};
use crate::model::outcome::Decision;
use crate::model::value::Value;
use crate::protocol::replica::{Answer, Command, StandingDecision};
use crate::reply::asked;

/// Nothing takes this long unless it hangs.
pub(super) const BOUND: Duration = Duration::from_secs(60);

/// Links between nodes, by their ids.
#[derive(Default)]
pub(super) struct Net {
    handlers: Mutex<BTreeMap<String, Arc<dyn Handler>>>,
    cut: Mutex<BTreeSet<(String, String)>>,
}

impl Net {
    fn is_cut(&self, one: &str, two: &str) -> bool {
        let cut = self.cut.lock().unwrap();
        let pair = |a: &str, b: &str| cut.contains(&(a.to_owned(), b.to_owned()));
        pair(one, two) || pair(two, one)
    }

    /// Cuts a node off from all others.
    pub(super) fn isolate(&self, node: &str) {
        let others: Vec<_> = self.handlers.lock().unwrap().keys().cloned().collect();
        let pairs = others.into_iter().filter(|other| other != node);
        self.cut.lock().unwrap().extend(pairs.map(|other| (node.to_owned(), other)));
    }

    pub(super) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

struct Link {
    net: Arc<Net>,
    from: String,
}

impl Transport for Link {
    fn call(
        &self,
        to: &PeerAddress,
        request: Vec<u8>,
        bound: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let (net, from, to) = (Arc::clone(&self.net), self.from.clone(), to.id.clone());
        async move {
            let unreachable = || TransportError::Unreachable(format!("{from} does not reach {to}"));
            let handler = net.handlers.lock().unwrap().get(&to).cloned();
            let handler = handler.filter(|_| !net.is_cut(&from, &to)).ok_or_else(unreachable)?;
            let answer = timeout(bound, handler.handle(from.clone(), request)).await;
            if net.is_cut(&from, &to) {
                return Err(unreachable());
            }
            answer.map_err(|_| TransportError::Timeout("no answer".to_owned()))
        }
        .boxed()
    }
}

pub(super) fn address(id: &str) -> PeerAddress {
    let port = 1_000 + id.bytes().map(u16::from).sum::<u16>();
    PeerAddress { id: id.to_owned(), host: "test".to_owned(), port }
}

/// Some nodes, and what is between them.
pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    pub(super) nodes: BTreeMap<String, Arc<RaftNode>>,
    folder: Option<tempfile::TempDir>,
    pub(super) threshold: u64,
    /// Long, so that renewals do not come between what tests ask.
    pub(super) lease: Duration,
}

impl Cluster {
    pub(super) fn in_memory() -> Self {
        Self {
            net: Arc::default(),
            nodes: BTreeMap::new(),
            folder: None,
            threshold: 10_000,
            lease: 10 * BOUND,
        }
    }

    pub(super) fn on_disk() -> Self {
        Self { folder: Some(tempfile::tempdir().unwrap()), ..Self::in_memory() }
    }

    /// Three nodes that know each other, and have a leader.
    pub(super) async fn of_three(mut self) -> Self {
        for id in ["a", "b", "c"] {
            self.start(id, &["a", "b", "c"]).await;
        }
        self.leader().await;
        self
    }

    pub(super) fn data_dir(&self, id: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join(id))
    }

    pub(super) fn options(&self, id: &str, list: &[&str]) -> RaftOptions {
        let nodes = list.iter().map(|id| address(id)).collect();
        RaftOptions {
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(60),
            data_dir: self.data_dir(id),
            log_compaction_threshold: self.threshold,
            log_bytes_max: 100_000,
            lease: Some(self.lease),
            ..RaftOptions::new(ClusterId::new("tests").unwrap(), id, nodes)
        }
    }

    pub(super) async fn start(&mut self, id: &str, list: &[&str]) -> Arc<RaftNode> {
        let link = Link { net: Arc::clone(&self.net), from: id.to_owned() };
        let node = RaftNode::start(self.options(id, list), Arc::new(link)).await.unwrap();
        let node = Arc::new(node);
        self.net.handlers.lock().unwrap().insert(id.to_owned(), node.handler());
        self.nodes.insert(id.to_owned(), Arc::clone(&node));
        node
    }

    /// Ends a node as a crash would.
    pub(super) async fn crash(&mut self, id: &str) {
        self.net.handlers.lock().unwrap().remove(id);
        self.nodes.remove(id).unwrap().end().await;
    }

    pub(super) fn node(&self, id: &str) -> &Arc<RaftNode> {
        &self.nodes[id]
    }

    /// The node that leads, as soon as all nodes that are not cut off agree on it.
    pub(super) async fn leader(&self) -> String {
        let ids: Vec<_> = self.nodes.keys().map(String::as_str).collect();
        self.leader_among(&ids).await
    }

    pub(super) async fn leader_among(&self, ids: &[&str]) -> String {
        // They may change their minds one after the other.
        loop {
            let mut seen = BTreeSet::new();
            for id in ids {
                let known = wait(self.node(id), |m| m.current_leader.is_some()).await;
                seen.insert(known.current_leader);
            }
            let leads = ids.iter().find(|id| self.node(id).inner.is_leader());
            if let (1, Some(leader)) = (seen.len(), leads)
                && seen.contains(&Some(self.node(leader).inner.me))
            {
                return (*leader).to_owned();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Cuts off the node that leads, while nothing of its own is under way, for which the next
    /// proposal would wait.
    pub(super) async fn isolate_leader(&self) -> String {
        loop {
            let leader = self.leader().await;
            let idle = decided(self.node(&leader), "before", Decision::Commit).await.is_ok();
            self.net.isolate(&leader);
            if idle && self.node(&leader).inner.is_leader() {
                return leader;
            }
            self.net.heal();
        }
    }

    pub(super) fn others(&self, than: &str) -> Vec<&str> {
        self.nodes.keys().map(String::as_str).filter(|id| *id != than).collect()
    }

    pub(super) async fn close(self) {
        for node in self.nodes.values() {
            node.end().await;
        }
    }
}

/// Waits until openraft says so of a node.
pub(super) async fn wait(node: &RaftNode, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
    let mut metrics = node.inner.raft.metrics();
    let waited = timeout(BOUND, metrics.wait_for(is_so)).await;
    let metrics = waited.expect("it hangs").expect("the node runs");
    metrics.clone()
}

/// Waits until a node has carried out what another one has.
pub(super) async fn level(node: &RaftNode, with: &RaftNode) {
    let index = *with.inner.applied.index().borrow();
    let mut applied = node.inner.applied.index();
    let waited = timeout(BOUND, applied.wait_for(|applied| *applied >= index)).await;
    waited.expect("it hangs").expect("the node runs");
}

pub(super) fn id(text: &str) -> CoordinationId {
    CoordinationId::new(text).unwrap()
}

pub(super) fn decide(name: &str, decision: Decision) -> Command {
    Command::Decide { id: id(name), decision, evidence: Value::Null }
}

pub(super) async fn propose(
    node: &RaftNode,
    commands: Vec<Command>,
) -> Result<Vec<Answer>, ClusterError> {
    let asked = asked(|reply| ReplicatedLog::propose(node, commands, reply));
    timeout(BOUND, asked).await.expect("it hangs")
}

/// Proposes a decision, and says which one stands.
pub(super) async fn decided(
    node: &RaftNode,
    name: &str,
    decision: Decision,
) -> Result<Decision, ClusterError> {
    match propose(node, vec![decide(name, decision)]).await?.as_slice() {
        [Answer::Standing(standing)] => Ok(standing.decision),
        other => panic!("{other:?}"),
    }
}

/// Reads a decision as the port promises.
pub(super) async fn read(
    node: &RaftNode,
    name: &str,
) -> Result<Option<Arc<StandingDecision>>, ClusterError> {
    let (sender, seen) = tokio::sync::oneshot::channel();
    let id = id(name);
    let look = Box::new(move |replica: Result<&crate::protocol::replica::Replica, _>| {
        drop(sender.send(replica.map(|replica| replica.decision(&id).cloned())));
    });
    ReplicatedLog::read(node, look);
    timeout(BOUND, seen).await.expect("it hangs").expect("answered")
}
