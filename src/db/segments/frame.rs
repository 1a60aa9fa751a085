//! How records stand in a segment: a header, then frames. Pure: bytes in, bytes out.
//!
//! A frame is the payload's length, a checksum, the record's position, and the payload, filled up
//! to eight bytes. All numbers are little-endian. A length of zero is where nothing was written
//! yet; the highest length says that the log goes on in the next segment. Invariant: a payload is
//! given out only if its checksum, which covers its position too, is right.

use crc32fast::Hasher;

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: usize = 64;
/// Bytes of a frame before its payload.
pub(super) const FRAME_BYTES: usize = 16;
/// Frames begin at multiples of this.
pub(super) const ALIGNED_BYTES: usize = 8;
/// The longest payload.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const MAGIC: [u8; 8] = *b"unanlog\x01";
const GOES_ON: u32 = u32::MAX;

/// Whose log it is: a segment of another one is refused.
pub type Tag = [u8; 32];

/// Frames on their way into a segment.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    last: i64,
}

impl Batch {
    /// Adds a record; `write` appends its payload.
    pub fn push<E>(
        &mut self,
        position: i64,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        self.bytes.resize(start + FRAME_BYTES, 0);
        let written = write(&mut self.bytes);
        if written.is_err() {
            self.bytes.truncate(start);
            return written;
        }
        let payload = start + FRAME_BYTES;
        let length = u32::try_from(self.bytes.len() - payload).unwrap_or(GOES_ON);
        assert!(length != 0 && length as usize <= PAYLOAD_BYTES_MAX, "a payload of {length} bytes");
        let check = checksum(length, position, &self.bytes[payload..]);
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes[start + 4..start + 8].copy_from_slice(&check.to_le_bytes());
        self.bytes[start + 8..payload].copy_from_slice(&position.to_le_bytes());
        self.bytes.resize(padded(self.bytes.len()), 0);
        self.last = position;
        Ok(())
    }

    /// The frames, one after the other.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The position of the last record.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the records, and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// The frame that says that the log goes on with `next` in another segment.
pub(super) fn end_mark(next: i64) -> [u8; FRAME_BYTES] {
    let mut bytes = [0; FRAME_BYTES];
    bytes[..4].copy_from_slice(&GOES_ON.to_le_bytes());
    bytes[4..8].copy_from_slice(&checksum(GOES_ON, next, &[]).to_le_bytes());
    bytes[8..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// A record, and how many bytes its frame takes.
    Record {
        /// Its position.
        position: i64,
        /// What was written.
        payload: &'a [u8],
        /// The bytes of the whole frame.
        bytes: usize,
    },
    /// The log goes on with this position in the next segment.
    GoesOn(i64),
    /// Nothing was written here.
    Nothing,
    /// A frame may begin here, and more bytes are needed to tell: so many in all.
    Short(usize),
    /// No frame of ours.
    Torn,
}

/// Looks at what stands at the beginning of `bytes`.
pub(super) fn look(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_BYTES) else {
        return Found::Short(FRAME_BYTES);
    };
    let (length, check) = (number(&head[..4]), number(&head[4..8]));
    let position = i64::from_le_bytes(head[8..].try_into().expect("eight bytes"));
    if length == 0 {
        return if head.iter().all(|byte| *byte == 0) { Found::Nothing } else { Found::Torn };
    }
    if length == GOES_ON {
        let is_right = check == checksum(length, position, &[]);
        return if is_right { Found::GoesOn(position) } else { Found::Torn };
    }
    let length_bytes = length as usize;
    if length_bytes > PAYLOAD_BYTES_MAX {
        return Found::Torn;
    }
    let whole = padded(FRAME_BYTES + length_bytes);
    match rest.get(..length_bytes) {
        None => Found::Short(whole),
        Some(payload) if check == checksum(length, position, payload) => {
            Found::Record { position, payload, bytes: whole }
        }
        Some(_) => Found::Torn,
    }
}

/// The header of a segment whose first record will be `first`.
pub(super) fn header(first: i64, tag: &Tag) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&first.to_le_bytes());
    bytes[16..48].copy_from_slice(tag);
    let check = crc32fast::hash(&bytes[..48]);
    bytes[48..52].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// The first position and the tag of a header; `None` for what is no header.
pub(super) fn read_header(bytes: &[u8]) -> Option<(i64, Tag)> {
    let bytes = bytes.get(..HEADER_BYTES)?;
    if bytes[..8] != MAGIC || number(&bytes[48..52]) != crc32fast::hash(&bytes[..48]) {
        return None;
    }
    let first = i64::from_le_bytes(bytes[8..16].try_into().ok()?);
    Some((first, bytes[16..48].try_into().ok()?))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

fn checksum(length: u32, position: i64, payload: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(payloads: &[&[u8]]) -> Batch {
        let mut batch = Batch::default();
        for (index, payload) in payloads.iter().enumerate() {
            let position = i64::try_from(index).unwrap() + 7;
            batch
                .push(position, |bytes| {
                    bytes.extend_from_slice(payload);
                    Ok::<_, ()>(())
                })
                .unwrap();
        }
        batch
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let payloads: [&[u8]; 4] = [b"a", b"twelve bytes", &[0; 64], &[255; 1_000]];
        let written = batch(&payloads);
        let mut rest = written.bytes();
        for (index, expected) in payloads.iter().enumerate() {
            let Found::Record { position, payload, bytes } = look(rest) else { panic!("a record") };
            assert_eq!((position, payload), (i64::try_from(index).unwrap() + 7, *expected));
            rest = &rest[bytes..];
        }
        assert!(rest.is_empty());
        assert_eq!(look(&[0; 64]), Found::Nothing);
        assert_eq!(look(&end_mark(9)), Found::GoesOn(9));
        assert_eq!(read_header(&header(3, &[9; 32])), Some((3, [9; 32])));
    }

    #[test]
    fn any_changed_byte_of_a_frame_is_noticed_and_no_bytes_at_all_make_it_panic() {
        let whole = batch(&[b"some payload of a record"]);
        for at in 0..FRAME_BYTES + 24 {
            for change in [1, 0x80, 0xff] {
                let mut bytes = whole.bytes().to_vec();
                bytes[at] ^= change;
                assert!(!matches!(look(&bytes), Found::Record { .. }), "byte {at}");
            }
        }
        for length in 0..whole.bytes().len() {
            assert!(matches!(look(&whole.bytes()[..length]), Found::Short(_)), "{length}");
        }
        // A small generator; every run draws the same bytes.
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..48)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    u8::try_from(state >> 56).unwrap()
                })
                .collect();
            assert!(!matches!(look(&bytes), Found::Record { .. } | Found::GoesOn(_)));
            assert_eq!(read_header(&bytes), None);
        }
    }

    #[test]
    fn a_payload_that_cannot_be_written_leaves_nothing() {
        let mut written = batch(&[b"kept"]);
        let before = written.bytes().to_vec();
        assert_eq!(
            written.push(99, |bytes| {
                bytes.push(1);
                Err("no")
            }),
            Err("no")
        );
        assert_eq!(written.bytes(), before);
        assert_eq!(written.last(), 7);
    }
}
