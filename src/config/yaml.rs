//! A YAML file as a tree with lines, bounded in every direction.
//!
//! YAML 1.2 by `saphyr-parser`, which gives events; the tree is built here, without recursion, so
//! that what is nested deeply costs no stack. Invariants: a key that stands twice is told, and the
//! first counts; aliases are copies, and all copies together are bounded; what is not one document
//! of plain keys is refused with its line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::ROOT;
use super::check::Reading;
use super::node::{Content, Entry, Node};
use super::problem::Origin;
use super::scalar::resolve;
use super::substitute::substitute;
use crate::model::value::Value;

/// No file is longer.
const BYTES_MAX: usize = 256 << 10;
/// No tree has more nodes, with what aliases copy.
const NODES_MAX: usize = 10_000;
/// Nothing stands deeper.
const DEPTH_MAX: usize = 32;

/// Where, what, and how to mend it.
type Refusal = (usize, String, String);

/// The file's tree; `None` when it cannot be read, which `reading` was told.
pub(super) fn read_file(path: &Path, reading: &mut Reading<'_>) -> Option<Node> {
    let origin = Origin::File { name: path.display().to_string(), line: 0 };
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    let tree = match read {
        Err(error) => Err((
            0,
            format!("cannot be read: {error}"),
            "give the path of a YAML file that this process may read".to_owned(),
        )),
        Ok(_) => text_of(&bytes).and_then(|text| tree_of(text, &origin, reading)),
    };
    match tree {
        Ok(node) => Some(node),
        Err((line, message, hint)) => {
            reading.blame(origin.at(line), "", message, hint);
            None
        }
    }
}

fn text_of(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() > BYTES_MAX {
        let message = format!("has more than {BYTES_MAX} bytes");
        return Err((0, message, "give the configuration alone".to_owned()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        let hint = "save it as UTF-8";
        (line, "is not UTF-8".to_owned(), hint.to_owned())
    })?;
    // Some editors begin UTF-8 with a byte order mark.
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn tree_of(text: &str, origin: &Origin, reading: &mut Reading<'_>) -> Result<Node, Refusal> {
    let mut tree =
        Tree { reading, origin, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line().max(1);
            (line, format!("is no YAML: {}", error.info()), syntax_hint(text, line))
        })?;
        tree.take(event, span.start.line().max(1))?;
    }
    match tree.root {
        Some(node) if !node.is_null() => Ok(node),
        _ => {
            Err((0, "is empty".to_owned(), format!("begin with {ROOT}: and the sections below it")))
        }
    }
}

fn syntax_hint(text: &str, line: usize) -> String {
    // The parser may notice a line later.
    let near = text.lines().skip(line.saturating_sub(2)).take(2);
    let is_indented_by_tab =
        |line: &str| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    if near.into_iter().any(is_indented_by_tab) {
        "use spaces: YAML is not indented by tabs".to_owned()
    } else {
        "look at this line, its quotes, and how far it and those before are indented".to_owned()
    }
}

/// A list or a section that has not ended.
struct Open {
    anchor: usize,
    line: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Node>),
    /// The entries, and the key whose value comes next.
    Map(Vec<Entry>, Option<(String, usize)>),
}

/// The tree that is being built.
struct Tree<'a, 'b> {
    reading: &'a mut Reading<'b>,
    origin: &'a Origin,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Tree<'_, '_> {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Refusal> {
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                let message = "has a second document".to_owned();
                Err((line, message, "give one document in one file".to_owned()))
            }
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    return self.take_key(&text, line);
                }
                let node = self.scalar(&text, style, tag.as_deref(), line);
                self.place(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.begin(anchor, line, tag.as_deref(), Parts::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.begin(anchor, line, tag.as_deref(), Parts::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.copy(anchor, line),
            _ => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { parts: Parts::Map(_, None), .. }))
    }

    fn take_key(&mut self, name: &str, line: usize) -> Result<(), Refusal> {
        if name == "<<" {
            let message = "has the merge key <<, which YAML 1.2 does not have".to_owned();
            return Err((line, message, "write the settings out".to_owned()));
        }
        if let Some(Open { parts: Parts::Map(_, pending), .. }) = self.open.last_mut() {
            *pending = Some((name.to_owned(), line));
        }
        Ok(())
    }

    /// The name of what is open, with its sections.
    fn path(&self) -> String {
        let names = self.open.iter().filter_map(|open| match &open.parts {
            Parts::Map(_, Some((name, _))) if name != ROOT => Some(name.as_str()),
            _ => None,
        });
        names.collect::<Vec<_>>().join(".")
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Node {
        let is_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        if let Some(tag) = tag.filter(|_| !is_text) {
            let (at, path) = (self.origin.at(line), self.path());
            let message = format!("has the tag {}{}", tag.handle, tag.suffix);
            self.reading.blame(at, &path, message, "leave the tag out");
        }
        let is_plain = style == ScalarStyle::Plain && !is_text;
        let value = |text: &str| {
            if is_plain { resolve(text) } else { Value::Text(text.to_owned()) }
        };
        let content = match substitute(text, self.reading.environment) {
            Ok(None) => Content::Scalar { value: value(text), text: None },
            Ok(Some(made)) => Content::Scalar { value: value(&made), text: Some(made) },
            Err((message, hint)) => {
                let (at, path) = (self.origin.at(line), self.path());
                self.reading.blame(at, &path, message, hint);
                Content::Told
            }
        };
        Node { content, line }
    }

    fn begin(
        &mut self,
        anchor: usize,
        line: usize,
        tag: Option<&Tag>,
        parts: Parts,
    ) -> Result<(), Refusal> {
        if self.wants_key() {
            let message = "has a list or a section in the place of a key".to_owned();
            return Err((line, message, "quote a text that begins with [ or {".to_owned()));
        }
        if self.open.len() >= DEPTH_MAX {
            let message = format!("is nested more than {DEPTH_MAX} deep");
            return Err((line, message, "no setting stands so deep".to_owned()));
        }
        if let Some(tag) = tag {
            let (at, path) = (self.origin.at(line), self.path());
            let message = format!("has the tag {}{}", tag.handle, tag.suffix);
            self.reading.blame(at, &path, message, "leave the tag out");
        }
        self.open.push(Open { anchor, line, parts });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refusal> {
        let Some(Open { anchor, line, parts }) = self.open.pop() else { return Ok(()) };
        let content = match parts {
            Parts::List(nodes) => Content::List(nodes),
            Parts::Map(entries, _) => Content::Map(entries),
        };
        self.place(Node { content, line }, anchor)
    }

    fn copy(&mut self, anchor: usize, line: usize) -> Result<(), Refusal> {
        if self.wants_key() {
            let message = "has an alias in the place of a key".to_owned();
            return Err((line, message, "write the key out".to_owned()));
        }
        let Some(node) = self.anchors.get(&anchor) else {
            let message = "has an alias inside of what it stands for".to_owned();
            return Err((line, message, "write the settings out".to_owned()));
        };
        // Before the copy is made, which would cost the memory.
        self.count(node.count() - 1, line)?;
        let node = self.anchors.get(&anchor).cloned();
        node.map_or(Ok(()), |node| self.place(node, 0))
    }

    fn count(&mut self, more: usize, line: usize) -> Result<(), Refusal> {
        self.nodes += more;
        if self.nodes > NODES_MAX {
            let message = format!("has more than {NODES_MAX} values, with what aliases copy");
            return Err((line, message, "write out the few settings that are needed".to_owned()));
        }
        Ok(())
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), Refusal> {
        self.count(1, node.line)?;
        if anchor > 0 {
            // A copy of it all, so it counts as one.
            self.count(node.count(), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.parts) {
            None => self.root = Some(node),
            Some(Parts::List(nodes)) => nodes.push(node),
            Some(Parts::Map(entries, pending)) => {
                let Some((name, line)) = pending.take() else { return Ok(()) };
                if let Some(first) = entries.iter().find(|entry| entry.name == name) {
                    let message = format!("stands twice, first in line {}", first.line);
                    let path = match self.path() {
                        outer if outer.is_empty() => name,
                        outer => format!("{outer}.{name}"),
                    };
                    let origin = self.origin.at(line);
                    self.reading.blame(origin, &path, message, "leave one of them out");
                } else {
                    entries.push(Entry { name, line, node });
                }
            }
        }
        Ok(())
    }
}
