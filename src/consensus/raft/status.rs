//! How a node stands, for people and programs. Data, and where it comes from; decides nothing.
//!
//! Decisions are those that this node carried out since it was started, and was told of by
//! entries: those that came in a snapshot are found by their id, and are not listed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::{LogIdOptionExt, LogIndexOptionExt, ServerState};

use super::error::RaftError;
use super::node::{Inner, RaftNode, State};
use super::transport::PeerAddress;
use super::types::Metrics;
use crate::model::ids::CoordinationId;
use crate::protocol::replica::StandingDecision;

/// How a node stands.
#[derive(Clone, Debug)]
pub struct RaftStatus {
    /// The node.
    pub node_id: String,
    /// `follower`, `candidate`, `leader`, `learner` or `shutdown`.
    pub state: &'static str,
    /// The term it knows of.
    pub term: u64,
    /// For whom it voted in this term, by id; by number for a node that is no member.
    pub voted_for: Option<String>,
    /// Who leads, as far as it knows.
    pub leader: Option<String>,
    /// Up to where it knows entries to be committed.
    pub commit_index: u64,
    /// Up to where it has carried entries out.
    pub last_applied: u64,
    /// The last entry in its log.
    pub last_log: u64,
    /// The nodes of the cluster.
    pub members: Vec<MemberStatus>,
    /// The last 1000 decisions, the oldest first.
    pub decisions: Vec<(CoordinationId, Arc<StandingDecision>)>,
    /// What is wrong: no majority in reach, or that it stopped and why.
    pub trouble: Option<String>,
    /// How many frames the transport dropped because nobody could have meant them.
    pub frames_dropped: u64,
}

/// How a node of the cluster stands, as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who, and where.
    pub node: PeerAddress,
    /// Whether it votes.
    pub is_voter: bool,
    /// How many entries it lacks; only its leader knows.
    pub lag: Option<u64>,
}

impl RaftNode {
    /// How this node stands.
    pub async fn status(&self) -> Result<RaftStatus, RaftError> {
        Ok(status(&self.inner).await)
    }

    /// How this node stands, without asking openraft: its commit index is what it carried out.
    pub fn status_now(&self) -> RaftStatus {
        status_now(&self.inner)
    }
}

/// How a node stands.
pub(super) async fn status(inner: &Inner) -> RaftStatus {
    let committed = inner.raft.with_raft_state(|state| state.committed.index()).await;
    let status = status_now(inner);
    // One that has stopped knows no more than it carried out.
    let commit_index = committed.ok().flatten().unwrap_or(0).max(status.last_applied);
    RaftStatus { commit_index, ..status }
}

fn status_now(inner: &Inner) -> RaftStatus {
    let (metrics, state) = (inner.metrics(), inner.state.borrow().clone());
    let last_applied = metrics.last_applied.index().unwrap_or(0);
    let name = |number| name(&metrics, number);
    RaftStatus {
        node_id: inner.options.node_id.clone(),
        state: word(&metrics, &state),
        term: metrics.current_term,
        voted_for: metrics
            .vote
            .leader_id()
            .voted_for()
            .filter(|_| metrics.current_term > 0)
            .map(name),
        leader: metrics.current_leader.map(name),
        commit_index: last_applied,
        last_applied,
        last_log: metrics.last_log_index.unwrap_or(0),
        members: members(&metrics),
        decisions: inner.applied.recent(),
        trouble: state.error().map(|error| error.to_string()),
        frames_dropped: inner.options.frames_dropped.load(Ordering::Relaxed),
    }
}

fn word(metrics: &Metrics, state: &State) -> &'static str {
    match metrics.state {
        _ if state.is_over() => "shutdown",
        ServerState::Learner => "learner",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Leader => "leader",
        ServerState::Shutdown => "shutdown",
    }
}

fn name(metrics: &Metrics, number: u64) -> String {
    let member = metrics.membership_config.membership().get_node(&number);
    member.map_or_else(|| format!("#{number:016x}"), |member| member.id.clone())
}

fn members(metrics: &Metrics) -> Vec<MemberStatus> {
    let membership = metrics.membership_config.membership();
    let voters: Vec<_> = membership.voter_ids().collect();
    let lag = |number| {
        let matched = metrics.replication.as_ref()?.get(number)?;
        Some(metrics.last_log_index.next_index() - matched.next_index())
    };
    let status = |(number, member)| MemberStatus {
        node: PeerAddress::from(member),
        is_voter: voters.contains(number),
        lag: lag(number),
    };
    membership.nodes().map(status).collect()
}
