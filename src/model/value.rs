//! A value of an operation: what JSON can say, and bytes.
//!
//! Not JSON text: bytes are written as `{"$bytes": "<base64>"}`, and a caller's own map with that
//! one key as `{"$bytes": {"$map": ...}}`, so that every value comes back as it went in.
//! Invariant: reading what was written gives an equal value; the order of a map's keys is kept,
//! and does not count when two are compared.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const BYTES_KEY: &str = "$bytes";
const MAP_KEY: &str = "$map";

/// One value.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Nothing.
    #[default]
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number.
    Float(f64),
    /// Text.
    Text(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name, in the order given.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// The entry of a map, `None` where there is none or this is no map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text, if this is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if this is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The values in order, if this is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(values) => Some(values),
            _ => None,
        }
    }

    /// What kind of value this is, in a Python user's words, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "dict",
        }
    }

    /// JSON text, as the journal keeps it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a Value has only text keys and finite numbers")
    }

    /// Reads JSON text that [`Value::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            (Self::Map(a), Self::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| other.get(key) == Some(value))
            }
            _ => false,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// True for the one shape of map that would be mistaken for bytes.
fn needs_escape(entries: &[(String, Value)]) -> bool {
    matches!(entries, [(key, _)] if key == BYTES_KEY)
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(BYTES_KEY, &STANDARD.encode(bytes))?;
                map.end()
            }
            Self::List(values) => {
                let mut sequence = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    sequence.serialize_element(value)?;
                }
                sequence.end()
            }
            Self::Map(entries) if needs_escape(entries) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(BYTES_KEY, &EscapedMap(&entries[0].1))?;
                map.end()
            }
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

struct EscapedMap<'a>(&'a Value);

impl Serialize for EscapedMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(MAP_KEY, self.0)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Value, E> {
        i64::try_from(number).map(Value::Int).map_err(|_| E::custom("integer over 64 bits"))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries: Vec<(String, Value)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        if !needs_escape(&entries) {
            return Ok(Value::Map(entries));
        }
        match entries.pop() {
            Some((_, Value::Text(encoded))) => {
                STANDARD.decode(encoded).map(Value::Bytes).map_err(de::Error::custom)
            }
            Some((key, Value::Map(mut inner))) if inner.len() == 1 && inner[0].0 == MAP_KEY => {
                Ok(Value::Map(vec![(key, inner.remove(0).1)]))
            }
            _ => Err(de::Error::custom("a map with the one key \"$bytes\" must hold base64 text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_back(value: &Value) {
        assert_eq!(&Value::from_json(&value.to_json()).expect("own output parses"), value);
    }

    #[test]
    fn every_value_comes_back_as_it_went_in() {
        comes_back(&Value::Null);
        comes_back(&Value::Int(i64::MIN));
        comes_back(&Value::Float(0.1));
        comes_back(&Value::Float(1.0));
        comes_back(&Value::Bytes(vec![0, 255, 10]));
        comes_back(&Value::List(vec![Value::Bool(true), "é\n".into()]));
        comes_back(&Value::Map(vec![("b".into(), 1.into()), ("a".into(), Value::Null)]));
    }

    #[test]
    fn a_callers_map_that_looks_like_bytes_stays_a_map() {
        for inner in ["aGk=".into(), Value::Map(vec![(MAP_KEY.into(), Value::Null)])] {
            comes_back(&Value::Map(vec![(BYTES_KEY.into(), inner)]));
        }
    }

    #[test]
    fn the_order_of_keys_does_not_count() {
        let one = Value::Map(vec![("a".into(), 1.into()), ("b".into(), 2.into())]);
        let two = Value::Map(vec![("b".into(), 2.into()), ("a".into(), 1.into())]);
        assert_eq!(one, two);
    }
}
