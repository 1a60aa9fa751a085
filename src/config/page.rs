//! The table of keys as a page has it.
//!
//! Not the page: its prose is in `docs/reference/configuration.md`, around what stands here.

use std::fmt::Write as _;

use super::keys::{KEYS, Key, Kind};
use super::secret::kind;
use crate::model::value::Value;

/// A table for each section, in Markdown.
pub fn table() -> String {
    let mut page = String::new();
    let mut before = None;
    for section in sections() {
        if before.replace(section).is_some() {
            page.push('\n');
        }
        let title = if section.is_empty() { "Without a section" } else { section };
        let title = if section.is_empty() { title.to_owned() } else { format!("`{title}`") };
        let _ = write!(page, "### {title}\n\n| key | takes | default | what it does |\n");
        page.push_str("| --- | --- | --- | --- |\n");
        for key in KEYS.iter().filter(|key| section_of(key) == section) {
            let _ = writeln!(page, "{}", row(key, section));
        }
    }
    page
}

/// The first names, in their order.
fn sections() -> Vec<&'static str> {
    let mut sections = Vec::new();
    for key in KEYS {
        if !sections.contains(&section_of(key)) {
            sections.push(section_of(key));
        }
    }
    sections
}

fn section_of(key: &Key) -> &'static str {
    key.path.split_once('.').map_or("", |(section, _)| section)
}

fn row(key: &Key, section: &str) -> String {
    let name = key.path.strip_prefix(section).unwrap_or(key.path).trim_start_matches('.');
    let file = if key.takes_file() { "; or `_file`" } else { "" };
    format!("| `{name}` | {}{file} | {} | {} |", takes(key), default(key), key.about)
}

fn takes(key: &Key) -> String {
    let null = if key.takes_null { ", `null`" } else { "" };
    match key.kind {
        Kind::Truth => "`true`, `false`".to_owned(),
        Kind::Whole(least, greatest) => format!("{least} to {greatest}"),
        Kind::Number(least, greatest) => format!("number, {least} to {greatest}{null}"),
        Kind::Text => "text".to_owned(),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Kind::Texts => "list of texts".to_owned(),
    }
}

fn default(key: &Key) -> String {
    match key.default.value() {
        Value::Null => String::new(),
        Value::Bool(truth) => format!("`{truth}`"),
        Value::Int(number) => format!("`{number}`"),
        Value::Float(number) => format!("`{number}`"),
        Value::Text(text) => format!("`{text}`"),
        Value::List(_) => "`[]`".to_owned(),
        other => kind(&other).to_owned(),
    }
}
