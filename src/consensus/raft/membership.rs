//! Who belongs to the cluster: adds nodes, removes them, hands leadership over.
//!
//! Any node is asked; the leader does it. Openraft 0.9 has no transfer of leadership, so one is
//! made of its parts here. Invariants:
//! - A node votes when it has caught up, not before.
//! - The id of a node that was removed is refused for ever: it may still have promises out under
//!   that id.
//! - Nothing is written while leadership is handed over, so nothing is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError as OpenraftError};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::RaftError;
use super::message::{Answer, NotChanged, Request};
use super::node::{Inner, RaftNode};
use super::transport::{PeerAddress, TransportError};
use super::types::{Member, Metrics, Number, Payload, number};

/// How long a new node may take to catch up, at least.
const CATCH_UP_MIN: Duration = Duration::from_secs(30);

impl RaftNode {
    /// Adds a node, which runs and has an empty folder: as a learner, and when it has caught up,
    /// as a voter. Done already counts as done.
    pub async fn add_node(&self, node: &PeerAddress) -> Result<(), RaftError> {
        change(&self.inner, &|| Request::Add(Member::from(node))).await
    }

    /// Removes a node; its id is never used again. Done already counts as done.
    pub async fn remove_node(&self, node_id: &str) -> Result<(), RaftError> {
        change(&self.inner, &|| Request::Remove(node_id.to_owned())).await
    }

    /// Makes another node the leader. Proposals wait meanwhile, for about an election timeout.
    pub async fn transfer_leadership(&self, node_id: &str) -> Result<(), RaftError> {
        change(&self.inner, &|| Request::Transfer(node_id.to_owned())).await
    }
}

/// Has the leader do it, whoever that is, for as long as nobody leads and patience lasts.
pub(super) async fn change(
    inner: &Arc<Inner>,
    request: &(impl Fn() -> Request + Sync),
) -> Result<(), RaftError> {
    let until = Instant::now() + inner.options.election_timeout * 4;
    loop {
        let changed = change_once(inner, request()).await;
        match changed {
            Ok(()) => return Ok(()),
            Err(NotChanged::Impossible(words)) => return Err(RaftError::Membership(words)),
            Err(NotChanged::NoAnswer(words)) => return Err(RaftError::NoAnswer(words)),
            Err(NotChanged::NotLeader) => {}
        }
        if Instant::now() >= until {
            let words = format!("nobody leads; of the calls: {}", inner.peers.troubles());
            return Err(RaftError::NoAnswer(words));
        }
        tokio::select! {
            () = sleep(inner.pause()) => {}
            () = inner.over() => return Err(RaftError::Stopped("it was closed".to_owned())),
        }
    }
}

async fn change_once(inner: &Arc<Inner>, request: Request) -> Result<(), NotChanged> {
    let Some((leader, place)) = inner.leader() else { return Err(NotChanged::NotLeader) };
    if leader == inner.me {
        return match request {
            Request::Add(member) => add(inner, member).await,
            Request::Remove(id) => remove(inner, &id).await,
            Request::Transfer(id) => transfer(inner, &id).await,
            other => Err(impossible(format!("{other:?} changes no members"))),
        };
    }
    let patience = catch_up(inner) + inner.options.election_timeout * 4;
    match inner.peers.ask(&place, request, patience).await {
        Ok(Answer::Changed(changed)) => changed,
        Ok(other) => Err(NotChanged::NoAnswer(format!("an answer to another question: {other:?}"))),
        Err(TransportError::Refused(words)) => Err(impossible(words)),
        Err(error) => Err(NotChanged::NoAnswer(error.to_string())),
    }
}

fn catch_up(inner: &Inner) -> Duration {
    CATCH_UP_MIN.max(inner.options.election_timeout * 10)
}

fn impossible(words: impl Into<String>) -> NotChanged {
    NotChanged::Impossible(words.into())
}

type WriteError = OpenraftError<Number, ClientWriteError<Number, Member>>;

fn not_changed(error: WriteError) -> NotChanged {
    match error {
        OpenraftError::APIError(ClientWriteError::ForwardToLeader(_)) => NotChanged::NotLeader,
        OpenraftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            impossible(error.to_string())
        }
        OpenraftError::Fatal(error) => NotChanged::NoAnswer(error.to_string()),
    }
}

/// Waits for a change to be written, for as long as this node leads.
async fn written<T>(
    inner: &Inner,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<(), NotChanged> {
    let words = "the node that led does not lead any more; the change may have been made";
    let written = inner.while_leading(write).await;
    written.ok_or_else(|| NotChanged::NoAnswer(words.to_owned()))?.map(drop).map_err(not_changed)
}

fn voters(metrics: &Metrics) -> BTreeSet<Number> {
    metrics.membership_config.membership().voter_ids().collect()
}

/// The members, by number.
fn members(metrics: &Metrics) -> BTreeMap<Number, Member> {
    let nodes = metrics.membership_config.membership().nodes();
    nodes.map(|(number, member)| (*number, member.clone())).collect()
}

/// On the leader.
pub(super) async fn add(inner: &Inner, member: Member) -> Result<(), NotChanged> {
    let (id, metrics) = (number(&member.id), inner.metrics());
    if inner.applied.is_retired(id) {
        let words = "was removed from this cluster; give the new node another id";
        return Err(impossible(format!("the id {} {words}", member.id)));
    }
    for (other_number, other) in members(&metrics) {
        let is_same_place = (&other.host, other.port) == (&member.host, member.port);
        if other.id == member.id && !is_same_place {
            let (place, words) = (PeerAddress::from(&other), "is in the cluster at");
            return Err(impossible(format!("the node {} {words} {place}", member.id)));
        }
        if other.id != member.id && (is_same_place || other_number == id) {
            return Err(impossible(format!(
                "{} has the address or number of {}",
                member.id, other.id
            )));
        }
    }
    if voters(&metrics).contains(&id) {
        return Ok(());
    }
    if !members(&metrics).contains_key(&id) {
        greet(inner, &member).await?;
    }
    let name = member.id.clone();
    let until = Instant::now() + catch_up(inner);
    match timeout_at(until, inner.raft.add_learner(id, member, true)).await {
        Ok(added) => drop(added.map_err(not_changed)?),
        Err(_) => {
            let words =
                "is a learner now and did not catch up in time; see that it runs, and add it again";
            return Err(NotChanged::NoAnswer(format!("the node {name} {words}")));
        }
    }
    let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
    written(inner, inner.raft.change_membership(change, true)).await
}

/// Sees that a new node runs, and belongs to no cluster: one that began its own has promises and
/// a log that would meet ours.
async fn greet(inner: &Inner, member: &Member) -> Result<(), NotChanged> {
    let (place, timeout) = (PeerAddress::from(member), inner.options.election_timeout);
    match inner.peers.ask(&place, Request::Hello, timeout).await {
        Ok(Answer::Hello { is_initialized: false }) => Ok(()),
        Ok(_) => {
            let words = "belongs to a cluster already; start it with an empty data_dir, and with \
                         cluster_nodes that name the nodes of this one too";
            Err(impossible(format!("the node {place} {words}")))
        }
        Err(error) => {
            let words = "does not answer; start it first";
            Err(impossible(format!("the node {place} {words} ({error})")))
        }
    }
}

/// On the leader.
pub(super) async fn remove(inner: &Inner, name: &str) -> Result<(), NotChanged> {
    let (id, metrics) = (number(name), inner.metrics());
    if !members(&metrics).contains_key(&id) {
        if inner.applied.is_retired(id) {
            return Ok(());
        }
        let known: Vec<_> = members(&metrics).into_values().map(|member| member.id).collect();
        return Err(impossible(format!("{name} is not among the nodes: {}", known.join(", "))));
    }
    let voters = voters(&metrics);
    if voters.len() == 1 && voters.contains(&id) {
        return Err(impossible(format!("{name} is the last node; add another one first")));
    }
    if id == inner.me {
        // The next leader does it: one that removes itself leaves the others without any.
        let next = others_by_progress(&metrics, id).into_iter().next();
        transfer(inner, &next.ok_or_else(|| impossible("there is no other voting node"))?).await?;
        return Err(NotChanged::NotLeader);
    }
    // First, so that no crash in between leaves an id that could be used again.
    written(inner, inner.raft.client_write(Payload::Retire(id))).await?;
    let only = BTreeSet::from([id]);
    let change = if voters.contains(&id) {
        ChangeMembers::RemoveVoters(only)
    } else {
        ChangeMembers::RemoveNodes(only)
    };
    written(inner, inner.raft.change_membership(change, false)).await
}

/// The ids of the other voting nodes, the one first that has the most.
fn others_by_progress(metrics: &Metrics, than: Number) -> Vec<String> {
    let (voters, members) = (voters(metrics), members(metrics));
    let matched = |id: &Number| metrics.replication.as_ref().and_then(|all| all.get(id)).copied();
    let mut others: Vec<_> = voters.into_iter().filter(|id| *id != than).collect();
    others.sort_by_key(|id| std::cmp::Reverse(matched(id).flatten()));
    others.iter().filter_map(|id| members.get(id)).map(|member| member.id.clone()).collect()
}

/// On the leader.
pub(super) async fn transfer(inner: &Inner, name: &str) -> Result<(), NotChanged> {
    let target = number(name);
    if target == inner.me {
        return if inner.is_leader() { Ok(()) } else { Err(NotChanged::NotLeader) };
    }
    if !inner.is_leader() {
        return Err(NotChanged::NotLeader);
    }
    let metrics = inner.metrics();
    if !voters(&metrics).contains(&target) {
        return Err(impossible(format!("{name} is no voting node of this cluster")));
    }
    if inner.is_handing_over.swap(true, Ordering::SeqCst) {
        return Err(impossible("leadership is being handed over already"));
    }
    let _under_way = HandingOver(inner);
    hand_over(inner, target, &metrics).await
}

/// Leadership is being handed over; also when whoever asked for it goes away in between.
struct HandingOver<'a>(&'a Inner);

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.is_handing_over.store(false, Ordering::SeqCst);
    }
}

/// Lets the target catch up, is silent until the others may vote again, and tells it to stand.
async fn hand_over(inner: &Inner, target: Number, metrics: &Metrics) -> Result<(), NotChanged> {
    let until = Instant::now() + inner.options.election_timeout * 3;
    let late = |what: &str| NotChanged::NoAnswer(format!("{what}; this node may still lead"));
    let mut data = inner.raft.data_metrics();
    let is_level = data.wait_for(|data| {
        let matched = data.replication.as_ref().and_then(|matched| matched.get(&target)).copied();
        data.replication.is_none() || matched.flatten() == data.last_log
    });
    let level = timeout_at(until, is_level).await;
    if !level.is_ok_and(|level| level.is_ok()) {
        return Err(late("the node did not catch up"));
    }
    inner.raft.runtime_config().heartbeat(false);
    // Heartbeats that are under way count, so a little more than the lease.
    sleep(inner.options.leader_lease() + inner.options.heartbeat_interval / 2).await;
    let member = members(metrics).remove(&target);
    let Some(place) = inner.peers.place(target, member.as_ref()) else {
        return Err(impossible("the node is in no list"));
    };
    let told = inner.peers.ask(&place, Request::Elect, inner.options.election_timeout).await;
    told.map_err(|error| late(&error.to_string()))?;
    let mut server = inner.raft.server_metrics();
    let leads = server.wait_for(|server| server.current_leader == Some(target));
    match timeout_at(until, leads).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(late("the node did not win the election")),
    }
}

/// On the node that is to lead.
pub(super) async fn elect(inner: &Inner) -> Result<(), NotChanged> {
    let told = inner.raft.trigger().elect().await;
    told.map_err(|error| NotChanged::NoAnswer(error.to_string()))
}
