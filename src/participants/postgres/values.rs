//! Values to PostgreSQL and back.
//!
//! Not part of a statement's text: parameters are bound. Bytes travel in binary form, everything
//! else in text form, which the server reads by the parameter's own type; so a number given as
//! text, a date, an enum or a uuid need no code here. A str for json is JSON text already, as
//! other drivers take it. Invariants: what cannot be meant is refused before anything is sent; a
//! column that cannot be read here is one that [`is_readable`] denies.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

use crate::model::value::Value;

/// A value ready to be bound.
#[derive(Debug, PartialEq)]
pub(super) enum Parameter {
    Null,
    Text(String),
    Binary(Vec<u8>),
}

impl Parameter {
    /// The value as a parameter of that type; or what is wrong with it.
    pub(super) fn new(value: &Value, of: &Type) -> Result<Self, String> {
        let of = base(of);
        let is_json = matches!(*of, Type::JSON | Type::JSONB);
        let text = match (value, of.kind()) {
            (Value::Null, _) => return Ok(Self::Null),
            (Value::Bytes(bytes), _) if *of == Type::BYTEA => {
                return Ok(Self::Binary(bytes.clone()));
            }
            (Value::Text(_), _) if *of == Type::BYTEA => return Err(mismatch(value, of, "bytes")),
            (Value::List(values), Kind::Array(member)) => array(values, member)?,
            (Value::Map(_) | Value::List(_), _) if is_json => plain_json(value)?,
            (Value::Map(_), _) => {
                return Err(mismatch(value, of, "another value, or cast it as in $1::jsonb"));
            }
            (Value::List(_), _) => {
                return Err(mismatch(value, of, "another value, or cast it as in $1::int8[]"));
            }
            (Value::Bytes(_), _) => return Err(mismatch(value, of, "a str")),
            _ => scalar(value),
        };
        if text.contains('\0') {
            return Err("has a NUL character, which PostgreSQL text cannot hold".to_owned());
        }
        Ok(Self::Text(text))
    }
}

fn mismatch(value: &Value, of: &Type, wanted: &str) -> String {
    format!("is a {}, and its type is {}; give {wanted}", value.kind(), of.name())
}

/// The type under a domain.
fn base(of: &Type) -> &Type {
    match of.kind() {
        Kind::Domain(inner) => base(inner),
        _ => of,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        // Without an exponent or a trailing ".0", so that whole ones fit whole types.
        Value::Float(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        _ => String::new(),
    }
}

/// JSON for a database, where bytes have no place.
fn plain_json(value: &Value) -> Result<String, String> {
    if has_bytes(value) {
        return Err("has bytes in it, which JSON cannot hold; encode them as text".to_owned());
    }
    serde_json::to_string(&Plain(value)).map_err(|error| format!("is no JSON: {error}"))
}

fn has_bytes(value: &Value) -> bool {
    match value {
        Value::Bytes(_) => true,
        Value::List(values) => values.iter().any(has_bytes),
        Value::Map(entries) => entries.iter().any(|(_, value)| has_bytes(value)),
        _ => false,
    }
}

/// Written without the journal's escapes for maps that look like bytes.
struct Plain<'a>(&'a Value);

impl serde::Serialize for Plain<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::List(values) => serializer.collect_seq(values.iter().map(Plain)),
            Value::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, Plain(value))))
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

/// The text form of an array.
fn array(values: &[Value], member: &Type) -> Result<String, String> {
    let mut text = String::from("{");
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        match value {
            Value::List(inner) if !matches!(*member, Type::JSON | Type::JSONB) => {
                text.push_str(&array(inner, member)?);
            }
            value => match Parameter::new(value, member)? {
                Parameter::Null => text.push_str("NULL"),
                Parameter::Text(item) => push_quoted(&mut text, &item),
                Parameter::Binary(bytes) => push_quoted(&mut text, &hex(&bytes)),
            },
        }
    }
    text.push('}');
    Ok(text)
}

/// The text form of an array of texts.
pub(super) fn text_array<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from("{");
    for (index, item) in items.enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_quoted(&mut text, item);
    }
    text.push('}');
    text
}

fn push_quoted(text: &mut String, item: &str) {
    text.push('"');
    for character in item.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("\\x"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Binary(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Self::Text(_) => Format::Text,
            Self::Null | Self::Binary(_) => Format::Binary,
        }
    }

    to_sql_checked!();
}

/// Whether a column of that type is read here; others are cast to text by the server.
pub(super) fn is_readable(of: &Type) -> bool {
    match of.kind() {
        Kind::Array(member) => is_readable(member) && !matches!(member.kind(), Kind::Array(_)),
        Kind::Domain(inner) => is_readable(inner),
        _ => matches!(
            *of,
            Type::BOOL
                | Type::INT2
                | Type::INT4
                | Type::INT8
                | Type::OID
                | Type::FLOAT4
                | Type::FLOAT8
                | Type::TEXT
                | Type::VARCHAR
                | Type::BPCHAR
                | Type::NAME
                | Type::UNKNOWN
                | Type::BYTEA
                | Type::JSON
                | Type::JSONB
                | Type::UUID
        ),
    }
}

/// A value out of a row; for NULL an `Option` of it is none.
pub(super) struct Read(pub(super) Value);

impl<'a> FromSql<'a> for Read {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let of = base(of);
        if let Kind::Array(_) = of.kind() {
            let items = Vec::<Option<Self>>::from_sql(of, raw)?;
            let values = items.into_iter().map(|item| item.map_or(Value::Null, |read| read.0));
            return Ok(Self(Value::List(values.collect())));
        }
        Ok(Self(match *of {
            Type::BOOL => Value::Bool(bool::from_sql(of, raw)?),
            Type::INT2 => Value::Int(i16::from_sql(of, raw)?.into()),
            Type::INT4 => Value::Int(i32::from_sql(of, raw)?.into()),
            Type::INT8 => Value::Int(i64::from_sql(of, raw)?),
            Type::OID => Value::Int(u32::from_sql(of, raw)?.into()),
            // Through its shortest text, so that 0.1 stays 0.1 in double precision.
            Type::FLOAT4 => float(f32::from_sql(of, raw)?.to_string().parse()?),
            Type::FLOAT8 => float(f64::from_sql(of, raw)?),
            Type::BYTEA => Value::Bytes(raw.to_vec()),
            Type::JSON => json(raw)?,
            Type::JSONB => json(raw.get(1..).unwrap_or_default())?,
            Type::UUID => Value::Text(uuid(raw)?),
            _ => Value::Text(std::str::from_utf8(raw)?.to_owned()),
        }))
    }

    fn accepts(of: &Type) -> bool {
        is_readable(of)
    }
}

/// A [`Value::Float`] is finite; what is not is given as PostgreSQL writes it.
fn float(number: f64) -> Value {
    match number {
        number if number.is_finite() => Value::Float(number),
        number if number.is_nan() => "NaN".into(),
        number if number > 0.0 => "Infinity".into(),
        _ => "-Infinity".into(),
    }
}

fn json(raw: &[u8]) -> Result<Value, Box<dyn Error + Sync + Send>> {
    Ok(foreign(Value::from_json(std::str::from_utf8(raw)?)?))
}

/// JSON that the journal did not write: a map that looks like bytes is a map.
fn foreign(value: Value) -> Value {
    match value {
        Value::Bytes(bytes) => {
            Value::Map(vec![("$bytes".to_owned(), Value::Text(STANDARD.encode(bytes)))])
        }
        Value::List(values) => Value::List(values.into_iter().map(foreign).collect()),
        Value::Map(entries) => {
            Value::Map(entries.into_iter().map(|(key, value)| (key, foreign(value))).collect())
        }
        scalar => scalar,
    }
}

fn uuid(raw: &[u8]) -> Result<String, &'static str> {
    if raw.len() != 16 {
        return Err("a uuid has 16 bytes");
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in raw.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_meant_are_refused_with_the_type() {
        let error = Parameter::new(&Value::Bytes(vec![1]), &Type::TEXT).unwrap_err();
        assert_eq!(error, "is a bytes, and its type is text; give a str");
        assert!(Parameter::new(&Value::Map(vec![]), &Type::INT4).is_err());
        assert!(Parameter::new(&"a\0".into(), &Type::TEXT).is_err());
    }

    #[test]
    fn arrays_are_quoted() {
        let values = Value::List(vec!["a\"b\\".into(), Value::Null, "NULL".into()]);
        let text = Parameter::Text(r#"{"a\"b\\",NULL,"NULL"}"#.to_owned());
        assert_eq!(Parameter::new(&values, &Type::TEXT_ARRAY), Ok(text));
    }

    #[test]
    fn a_map_that_looks_like_bytes_goes_to_the_database_as_it_is() {
        let map = Value::Map(vec![("$bytes".to_owned(), "aGk=".into())]);
        let text = Parameter::Text(r#"{"$bytes":"aGk="}"#.to_owned());
        assert_eq!(Parameter::new(&map, &Type::JSONB), Ok(text));
        assert_eq!(json(br#"{"$bytes":"aGk="}"#).unwrap(), map);
    }
}
