//! Lets readers look at a state in which everything is that was answered before they asked.
//!
//! `ReadIndex` (Ongaro, "Consensus: Bridging Theory and Practice", 6.4): the leader makes sure by a
//! round to a majority, which begins after the question, that it still leads, and says up to
//! where everything is committed; the reader looks when its own node is there. Not a lease: no
//! clock is trusted. Readers that come during a round share the next one.

use std::sync::Arc;

use openraft::LogIdOptionExt;
use openraft::error::{CheckIsLeaderError, RaftError as OpenraftError};
use tokio::time::{Instant, sleep, sleep_until};

use super::Inner;
use crate::cluster::{ClusterError, Look};
use crate::consensus::raft::message::{Answer, NotTaken, Request};

/// After how many election timeouts a read is given up; it may always be asked again.
const PATIENCE: u32 = 2;

pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = inner.over() => return,
            () = inner.reads.ready() => {}
        }
        let looks = inner.reads.drain();
        let until = Instant::now() + inner.options.election_timeout * PATIENCE;
        let ready = tokio::select! {
            ready = reach(&inner) => ready,
            () = inner.over() => Err(over(&inner)),
            () = sleep_until(until) => Err(unanswered(&inner)),
        };
        show(&inner, looks, &ready);
    }
}

fn unanswered(inner: &Inner) -> ClusterError {
    let troubles = inner.peers.troubles();
    ClusterError::NoQuorum { message: format!("no leader answered; of the calls: {troubles}") }
}

fn over(inner: &Inner) -> ClusterError {
    inner.state.borrow().error().unwrap_or(ClusterError::Closed)
}

fn show(inner: &Inner, looks: Vec<Look>, ready: &Result<(), ClusterError>) {
    for look in looks {
        match ready {
            Ok(()) => look(Ok(&inner.applied.replica())),
            Err(error) => look(Err(error.clone())),
        }
    }
}

/// Waits until this node is where everything was committed when this was called.
async fn reach(inner: &Inner) -> Result<(), ClusterError> {
    loop {
        if let Some(index) = ask(inner).await {
            let mut applied = inner.applied.index();
            let reached = applied.wait_for(|applied| *applied >= index).await;
            return reached.map(drop).map_err(|_| ClusterError::Closed);
        }
        sleep(inner.pause()).await;
    }
}

async fn ask(inner: &Inner) -> Option<u64> {
    let (leader, place) = inner.leader()?;
    if leader == inner.me {
        return read_index(inner).await.ok();
    }
    let timeout = inner.options.election_timeout;
    match inner.peers.ask(&place, Request::ReadIndex, timeout).await {
        Ok(Answer::ReadIndex(Ok(index))) => Some(index),
        _ => None,
    }
}

/// Up to where a reader that asks now has to wait. On the leader.
pub(in crate::consensus::raft) async fn read_index(inner: &Inner) -> Result<u64, NotTaken> {
    // Asked first: later it may have another vote, and what was read would be of this one.
    let least = inner.resumed_until();
    match inner.raft.get_read_log_id().await {
        Ok((read, _)) => Ok(read.index().unwrap_or(0).max(least)),
        Err(OpenraftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
            Err(NotTaken::NotLeader)
        }
        Err(OpenraftError::APIError(CheckIsLeaderError::QuorumNotEnough(error))) => {
            Err(NotTaken::NoQuorum(error.to_string()))
        }
        Err(OpenraftError::Fatal(error)) => Err(NotTaken::Refused(error.to_string())),
    }
}
