//! How a node is set up. Plain data, checked; nothing here does anything.
//!
//! Invariant: what passes [`RaftOptions::check`] can be started.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::error::RaftError;
use super::transport::PeerAddress;
use super::types::number;
use crate::model::ids::ClusterId;

/// The shortest lease of a session: shorter ones end when a machine is only slow.
const LEASE_MIN: Duration = Duration::from_secs(5);
/// How many bytes of a snapshot travel at once: well below any bound of a frame.
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;
/// Openraft sends at most so many entries at once. One of ours has up to thousands of commands,
/// and the log cuts by bytes, so this only bounds the count for entries that are nearly empty.
const ENTRIES_AT_ONCE_MAX: u64 = 256;

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct RaftOptions {
    /// Which cluster: data and peers of another one are refused.
    pub cluster: ClusterId,
    /// Which of the nodes this is.
    pub node_id: String,
    /// The nodes that begin the cluster, or through which this one finds it; itself is one.
    pub nodes: Vec<PeerAddress>,
    /// After which silence of the leader a node stands for election; up to 1.4 times that.
    pub election_timeout: Duration,
    /// How often a leader that has nothing to say says so.
    pub heartbeat_interval: Duration,
    /// Where the node keeps what it may not forget; `None` keeps it in memory alone.
    pub data_dir: Option<PathBuf>,
    /// After how many entries the log is compacted into a snapshot.
    pub log_compaction_threshold: u64,
    /// After how many bytes of proposals in the log it is compacted all the same.
    pub log_bytes_max: usize,
    /// How long this process counts as alive without a word; `None` for three election timeouts,
    /// and 5 seconds at least.
    pub lease: Option<Duration>,
    /// Counts frames that the transport dropped; shown in the status.
    pub frames_dropped: Arc<AtomicU64>,
}

impl RaftOptions {
    /// The defaults of the public contract.
    pub fn new(cluster: ClusterId, node_id: &str, nodes: Vec<PeerAddress>) -> Self {
        Self {
            cluster,
            node_id: node_id.to_owned(),
            nodes,
            election_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(1),
            data_dir: None,
            log_compaction_threshold: 10_000,
            log_bytes_max: 64 << 20,
            lease: None,
            frames_dropped: Arc::default(),
        }
    }

    /// Sees that a node can be started with these; an error says which cannot be, and why.
    pub fn check(&self) -> Result<(), RaftError> {
        let wrong = |words: String| Err(RaftError::Config(words));
        for (index, node) in self.nodes.iter().enumerate() {
            let others = &self.nodes[..index];
            if others.iter().any(|other| other.id == node.id) {
                return wrong(format!("cluster_nodes names the node {} twice", node.id));
            }
            let place = |node: &PeerAddress| (node.host.clone(), node.port);
            if let Some(other) = others.iter().find(|other| place(other) == place(node)) {
                let (one, two) = (&other.id, &node.id);
                return wrong(format!(
                    "the nodes {one} and {two} of cluster_nodes have one address"
                ));
            }
            if let Some(other) = others.iter().find(|other| number(&other.id) == number(&node.id)) {
                let (one, two) = (&other.id, &node.id);
                return wrong(format!(
                    "the ids {one} and {two} have one number; rename one of them"
                ));
            }
        }
        if !self.nodes.iter().any(|node| node.id == self.node_id) {
            let known: Vec<_> = self.nodes.iter().map(|node| node.id.as_str()).collect();
            let known = known.join(", ");
            return wrong(format!("node_id {} is not among the nodes: {known}", self.node_id));
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 2 > self.election_timeout
        {
            let (beat, timeout) = (self.heartbeat_interval, self.election_timeout);
            let words = "is more than half of election_timeout_ms, or zero";
            return wrong(format!("heartbeat_interval_ms {beat:?} {words} ({timeout:?})"));
        }
        if self.log_compaction_threshold == 0 {
            return wrong("log_compaction_threshold is 0; give at least 1".to_owned());
        }
        Ok(())
    }

    pub(in crate::consensus::raft) fn lease(&self) -> Duration {
        self.lease.unwrap_or_else(|| LEASE_MIN.max(self.election_timeout * 3))
    }

    /// What openraft is told. A follower of it waits for the leader's lease, which is its longest
    /// election timeout, and then for one of its own: together they are to be what was asked for.
    pub(super) fn openraft(&self) -> Result<Config, RaftError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let kept = (self.log_compaction_threshold / 4).min(1_000);
        let config = Config {
            cluster_name: self.cluster.as_str().to_owned(),
            election_timeout_min: millis(self.election_timeout * 2 / 5),
            election_timeout_max: millis(self.leader_lease()),
            heartbeat_interval: millis(self.heartbeat_interval)
                .min(millis(self.election_timeout) / 4),
            install_snapshot_timeout: millis(self.election_timeout.max(Duration::from_secs(10))),
            max_payload_entries: ENTRIES_AT_ONCE_MAX,
            replication_lag_threshold: self.log_compaction_threshold + kept,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.log_compaction_threshold),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            // For nodes that lag a little; those that lag more get the snapshot.
            max_in_snapshot_log_to_keep: kept,
            ..Config::default()
        };
        config.validate().map_err(|error| RaftError::Config(error.to_string()))
    }

    /// For how long after a word of the leader a node votes for nobody else.
    pub(super) fn leader_lease(&self) -> Duration {
        self.election_timeout * 7 / 10
    }
}
