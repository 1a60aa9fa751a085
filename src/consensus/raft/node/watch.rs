//! Sees whether this node has a majority in reach, and whether it still runs.
//!
//! Not the election. A leader is in trouble when no majority has answered it for two election
//! timeouts, another node when it has known no leader for as long. Invariant: who hears of
//! trouble hears of its end, and each once.

use std::sync::Arc;

use openraft::ServerState;
use tokio::time::{Duration, Instant, sleep};

use super::{Inner, State};
use crate::cluster::QuorumLost;
use crate::consensus::raft::message::Request;
use crate::consensus::raft::transport::PeerAddress;
use crate::consensus::raft::types::Metrics;

pub(super) async fn run(inner: Arc<Inner>) {
    let mut server = inner.raft.server_metrics();
    let mut good_at = Instant::now();
    loop {
        let is_running = tokio::select! {
            () = inner.over() => return,
            changed = server.changed() => changed.is_ok(),
            () = sleep(inner.options.heartbeat_interval) => true,
        };
        let metrics = inner.metrics();
        if let Err(words) = running(&metrics, is_running) {
            // One that is being closed stops too, and both may be seen at once.
            if inner.become_(State::Stopped(words.clone())) {
                tracing::error!(node = %inner.options.node_id, reason = %words, "this node stops");
            }
            return;
        }
        good_at = last_good(&inner, &metrics).unwrap_or(good_at).max(good_at);
        tokio::select! {
            () = inner.over() => return,
            () = judge(&inner, &metrics, good_at) => {}
        }
        compact(&inner, &metrics).await;
    }
}

/// Openraft compacts after so many entries; few large ones must not fill memory either.
async fn compact(inner: &Inner, metrics: &Metrics) {
    if inner.log.bytes() <= inner.options.log_bytes_max {
        return;
    }
    // An error says that openraft has stopped, which the next look sees.
    if metrics.last_applied > metrics.snapshot {
        let _ = inner.raft.trigger().snapshot().await;
    }
    if let Some(snapshot) = metrics.snapshot {
        let _ = inner.raft.trigger().purge_log(snapshot.index).await;
    }
}

fn running(metrics: &Metrics, is_running: bool) -> Result<(), String> {
    match &metrics.running_state {
        Err(error) => Err(format!("{error}; see to the disk, and start the node again")),
        Ok(()) if !is_running => Err("its consensus ended; start the node again".to_owned()),
        Ok(()) => Ok(()),
    }
}

/// When all was well last, as far as these metrics tell.
fn last_good(inner: &Inner, metrics: &Metrics) -> Option<Instant> {
    let now = Instant::now();
    if metrics.state == ServerState::Leader {
        let silence = metrics.millis_since_quorum_ack.map(Duration::from_millis)?;
        return now.checked_sub(silence);
    }
    metrics.current_leader.filter(|leader| *leader != inner.me).map(|_| now)
}

async fn judge(inner: &Inner, metrics: &Metrics, good_at: Instant) {
    let silence = good_at.elapsed();
    if silence <= inner.options.election_timeout * 2 {
        if inner.become_(State::Well) {
            tell(inner, None);
        }
        return;
    }
    // Once is enough: the words of who is missing change all the time.
    if *inner.state.borrow() != State::Well {
        return;
    }
    let lost = quorum_lost(inner, metrics, silence);
    tracing::warn!(reason = %lost.message, "no majority is in reach");
    if inner.become_(State::NoQuorum(lost)) {
        // Who hears of it is told of all that are missing, not only of those that were called.
        call_all(inner, metrics).await;
        let lost = quorum_lost(inner, metrics, silence);
        inner.become_(State::NoQuorum(lost.clone()));
        tell(inner, Some(&lost));
    }
}

fn quorum_lost(inner: &Inner, metrics: &Metrics, silence: Duration) -> QuorumLost {
    let what =
        if metrics.state == ServerState::Leader { "hears no majority" } else { "knows no leader" };
    let (node, troubles) = (inner.options.node_id.clone(), inner.peers.troubles());
    let message =
        format!("node {node} {what} for {silence:.1?}; of the calls to others: {troubles}");
    let ids = others(inner, metrics).into_iter().map(|place| place.id);
    let unreachable = ids.filter(|id| inner.peers.is_in_trouble(id)).collect();
    QuorumLost { node, unreachable, message }
}

/// The other members, where they are found.
fn others(inner: &Inner, metrics: &Metrics) -> Vec<PeerAddress> {
    let members = metrics.membership_config.membership().nodes();
    let others = members.filter(|(number, _)| **number != inner.me);
    others.filter_map(|(number, member)| inner.peers.place(*number, Some(member))).collect()
}

/// Calls every other member once, so that it is known which of them do not answer.
async fn call_all(inner: &Inner, metrics: &Metrics) {
    let (places, patience) = (others(inner, metrics), inner.options.election_timeout / 2);
    let calls = places.iter().map(|place| inner.peers.ask(place, Request::Hello, patience));
    futures_util::future::join_all(calls).await;
}

fn tell(inner: &Inner, lost: Option<&QuorumLost>) {
    for ear in inner.applied.ears() {
        ear.quorum_changed(lost);
    }
}
