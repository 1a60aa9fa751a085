//! Values that an operation takes from earlier results: `{"$result": id, "path": [...]}`.
//!
//! Pure: who has the results gives them. A reference stands for a value anywhere inside of the
//! entries that [`resolve_operation`] names, never for a statement or a type, so that a result
//! cannot become a part of what is executed. Without a path it stands for the whole result; each
//! part of a path is a key of a map or an index of a list.
//!
//! Invariant: what does not lead to a value is an error that says what there is.

use crate::model::value::Value;

const REFERENCE: &str = "$result";
const PATH: &str = "path";
/// The entries of an operation in which references are looked for.
const ENTRIES: [&str; 5] = ["key", "value", "exists", "parameters", "expect_rows"];
/// How many names an error lists.
const SHOWN_MAX: usize = 10;

/// The body of an operation with the references in its values resolved.
pub(super) fn resolve_operation(body: &Value, results: &[(&str, &Value)]) -> Result<Value, String> {
    let Value::Map(entries) = body else { return Ok(body.clone()) };
    let mut resolved = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let value = if ENTRIES.contains(&name.as_str()) {
            resolve(value, results).map_err(|what| format!("has a '{name}' that {what}"))?
        } else {
            value.clone()
        };
        resolved.push((name.clone(), value));
    }
    Ok(Value::Map(resolved))
}

fn resolve(value: &Value, results: &[(&str, &Value)]) -> Result<Value, String> {
    match value {
        Value::Map(entries) => match value.get(REFERENCE) {
            Some(operation) => follow(entries, operation, results).cloned(),
            None => {
                let resolve_entry =
                    |(name, value): &(String, Value)| Ok((name.clone(), resolve(value, results)?));
                Ok(Value::Map(entries.iter().map(resolve_entry).collect::<Result<_, String>>()?))
            }
        },
        Value::List(values) => {
            let resolved: Result<_, String> =
                values.iter().map(|value| resolve(value, results)).collect();
            Ok(Value::List(resolved?))
        }
        other => Ok(other.clone()),
    }
}

/// The value to which a reference leads.
fn follow<'a>(
    reference: &[(String, Value)],
    operation: &Value,
    results: &'a [(&str, &Value)],
) -> Result<&'a Value, String> {
    if let Some((name, _)) = reference.iter().find(|(name, _)| name != REFERENCE && name != PATH) {
        return Err(format!(
            "has '{name}' beside '{REFERENCE}'; a reference has nothing but '{REFERENCE}' and \
             '{PATH}'"
        ));
    }
    let Value::Text(operation) = operation else {
        let kind = operation.kind();
        return Err(format!("has a '{REFERENCE}' of type {kind}; give an operation's id, a str"));
    };
    let known = results.iter().find(|(id, _)| id == operation);
    let Some(&(_, mut found)) = known else {
        let ids: Vec<&str> = results.iter().map(|(id, _)| *id).collect();
        return Err(format!(
            "refers to the result of '{operation}', and there is none; {}",
            there_is("results of", &ids)
        ));
    };
    let path = match reference.iter().find(|(name, _)| name == PATH) {
        None => &[][..],
        Some((_, Value::List(path))) => path,
        Some((_, other)) => {
            return Err(format!("has a '{PATH}' of type {}; give a list", other.kind()));
        }
    };
    for (depth, part) in path.iter().enumerate() {
        found = part_of(found, part).map_err(|what| {
            let place = Value::List(path[..depth].to_vec()).to_json();
            format!("refers to the result of '{operation}', which at {place} {what}")
        })?;
    }
    Ok(found)
}

fn part_of<'a>(value: &'a Value, part: &Value) -> Result<&'a Value, String> {
    match (value, part) {
        (Value::Map(entries), Value::Text(name)) => value.get(name).ok_or_else(|| {
            let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
            format!("has no '{name}'; {}", there_is("the keys", &names))
        }),
        (Value::List(values), Value::Int(index)) => {
            let found = usize::try_from(*index).ok().and_then(|index| values.get(index));
            found.ok_or_else(|| format!("has {} entries and none at {index}", values.len()))
        }
        (Value::Map(_), other) => {
            Err(format!("is a dict, and {} is of type {}", other.to_json(), other.kind()))
        }
        (Value::List(_), other) => {
            Err(format!("is a list, and {} is of type {}", other.to_json(), other.kind()))
        }
        (other, part) => Err(format!("is of type {} and has no {}", other.kind(), part.to_json())),
    }
}

fn there_is(what: &str, names: &[&str]) -> String {
    if names.is_empty() {
        return "there are none at all".to_owned();
    }
    let shown: Vec<String> = names.iter().take(SHOWN_MAX).map(|name| format!("'{name}'")).collect();
    let more = if names.len() > SHOWN_MAX { ", ..." } else { "" };
    format!("there are {what} {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participants::test_kit::map;

    fn reference(operation: &str, path: Vec<Value>) -> Value {
        map(&[("$result", operation.into()), ("path", Value::List(path))])
    }

    fn rows() -> Value {
        let row = map(&[("id", 7.into()), ("name", "ann".into())]);
        map(&[("rows_affected", 1.into()), ("rows", Value::List(vec![row]))])
    }

    #[test]
    fn a_reference_stands_for_a_value_at_any_depth() {
        let rows = rows();
        let results = [("first", &rows)];
        let inner = reference("first", vec!["rows".into(), 0.into(), "id".into()]);
        let body = map(&[
            ("type", "execute".into()),
            ("statement", "INSERT INTO t VALUES ($1, $2)".into()),
            ("parameters", Value::List(vec![inner.clone(), 1.into()])),
            ("value", map(&[("deep", Value::List(vec![map(&[("$result", "first".into())])]))])),
        ]);
        let resolved = resolve_operation(&body, &results).unwrap();
        assert_eq!(resolved.get("parameters"), Some(&Value::List(vec![7.into(), 1.into()])));
        let deep = map(&[("deep", Value::List(vec![rows.clone()]))]);
        assert_eq!(resolved.get("value"), Some(&deep));
        assert_eq!(resolved.get("statement"), body.get("statement"));
    }

    #[test]
    fn statements_types_and_compensations_are_never_resolved() {
        let body = map(&[
            ("type", map(&[("$result", "x".into())])),
            ("statement", map(&[("$result", "x".into())])),
            ("compensation", map(&[("value", map(&[("$result", "own".into())]))])),
        ]);
        assert_eq!(resolve_operation(&body, &[]).as_ref(), Ok(&body));
    }

    #[test]
    fn what_leads_nowhere_says_what_there_is() {
        let (rows, number) = (rows(), Value::Int(3));
        let results = [("first", &rows), ("second", &number)];
        let cases = [
            (reference("third", vec![]), "there are results of 'first', 'second'"),
            (reference("first", vec!["row".into()]), "there are the keys 'rows_affected', 'rows'"),
            (reference("first", vec!["rows".into(), 1.into()]), "at [\"rows\"] has 1 entries"),
            (reference("first", vec!["rows".into(), (-1).into()]), "none at -1"),
            (reference("first", vec![0.into()]), "is a dict"),
            (reference("first", vec!["rows".into(), "id".into()]), "is a list"),
            (reference("second", vec![0.into()]), "is of type int"),
            (map(&[("$result", 1.into())]), "give an operation's id"),
            (map(&[("$result", "first".into()), ("path", 1.into())]), "give a list"),
            (map(&[("$result", "first".into()), ("else", 1.into())]), "'else' beside"),
        ];
        for (value, part) in cases {
            let body = map(&[("value", Value::List(vec![value]))]);
            let reason = resolve_operation(&body, &results).unwrap_err();
            assert!(reason.contains(part) && reason.contains("'value'"), "{reason}");
        }
        let reason = resolve_operation(&map(&[("key", reference("x", vec![]))]), &[]).unwrap_err();
        assert!(reason.contains("none at all"), "{reason}");
    }
}
