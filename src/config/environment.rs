//! Settings from variables: `UNANIMITY_` and the key in capitals, `_` between sections.
//!
//! Invariants: a variable that is empty counts as not there; one that is nearly a setting's is
//! told, and others that begin so are left alone (containers are given names of services).

use std::collections::BTreeMap;

use super::check::Reading;
use super::keys::{KEYS, Key};
use super::nearest::nearest;
use super::node::{Content, Node};
use super::problem::Origin;
use crate::model::value::Value;

const PREFIX: &str = "UNANIMITY_";

pub(super) fn take(reading: &mut Reading<'_>) {
    let keys: BTreeMap<String, &'static Key> =
        KEYS.iter().map(|key| (key.variable(), key)).collect();
    let environment = reading.environment;
    for (variable, text) in environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        if text.is_empty() {
            continue;
        }
        let of_file = variable.strip_suffix("_FILE").and_then(|name| keys.get(name));
        if let Some(key) = keys.get(variable) {
            reading.take_text(key, text, variable.clone());
        } else if let Some(key) = of_file.filter(|key| key.takes_file()) {
            let value = Value::Text(text.clone());
            let content = Content::Scalar { value, text: Some(text.clone()) };
            let origin = Origin::Environment { variable: variable.clone() };
            let path = format!("{}_file", key.path);
            reading.take_file(key, &path, &Node { content, line: 0 }, &origin);
        } else if let Some(meant) = meant_by(variable, &keys) {
            let origin = Origin::Environment { variable: variable.clone() };
            let hint = format!("did you mean {meant}?");
            reading.blame(origin, "", "is no setting's variable", hint);
        }
    }
}

/// The variable that was probably meant: a slip of the fingers, or a name without its section.
fn meant_by(variable: &str, keys: &BTreeMap<String, &'static Key>) -> Option<String> {
    let name = variable.strip_prefix(PREFIX)?;
    let near = nearest(name, keys.keys().filter_map(|key| key.strip_prefix(PREFIX)));
    let inner = format!("_{name}");
    let without_section = || keys.keys().find(|key| key.ends_with(&inner)).cloned();
    near.map(|near| format!("{PREFIX}{near}")).or_else(without_section)
}
