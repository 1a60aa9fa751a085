//! One operation of a request: what one store shall do. Not the doing of it.
//!
//! The engine reads the keys it knows and hands the whole body to the store untouched.
//! Invariant: `body` is a map, and `id`, `store` and `kind` are what its keys say.

use serde::{Deserialize, Serialize};

use super::ids::{CoordinationId, IdError, StoreName};
use super::value::Value;

/// A checked operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// `operation_id`, or `<coordination_id>:<index>` where the caller gave none.
    pub id: String,
    /// The participating store that shall do it.
    pub store: StoreName,
    /// `type`: what to do, in the store's own vocabulary.
    pub kind: String,
    /// The whole map, as the caller gave it.
    pub body: Value,
}

/// What is wrong with an operation; shown with its index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// It is not a map.
    #[error("is a {kind}; give a dict with the keys 'store' and 'type'")]
    NotAMap {
        /// What it is instead.
        kind: &'static str,
    },
    /// A required key is not there.
    #[error("has no '{key}'; every operation needs 'store' and 'type'")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// An operation of event sourcing names no stream.
    #[error(
        "has no 'stream'; in event_sourcing every operation names the stream that it appends to"
    )]
    NoStream,
    /// A key has a value of the wrong type.
    #[error("has '{key}' of type {kind}; give {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type that it has.
        kind: &'static str,
        /// The type that it needs.
        expected: &'static str,
    },
    /// A key has a value that is not allowed.
    #[error("has '{key}' that cannot be used: {reason}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

impl Operation {
    /// Checks one operation of a request.
    pub fn from_value(
        coordination: &CoordinationId,
        index: usize,
        body: Value,
    ) -> Result<Self, OperationError> {
        if !matches!(body, Value::Map(_)) {
            return Err(OperationError::NotAMap { kind: body.kind() });
        }
        let store = StoreName::new(required_text(&body, "store")?)
            .map_err(|error| bad_value("store", &error))?;
        let kind = required_text(&body, "type")?.to_owned();
        if kind.is_empty() {
            return Err(bad_value("type", &IdError::Empty));
        }
        let id = match body.get("operation_id") {
            None | Some(Value::Null) => format!("{coordination}:{index}"),
            Some(_) => checked_id(required_text(&body, "operation_id")?)?,
        };
        check_optional(&body)?;
        Ok(Self { id, store, kind, body })
    }

    /// What a strong coordination locks within the store, if the operation names it.
    pub fn resource(&self) -> Option<&str> {
        ["resource", "key"].into_iter().find_map(|key| self.body.get(key)?.as_text())
    }
}

fn checked_id(id: &str) -> Result<String, OperationError> {
    CoordinationId::new(id).map_err(|error| bad_value("operation_id", &error))?;
    Ok(id.to_owned())
}

fn bad_value(key: &'static str, error: &IdError) -> OperationError {
    OperationError::BadValue { key, reason: error.to_string() }
}

fn required_text<'a>(body: &'a Value, key: &'static str) -> Result<&'a str, OperationError> {
    match body.get(key) {
        None => Err(OperationError::Missing { key }),
        Some(Value::Text(text)) => Ok(text),
        Some(other) => {
            Err(OperationError::WrongType { key, kind: other.kind(), expected: "a str" })
        }
    }
}

/// The optional keys that the engine reads itself.
fn check_optional(body: &Value) -> Result<(), OperationError> {
    match body.get("access") {
        None | Some(Value::Null) => {}
        Some(Value::Text(access)) if access == "read" || access == "write" => {}
        Some(other) => {
            let reason = format!("{} is neither \"read\" nor \"write\"", other.to_json());
            return Err(OperationError::BadValue { key: "access", reason });
        }
    }
    for key in ["max_retries", "timeout_seconds"] {
        match body.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Int(number)) if *number >= 0 => {}
            Some(Value::Float(number)) if *number >= 0.0 && key == "timeout_seconds" => {}
            Some(Value::Int(_) | Value::Float(_)) => {
                let reason = "it is negative, or a fraction of a retry".to_owned();
                return Err(OperationError::BadValue { key, reason });
            }
            Some(other) => {
                let expected = "a number that is not negative";
                return Err(OperationError::WrongType { key, kind: other.kind(), expected });
            }
        }
    }
    Ok(())
}

/// How an operation stands in the journal: its id beside its body.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredOperation {
    pub(super) id: String,
    pub(super) body: Value,
}
