//! What an operator may ask the cluster, without being a node: how it stands, and changes of
//! members.
//!
//! Both sides stand here: [`RaftClient`] asks, and a node answers. Not the changes (`membership`)
//! and not who is let in (`transport`). Invariants: a client has a vocabulary of its own, so that
//! nothing that nodes say to each other can be said by one; a node that does not lead has the
//! leader do it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::RaftError;
use super::membership;
use super::message::{self, NotChanged, Request};
use super::node::Inner;
use super::status::{self, MemberStatus};
use super::transport::{Client, PeerAddress, Security, SetupError, TransportError};
use super::types::Member;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Status,
    Add(Member),
    Remove(String),
    Transfer(String),
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Status(Words),
    Changed(Result<(), NotChanged>),
    Refused(String),
}

/// A report on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Words {
    node_id: String,
    state: String,
    term: u64,
    voted_for: Option<String>,
    leader: Option<String>,
    commit_index: u64,
    last_applied: u64,
    members: Vec<(Member, bool, Option<u64>)>,
    trouble: Option<String>,
}

/// How a node stands, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReport {
    /// The node.
    pub node_id: String,
    /// `follower`, `candidate`, `leader`, `learner` or `shutdown`.
    pub state: String,
    /// The term it knows of.
    pub term: u64,
    /// For whom it voted in this term.
    pub voted_for: Option<String>,
    /// Who leads, as far as it knows.
    pub leader: Option<String>,
    /// Up to where it knows entries to be committed.
    pub commit_index: u64,
    /// Up to where it has carried entries out.
    pub last_applied: u64,
    /// The nodes of the cluster.
    pub members: Vec<MemberStatus>,
    /// What is wrong: no majority in reach, or that it stopped and why.
    pub trouble: Option<String>,
}

/// Asks the nodes of a cluster, and is none.
pub struct RaftClient(Client);

impl RaftClient {
    /// A client of the cluster whose nodes know each other in this way; `cluster` is its name,
    /// where that is known.
    pub fn new(cluster: Option<String>, security: Security) -> Result<Self, SetupError> {
        Client::new(cluster, security).map(Self)
    }

    /// How a node stands.
    pub async fn status(&self, at: &PeerAddress, patience: Duration) -> Result<NodeReport, Failed> {
        match self.ask(at, &Question::Status, patience).await? {
            Told::Status(words) => Ok(words.into()),
            other => Err(nonsense(&other)),
        }
    }

    /// Has a node taken in, as [`super::RaftNode::add_node`] does.
    pub async fn add_node(
        &self,
        at: &PeerAddress,
        node: &PeerAddress,
        patience: Duration,
    ) -> Result<(), Failed> {
        self.change(at, &Question::Add(Member::from(node)), patience).await
    }

    /// Has a node removed, as [`super::RaftNode::remove_node`] does.
    pub async fn remove_node(
        &self,
        at: &PeerAddress,
        node_id: &str,
        patience: Duration,
    ) -> Result<(), Failed> {
        self.change(at, &Question::Remove(node_id.to_owned()), patience).await
    }

    /// Has another node lead, as [`super::RaftNode::transfer_leadership`] does.
    pub async fn transfer_leadership(
        &self,
        at: &PeerAddress,
        node_id: &str,
        patience: Duration,
    ) -> Result<(), Failed> {
        self.change(at, &Question::Transfer(node_id.to_owned()), patience).await
    }

    async fn change(
        &self,
        at: &PeerAddress,
        question: &Question,
        patience: Duration,
    ) -> Result<(), Failed> {
        match self.ask(at, question, patience).await? {
            Told::Changed(Ok(())) => Ok(()),
            Told::Changed(Err(NotChanged::Impossible(words))) => {
                Err(RaftError::Membership(words).into())
            }
            Told::Changed(Err(NotChanged::NoAnswer(words))) => {
                Err(RaftError::NoAnswer(words).into())
            }
            other => Err(nonsense(&other)),
        }
    }

    async fn ask(
        &self,
        at: &PeerAddress,
        question: &Question,
        patience: Duration,
    ) -> Result<Told, Failed> {
        let answer = self.0.call(at, message::encode(question, &[]), patience).await?;
        match message::decode(&answer) {
            Ok((Told::Refused(words), _)) | Err(words) => {
                Err(TransportError::Refused(format!("{at}: {words}")).into())
            }
            Ok((told, _)) => Ok(told),
        }
    }
}

/// Why a client has no answer, or none that it likes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failed {
    /// The way to the node.
    #[error("{0}")]
    Transport(#[from] TransportError),
    /// What the cluster says.
    #[error("{0}")]
    Cluster(#[from] RaftError),
}

fn nonsense(told: &Told) -> Failed {
    TransportError::Refused(format!("an answer to another question: {told:?}")).into()
}

impl From<Words> for NodeReport {
    fn from(words: Words) -> Self {
        let member = |(member, is_voter, lag): (Member, bool, Option<u64>)| MemberStatus {
            node: PeerAddress::from(&member),
            is_voter,
            lag,
        };
        Self {
            node_id: words.node_id,
            state: words.state,
            term: words.term,
            voted_for: words.voted_for,
            leader: words.leader,
            commit_index: words.commit_index,
            last_applied: words.last_applied,
            members: words.members.into_iter().map(member).collect(),
            trouble: words.trouble,
        }
    }
}

/// The answer to whoever is not answered.
pub(super) fn refused(words: &str) -> Vec<u8> {
    message::encode(&Told::Refused(words.to_owned()), &[])
}

/// The side of the node.
pub(super) async fn answer(inner: &Arc<Inner>, request: &[u8]) -> Vec<u8> {
    let told = match message::decode(request) {
        Err(words) => Told::Refused(words),
        Ok((Question::Status, _)) => Told::Status(words(inner).await),
        Ok((Question::Add(member), _)) => changed(inner, &|| Request::Add(member.clone())).await,
        Ok((Question::Remove(id), _)) => changed(inner, &|| Request::Remove(id.clone())).await,
        Ok((Question::Transfer(id), _)) => changed(inner, &|| Request::Transfer(id.clone())).await,
    };
    message::encode(&told, &[])
}

async fn changed(inner: &Arc<Inner>, request: &(impl Fn() -> Request + Sync)) -> Told {
    Told::Changed(membership::change(inner, request).await.map_err(|error| match error {
        RaftError::Membership(words) => NotChanged::Impossible(words),
        RaftError::NoAnswer(words) => NotChanged::NoAnswer(words),
        other => NotChanged::NoAnswer(other.to_string()),
    }))
}

async fn words(inner: &Inner) -> Words {
    let status = status::status(inner).await;
    let member = |one: MemberStatus| (Member::from(&one.node), one.is_voter, one.lag);
    Words {
        node_id: status.node_id,
        state: status.state.to_owned(),
        term: status.term,
        voted_for: status.voted_for,
        leader: status.leader,
        commit_index: status.commit_index,
        last_applied: status.last_applied,
        members: status.members.into_iter().map(member).collect(),
        trouble: status.trouble,
    }
}
