//! The way to the other nodes: openraft's network on the port `transport`.
//!
//! Not the transport and not the answering side (`server`). Invariants: an address of the
//! configuration goes before the one in the log, so that a node can move; how the last call of
//! each node went is kept for people.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::AnyError;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError as OpenraftError, RemoteError,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};

use super::message::{Answer, Request};
use super::transport::{PeerAddress, Transport, TransportError};
use super::types::{Member, Number, Types, number};

/// The other nodes. Clones are one.
#[derive(Clone)]
pub(super) struct Peers {
    transport: Arc<dyn Transport>,
    configured: Arc<BTreeMap<Number, PeerAddress>>,
    /// By id, why the last call failed.
    troubles: Arc<Mutex<BTreeMap<String, String>>>,
    /// How long to leave a node alone that cannot be reached.
    pause: Duration,
}

impl Peers {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        nodes: &[PeerAddress],
        pause: Duration,
    ) -> Self {
        let configured = nodes.iter().map(|node| (number(&node.id), node.clone())).collect();
        Self { transport, configured: Arc::new(configured), troubles: Arc::default(), pause }
    }

    /// Where a node is found.
    pub(super) fn place(&self, target: Number, member: Option<&Member>) -> Option<PeerAddress> {
        self.configured.get(&target).cloned().or_else(|| member.map(PeerAddress::from))
    }

    pub(super) async fn ask(
        &self,
        to: &PeerAddress,
        request: Request,
        timeout: Duration,
    ) -> Result<Answer, TransportError> {
        let called = self.transport.call(to, request.encode(), timeout).await;
        let answer = called.and_then(|bytes| match Answer::decode(&bytes) {
            Ok(Answer::Refused(words)) | Err(words) => Err(TransportError::Refused(words)),
            Ok(answer) => Ok(answer),
        });
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(_) => troubles.remove(&to.id),
            Err(error) => troubles.insert(to.id.clone(), error.to_string()),
        };
        answer
    }

    /// Whether the last call to the node failed.
    pub(super) fn is_in_trouble(&self, id: &str) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// The nodes whose last call failed, with the reasons, for people.
    pub(super) fn troubles(&self) -> String {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let each: Vec<_> = troubles.iter().map(|(id, words)| format!("{id} ({words})")).collect();
        if each.is_empty() { "no call failed".to_owned() } else { each.join(", ") }
    }
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: Number, node: &Member) -> Peer {
        let place = self.place(target, Some(node)).unwrap_or_else(|| PeerAddress::from(node));
        Peer { peers: self.clone(), target, place }
    }
}

/// One other node.
pub(super) struct Peer {
    peers: Peers,
    target: Number,
    place: PeerAddress,
}

type Failed<E> = RPCError<Number, Member, OpenraftError<Number, E>>;

impl Peer {
    async fn ask<E: std::error::Error>(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<Answer, Failed<E>> {
        let asked = self.peers.ask(&self.place, request, option.hard_ttl()).await;
        asked.map_err(|error| match error {
            // It was slow; the next try is not to wait.
            TransportError::Timeout(_) => RPCError::Network(NetworkError::new(&error)),
            other => RPCError::Unreachable(Unreachable::new(&other)),
        })
    }

    #[expect(clippy::result_large_err, reason = "openraft's traits ask for this error")]
    fn told<T, E: std::error::Error>(
        &self,
        told: Result<T, OpenraftError<Number, E>>,
    ) -> Result<T, Failed<E>> {
        told.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

fn nonsense<E: std::error::Error>(answer: &Answer) -> Failed<E> {
    let words = format!("an answer to another question: {answer:?}");
    RPCError::Unreachable(Unreachable::new(&AnyError::error(words)))
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Number>, RPCError<Number, Member, OpenraftError<Number>>>
    {
        match self.ask(Request::Append(rpc), &option).await? {
            Answer::Append(told) => self.told(told),
            other => Err(nonsense(&other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<Number>, Failed<InstallSnapshotError>> {
        match self.ask(Request::Snapshot(rpc), &option).await? {
            Answer::Snapshot(told) => self.told(told),
            other => Err(nonsense(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Number>,
        option: RPCOption,
    ) -> Result<VoteResponse<Number>, RPCError<Number, Member, OpenraftError<Number>>> {
        match self.ask(Request::Vote(rpc), &option).await? {
            Answer::Vote(told) => self.told(told),
            other => Err(nonsense(&other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.peers.pause))
    }
}
