//! What a coordination calls the things that it locks: `store`, and `store/key`.
//!
//! Not which locks it needs (`protocol/lock_plan`). Invariants: the same store and key give the
//! same resource in every process; different keys of one store give different ones, also where
//! they are too long for a name, or hold a NUL; a name that is taken over whole is not copied.

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::ids::{CoordinationId, StoreName};
use super::lock::{RESOURCE_CHARACTERS_MAX, RequesterId, ResourceId};

/// How much of a long key stays readable.
const SHOWN_CHARACTERS: usize = 32;

impl From<&StoreName> for ResourceId {
    /// The store as a whole: a store's name obeys stricter rules than a resource's.
    fn from(store: &StoreName) -> Self {
        Self::from_checked(Arc::clone(store.shared()))
    }
}

impl From<&CoordinationId> for RequesterId {
    /// A coordination asks under its own id, whose rules are the same.
    fn from(id: &CoordinationId) -> Self {
        Self::from_checked(Arc::clone(id.shared()))
    }
}

impl ResourceId {
    /// A key of a store. A key that makes the name too long, or that no name can hold, is told by
    /// its beginning and the SHA-256 of the whole.
    pub fn of_key(store: &StoreName, key: &str) -> Self {
        let mut name = String::with_capacity(store.as_str().len() + 1 + key.len());
        name.push_str(store.as_str());
        name.push('/');
        name.push_str(key);
        Self::new(&name).unwrap_or_else(|_| Self::from_checked(shortened(store, key).into()))
    }
}

fn shortened(store: &StoreName, key: &str) -> String {
    let shown: String = key.chars().filter(|c| *c != '\0').take(SHOWN_CHARACTERS).collect();
    let mut name = format!("{store}/{shown}~sha256:");
    for byte in Sha256::digest(key.as_bytes()) {
        let _ = write!(name, "{byte:02x}");
    }
    debug_assert!(name.chars().count() <= RESOURCE_CHARACTERS_MAX, "{name}");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_after_its_store_and_a_long_one_by_its_beginning_and_a_digest() {
        let store = StoreName::new(&"s".repeat(128)).unwrap();
        let short = StoreName::new("cache").unwrap();
        assert_eq!(ResourceId::of_key(&short, "a/b").as_str(), "cache/a/b");
        assert_eq!(ResourceId::of_key(&short, "").as_str(), "cache/");
        let long = ResourceId::of_key(&store, &"k".repeat(1_000));
        assert!(ResourceId::new(long.as_str()).is_ok(), "{long}");
        assert_ne!(long, ResourceId::of_key(&store, &"k".repeat(1_001)));
        assert_eq!(long, ResourceId::of_key(&store, &"k".repeat(1_000)));
        let nul = ResourceId::of_key(&short, "a\0b");
        assert!(nul.as_str().starts_with("cache/ab~sha256:"), "{nul}");
        assert_ne!(nul, ResourceId::of_key(&short, "a\0\0b"));
    }

    #[test]
    fn a_store_and_a_coordination_lend_their_names() {
        let store = StoreName::new("cache").unwrap();
        assert_eq!(ResourceId::from(&store).as_str(), "cache");
        let id = CoordinationId::new("c1").unwrap();
        assert_eq!(RequesterId::from(&id), RequesterId::new("c1").unwrap());
    }
}
