//! Streams of events: what an operation of event sourcing asks for, and an event that stands.
//!
//! Not the events that buses carry (`model/event.rs`, and the port of buses). Invariants: the
//! versions of a stream are 1, 2, 3 ... without a gap; global positions are so over all streams of
//! a journal, in the order in which the events became true; what stands is never changed.

use super::ids::{CoordinationId, StreamId};
use super::operation::{Operation, OperationError};
use super::time::Timestamp;
use super::value::Value;

/// An event that stands.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// The stream that it belongs to.
    pub stream: StreamId,
    /// Its place in the stream, counted from 1.
    pub version: u64,
    /// What happened, in the caller's vocabulary.
    pub kind: String,
    /// What the caller says of it: a map.
    pub data: Value,
    /// The caller's notes: a map.
    pub metadata: Value,
    /// Its place among all events of the journal, counted from 1.
    pub position: u64,
    /// When the coordination that appended it began.
    pub recorded_at: Timestamp,
    /// The coordination that appended it.
    pub coordination: CoordinationId,
}

/// A stream's state at one version, kept by a caller so that older events need not be read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Of which stream.
    pub stream: StreamId,
    /// The version of the last event that is in it.
    pub version: u64,
    /// The state, in the caller's own form.
    pub state: Value,
    /// When it was taken.
    pub taken_at: Timestamp,
}

/// An event that an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventDraft<'a> {
    /// `stream`: where to.
    pub stream: &'a str,
    /// `expected_version`: which version the stream must have right before this request's first
    /// event of it; 0 where it must not exist. `None`: any.
    pub expected_version: Option<u64>,
    /// `type`: what happened.
    pub kind: &'a str,
    body: &'a Value,
}

impl<'a> EventDraft<'a> {
    /// Reads the keys of an operation.
    pub fn of(operation: &'a Operation) -> Result<Self, OperationError> {
        let body = &operation.body;
        let stream = match body.get("stream") {
            None | Some(Value::Null) => return Err(OperationError::NoStream),
            Some(Value::Text(text)) => text,
            Some(other) => return Err(wrong_type("stream", other, "a str")),
        };
        StreamId::new(stream).map_err(|error| bad_value("stream", error.to_string()))?;
        super::ids::check(&operation.kind, super::ids::ID_CHARACTERS_MAX)
            .map_err(|error| bad_value("type", error.to_string()))?;
        for key in ["data", "metadata"] {
            match body.get(key) {
                None | Some(Value::Null | Value::Map(_)) => {}
                Some(other) => return Err(wrong_type(key, other, "a dict")),
            }
        }
        let expected_version = expected_version(body)?;
        Ok(Self { stream, expected_version, kind: &operation.kind, body })
    }

    /// `data`: a map, empty where the caller gave none.
    pub fn data(&self) -> Value {
        self.given("data")
    }

    /// `metadata`: a map, empty where the caller gave none.
    pub fn metadata(&self) -> Value {
        self.given("metadata")
    }

    fn given(&self, key: &str) -> Value {
        match self.body.get(key) {
            None | Some(Value::Null) => Value::Map(Vec::new()),
            Some(value) => value.clone(),
        }
    }
}

fn expected_version(body: &Value) -> Result<Option<u64>, OperationError> {
    const KEY: &str = "expected_version";
    match body.get(KEY) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Int(number)) => match u64::try_from(*number) {
            Ok(version) => Ok(Some(version)),
            Err(_) => {
                let reason = format!("{number} is negative; 0 says that there is no such stream");
                Err(bad_value(KEY, reason))
            }
        },
        Some(other) => Err(wrong_type(KEY, other, "an int, or leave it out for any version")),
    }
}

fn wrong_type(key: &'static str, value: &Value, expected: &'static str) -> OperationError {
    OperationError::WrongType { key, kind: value.kind(), expected }
}

fn bad_value(key: &'static str, reason: String) -> OperationError {
    OperationError::BadValue { key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(entries: &[(&str, Value)]) -> Operation {
        let mut body = vec![
            ("store".to_owned(), Value::from("view")),
            ("type".to_owned(), Value::from("opened")),
        ];
        body.extend(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let id = CoordinationId::new("c").unwrap();
        Operation::from_value(&id, 0, Value::Map(body)).unwrap()
    }

    #[test]
    fn a_draft_is_what_the_operation_says_and_nothing_is_invented() {
        let given = operation(&[
            ("stream", "account-1".into()),
            ("expected_version", 0.into()),
            ("data", Value::Map(vec![("owner".into(), "ada".into())])),
        ]);
        let draft = EventDraft::of(&given).unwrap();
        assert_eq!(
            (draft.stream, draft.kind, draft.expected_version),
            ("account-1", "opened", Some(0))
        );
        assert_eq!(draft.data(), Value::Map(vec![("owner".into(), "ada".into())]));
        assert_eq!(draft.metadata(), Value::Map(Vec::new()));
        let any = operation(&[("stream", "s".into()), ("expected_version", Value::Null)]);
        assert_eq!(EventDraft::of(&any).unwrap().expected_version, None);
    }

    #[test]
    fn what_cannot_be_an_event_is_refused_by_its_key() {
        let refused = |entries: &[(&str, Value)]| {
            EventDraft::of(&operation(entries)).unwrap_err().to_string()
        };
        assert!(refused(&[]).contains("has no 'stream'"));
        assert!(refused(&[("stream", 7.into())]).contains("'stream' of type int"));
        assert!(refused(&[("stream", "".into())]).contains("'stream'"));
        let of_s = |key, value| refused(&[("stream", "s".into()), (key, value)]);
        assert!(of_s("expected_version", (-1).into()).contains("-1 is negative"));
        assert!(of_s("expected_version", Value::Bool(true)).contains("of type bool"));
        assert!(of_s("data", Value::List(Vec::new())).contains("give a dict"));
        assert!(of_s("metadata", "note".into()).contains("give a dict"));
    }
}
