//! Frames: how messages are cut out of a stream of bytes, and how damage is seen. Pure.
//!
//! A frame is `length: u32, crc: u32, body, tag`, numbers in little endian. The length is that of
//! the body; the CRC-32 is over the length and the body; the tag, sixteen bytes, is there only when
//! the connection has a [`Seal`] (a shared secret), and is over the frame's number and what stands
//! before it, so that a frame that is left out, repeated or moved is seen as well.
//!
//! Not a decoder of what is in the body (`message` is). Invariants: nothing is allocated for a
//! length before it is checked against the bound, and nothing for bytes that have not come; after
//! an error the stream is useless.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::proof::{Seal, TAG_BYTES};

/// What stands before the body.
const HEAD_BYTES: usize = 8;

/// Why a stream of bytes is none of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    /// The length is over the bound.
    #[error("a frame of {length} bytes; the bound is {bound}")]
    TooLong { length: usize, bound: usize },
    /// The CRC does not fit.
    #[error("a frame whose checksum is wrong")]
    Damaged,
    /// The tag does not fit.
    #[error("a frame that was not made with the secret, or not for this place in the stream")]
    Forged,
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    hasher.finalize()
}

/// Puts a frame behind what is in `out`.
pub(super) fn encode(body: &[&[u8]], seal: Option<&mut Seal>, out: &mut BytesMut) {
    let begin = out.len();
    let bytes = body.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(bytes).expect("messages are checked against a bound below 4 GiB");
    out.reserve(HEAD_BYTES + bytes + TAG_BYTES);
    out.put_u32_le(length);
    out.put_u32_le(0);
    for part in body {
        out.put_slice(part);
    }
    let crc = checksum(length.to_le_bytes(), &out[begin + HEAD_BYTES..]);
    out[begin + 4..begin + HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    if let Some(seal) = seal {
        let tag = seal.tag(&out[begin..]);
        out.put_slice(&tag);
    }
}

/// Cuts frames out of a stream.
#[derive(Debug)]
pub(super) struct Decoder {
    bound: usize,
    seal: Option<Seal>,
}

impl Decoder {
    pub(super) fn new(bound: usize, seal: Option<Seal>) -> Self {
        Self { bound, seal }
    }

    /// The next body, if all of its frame is in the buffer; else room is made for more.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        if buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let head = |at: usize| [buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]];
        let (length_bytes, crc) = (head(0), u32::from_le_bytes(head(4)));
        let length = u32::from_le_bytes(length_bytes) as usize;
        if length > self.bound {
            return Err(FrameError::TooLong { length, bound: self.bound });
        }
        let tag_bytes = if self.seal.is_some() { TAG_BYTES } else { 0 };
        let end = HEAD_BYTES + length;
        if buffer.len() < end + tag_bytes {
            return Ok(None);
        }
        if checksum(length_bytes, &buffer[HEAD_BYTES..end]) != crc {
            return Err(FrameError::Damaged);
        }
        if let Some(seal) = &mut self.seal
            && !seal.fits(&buffer[..end], &buffer[end..end + tag_bytes])
        {
            return Err(FrameError::Forged);
        }
        buffer.advance(HEAD_BYTES);
        let body = buffer.split_to(length).freeze();
        buffer.advance(tag_bytes);
        Ok(Some(body))
    }
}
