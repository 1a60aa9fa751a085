//! What things are called on the server, and how an event is written.
//!
//! Pure. A type or a group may hold any character and a subject may not, so what does not fit is
//! named by its hash. Invariants: the same names in every process and version; names that differ do
//! not meet, but for a collision of 96 bits of SHA-256.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::super::BusEvent;
use crate::model::value::Value;

/// What a subscription pulls from: each is one consumer on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The events of some streams, for a group.
    Partition(u32),
    /// All events, for a subscription of its own.
    All,
    /// What is redriven.
    Redriven,
}

/// The names under one bus.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) stream: String,
    pub(super) partitions: u32,
}

impl Names {
    pub(super) fn parked_stream(&self) -> String {
        format!("{}_PARKED", self.stream)
    }

    /// What the stream of events takes.
    pub(super) fn subjects(&self) -> Vec<String> {
        vec![format!("{}.events.>", self.stream), format!("{}.redriven.>", self.stream)]
    }

    pub(super) fn parked_subjects(&self) -> Vec<String> {
        vec![format!("{}.parked.>", self.stream)]
    }

    /// Where an event is published. All events of a stream have one partition.
    pub(super) fn subject(&self, event: &BusEvent) -> String {
        let hash = Sha256::digest(event.stream.as_bytes());
        let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        format!("{}.events.{}.{}", self.stream, number % self.partitions, token(&event.kind))
    }

    /// Where an event is put that is redriven for a group.
    pub(super) fn redriven(&self, group: &str, wish: Option<&str>) -> String {
        format!("{}.redriven.{}.{}", self.stream, hashed(group), wish.map_or_else(star, token))
    }

    /// Where an event is parked for a group; one place, however often it is parked.
    pub(super) fn parked(&self, group: &str, event_id: &str) -> String {
        format!("{}.parked.{}.{}", self.stream, hashed(group), hashed(event_id))
    }

    /// All that is parked for a group.
    pub(super) fn parked_of(&self, group: &str) -> String {
        format!("{}.parked.{}.*", self.stream, hashed(group))
    }

    /// What a lane takes.
    pub(super) fn filter(&self, lane: Lane, group: &str, wish: Option<&str>) -> String {
        let kind = wish.map_or_else(|| "*".to_owned(), token);
        match lane {
            Lane::Partition(number) => format!("{}.events.{number}.{kind}", self.stream),
            Lane::All => format!("{}.events.*.{kind}", self.stream),
            Lane::Redriven => self.redriven(group, wish),
        }
    }

    /// The lanes of a subscription: those of a group are shared with its other subscriptions.
    pub(super) fn lanes(&self, is_own: bool) -> Vec<Lane> {
        let mut lanes = vec![Lane::Redriven];
        if is_own {
            lanes.push(Lane::All);
        } else {
            lanes.extend((0..self.partitions).map(Lane::Partition));
        }
        lanes
    }
}

/// A group's consumers, by the beginning of their names.
pub(super) fn consumers_of(group: &str) -> String {
    format!("{}_", hashed(group))
}

/// The end of the names of consumers that take every type.
fn star() -> String {
    "all".to_owned()
}

/// Consumers of one wish of a group, by the beginning of their names.
pub(super) fn consumers_of_wish(group: &str, wish: Option<&str>) -> String {
    format!("{}{}_", consumers_of(group), wish.map_or_else(star, hashed))
}

pub(super) fn consumer(lane: Lane, group: &str, wish: Option<&str>) -> String {
    let begin = consumers_of_wish(group, wish);
    match lane {
        Lane::Partition(number) => format!("{begin}{number}"),
        Lane::All => format!("{begin}own"),
        Lane::Redriven => format!("{begin}redriven"),
    }
}

/// A part of a subject that says `text`.
fn token(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if text.len() <= 64 && text.bytes().all(is_plain) { text.to_owned() } else { hashed(text) }
}

/// 96 bits of the hash, behind a character that no plain name has.
fn hashed(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash[..12].iter().fold("=".to_owned(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The id under which the server counts an event once; a header holds no line ends.
pub(super) fn message_id(event_id: &str) -> String {
    if event_id.chars().all(|character| character.is_ascii_graphic()) {
        event_id.to_owned()
    } else {
        hashed(event_id)
    }
}

pub(super) fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

pub(super) fn encode(event: &BusEvent) -> Value {
    Value::Map(vec![
        entry("id", event.id.as_str().into()),
        entry("kind", event.kind.as_str().into()),
        entry("stream", event.stream.as_str().into()),
        entry("body", event.body.clone()),
    ])
}

/// `None` for what is no event of ours.
pub(super) fn decode(value: &Value) -> Option<BusEvent> {
    let text = |key: &str| value.get(key).and_then(Value::as_text).map(str::to_owned);
    let body = value.get("body")?.clone();
    Some(BusEvent { id: text("id")?, kind: text("kind")?, stream: text("stream")?, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, stream: &str) -> BusEvent {
        let (id, kind, stream) = ("e1".to_owned(), kind.to_owned(), stream.to_owned());
        BusEvent { id, kind, stream, body: Value::Bytes(vec![0, 1]) }
    }

    #[test]
    fn subjects_are_the_same_for_ever_and_hold_only_what_a_subject_may() {
        let names = Names { stream: "U".to_owned(), partitions: 16 };
        assert_eq!(names.subject(&event("TOLD", "order-1")), "U.events.5.TOLD");
        let odd = names.subject(&event("a.b *>\n", "order-1"));
        assert!(odd.starts_with("U.events.5.=") && odd.matches('.').count() == 3, "{odd}");
        assert_eq!(names.filter(Lane::All, "g", None), "U.events.*.*");
        assert_eq!(names.filter(Lane::Partition(3), "g", Some("TOLD")), "U.events.3.TOLD");
        let (wish, group) = (Some("TOLD"), "any group.");
        assert_eq!(names.filter(Lane::Redriven, group, wish), names.redriven(group, wish));
        assert!(!consumer(Lane::Partition(3), group, None).contains(['.', ' ', '*', '>']));
        assert_eq!(message_id("plain-1"), "plain-1");
        assert!(message_id("two\r\nlines").starts_with('='));
    }

    #[test]
    fn streams_are_spread_over_the_partitions() {
        let names = Names { stream: "U".to_owned(), partitions: 8 };
        let subjects = (0..200).map(|number| names.subject(&event("K", &number.to_string())));
        assert_eq!(subjects.collect::<std::collections::BTreeSet<_>>().len(), 8);
    }

    #[test]
    fn an_event_comes_back_as_it_was_written() {
        let told = event("TOLD", "s");
        let text = encode(&told).to_json();
        assert_eq!(decode(&Value::from_json(&text).unwrap()), Some(told));
        assert_eq!(decode(&Value::Null), None);
    }
}
