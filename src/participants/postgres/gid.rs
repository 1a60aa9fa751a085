//! The names under which PostgreSQL keeps what is prepared.
//!
//! Global ids are server-wide and have at most 199 bytes. The plain form can be read by people:
//! `unanimity:<cluster>:<store>:<coordination id>`, where `%` and `:` of the first two are
//! percent-encoded, so that no two stores share a gid. When that is over 190 bytes the form is
//! `unanimity#<hash of cluster and store>#<hash of the id>`, from which the id cannot be read; it
//! stands in the table `unanimity_gids`, written durably before the transaction is prepared.
//! Invariant: one (cluster, store, id) has one gid, and different ones have different gids.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::model::ids::{ClusterId, CoordinationId, StoreName};

const PLAIN_MAX: usize = 190;

/// Under which journal and name a store was attached.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) cluster: ClusterId,
    pub(super) store: StoreName,
    /// What every plain gid of it begins with.
    pub(super) plain: String,
    /// What every hashed gid of it begins with.
    pub(super) hashed: String,
}

/// A gid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gid {
    pub(super) text: String,
    /// Whether the id cannot be read from it.
    pub(super) is_hashed: bool,
}

impl Scope {
    pub(super) fn new(cluster: &ClusterId, store: &StoreName) -> Self {
        let (journal, name) = (escape(cluster.as_str()), escape(store.as_str()));
        let both = format!("{journal}:{name}");
        Self {
            cluster: cluster.clone(),
            store: store.clone(),
            plain: format!("unanimity:{both}:"),
            hashed: format!("unanimity#{}#", hash(&both, 16)),
        }
    }

    pub(super) fn gid(&self, id: &CoordinationId) -> Gid {
        if self.plain.len() + id.as_str().len() <= PLAIN_MAX {
            return Gid { text: format!("{}{id}", self.plain), is_hashed: false };
        }
        Gid { text: format!("{}{}", self.hashed, hash(id.as_str(), 32)), is_hashed: true }
    }

    /// The id in a plain gid of this scope.
    pub(super) fn id_of(&self, gid: &str) -> Option<CoordinationId> {
        CoordinationId::new(gid.strip_prefix(&self.plain)?).ok()
    }
}

fn escape(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

fn hash(text: &str, bytes: usize) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(bytes).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(cluster: &str, store: &str) -> Scope {
        Scope::new(&ClusterId::new(cluster).unwrap(), &StoreName::new(store).unwrap())
    }

    #[test]
    fn a_plain_gid_gives_the_id_back_and_a_long_one_is_hashed_into_the_limit() {
        let id = CoordinationId::new("order:7").unwrap();
        let gid = scope("c", "db").gid(&id);
        assert_eq!(gid.text, "unanimity:c:db:order:7");
        assert_eq!(scope("c", "db").id_of(&gid.text), Some(id));
        let long = CoordinationId::new(&"𐍈".repeat(128)).unwrap();
        let gid = scope(&"c".repeat(128), &"s".repeat(128)).gid(&long);
        assert!(gid.is_hashed && gid.text.len() < 200, "{gid:?}");
    }

    #[test]
    fn different_stores_never_share_a_gid() {
        let id = |text| CoordinationId::new(text).unwrap();
        assert_ne!(scope("c", "a").gid(&id("b:x")), scope("c", "a:b").gid(&id("x")));
        assert_ne!(scope("c", "a%3Ab").gid(&id("x")), scope("c", "a:b").gid(&id("x")));
        assert_eq!(scope("c", "a").id_of(&scope("c", "ab").gid(&id("x")).text), None);
    }
}
