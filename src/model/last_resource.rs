//! Which store of a request is the last resource: the one that decides by a row of its own.
//!
//! Not the choice (engine). Invariant: it is noted in the request's metadata before the begin, and
//! never changed after it; the note is no part of the caller's work.

use super::ids::StoreName;
use super::request::CoordinationRequest;
use super::trace::is_trace_key;
use super::value::Value;

/// The key of `metadata` under which the engine notes which store is the last resource: where the
/// decision lives. It is a part of the begin, so that recovery finds it in every journal.
pub const LAST_RESOURCE_KEY: &str = "unanimity.last_resource";

/// Notes that are no part of the work: the trace, and what the engine added.
pub(super) fn is_added_key(key: &str) -> bool {
    is_trace_key(key) || key == LAST_RESOURCE_KEY
}

impl CoordinationRequest {
    /// The store that decides by a row of its own: its index among [`Self::stores`].
    pub fn last_resource(&self) -> Option<usize> {
        let name = self.metadata.get(LAST_RESOURCE_KEY)?.as_text()?;
        self.stores.iter().position(|store| store.as_str() == name)
    }

    /// Names the store that decides by a row of its own. Before the begin only.
    pub fn set_last_resource(&mut self, store: &StoreName) {
        if let Value::Map(notes) = &mut self.metadata {
            notes.push((LAST_RESOURCE_KEY.to_owned(), store.as_str().into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::RequestParts;

    fn request() -> CoordinationRequest {
        CoordinationRequest::check(RequestParts {
            id: "c".into(),
            kind: "two_phase_commit".into(),
            stores: vec!["a".into(), "b".into()],
            operations: Vec::new(),
            timeout_seconds: 1.0,
            consistency: "session".into(),
            metadata: Value::Map(vec![("user".into(), 7.into())]),
        })
        .unwrap()
    }

    #[test]
    fn a_last_resource_survives_the_journal_and_is_no_other_work() {
        let plain = request();
        let mut named = request();
        named.set_last_resource(&StoreName::new("b").unwrap());
        let json = serde_json::to_string(&named).unwrap();
        let read: CoordinationRequest = serde_json::from_str(&json).unwrap();
        assert_eq!((read.last_resource(), plain.last_resource()), (Some(1), None));
        assert!(read.is_same_work(&plain) && plain.is_same_work(&read));
        let mut other = request();
        other.metadata = Value::Map(Vec::new());
        assert!(!other.is_same_work(&read));
    }
}
