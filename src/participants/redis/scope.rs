//! The names under which Redis keeps what is prepared, done and remembered.
//!
//! Everything of ours begins with `unanimity:`, so that it can be told from data, which may not.
//! What belongs to one journal and store has both in its name, the journal's with its length in
//! front, so that no two scopes share a name. Keys that are held, fencing tokens and the places of
//! prepared locks are the database's: all services that use it see them, whatever prefix their
//! data have. Invariant: one (cluster, store, id) has one holder's text, and different ones
//! different ones.

use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::operation::Operation;
use crate::model::step::Work;

/// What every name of ours begins with.
pub(super) const OURS: &str = "unanimity:";
/// The version of all that is kept here.
pub(super) const VERSION_KEY: &str = "unanimity:version";
/// What is written to have something to wait for.
pub(super) const SYNCED_KEY: &str = "unanimity:synced";

/// Under which journal and name a store was attached.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) store: StoreName,
    text: String,
    /// In the order in which the scripts have them.
    pub(super) keys: [String; 8],
}

impl Scope {
    pub(super) fn new(cluster: &ClusterId, store: &StoreName) -> Self {
        let text = format!("{}:{cluster}:{store}", cluster.as_str().len());
        let own = |what: &str| format!("{OURS}{what}:{text}");
        let shared = |what: &str| format!("{OURS}{what}");
        let keys = [
            own("prepared"),
            own("committed"),
            own("aborted"),
            shared("held"),
            shared("tokens"),
            shared("standing"),
            own("steps"),
            own("steps-by-time"),
        ];
        Self { store: store.clone(), text, keys }
    }

    /// The hash of what is prepared, by id.
    pub(super) fn prepared(&self) -> &str {
        &self.keys[0]
    }

    /// The sorted set of the markers: ids by the time of their commits.
    pub(super) fn committed(&self) -> &str {
        &self.keys[1]
    }

    /// How a transaction signs the keys that it holds. An id has no NUL.
    pub(super) fn holder(&self, id: &CoordinationId) -> String {
        format!("{id}\0{}", self.text)
    }

    /// The field of a row of the barrier.
    pub(super) fn row(id: &CoordinationId, operation: &Operation, work: Work) -> String {
        format!("{}:{}:{id}:{}", work.as_str(), id.as_str().len(), operation.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_that_read_alike_have_names_of_their_own() {
        let scope = |cluster: &str, store: &str| {
            Scope::new(&ClusterId::new(cluster).unwrap(), &StoreName::new(store).unwrap())
        };
        let (one, other) = (scope("a:b", "c"), scope("a", "b:c"));
        assert_ne!(one.prepared(), other.prepared());
        assert_eq!(one.prepared(), "unanimity:prepared:3:a:b:c");
        assert_eq!(one.keys[3..6], other.keys[3..6]);
        let id = CoordinationId::new("t").unwrap();
        assert_ne!(one.holder(&id), other.holder(&id));
        assert!(one.keys.iter().all(|key| key.starts_with(OURS)));
    }
}
