//! What is in a frame once two nodes have greeted each other. Pure.
//!
//! `kind: u8, number: u64`, then what is carried. A number ties an answer to its request and means
//! nothing else. Not a protocol: what a request says is the node's business.

use bytes::{Buf, Bytes};

/// How many bytes a message has beside what it carries.
pub(super) const MESSAGE_HEAD_BYTES: usize = 9;

/// A message between two nodes that know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Says that the caller is still there.
    StillHere,
    /// Asks.
    Request { number: u64, body: Bytes },
    /// Answers the request with the number.
    Answer { number: u64, body: Bytes },
    /// The answer to the request with the number is over the bound.
    AnswerTooLarge { number: u64 },
}

/// A body that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame that holds no message")]
pub(super) struct NoMessage;

impl Message {
    /// What stands before the body, and the body.
    pub(super) fn parts(&self) -> ([u8; MESSAGE_HEAD_BYTES], &[u8]) {
        let (kind, number, body): (u8, u64, &[u8]) = match self {
            Self::StillHere => (0, 0, &[]),
            Self::Request { number, body } => (1, *number, body),
            Self::Answer { number, body } => (2, *number, body),
            Self::AnswerTooLarge { number } => (3, *number, &[]),
        };
        let mut head = [kind; MESSAGE_HEAD_BYTES];
        head[1..].copy_from_slice(&number.to_le_bytes());
        (head, body)
    }

    /// Reads what stood in a frame.
    pub(super) fn decode(mut body: Bytes) -> Result<Self, NoMessage> {
        if body.len() < MESSAGE_HEAD_BYTES {
            return Err(NoMessage);
        }
        let (kind, number) = (body.get_u8(), body.get_u64_le());
        match kind {
            0 if number == 0 && body.is_empty() => Ok(Self::StillHere),
            1 => Ok(Self::Request { number, body }),
            2 => Ok(Self::Answer { number, body }),
            3 if body.is_empty() => Ok(Self::AnswerTooLarge { number }),
            _ => Err(NoMessage),
        }
    }
}
