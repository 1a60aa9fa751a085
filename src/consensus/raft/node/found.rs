//! Begins a cluster, where there is none yet.
//!
//! A node that is alone in its list begins at once. Of several, the one with the lowest id does,
//! when a majority says that it belongs to none: a node that lost its folder must not begin a
//! second cluster beside the first. The others wait to be spoken to, as does a node that is to be
//! added. Invariant: from one list at most one cluster comes, also when this is repeated.

use std::sync::Arc;

use tokio::time::sleep;

use super::Inner;
use crate::consensus::raft::message::{Answer, Request};
use crate::consensus::raft::transport::PeerAddress;
use crate::consensus::raft::types::{Member, Number, number};

pub(super) async fn run(inner: Arc<Inner>) {
    tokio::select! {
        () = inner.over() => {}
        () = found(&inner) => {}
    }
}

async fn found(inner: &Inner) {
    let nodes = &inner.options.nodes;
    let is_first = nodes.iter().all(|node| inner.options.node_id <= node.id);
    if !is_first || !inner.log.is_empty() {
        return;
    }
    let others: Vec<&PeerAddress> =
        nodes.iter().filter(|node| node.id != inner.options.node_id).collect();
    while !is_agreed(inner, &others).await {
        sleep(inner.options.heartbeat_interval).await;
        if is_spoken_to(inner).await {
            return;
        }
    }
    let members: std::collections::BTreeMap<Number, Member> =
        nodes.iter().map(|node| (number(&node.id), Member::from(node))).collect();
    // It may have been spoken to at this very moment, and then belongs to a cluster.
    if let Err(error) = inner.raft.initialize(members).await {
        tracing::info!(%error, "the cluster was begun by others");
    }
}

async fn is_spoken_to(inner: &Inner) -> bool {
    inner.raft.is_initialized().await.unwrap_or(true)
}

/// Whether a majority, this node included, says that it belongs to no cluster.
async fn is_agreed(inner: &Inner, others: &[&PeerAddress]) -> bool {
    let timeout = inner.options.election_timeout;
    let asked = others.iter().map(|other| inner.peers.ask(other, Request::Hello, timeout));
    let mut empty = 1;
    for answer in futures_util::future::join_all(asked).await {
        match answer {
            Ok(Answer::Hello { is_initialized: true }) => return false,
            Ok(Answer::Hello { is_initialized: false }) => empty += 1,
            _ => {}
        }
    }
    empty > usize::midpoint(others.len(), 1)
}
