//! The vocabulary of the key-value stores: put, delete, check; read from operations, not done here.
//!
//! Not a store: what a key may look like and what a value may be is each store's own matter.
//! Invariant: an operation that is not understood is refused as a whole, with its id, what is
//! wrong with it and what would be right.

use super::PrepareAsk;
use crate::model::operation::Operation;
use crate::model::value::Value;

/// What a check expects of its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Expected<'a> {
    /// This very value.
    Value(&'a Value),
    /// A value, or none.
    Exists(bool),
}

/// The types of operations.
pub(super) const KINDS: [&str; 3] = ["put", "delete", "check"];

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Action<'a> {
    /// Give it this value.
    Put(&'a Value),
    /// Take its value away; a key without one stays so.
    Delete,
    /// Refuse the transaction unless the key is as expected.
    Check(Expected<'a>),
}

/// One operation that was understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyOperation<'a> {
    pub(super) id: &'a str,
    pub(super) key: &'a str,
    pub(super) action: Action<'a>,
}

impl KeyOperation<'_> {
    /// Whether it would change something.
    pub(super) fn is_write(&self) -> bool {
        !matches!(self.action, Action::Check(_))
    }

    /// A reason to refuse, under this operation's name.
    pub(super) fn refuse(&self, what: impl std::fmt::Display) -> String {
        format!("operation '{}' on the key '{}': {what}", self.id, self.key)
    }
}

/// Reads this store's operations, or says why the transaction is refused.
pub(super) fn read_operations(ask: &PrepareAsk) -> Result<Vec<KeyOperation<'_>>, String> {
    ask.operations()
        .map(|operation| {
            read_operation(operation).map_err(|what| format!("operation '{}' {what}", operation.id))
        })
        .collect()
}

/// Reads one operation; what is wrong with it is said without its id.
pub(super) fn read_operation(operation: &Operation) -> Result<KeyOperation<'_>, String> {
    let body = &operation.body;
    let action = match operation.kind.as_str() {
        "put" => {
            Action::Put(body.get("value").ok_or("has no 'value'; put needs 'key' and 'value'")?)
        }
        "delete" => Action::Delete,
        "check" => Action::Check(read_expected(body)?),
        other => {
            return Err(format!(
                "has the type '{other}', which a key-value store does not know; \
                 it knows 'put', 'delete' and 'check'"
            ));
        }
    };
    let key = match body.get("key") {
        Some(Value::Text(key)) => key,
        Some(other) => return Err(format!("has a 'key' of type {}; give a str", other.kind())),
        None => return Err(format!("has no 'key'; '{}' needs one", operation.kind)),
    };
    Ok(KeyOperation { id: &operation.id, key, action })
}

fn read_expected(body: &Value) -> Result<Expected<'_>, String> {
    match (body.get("value"), body.get("exists")) {
        (Some(value), None) => Ok(Expected::Value(value)),
        (None, Some(Value::Bool(exists))) => Ok(Expected::Exists(*exists)),
        (None, Some(other)) => {
            Err(format!("has an 'exists' of type {}; give True or False", other.kind()))
        }
        (Some(_), Some(_)) => {
            Err("has both 'value' and 'exists'; a check needs exactly one of them".to_owned())
        }
        (None, None) => {
            Err("has neither 'value' nor 'exists'; a check needs exactly one of them".to_owned())
        }
    }
}

/// What to say of a check that failed. Values are not repeated: they may be long, or secret.
pub(super) fn describe_failed_check(expected: Expected<'_>, exists: bool) -> &'static str {
    match (expected, exists) {
        (Expected::Value(_), true) => "the check failed: it has another value",
        (Expected::Value(_) | Expected::Exists(true), false) => "the check failed: it has no value",
        (Expected::Exists(_), _) => "the check failed: it has a value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participants::test_kit::{ask, map};

    fn refusal(body: Value) -> String {
        read_operations(&ask("t", vec![body])).expect_err("is refused")
    }

    #[test]
    fn every_malformed_operation_is_refused_with_its_id_and_the_cure() {
        let cases = [
            (map(&[("type", "push".into())]), "'push'"),
            (map(&[("type", "put".into()), ("key", "k".into())]), "no 'value'"),
            (map(&[("type", "put".into()), ("value", 1.into())]), "no 'key'"),
            (map(&[("type", "delete".into()), ("key", 1.into())]), "type int"),
            (map(&[("type", "check".into()), ("key", "k".into())]), "neither"),
            (
                map(&[("type", "check".into()), ("key", "k".into()), ("exists", 1.into())]),
                "give True or False",
            ),
        ];
        for (body, part) in cases {
            let reason = refusal(body);
            assert!(reason.contains(part) && reason.contains("'t:0'"), "{reason}");
        }
        let both = [("value", 1.into()), ("exists", Value::Bool(true))];
        let body = map(&[&[("type", "check".into()), ("key", "k".into())], &both[..]].concat());
        assert!(refusal(body).contains("both"));
    }

    #[test]
    fn a_null_value_is_a_value() {
        let body = map(&[("type", "put".into()), ("key", "k".into()), ("value", Value::Null)]);
        let ask = ask("t", vec![body]);
        let read = read_operations(&ask).expect("is understood");
        assert_eq!(read[0].action, Action::Put(&Value::Null));
    }
}
