//! What a transaction of the file store would do: its checks run, its changes worked out.
//!
//! Not the doing: nothing is written here. Invariants: a plan has each key once, with what the last
//! operation on it makes of it; what could be foreseen to fail at the commit is refused here.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::files_key::{self, Found};
use super::files_stage::Effect;
use super::key_value::{Action, Expected, KeyOperation, describe_failed_check};
use crate::model::value::Value;

/// What a key shall hold; nothing if it shall be deleted.
type Content<'a> = Option<&'a [u8]>;

/// A change worked out from operations, before anything is written.
pub(super) struct Plan<'a> {
    pub(super) effects: Vec<Effect>,
    /// Of each effect, in the same order.
    pub(super) contents: Vec<Content<'a>>,
}

/// Runs the checks and works out what each key shall be in the end.
pub(super) fn plan<'a>(root: &Path, operations: &[KeyOperation<'a>]) -> Result<Plan<'a>, String> {
    let mut plan = Plan { effects: Vec::new(), contents: Vec::new() };
    let mut places: HashMap<&str, usize> = HashMap::new();
    for operation in operations {
        let refuse = |what: String| operation.refuse(what);
        let found = files_key::find(root, operation.key).map_err(refuse)?;
        let content = match operation.action {
            Action::Put(value) => bytes_of(value),
            Action::Delete => None,
            Action::Check(expected) => {
                let planned = places.get(operation.key).map(|place| plan.contents[*place]);
                check(expected, planned, &found).map_err(refuse)?;
                continue;
            }
        };
        files_key::check_writable(root, found.path()).map_err(refuse)?;
        let effect = Effect { key: operation.key.to_owned(), is_put: content.is_some() };
        if let Some(place) = places.get(operation.key) {
            (plan.effects[*place], plan.contents[*place]) = (effect, content);
            continue;
        }
        places.insert(operation.key, plan.effects.len());
        plan.effects.push(effect);
        plan.contents.push(content);
    }
    check_folders(&plan.effects)?;
    Ok(plan)
}

/// What can be said of an operation without looking at the disk.
pub(super) fn check_operation(operation: &KeyOperation<'_>) -> Result<(), String> {
    files_key::check_text(operation.key)?;
    match operation.action {
        Action::Put(value) | Action::Check(Expected::Value(value)) if bytes_of(value).is_none() => {
            Err(format!("its value is of type {}; a file holds str or bytes", value.kind()))
        }
        _ => Ok(()),
    }
}

fn bytes_of(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(text) => Some(text.as_bytes()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// `planned` is what earlier operations of the transaction make of the key, if they touch it.
fn check(
    expected: Expected<'_>,
    planned: Option<Content<'_>>,
    found: &Found,
) -> Result<(), String> {
    let exists = match planned {
        Some(content) => content.is_some(),
        None => matches!(found, Found::File(_)),
    };
    let holds = match (expected, planned) {
        (Expected::Exists(wanted), _) => wanted == exists,
        (Expected::Value(value), Some(content)) => content == bytes_of(value),
        (Expected::Value(value), None) => {
            let wanted = bytes_of(value).unwrap_or_default();
            let length = fs::metadata(found.path()).map_or(0, |metadata| metadata.len());
            // A file of another length need not be read.
            exists
                && u64::try_from(wanted.len()) == Ok(length)
                && read(found)?.as_deref() == Some(wanted)
        }
    };
    if holds { Ok(()) } else { Err(describe_failed_check(expected, exists).to_owned()) }
}

/// That no key is a folder on another's way within one transaction.
fn check_folders(effects: &[Effect]) -> Result<(), String> {
    let keys: BTreeSet<&str> = effects.iter().map(|effect| effect.key.as_str()).collect();
    for key in &keys {
        if let Some((end, _)) = key.match_indices('/').find(|(end, _)| keys.contains(&key[..*end]))
        {
            let folder = &key[..end];
            return Err(format!(
                "the keys '{folder}' and '{key}' cannot both be written: \
                 '{folder}' would be a file and a folder"
            ));
        }
    }
    Ok(())
}

/// Reads a content; a file that went away meanwhile has none.
pub(super) fn read(found: &Found) -> Result<Option<Vec<u8>>, String> {
    match found {
        Found::Nothing(_) => Ok(None),
        Found::File(path) => match fs::read(path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
        },
    }
}
