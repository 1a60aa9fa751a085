//! Names of `ZooKeeper` nodes: a resource's container, and the children that queue in it.
//!
//! Pure; not the order of the children (`zookeeper_queue`) and not a client (`zookeeper`).
//! Invariants: two resources never share a container; a name that was printed is read back as it
//! was; nothing that a user names can hold a `/` or be `.` or `..`.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::model::lock::{LockMode, RequesterId, ResourceId};

/// The longest name of a container that still spells the resource.
const SPELLED_MAX: usize = 200;
/// How much of a longer one is spelled before its hash, for people.
const SPELLED_OF_LONG: usize = 100;
/// Stands between the two; an escaped name never holds it.
const HASH_MARK: char = '~';
/// Bytes of a hash that tell requesters apart.
const MARK_BYTES: usize = 16;

/// The name of a resource's container.
pub(super) fn container_name(resource: &ResourceId) -> String {
    let mut name = escape(resource.as_str());
    if name.len() > SPELLED_MAX {
        // Only ASCII is left, so every index is a boundary.
        name.truncate(SPELLED_OF_LONG);
        name.push(HASH_MARK);
        push_hex(&mut name, &Sha256::digest(resource.as_str().as_bytes()));
    }
    name
}

/// The resource of a container's name; `None` where only the container's data tells it.
pub(super) fn resource_of(container: &str) -> Option<ResourceId> {
    ResourceId::new(&unescape(container)?).ok()
}

/// A short name for a requester that can stand in a child's name.
pub(super) fn requester_mark(requester: &RequesterId) -> String {
    let digest = Sha256::digest(requester.as_str().as_bytes());
    let mut mark = String::with_capacity(2 * MARK_BYTES);
    push_hex(&mut mark, &digest[..MARK_BYTES]);
    mark
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:@+=,".contains(&byte)
}

fn escape(text: &str) -> String {
    // "." and ".." are no names of nodes.
    let is_dots = text.bytes().all(|byte| byte == b'.');
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_plain(byte) && !is_dots {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            byte if is_plain(byte) => bytes.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

/// A child of a container: one who holds the resource, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChildName {
    pub(super) mode: LockMode,
    /// Whose it is, see [`requester_mark`].
    pub(super) mark: String,
    /// Tells it from every other node, so that it is found again when the reply that would have
    /// told its sequence is lost.
    pub(super) tag: String,
    /// The sequence before which it stands in the queue, where that is not its own: an upgrade.
    pub(super) before: Option<u32>,
    /// The server's count. It is signed there and overflows into the negative; as an unsigned
    /// number it just goes on.
    pub(super) sequence: u32,
}

impl ChildName {
    /// The name without its sequence, which the server adds.
    pub(super) fn prefix(mode: LockMode, mark: &str, tag: &str, before: Option<u32>) -> String {
        let place = before.map(|before| format!("u{before}")).unwrap_or_default();
        format!("{}{place}-{mark}-{tag}-", mode_letters(mode))
    }

    /// The parts of a name; `None` for a node that is not ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(4, '-');
        let (place, mark, tag) = (parts.next()?, parts.next()?, parts.next()?);
        // A negative sequence begins with the separator once more.
        let sequence: i32 = parts.next()?.parse().ok()?;
        let (letters, before) = match place.split_once('u') {
            Some((letters, before)) => (letters, Some(before.parse().ok()?)),
            None => (place, None),
        };
        Some(Self {
            mode: LockMode::ALL.into_iter().find(|mode| mode_letters(*mode) == letters)?,
            mark: mark.to_owned(),
            tag: tag.to_owned(),
            before,
            sequence: sequence.cast_unsigned(),
        })
    }
}

fn mode_letters(mode: LockMode) -> &'static str {
    match mode {
        LockMode::IntentShared => "is",
        LockMode::IntentExclusive => "ix",
        LockMode::Shared => "s",
        LockMode::Exclusive => "x",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(text: &str) -> ResourceId {
        ResourceId::new(text).unwrap()
    }

    #[test]
    fn any_resource_is_one_node_and_is_read_back() {
        for text in
            ["a", "store/key", ".", "..", "...", "a b\n%2F~", "\u{e9}\u{1f600}", "zookeeper"]
        {
            let name = container_name(&resource(text));
            assert!(
                name.is_ascii() && !name.contains('/') && name != "." && name != "..",
                "{name}"
            );
            assert_eq!(resource_of(&name), Some(resource(text)));
        }
        assert_eq!(container_name(&resource("store/key")), "store%2Fkey");
    }

    #[test]
    fn a_long_resource_is_hashed_and_tells_so() {
        let long = |last: &str| resource(&format!("{}{last}", "\u{e9}".repeat(255)));
        let names = [container_name(&long("a")), container_name(&long("b"))];
        assert!(names.iter().all(|name| name.len() < SPELLED_MAX && resource_of(name).is_none()));
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_child_is_read_back_also_after_the_servers_count_overflowed() {
        let mark = requester_mark(&RequesterId::new("a-b-1").unwrap());
        for (before, digits, sequence) in [
            (None, "0000000007", 7),
            (Some(5), "-2147483648", 1 << 31),
            (None, "-0000000001", u32::MAX),
        ] {
            for mode in LockMode::ALL {
                let name = ChildName::prefix(mode, &mark, "t9", before) + digits;
                let (mark, tag) = (mark.clone(), "t9".to_owned());
                assert_eq!(
                    ChildName::parse(&name),
                    Some(ChildName { mode, mark, tag, before, sequence })
                );
            }
        }
        for foreign in ["", "x", "lock-0000000001", "y-m-t-0000000001", "x-m-t-", "xu-m-t-1"] {
            assert_eq!(ChildName::parse(foreign), None, "{foreign}");
        }
    }
}
