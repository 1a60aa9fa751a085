//! Boxes with lines of text: how large they are, how they are written, how text is escaped.
//!
//! Not where they stand. Invariant: what comes out of `escaped` can neither end an element nor move
//! a cursor nor turn the writing round.

use std::fmt::Write as _;

use super::graph::shown;
use super::layout::Spot;

const NAME_CHARACTERS_MAX: usize = 30;
/// The advance of a character of a monospaced font, at 13 and at 11 pixels.
const NAME_ADVANCE: f64 = 7.9;
const NOTE_ADVANCE: f64 = 6.7;
const LINE_HEIGHT: f64 = 16.0;
const PADDING: f64 = 12.0;

/// A box: a name at 13 pixels, and lines at 11 below it.
pub(super) struct TextBox {
    /// The whole name, for whoever points at the box.
    pub(super) title: String,
    /// The first line.
    pub(super) name: String,
    /// The class of each other line, and its text.
    pub(super) lines: Vec<(&'static str, String)>,
}

impl TextBox {
    pub(super) fn size(&self) -> (f64, f64) {
        let widest = self.lines.iter().map(|(_, line)| columns(line) * NOTE_ADVANCE);
        let text = widest.fold(columns(&self.name) * NAME_ADVANCE, f64::max);
        let lines: f64 = std::iter::repeat_n(LINE_HEIGHT, 1 + self.lines.len()).sum();
        (text + 2.0 * PADDING, lines + 2.0 * PADDING - 4.0)
    }

    /// Writes it, with a frame of that class.
    pub(super) fn push(&self, svg: &mut String, class: &str, spot: &Spot) {
        let Spot { x, y, width, height } = *spot;
        let _ = write!(
            svg,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" \
             width=\"{width:.1}\" height=\"{height:.1}\" rx=\"6\"/>",
            escaped(&self.title)
        );
        let lines = self.lines.iter().map(|(class, line)| (*class, line));
        let mut baseline = y + PADDING + 10.0;
        for (class, line) in std::iter::once(("name", &self.name)).chain(lines) {
            let _ = write!(
                svg,
                "<text class=\"{class}\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
                x + PADDING,
                escaped(line)
            );
            baseline += LINE_HEIGHT;
        }
        svg.push_str("</g>\n");
    }
}

/// Columns of a monospaced font; what is not ASCII may be wide.
fn columns(text: &str) -> f64 {
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
