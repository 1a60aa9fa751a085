//! Which locks a coordination takes: a pure function of its request.
//!
//! Not the taking (engine) and not who waits (lock managers). Only "strong" requests lock. For each
//! operation with a `resource` or a `key`: shared on `<store>/<key>` if its `access` is "read",
//! else exclusive; and for each operation, with a key or without, the intent of the same on its
//! store. An operation without a key therefore keeps out only who locks the whole store.
//!
//! Invariants: the same request gives the same locks in the same order, so that recovery takes what
//! was taken before; no resource stands twice among the intents, nor twice among the others.

use std::cmp::Reverse;

use crate::model::lock::{LockMode, ResourceId};
use crate::model::operation::Operation;
use crate::model::request::{ConsistencyLevel, CoordinationRequest};

/// One lock that a coordination needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWish {
    /// What.
    pub resource: ResourceId,
    /// How.
    pub mode: LockMode,
    /// For which store: its index in the request.
    pub party: usize,
}

/// The locks of a request; none if it is not strong, or does nothing.
pub fn locks_of(request: &CoordinationRequest) -> Vec<LockWish> {
    if request.consistency != ConsistencyLevel::Strong {
        return Vec::new();
    }
    let mut wishes = Vec::with_capacity(2 * request.operations.len());
    for operation in &request.operations {
        let party = request.stores.iter().position(|store| *store == operation.store);
        let party = party.expect("a checked request's operations are of its stores");
        let (intent, mode) = if is_read(operation) {
            (LockMode::IntentShared, LockMode::Shared)
        } else {
            (LockMode::IntentExclusive, LockMode::Exclusive)
        };
        let store = &request.stores[party];
        wishes.push(LockWish { resource: store.into(), mode: intent, party });
        if let Some(key) = operation.resource() {
            wishes.push(LockWish { resource: ResourceId::of_key(store, key), mode, party });
        }
    }
    // The strongest of each kind comes first, and stays.
    wishes.sort_by(|a, b| (&a.resource, Reverse(a.mode)).cmp(&(&b.resource, Reverse(b.mode))));
    wishes.dedup_by(|later, kept| {
        later.resource == kept.resource && is_intent(later.mode) == is_intent(kept.mode)
    });
    wishes
}

fn is_read(operation: &Operation) -> bool {
    operation.body.get("access").and_then(|access| access.as_text()) == Some("read")
}

fn is_intent(mode: LockMode) -> bool {
    matches!(mode, LockMode::IntentShared | LockMode::IntentExclusive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::RequestParts;
    use crate::model::value::Value;

    fn operation(fields: &[(&str, &str)]) -> Value {
        let fields = fields.iter().chain(&[("type", "put")]);
        Value::Map(fields.map(|(key, text)| ((*key).to_owned(), Value::from(*text))).collect())
    }

    fn locks(consistency: &str, operations: Vec<Value>) -> Vec<String> {
        let request = CoordinationRequest::check(RequestParts {
            id: "c1".into(),
            kind: "two_phase_commit".into(),
            stores: vec!["b".into(), "a".into(), "idle".into()],
            operations,
            timeout_seconds: 1.0,
            consistency: consistency.into(),
            metadata: Value::Map(Vec::new()),
        });
        let shown = |wish: &LockWish| format!("{} {} {}", wish.party, wish.resource, wish.mode);
        locks_of(&request.unwrap()).iter().map(shown).collect()
    }

    #[test]
    fn a_strong_request_locks_its_keys_and_means_it_on_its_stores_in_one_order() {
        let operations = vec![
            operation(&[("store", "b"), ("key", "k"), ("access", "read")]),
            operation(&[("store", "b"), ("key", "k")]),
            operation(&[("store", "b"), ("key", "j"), ("access", "read")]),
            operation(&[("store", "a"), ("resource", "r"), ("key", "k"), ("access", "read")]),
        ];
        let expected = [
            "1 a intent_shared",
            "1 a/r shared",
            "0 b intent_exclusive",
            "0 b/j shared",
            "0 b/k exclusive",
        ];
        assert_eq!(locks("strong", operations.clone()), expected);
        assert!(locks("session", operations.clone()).is_empty());
        assert!(locks("eventual", operations).is_empty());
    }

    #[test]
    fn an_operation_without_a_key_locks_its_store_by_intent_only_and_no_operation_locks_nothing() {
        let read = operation(&[("store", "a"), ("access", "read")]);
        assert_eq!(locks("strong", vec![read.clone()]), ["1 a intent_shared"]);
        let write = operation(&[("store", "a")]);
        assert_eq!(locks("strong", vec![read, write]), ["1 a intent_exclusive"]);
        assert!(locks("strong", Vec::new()).is_empty());
    }
}
