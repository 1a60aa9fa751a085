//! The words of a greeting. Pure; `greet` speaks them.
//!
//! ```text
//! caller                                       answerer
//! magic, version, security          ->
//!                                   <-         go on (one byte), or refused
//! (here both go over to TLS, if that is the security)
//! hello: cluster, ids, bound, nonce ->
//!                                   <-         challenge: nonce, or refused
//! proof                             ->
//!                                   <-         welcome: id, cluster, bound, proof; or refused
//! ```
//!
//! Invariant: whoever is refused is told nothing but that.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::proof::{NONCE_BYTES, PROOF_BYTES};
use crate::model::ids::ID_CHARACTERS_MAX;

/// What a caller sends first; other programs send something else.
const MAGIC: [u8; 4] = *b"unan";
/// The version of all that stands in this folder.
pub(super) const VERSION: u16 = 1;
/// How many bytes the opening has.
pub(super) const OPENING_BYTES: usize = 8;
/// The largest frame of a greeting.
pub(super) const GREETING_BYTES_MAX: usize = 4 * 1024;

/// The answer to an opening that is in order.
pub(super) const GO_ON: u8 = 1;
/// The answer to whoever is refused.
pub(super) const REFUSED: u8 = 0;

/// How the nodes of a cluster know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SecurityKind {
    Open = 0,
    Secret = 1,
    Tls = 2,
}

impl SecurityKind {
    fn words(code: u8) -> &'static str {
        match code {
            0 => "neither tls nor a secret",
            1 => "a secret",
            2 => "tls",
            _ => "a security that this version does not know",
        }
    }
}

/// What a caller sends first.
pub(super) fn opening(security: SecurityKind) -> [u8; OPENING_BYTES] {
    let [low, high] = VERSION.to_le_bytes();
    [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], low, high, security as u8, 0]
}

/// Why a greeting fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// It is none of ours.
    Garbage(&'static str),
    /// It is a stranger's; why.
    Stranger(String),
}

/// Checks what a caller sent first.
pub(super) fn check_opening(seen: [u8; OPENING_BYTES], own: SecurityKind) -> Result<(), Complaint> {
    if seen[..4] != MAGIC {
        return Err(Complaint::Garbage("what speaks there is no node of unanimity"));
    }
    let version = u16::from_le_bytes([seen[4], seen[5]]);
    if version != VERSION {
        return Err(Complaint::Stranger(format!(
            "it speaks version {version}, this node speaks {VERSION}; run one release everywhere"
        )));
    }
    if seen[6] != own as u8 {
        let (theirs, ours) = (SecurityKind::words(seen[6]), SecurityKind::words(own as u8));
        return Err(Complaint::Stranger(format!(
            "it comes with {theirs}, this node has {ours}; give all nodes the same"
        )));
    }
    Ok(())
}

/// What a caller says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Empty where it does not know its cluster yet.
    pub(super) cluster: String,
    pub(super) node: String,
    /// Who it means to speak with.
    pub(super) to: String,
    /// The largest frame that it takes.
    pub(super) frame_max: u32,
    pub(super) nonce: [u8; NONCE_BYTES],
}

/// What an answerer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) cluster: String,
    pub(super) node: String,
    pub(super) frame_max: u32,
}

/// A frame of a greeting that cannot be read.
const UNREADABLE: Complaint = Complaint::Garbage("a greeting that cannot be read");

fn put_text(out: &mut BytesMut, text: &str) {
    let bytes = text.as_bytes();
    out.put_u16_le(u16::try_from(bytes.len()).expect("ids are checked when they are given"));
    out.put_slice(bytes);
}

fn take_text(from: &mut Bytes) -> Result<String, Complaint> {
    let length = usize::from(from.try_get_u16_le().map_err(|_| UNREADABLE)?);
    if length > from.len() {
        return Err(UNREADABLE);
    }
    let text = String::from_utf8(from.split_to(length).into()).map_err(|_| UNREADABLE)?;
    // They stand in logs: nothing that moves a terminal's cursor.
    let is_fine = !text.contains(char::is_control) && text.chars().count() <= ID_CHARACTERS_MAX;
    if is_fine { Ok(text) } else { Err(UNREADABLE) }
}

fn take_array<const N: usize>(from: &mut Bytes) -> Result<[u8; N], Complaint> {
    let mut array = [0; N];
    from.try_copy_to_slice(&mut array).map_err(|_| UNREADABLE)?;
    Ok(array)
}

fn nothing_left<T>(from: &Bytes, value: T) -> Result<T, Complaint> {
    if from.is_empty() { Ok(value) } else { Err(UNREADABLE) }
}

impl Hello {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_text(&mut out, &self.cluster);
        put_text(&mut out, &self.node);
        put_text(&mut out, &self.to);
        out.put_u32_le(self.frame_max);
        out.put_slice(&self.nonce);
        out.freeze()
    }

    pub(super) fn decode(mut from: Bytes) -> Result<Self, Complaint> {
        let (cluster, node) = (take_text(&mut from)?, take_text(&mut from)?);
        let to = take_text(&mut from)?;
        let frame_max = from.try_get_u32_le().map_err(|_| UNREADABLE)?;
        let nonce = take_array(&mut from)?;
        nothing_left(&from, Self { cluster, node, to, frame_max, nonce })
    }
}

impl Welcome {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_text(&mut out, &self.cluster);
        put_text(&mut out, &self.node);
        out.put_u32_le(self.frame_max);
        out.freeze()
    }

    /// What stands before the proof, the proof, and the words.
    pub(super) fn decode(body: &Bytes) -> Result<(Self, Bytes, Bytes), Complaint> {
        let mut from = body.clone();
        let (cluster, node) = (take_text(&mut from)?, take_text(&mut from)?);
        let frame_max = from.try_get_u32_le().map_err(|_| UNREADABLE)?;
        let said = body.slice(..body.len() - from.len());
        if !from.is_empty() && from.len() != PROOF_BYTES {
            return Err(UNREADABLE);
        }
        Ok((Self { cluster, node, frame_max }, said, from))
    }
}

/// The frame that goes on, with what it carries; the other one is a refusal.
pub(super) fn going_on(carried: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(GO_ON);
    for part in carried {
        out.put_slice(part);
    }
    out.freeze()
}

/// What an answerer's frame carries, unless it is a refusal.
pub(super) fn carried(mut body: Bytes) -> Result<Option<Bytes>, Complaint> {
    match body.try_get_u8() {
        Ok(GO_ON) => Ok(Some(body)),
        Ok(REFUSED) if body.is_empty() => Ok(None),
        _ => Err(UNREADABLE),
    }
}
