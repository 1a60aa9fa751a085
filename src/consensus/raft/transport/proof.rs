//! What a shared secret proves: that both ends know it, and that a frame is from the other end.
//! Pure; the random numbers are arguments.
//!
//! A challenge and its response, in the way of ISO/IEC 9798-4 (mutual, three passes): each side
//! shows `HMAC-SHA256(key, its role, transcript)`, where the key is made of the secret, and the
//! transcript is all that was said before, both fresh random numbers among it. The caller proves
//! first, so that a stranger who calls is given nothing to try passwords on. The keys of the two
//! directions are made of the same transcript, and each frame has a tag by them.
//!
//! Not encryption: who listens on the wire reads everything. Invariants: the secret itself is never
//! sent, shown or logged; comparisons take the same time whatever differs.

use std::fmt;

use ring::hmac;

/// Bytes of a fresh random number.
pub(super) const NONCE_BYTES: usize = 32;
/// Bytes of a proof.
pub(super) const PROOF_BYTES: usize = 32;
/// Bytes of a frame's tag: half of an HMAC-SHA256, as RFC 2104 allows.
pub(super) const TAG_BYTES: usize = 16;
/// The shortest secret, in bytes.
pub(super) const SECRET_BYTES_MIN: usize = 16;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Opened the connection.
    Caller,
    /// Accepted it.
    Answerer,
}

/// A secret that the nodes of a cluster share.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl Secret {
    /// Keeps a secret of at least sixteen bytes; `None` for a shorter one.
    pub fn new(secret: &[u8]) -> Option<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        (secret.len() >= SECRET_BYTES_MIN).then_some(Self(key))
    }

    fn sign(&self, purpose: &str, transcript: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"unanimity ");
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(transcript);
        context.sign()
    }

    /// What `role` shows to prove that it knows the secret.
    pub(super) fn proof(&self, role: Role, transcript: &[u8]) -> [u8; PROOF_BYTES] {
        let tag = self.sign(proof_purpose(role), transcript);
        tag.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    /// Whether `shown` is the proof of `role`.
    pub(super) fn fits(&self, role: Role, transcript: &[u8], shown: &[u8]) -> bool {
        same(self.sign(proof_purpose(role), transcript).as_ref(), shown)
    }

    /// What `role` seals its frames with.
    pub(super) fn seal(&self, role: Role, transcript: &[u8]) -> Seal {
        let purpose = match role {
            Role::Caller => "frames of the caller",
            Role::Answerer => "frames of the answerer",
        };
        let key = self.sign(purpose, transcript);
        Seal { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), number: 0 }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn proof_purpose(role: Role) -> &'static str {
    match role {
        Role::Caller => "proof of the caller",
        Role::Answerer => "proof of the answerer",
    }
}

/// Whether two strings of bytes are the same, in a time that depends on their lengths alone.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Seals the frames of one direction of one connection.
pub(super) struct Seal {
    key: hmac::Key,
    /// The number of the next frame.
    number: u64,
}

impl Seal {
    /// The tag of the next frame.
    pub(super) fn tag(&mut self, frame: &[u8]) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&self.number.to_le_bytes());
        context.update(frame);
        self.number += 1;
        context.sign().as_ref()[..TAG_BYTES].try_into().expect("HMAC-SHA256 has 32 bytes")
    }

    /// Whether the tag is the one of the next frame.
    pub(super) fn fits(&mut self, frame: &[u8], tag: &[u8]) -> bool {
        same(&self.tag(frame), tag)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] = b"what was said";

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_proof_holds_for_one_role_one_transcript_and_one_secret() {
        let own = secret("the secret of the cluster");
        let proof = own.proof(Role::Caller, SAID);
        assert!(own.fits(Role::Caller, SAID, &proof));
        assert!(!own.fits(Role::Answerer, SAID, &proof), "a proof can be sent back");
        assert!(!own.fits(Role::Caller, b"something else", &proof), "a proof can be repeated");
        assert!(!secret("another secret, as long").fits(Role::Caller, SAID, &proof));
        assert!(!own.fits(Role::Caller, SAID, &proof[..31]));
        assert!(!own.fits(Role::Caller, SAID, &[]));
    }

    #[test]
    fn a_short_secret_is_none_and_no_secret_is_shown() {
        assert!(Secret::new(b"fifteen bytes..").is_none());
        assert_eq!(format!("{:?}", secret("sixteen bytes...")), "Secret");
    }

    #[test]
    fn a_tag_holds_for_one_frame_at_one_place_in_one_direction() {
        let own = secret("the secret of the cluster");
        let mut sent = own.seal(Role::Caller, SAID);
        let (first, second) = (sent.tag(b"frame"), sent.tag(b"frame"));
        assert_ne!(first, second);
        let mut seen = own.seal(Role::Caller, SAID);
        assert!(seen.fits(b"frame", &first) && seen.fits(b"frame", &second));
        assert!(!seen.fits(b"frame", &second), "a frame can be repeated");
        assert!(!own.seal(Role::Answerer, SAID).fits(b"frame", &first));
        assert!(!own.seal(Role::Caller, SAID).fits(b"framf", &first));
    }
}
