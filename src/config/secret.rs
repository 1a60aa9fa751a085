//! What of a value is not shown.
//!
//! Invariant: every text that leaves for people goes through here. A password is looked for in any
//! text, also where none belongs.

use super::keys::{Key, Secrecy};
use crate::model::value::Value;

/// What stands for a secret.
pub const MASK: &str = "***";

/// The value as people may see it.
pub fn masked(key: &Key, value: &Value) -> Value {
    match (key.secrecy, value) {
        (_, Value::Null) => Value::Null,
        (Secrecy::Secret, _) => Value::Text(MASK.to_owned()),
        (_, Value::Text(text)) => Value::Text(without_passwords(text)),
        (_, Value::List(values)) => {
            Value::List(values.iter().map(|value| masked(key, value)).collect())
        }
        (_, other) => other.clone(),
    }
}

/// A value in a message about its key, cut short.
pub(super) fn quoted(key: Option<&Key>, value: &Value) -> String {
    const LONGEST: usize = 60;
    if key.is_some_and(|key| key.secrecy != Secrecy::Open) {
        return format!("a secret {}", kind(value));
    }
    match value {
        Value::Text(text) => {
            let text = without_passwords(text);
            match text.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{:?}...", &text[..end]),
                None => format!("{text:?}"),
            }
        }
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        other => kind(other).to_owned(),
    }
}

/// What sort of value it is, in words that fit a file and a program.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "truth value",
        Value::Int(_) | Value::Float(_) => "number",
        Value::Text(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::List(_) => "a list",
        Value::Map(_) => "a section",
    }
}

/// An address without its password: `scheme://user:password@host`, or `password=...` in a list of
/// key=value, also in the query of a URL.
fn without_passwords(text: &str) -> String {
    let mut shown = text.to_owned();
    if let Some(at) = shown.find("://") {
        let begin = at + 3;
        // A password may itself have an @, so the last one counts.
        if let Some(end) = shown[begin..].rfind('@').map(|end| begin + end) {
            let user_end = shown[begin..end].find(':').map_or(end, |colon| begin + colon);
            // NATS takes a token in the place of a user.
            let is_token = user_end == end && !shown.starts_with("postgres");
            if user_end < end {
                shown.replace_range(user_end + 1..end, MASK);
            } else if is_token {
                shown.replace_range(begin..end, MASK);
            }
        }
    }
    let mut from = 0;
    // Only ASCII is changed by this, so that places stay the same.
    while let Some(at) = shown[from..].to_ascii_lowercase().find("password") {
        let after = from + at + "password".len();
        let value = after + shown[after..].len() - shown[after..].trim_start().len();
        from = after;
        if !shown[value..].starts_with('=') {
            continue;
        }
        let begin = value + 1 + shown[value + 1..].len() - shown[value + 1..].trim_start().len();
        let end = begin + password_length(&shown[begin..]);
        shown.replace_range(begin..end, MASK);
        from = begin + MASK.len();
    }
    shown
}

fn password_length(text: &str) -> usize {
    if let Some(inner) = text.strip_prefix('\'') {
        let mut is_escaped = false;
        for (at, character) in inner.char_indices() {
            match character {
                '\'' if !is_escaped => return at + 2,
                '\\' => is_escaped = !is_escaped,
                _ => is_escaped = false,
            }
        }
        return text.len();
    }
    text.find(|c: char| c.is_whitespace() || c == '&').unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::without_passwords;

    #[test]
    fn no_form_of_an_address_shows_its_password() {
        for (given, shown) in [
            ("postgresql://user:pw@host/db", "postgresql://user:***@host/db"),
            ("postgresql://user:p@w:x@host/db", "postgresql://user:***@host/db"),
            ("postgresql://user@host/db", "postgresql://user@host/db"),
            ("postgresql://host/db?password=pw&x=1", "postgresql://host/db?password=***&x=1"),
            ("host=a password=pw user=b", "host=a password=*** user=b"),
            ("host=a PASSWORD = 'p w\\' x' user=b", "host=a PASSWORD = *** user=b"),
            ("password='unclosed", "password=***"),
            ("nats://user:pw@a:1,nats://user:pw2@b:2", "nats://user:***@b:2"),
            ("nats://token@a:1", "nats://***@a:1"),
            ("my password is", "my password is"),
            ("tokens/\u{e4}:\u{20ac}", "tokens/\u{e4}:\u{20ac}"),
        ] {
            assert_eq!(without_passwords(given), shown);
        }
    }
}
