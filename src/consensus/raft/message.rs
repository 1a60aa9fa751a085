//! What nodes say to each other, as bytes: a kind, the length of a text, the text, and raw bytes.
//!
//! Not who says it to whom (`peers` asks, `server` answers) and not how it travels (`transport`).
//! The text is JSON; the bytes of a snapshot follow raw, because JSON would make four of one.
//! Invariant: no bytes at all make reading panic, or take more memory than they are long.

use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RaftError as OpenraftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::types::{Member, Number, Types};

/// A newer node that changes what is said counts on; older ones refuse it by name.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

/// What a node asks of another one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Number>),
    /// The data follows the text.
    Snapshot(InstallSnapshotRequest<Types>),
    /// The leader is to carry this `protocol::replica::Proposal` out.
    Propose(Arc<RawValue>),
    /// The leader is to say up to where a reader has to have carried entries out.
    ReadIndex,
    /// Whether the other belongs to a cluster already.
    Hello,
    /// Changes of members, for the leader.
    Add(Member),
    Remove(String),
    Transfer(String),
    /// Stand for election now.
    Elect,
}

/// What it is answered. Each request has its own.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(Result<AppendEntriesResponse<Number>, OpenraftError<Number>>),
    Vote(Result<VoteResponse<Number>, OpenraftError<Number>>),
    Snapshot(Result<InstallSnapshotResponse<Number>, OpenraftError<Number, InstallSnapshotError>>),
    /// It is in the log, or on its way; or it is not, for certain.
    Proposed(Result<(), NotTaken>),
    ReadIndex(Result<u64, NotTaken>),
    Hello {
        is_initialized: bool,
    },
    /// A change of members was made, or why it was not.
    Changed(Result<(), NotChanged>),
    /// The other does not talk to this node, or does not understand it.
    Refused(String),
}

/// Why a leader did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NotTaken {
    /// This node does not lead. Nothing was written.
    NotLeader,
    /// It does not lead any more, or has stopped. What it was given may be in the log.
    Lost,
    /// It leads, and has no majority. Nothing was written.
    NoQuorum(String),
    /// The question cannot be read, or the node has stopped. Nothing was written.
    Refused(String),
}

/// Why members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NotChanged {
    NotLeader,
    /// It cannot be, and why.
    Impossible(String),
    /// It may have been made.
    NoAnswer(String),
}

impl Request {
    pub(super) fn encode(mut self) -> Vec<u8> {
        let tail = match &mut self {
            Self::Snapshot(chunk) => std::mem::take(&mut chunk.data),
            _ => Vec::new(),
        };
        encode(&self, &tail)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (mut request, tail) = decode(bytes)?;
        if let Self::Snapshot(chunk) = &mut request {
            tail.clone_into(&mut chunk.data);
        }
        Ok(request)
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self, &[])
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        decode(bytes).map(|(answer, _)| answer)
    }
}

pub(super) fn encode(text: &impl Serialize, tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[0] = VERSION;
    serde_json::to_writer(&mut bytes, text).expect("what nodes say can be written as text");
    let length = u32::try_from(bytes.len() - HEAD_BYTES).expect("the transport's bound is lower");
    bytes[1..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(tail);
    bytes
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), String> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES).ok_or("a message without a head")?;
    if head[0] != VERSION {
        return Err(format!("a message of version {}, and this node reads {VERSION}", head[0]));
    }
    let length = u32::from_le_bytes(head[1..].try_into().expect("four bytes"));
    let text = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let (text, tail) = text.ok_or("a message that is shorter than it says")?;
    let read = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok((read, tail))
}

#[cfg(test)]
mod tests {
    use openraft::Vote;

    use super::*;

    #[test]
    fn a_chunk_of_a_snapshot_comes_back_with_its_bytes() {
        let chunk = InstallSnapshotRequest {
            vote: Vote::new_committed(3, 7),
            meta: openraft::SnapshotMeta::default(),
            offset: 9,
            data: (0..=255).collect(),
            done: true,
        };
        let bytes = Request::Snapshot(chunk.clone()).encode();
        let Ok(Request::Snapshot(read)) = Request::decode(&bytes) else { panic!("a chunk") };
        assert_eq!(read, chunk);
    }

    #[test]
    fn what_is_no_message_is_told_as_that() {
        let whole = Request::Remove("a".to_owned()).encode();
        for length in 0..whole.len() {
            assert!(Request::decode(&whole[..length]).is_err(), "{length}");
        }
        for at in 0..HEAD_BYTES {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x80;
            assert!(Request::decode(&bytes).is_err(), "{at}");
        }
        assert!(Request::decode(&whole).is_ok());
        assert!(Answer::decode(&whole).is_err());
    }
}
