//! The words that openraft is told in: numbers of nodes, their places, and what an entry holds.
//!
//! Not the wire and not the disk. Invariants: a node's number follows from its id alone, so that
//! every node counts alike; the proposals of an entry stay the text that their process wrote, and
//! are read once on each node, when they are carried out.

use std::io::Cursor;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::transport::PeerAddress;

openraft::declare_raft_types!(
    /// How openraft is built here.
    pub(super) Types:
        D = Payload,
        R = (),
        NodeId = Number,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = Tasks,
);

/// What openraft's tasks, time and chance are.
#[cfg(not(test))]
type Tasks = openraft::TokioRuntime;
#[cfg(test)]
type Tasks = super::seeded::Seeded;

/// A node as openraft counts it: it wants ids that can be copied.
pub(super) type Number = u64;
pub(super) type LogId = openraft::LogId<Number>;
pub(super) type Vote = openraft::Vote<Number>;
pub(super) type Entry = openraft::Entry<Types>;
pub(super) type StoredMembership = openraft::StoredMembership<Number, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<Number, Member>;
pub(super) type Snapshot = openraft::Snapshot<Types>;
pub(super) type StorageError = openraft::StorageError<Number>;
pub(super) type Metrics = openraft::RaftMetrics<Number, Member>;
pub(super) type Raft = openraft::Raft<Types>;

/// The number of the node with this id. Two ids of one cluster with the same number are as good
/// as impossible, and refused where they are named.
pub(super) fn number(id: &str) -> Number {
    let digest = Sha256::digest(id.as_bytes());
    Number::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// What an entry asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Payload {
    /// A `protocol::replica::Entry`, as its leader wrote it.
    Entry(Arc<RawValue>),
    /// A node leaves, and its id is never used again.
    Retire(Number),
}

/// Where a node is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) port: u16,
}

impl From<&PeerAddress> for Member {
    fn from(peer: &PeerAddress) -> Self {
        Self { id: peer.id.clone(), host: peer.host.clone(), port: peer.port }
    }
}

impl From<&Member> for PeerAddress {
    fn from(member: &Member) -> Self {
        Self { id: member.id.clone(), host: member.host.clone(), port: member.port }
    }
}
