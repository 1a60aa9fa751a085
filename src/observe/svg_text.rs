//! Text inside of drawings: how wide it is, how it is shortened, how it is escaped.
//!
//! Not where it stands. Invariant: what comes out of `escaped` can neither end an element nor move a
//! cursor nor turn the writing round.

use super::graph::shown;

const NAME_CHARACTERS_MAX: usize = 30;

/// Columns of a monospaced font; what is not ASCII may be wide.
pub(super) fn columns(text: &str) -> f64 {
    text.chars().map(|c| if c.is_ascii() { 1.0 } else { 2.0 }).sum()
}

/// A long text without its middle: both ends tell more.
pub(super) fn shortened(text: &str) -> String {
    let characters: Vec<char> = shown(text).chars().collect();
    if characters.len() <= NAME_CHARACTERS_MAX {
        return characters.into_iter().collect();
    }
    let (head, tail) = (NAME_CHARACTERS_MAX / 2, NAME_CHARACTERS_MAX / 2 - 1);
    let begin: String = characters[..head].iter().collect();
    let end: String = characters[characters.len() - tail..].iter().collect();
    format!("{begin}\u{2026}{end}")
}

pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in shown(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
