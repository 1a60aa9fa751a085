//! `${NAME}` and `${NAME:-default}` in a text, from the environment; `$${` stands for `${`.
//!
//! It works on the text of one scalar, after the file was parsed: what a variable holds can never
//! become another setting. Invariant: no variable's value is in an error.

use std::collections::BTreeMap;

/// The text with every reference replaced; `None` where it has none.
pub(super) fn substitute(
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Option<String>, (String, String)> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut made, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            made.push_str(escaped);
            made.push_str("${");
            rest = &reference[2..];
            continue;
        }
        made.push_str(before);
        let Some(end) = reference.find('}') else {
            let hint = "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves";
            return Err(("has a ${ without its }".to_owned(), hint.to_owned()));
        };
        made.push_str(value_of(&reference[2..end], environment)?);
        rest = &reference[end + 1..];
    }
    made.push_str(rest);
    Ok(Some(made))
}

fn value_of<'a>(
    inside: &'a str,
    environment: &'a BTreeMap<String, String>,
) -> Result<&'a str, (String, String)> {
    let (name, default) =
        inside.split_once(":-").map_or((inside, None), |(name, default)| (name, Some(default)));
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(is_word)
    {
        let message = format!("has ${{{inside}}}, which names no variable");
        let hint = "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves";
        return Err((message, hint.to_owned()));
    }
    // As in a shell, `:-` also stands in for a variable that is empty.
    let given = environment.get(name).map(String::as_str);
    match (given, default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default),
        (None, None) => {
            let message = format!("needs the variable {name}, which the environment does not have");
            Err((message, format!("set it, or write ${{{name}:-default}}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Option<String>, (String, String)> {
        let entry = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        substitute(text, &BTreeMap::from([entry("HOST", "db"), entry("EMPTY", "")]))
    }

    #[test]
    fn variables_defaults_and_escapes_are_replaced() {
        let made = |text: &str| of(text).unwrap().unwrap();
        assert_eq!(made("a${HOST}b${HOST}"), "adbbdb");
        assert_eq!(made("${MISSING:-x:-y}"), "x:-y");
        assert_eq!(made("${EMPTY:-x}"), "x");
        assert_eq!(made("${EMPTY}"), "");
        assert_eq!(made("$${HOST} $$${HOST}"), "${HOST} $${HOST}");
        assert_eq!(of("cost: $5 $HOST"), Ok(None));
    }

    #[test]
    fn what_cannot_be_replaced_names_the_variable() {
        assert!(of("${MISSING}").unwrap_err().0.contains("MISSING"));
        assert!(of("${HOST").unwrap_err().0.contains("without its }"));
        assert!(of("${1A}").unwrap_err().0.contains("names no variable"));
        assert!(of("${}").unwrap_err().0.contains("names no variable"));
        assert!(of("${A-B}").unwrap_err().0.contains("names no variable"));
    }
}
