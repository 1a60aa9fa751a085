//! What was given, against the table of keys: names, kinds and bounds. It gathers what is wrong.
//!
//! Not the rules between keys (`rules`). Invariants: a key that could not be read is known as such,
//! so that no rule judges it by its default; every value that stays is of its key's kind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use super::keys::{KEYS, Key, Kind, Standard};
use super::nearest::nearest;
use super::node::{Content, Entry, Node};
use super::problem::{Origin, Problem, Problems};
use super::secret::{kind, quoted};
use super::substitute::substitute;
use super::{ROOT, Setting, rules, scalar};
use crate::model::value::Value;

/// The longest secret that is read from a file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A reading that is under way.
pub(super) struct Reading<'a> {
    pub(super) environment: &'a BTreeMap<String, String>,
    problems: Vec<Problem>,
    given: BTreeMap<&'static str, Setting>,
    /// Keys of which something was given that cannot be used.
    broken: Vec<&'static str>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(environment: &'a BTreeMap<String, String>) -> Self {
        Self { environment, problems: Vec::new(), given: BTreeMap::new(), broken: Vec::new() }
    }

    pub(super) fn blame(
        &mut self,
        origin: Origin,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (key, message, hint) = (key.to_owned(), message.into(), hint.into());
        self.problems.push(Problem { origin, key, message, hint });
    }

    /// Takes a whole tree, with or without [`ROOT`] around it.
    pub(super) fn take_root(&mut self, root: &Node, origin: &Origin) {
        let Content::Map(entries) = &root.content else {
            let message = format!("is {}, not a section", with_article(root));
            let hint = format!("begin with {ROOT}: and the sections below it");
            return self.blame(origin.at(root.line), "", message, hint);
        };
        let Some(inner) = entries.iter().find(|entry| entry.name == ROOT) else {
            return self.take_section("", entries, origin);
        };
        for entry in entries.iter().filter(|entry| entry.name != ROOT) {
            // As in other YAML formats, `x-` is the reader's own: a place for anchors.
            if !entry.name.starts_with("x-") {
                let hint = format!("move it below {ROOT}, or begin its name with x- to keep it");
                let message = format!("stands beside {ROOT}, where nothing is read");
                self.blame(origin.at(entry.line), &entry.name, message, hint);
            }
        }
        match &inner.node.content {
            Content::Map(entries) => self.take_section("", entries, origin),
            _ if inner.node.is_null() => {}
            _ => self.not_a_section(inner, ROOT, origin),
        }
    }

    fn take_section(&mut self, section: &str, entries: &[Entry], origin: &Origin) {
        for entry in entries {
            let path = if section.is_empty() {
                entry.name.clone()
            } else {
                format!("{section}.{}", entry.name)
            };
            let origin_here = origin.at(entry.line);
            if let Some(key) = key_of(&path) {
                if self.take_node(key, &entry.node, &origin_here, None).is_err() {
                    self.broken.push(key.path);
                }
            } else if let Some(key) = path.strip_suffix("_file").and_then(key_of)
                && key.takes_file()
            {
                self.take_file(key, &path, &entry.node, &origin_here);
            } else if is_section(&path) {
                match &entry.node.content {
                    Content::Map(entries) => self.take_section(&path, entries, origin),
                    _ if entry.node.is_null() => {}
                    _ => self.not_a_section(entry, &path, origin),
                }
            } else {
                let hint = what_was_meant(section, &entry.name);
                self.blame(origin_here, &path, "is unknown", hint);
            }
        }
    }

    fn not_a_section(&mut self, entry: &Entry, path: &str, origin: &Origin) {
        let message = format!("is {}, not a section", with_article(&entry.node));
        let hint = format!("its keys are {}", names_in(path).join(", "));
        self.blame(origin.at(entry.line), path, message, hint);
    }

    /// Takes the value of one key. `Err` when a problem was told.
    fn take_node(
        &mut self,
        key: &'static Key,
        node: &Node,
        origin: &Origin,
        through: Option<String>,
    ) -> Result<(), ()> {
        let read = match &node.content {
            Content::Map(_) => Err((format!("is a section; {}", wanted(key)), String::new())),
            Content::Told => return Err(()),
            Content::List(nodes) => self.texts(key, nodes),
            Content::Scalar { value, text } => self.scalar(key, value, text.as_deref()),
        };
        match read {
            // Left empty is left out, where leaving it out is a value.
            Ok(Value::Null) if !key.takes_null => Ok(()),
            Ok(value) => {
                let origin = origin.clone();
                self.given.insert(key.path, Setting { key, value, origin, through });
                self.broken.retain(|path| *path != key.path);
                Ok(())
            }
            Err((message, hint)) => {
                let hint = if hint.is_empty() { wanted(key) } else { hint };
                let message = message.trim_end_matches(&format!("; {hint}")).to_owned();
                self.blame(origin.clone(), key.path, message, hint);
                Err(())
            }
        }
    }

    fn scalar(
        &self,
        key: &Key,
        value: &Value,
        text: Option<&str>,
    ) -> Result<Value, (String, String)> {
        // In a file this was done already, where the text still said how it was quoted.
        let made = match (value, text) {
            (Value::Text(given), None) => substitute(given, self.environment)?,
            _ => None,
        };
        let text = made.as_deref().or(text);
        let Some(text) = text else { return fit(key, value.clone(), None) };
        // The environment knows only text: the key says what it means.
        let meant = match key.kind {
            Kind::Text | Kind::Choice(_) | Kind::Texts => Value::Text(text.to_owned()),
            Kind::Truth | Kind::Whole(..) | Kind::Number(..) => scalar::resolve(text.trim()),
        };
        fit(key, meant, Some("what the environment gives for it"))
    }

    fn texts(&self, key: &Key, nodes: &[Node]) -> Result<Value, (String, String)> {
        if key.kind != Kind::Texts {
            return Err(("is a list".to_owned(), wanted(key)));
        }
        let mut texts = Vec::with_capacity(nodes.len());
        for node in nodes {
            let single = Key { kind: Kind::Text, ..*key };
            let read = match &node.content {
                Content::Scalar { value, text } => self.scalar(&single, value, text.as_deref())?,
                Content::Told => continue,
                _ => Value::Null,
            };
            match read {
                Value::Text(text) => texts.push(Value::Text(text)),
                _ => return Err((format!("has {} in it", with_article(node)), wanted(key))),
            }
        }
        Ok(Value::List(texts))
    }

    /// The value of a variable of the environment.
    pub(super) fn take_text(&mut self, key: &'static Key, text: &str, variable: String) {
        let origin = Origin::Environment { variable };
        let content = if key.kind == Kind::Texts {
            let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
            let of = |text: &str| Content::Scalar {
                value: Value::Text(text.to_owned()),
                text: Some(text.to_owned()),
            };
            Content::List(texts.map(|text| Node { content: of(text), line: 0 }).collect())
        } else {
            let text = text.to_owned();
            Content::Scalar { value: Value::Text(text.clone()), text: Some(text) }
        };
        if self.take_node(key, &Node { content, line: 0 }, &origin, None).is_err() {
            self.broken.push(key.path);
        }
    }

    /// The name of a file that holds the value.
    pub(super) fn take_file(
        &mut self,
        key: &'static Key,
        path: &str,
        node: &Node,
        origin: &Origin,
    ) {
        let name = match &node.content {
            Content::Scalar { value, text } => {
                let as_text = Key { kind: Kind::Text, secrecy: super::Secrecy::Open, ..*key };
                self.scalar(&as_text, value, text.as_deref())
            }
            Content::Told => return self.broken.push(key.path),
            _ => Err(("is no text".to_owned(), String::new())),
        };
        let name = match name {
            Ok(Value::Text(name)) => name,
            Ok(_) => return,
            Err((message, _)) => {
                self.blame(origin.clone(), path, message, "give the path of a file");
                return self.broken.push(key.path);
            }
        };
        let twice = self.given.get(key.path).is_some_and(|setting| {
            setting.through.is_none()
                && std::mem::discriminant(&setting.origin) == std::mem::discriminant(origin)
        });
        if twice {
            let message = format!("is given, and {} too", key.path);
            self.blame(origin.clone(), path, message, "give one of them");
        }
        match read_secret(&name) {
            Ok(text) => {
                let content =
                    Content::Scalar { value: Value::Text(text.clone()), text: Some(text) };
                let node = Node { content, line: 0 };
                if self.take_node(key, &node, origin, Some(name)).is_err() {
                    self.broken.push(key.path);
                }
            }
            Err(message) => {
                let hint = "give the path of a small text file that this process may read";
                self.blame(origin.clone(), path, message, hint);
                self.broken.push(key.path);
            }
        }
    }

    /// Fills in the defaults, applies the rules, and gives everything or every problem.
    pub(super) fn finish(mut self) -> Result<Vec<Setting>, Problems> {
        let settings: Vec<Setting> = KEYS
            .iter()
            .map(|key| {
                self.given.remove(key.path).unwrap_or_else(|| Setting {
                    key,
                    value: key.default.value(),
                    origin: Origin::Default,
                    through: None,
                })
            })
            .collect();
        self.problems.extend(rules::check(&settings, &self.broken));
        // As the file has them; what is elsewhere comes behind, in the order of the sources.
        self.problems.sort_by_key(|problem| match problem.origin {
            Origin::File { line, .. } => (0, line),
            _ => (1, 0),
        });
        if self.problems.is_empty() { Ok(settings) } else { Err(Problems(self.problems)) }
    }
}

pub(super) fn key_of(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The keys and sections right below a section.
fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let inner = match section {
            "" | ROOT => Some(key.path),
            section => key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = inner.and_then(|inner| inner.split('.').next());
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

fn what_was_meant(section: &str, name: &str) -> String {
    let known = names_in(section);
    if let Some(meant) = nearest(name, known.iter().copied()) {
        return format!("did you mean {meant}?");
    }
    if let Some(text) = name.strip_suffix("_file").filter(|text| known.contains(text)) {
        return format!("only secrets may be in files of their own; give {text} itself");
    }
    // Right, but in another section.
    let last = |key: &'static Key| key.path.rsplit('.').next().unwrap_or_default();
    if let Some(key) = KEYS.iter().find(|key| key.path != name && last(key) == name) {
        return format!("did you mean {}?", key.path);
    }
    if let Some(longer) = known.iter().find(|known| known.starts_with(&format!("{name}_"))) {
        return format!("did you mean {longer}?");
    }
    format!("known are {}", known.join(", "))
}

fn with_article(node: &Node) -> String {
    match &node.content {
        Content::Scalar { value, .. } => match kind(value) {
            word @ ("nothing" | "text" | "bytes") => word.to_owned(),
            word => format!("a {word}"),
        },
        Content::List(_) => "a list".to_owned(),
        Content::Told => "nothing".to_owned(),
        Content::Map(_) => "a section".to_owned(),
    }
}

/// What a key takes, in words.
pub(super) fn wanted(key: &Key) -> String {
    match key.kind {
        Kind::Truth => "give true or false".to_owned(),
        Kind::Whole(least, greatest) => format!("give a whole number from {least} to {greatest}"),
        Kind::Number(least, greatest) => format!("give a number from {least} to {greatest}"),
        Kind::Text => "give text that is not empty".to_owned(),
        Kind::Choice(words) => format!("give one of {}", words.join(", ")),
        Kind::Texts => "give a list of texts".to_owned(),
    }
}

/// The value, if the key takes it.
fn fit(key: &Key, value: Value, told_as: Option<&str>) -> Result<Value, (String, String)> {
    #[expect(clippy::cast_precision_loss, reason = "only compared with bounds far below 2^53")]
    let is_fit = match (&value, key.kind) {
        (Value::Null, _) => key.takes_null || key.default == Standard::Nothing,
        (Value::Bool(_), Kind::Truth) => true,
        (Value::Int(number), Kind::Whole(least, greatest)) => (least..=greatest).contains(number),
        (Value::Int(number), Kind::Number(least, greatest)) => {
            (least..=greatest).contains(&(*number as f64))
        }
        (Value::Float(number), Kind::Number(least, greatest)) => {
            (least..=greatest).contains(number)
        }
        (Value::Text(text), Kind::Text) => !text.is_empty() && !text.contains('\0'),
        (Value::Text(text), Kind::Choice(words)) => words.contains(&text.as_str()),
        _ => false,
    };
    if is_fit {
        return Ok(value);
    }
    let shown = told_as.map_or_else(|| quoted(Some(key), &value), str::to_owned);
    let hint = match (&value, key.kind) {
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), Kind::Text) => {
            "give text; in quotes it is".to_owned()
        }
        (Value::Text(text), Kind::Choice(words)) => match nearest(text, words.iter().copied()) {
            Some(meant) if told_as.is_none() => format!("did you mean {meant}?"),
            _ => wanted(key),
        },
        _ => wanted(key),
    };
    Err((format!("is {shown}"), hint))
}

fn read_secret(name: &str) -> Result<String, String> {
    let trouble = |error: std::io::Error| format!("is {name:?}, which cannot be read: {error}");
    let mut bytes = Vec::new();
    let file = File::open(name).map_err(trouble)?;
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(trouble)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("is {name:?}, which has more than {SECRET_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("is {name:?}, which is not UTF-8"))?;
    // Editors end a file with a line break, which is no part of the secret.
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(format!("is {name:?}, which is empty")) } else { Ok(text.to_owned()) }
}
