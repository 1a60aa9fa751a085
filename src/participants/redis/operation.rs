//! Operations as the scripts take them: the whole key, bytes for the value, milliseconds to live.
//!
//! Not their meaning (`key_value.rs`, the scripts). A value stands in Redis as any other client
//! would have put it: text as its UTF-8, bytes as they are, a whole number by its digits.
//! Invariant: what cannot stand so, or would touch a key of ours, is refused with a word of what
//! would be right.

use crate::model::operation::Operation;
use crate::model::value::Value;
use crate::participants::key_value::{
    Action, Expected, KeyOperation, describe_failed_check, read_operation,
};

use super::scope::OURS;
use super::script::Call;

/// Of a hundred years.
const TTL_SECONDS_MAX: f64 = 3_155_760_000.0;

/// One operation.
pub(super) struct Task<'a> {
    operation: KeyOperation<'a>,
    kind: &'static str,
    key: String,
    argument: Vec<u8>,
    /// Milliseconds, or nothing.
    ttl: String,
}

impl<'a> Task<'a> {
    /// Reads an operation on a key behind `prefix`; what is wrong is said with its name.
    pub(super) fn read(operation: &'a Operation, prefix: &str) -> Result<Self, String> {
        let read = read_operation(operation)
            .map_err(|what| format!("operation '{}' {what}", operation.id))?;
        let key = format!("{prefix}{}", read.key);
        check_key(&key).map_err(|what| read.refuse(what))?;
        let (kind, argument) = match read.action {
            Action::Put(value) => ("put", bytes_of(value)),
            Action::Delete => ("delete", Ok(Vec::new())),
            Action::Check(Expected::Value(value)) => ("value", bytes_of(value)),
            Action::Check(Expected::Exists(exists)) => {
                ("exists", Ok(u8::from(exists).to_string().into_bytes()))
            }
        };
        let argument = argument.map_err(|what| read.refuse(what))?;
        let ttl = ttl(&operation.body, kind).map_err(|what| read.refuse(what))?;
        Ok(Self { operation: read, kind, key, argument, ttl })
    }

    /// Adds it to what a script is asked.
    pub(super) fn add_to(&self, call: &mut Call) {
        call.text(self.kind).bytes(self.key.as_bytes()).bytes(self.argument.as_slice());
        call.text(&self.ttl);
    }

    /// Why it is refused, with its name.
    pub(super) fn refuse(&self, what: impl std::fmt::Display) -> String {
        self.operation.refuse(what)
    }

    /// Why it must wait for a transaction.
    pub(super) fn held_by(&self, holder: &str) -> String {
        self.refuse(format_args!(
            "the prepared transaction '{holder}' holds it; try again when that has ended"
        ))
    }

    /// Why its check failed, where the key has a value of this type.
    pub(super) fn check_failed(&self, found: &str) -> String {
        match self.operation.action {
            Action::Check(Expected::Value(_)) if !matches!(found, "none" | "string") => {
                let what = format!("the check failed: its value is a Redis {found}, no string");
                self.refuse(what)
            }
            Action::Check(expected) => {
                self.refuse(describe_failed_check(expected, found != "none"))
            }
            Action::Put(_) | Action::Delete => self.refuse("it was refused"),
        }
    }

    /// Why the server would not have it written.
    pub(super) fn forbidden(&self) -> String {
        self.refuse("the server's access rules (ACL) forbid this user to write it")
    }
}

fn check_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("a key has at least one character");
    }
    if key.starts_with(OURS) {
        return Err("keys that begin with 'unanimity:' are the store's own; use another one");
    }
    Ok(())
}

fn bytes_of(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::Text(text) => Ok(text.clone().into_bytes()),
        Value::Bytes(bytes) => Ok(bytes.clone()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        other => Err(format!(
            "its value is of type {}; Redis keeps a str, bytes or an int, so write it as one of \
             them",
            other.kind()
        )),
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ttl(body: &Value, kind: &str) -> Result<String, String> {
    let seconds = match body.get("ttl_seconds") {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(_) if kind != "put" => {
            return Err("it has 'ttl_seconds', which only 'put' takes".to_owned());
        }
        // What is lost beyond 53 bits is over the bound anyway.
        Some(Value::Int(seconds)) => *seconds as f64,
        Some(Value::Float(seconds)) => *seconds,
        Some(other) => {
            return Err(format!("its 'ttl_seconds' is of type {}; give a number", other.kind()));
        }
    };
    if !(0.001..=TTL_SECONDS_MAX).contains(&seconds) {
        return Err(format!(
            "its 'ttl_seconds' is {seconds}; give 0.001 to {TTL_SECONDS_MAX} seconds"
        ));
    }
    Ok(((seconds * 1000.0).round() as u64).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participants::test_kit::{ask, check_value, delete, map, put};

    fn refusal(body: Value, prefix: &str) -> String {
        let ask = ask("t", vec![body]);
        let operation = ask.operations().next().unwrap();
        Task::read(operation, prefix).err().expect("it is refused")
    }

    fn with_ttl(body: Value, ttl: Value) -> Value {
        let Value::Map(mut entries) = body else { panic!("an operation is a map") };
        entries.push(("ttl_seconds".to_owned(), ttl));
        Value::Map(entries)
    }

    #[test]
    fn what_redis_cannot_keep_is_refused_with_the_cure() {
        let cases = [
            (put("unanimity:x", 1), "", "the store's own"),
            (put("y:x", 1), "unanimit", "the store's own"),
            (put("", 1), "", "at least one character"),
            (put("a", Value::Float(0.5)), "", "of type float"),
            (check_value("a", Value::Null), "", "of type None"),
            (put("a", map(&[])), "", "of type dict"),
            (with_ttl(put("a", 1), 0.into()), "", "0.001 to"),
            (with_ttl(put("a", 1), "1".into()), "", "give a number"),
            (with_ttl(put("a", 1), Value::Float(f64::NAN)), "", "0.001 to"),
            (with_ttl(delete("a"), 1.into()), "", "only 'put'"),
            (map(&[("type", "incr".into()), ("key", "a".into())]), "", "'incr'"),
        ];
        for (body, prefix, part) in cases {
            let reason = match prefix {
                "unanimit" => refusal(put("y:x", 1), prefix),
                _ => refusal(body, prefix),
            };
            assert!(reason.contains(part) && reason.contains("'t:0'"), "{reason}");
        }
    }

    #[test]
    fn values_stand_as_another_client_would_have_put_them() {
        let bytes = |value: Value| bytes_of(&value).unwrap();
        assert_eq!(bytes("\u{e9}".into()), "\u{e9}".as_bytes());
        assert_eq!(bytes((-5).into()), b"-5");
        assert_eq!(bytes(Value::Bytes(vec![0, 255])), [0, 255]);
        let body = with_ttl(put("a", 1), Value::Float(1.5));
        assert_eq!(ttl(&body, "put"), Ok("1500".to_owned()));
    }
}
