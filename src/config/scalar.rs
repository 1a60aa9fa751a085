//! What a plain scalar means, by YAML's core schema (YAML 1.2.2, section 10.3.2).
//!
//! Not what a key takes: that is `check`. Text that means nothing else is text.

use crate::model::value::Value;

/// What the text of a plain scalar means.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
        text => number(text).unwrap_or_else(|| Value::Text(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Value> {
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            let is_unsigned = digits.starts_with(|first: char| first.is_digit(radix));
            let number = i64::from_str_radix(digits, radix).ok().filter(|_| is_unsigned);
            return number.map(Value::Int);
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned.starts_with(|first: char| first.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Some(Value::Int(number));
    }
    // Rust's own parser also takes words, such as "infinity".
    let first = unsigned.strip_prefix('.').unwrap_or(unsigned).chars().next()?;
    let is_number = first.is_ascii_digit()
        && unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+'));
    text.parse().ok().filter(|_| is_number).map(Value::Float)
}
