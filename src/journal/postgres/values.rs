//! Times and lists on their way to the server and back.
//!
//! Not rows (table). Invariant: a time comes back to the microsecond.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::model::ids::StoreName;
use crate::model::time::Timestamp;

/// 2000-01-01, from which the server counts, in microseconds since 1970.
const SERVER_EPOCH: i64 = 946_684_800_000_000;

/// A time as `timestamptz`.
#[derive(Clone, Copy, Debug)]
pub(super) struct At(pub(super) Timestamp);

impl ToSql for At {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.0.0.saturating_sub(SERVER_EPOCH).to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl FromSql<'_> for At {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Timestamp(micros.saturating_add(SERVER_EPOCH))))
    }

    accepts!(TIMESTAMPTZ);
}

/// Text for a column: the server has none with NUL.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Names as the server writes an array: arrays of arrays must be of one length.
pub(super) fn names(names: &[StoreName]) -> String {
    let mut list = String::from("{");
    for name in names {
        list.push_str(if list.len() > 1 { ",\"" } else { "\"" });
        for character in name.as_str().chars() {
            if matches!(character, '"' | '\\') {
                list.push('\\');
            }
            list.push(character);
        }
        list.push('"');
    }
    list.push('}');
    list
}

/// Numbers as the server writes an array.
pub(super) fn numbers(numbers: &[u64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_an_array() {
        let name = |text: &str| StoreName::new(text).unwrap();
        assert_eq!(names(&[]), "{}");
        assert_eq!(names(&[name("a"), name("b \"c\\")]), r#"{"a","b \"c\\"}"#);
        assert_eq!(numbers(&[1, 2]), "{1,2}");
    }
}
