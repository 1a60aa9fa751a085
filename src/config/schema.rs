//! The table of keys as a JSON schema (draft 2020-12), for editors and other checkers.
//!
//! Not what checks here (`check`, `rules`): rules between keys are not in it. Invariant: where a
//! value may be a reference to the environment, the schema allows that text.

use serde_json::{Map, Value as Json, json};

use super::ROOT;
use super::keys::{KEYS, Key, Kind, Secrecy};

const REFERENCE: &str = "\\$\\{";

/// The schema of a file.
pub fn json_schema() -> Json {
    let mut sections = Map::new();
    for key in KEYS {
        insert(&mut sections, key.path, of_key(key));
        if key.takes_file() {
            let about = format!("A file that holds `{}`.", key.path);
            let schema = json!({"type": "string", "minLength": 1, "description": about});
            insert(&mut sections, &format!("{}_file", key.path), schema);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "unanimity",
        "type": "object",
        "properties": { ROOT: section(sections) },
        "patternProperties": { "^x-": {} },
        "additionalProperties": false,
        "required": [ROOT],
    })
}

fn section(properties: Map<String, Json>) -> Json {
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn insert(properties: &mut Map<String, Json>, path: &str, schema: Json) {
    let Some((name, rest)) = path.split_once('.') else {
        properties.insert(path.to_owned(), schema);
        return;
    };
    let inner = properties.entry(name).or_insert_with(|| section(Map::new()));
    if let Some(inner) = inner.get_mut("properties").and_then(Json::as_object_mut) {
        insert(inner, rest, schema);
    }
}

fn of_key(key: &Key) -> Json {
    let number = |name: &str, least: Json, greatest: Json| {
        json!({
            "type": [name, "string"], "pattern": REFERENCE, "minimum": least, "maximum": greatest,
        })
    };
    let mut schema = match key.kind {
        Kind::Truth => json!({"type": ["boolean", "string"], "pattern": REFERENCE}),
        Kind::Whole(least, greatest) => number("integer", least.into(), greatest.into()),
        Kind::Number(least, greatest) => number("number", least.into(), greatest.into()),
        Kind::Text => json!({"type": "string", "minLength": 1}),
        Kind::Choice(words) => {
            json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": REFERENCE}]})
        }
        Kind::Texts => json!({"type": "array", "items": {"type": "string", "minLength": 1}}),
    };
    if key.takes_null {
        schema["type"] = json!(["number", "string", "null"]);
    }
    schema["description"] = key.about.into();
    if let Ok(default) = serde_json::to_value(key.default.value())
        && !default.is_null()
    {
        schema["default"] = default;
    }
    if key.secrecy != Secrecy::Open {
        schema["writeOnly"] = true.into();
    }
    schema
}
