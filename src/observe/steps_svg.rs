//! The steps of a saga as one SVG document: no scripts, no links, no outside resources.
//!
//! Not which step depends on which: that is given. Time goes from left to right; a step that was
//! asked, and the way to it, have a colour. Invariants: a state is said in words too, not by colour
//! alone; text is escaped; colours follow the reader's light or dark page.

use std::fmt::Write as _;

use crate::model::step::StepState;

use super::layout::{self, Layout, Point, Shape};
use super::svg_box::{TextBox, escaped, shortened};

const MARGIN: f64 = 24.0;
const HEAD: f64 = 64.0;
const WIDTH_MIN: f64 = 420.0;
/// The advance of a character of a note, at 12 pixels.
const NOTE_ADVANCE: f64 = 7.3;
/// Between a pivot's two frames.
const INNER: f64 = 3.5;

// Plain colours, no variables: several viewers of SVG know none.
const STYLE: &str = "<style>\
    text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
    .page{fill:#ffffff}.title{font-size:15px;font-weight:bold;fill:#1f2328}\
    .note{font-size:12px;fill:#59636e}.name{font-size:13px;fill:#1f2328}\
    .what,.said{font-size:11px;fill:#59636e}\
    .step{fill:#f6f8fa;stroke:#818b98}.inner{fill:none;stroke:#818b98}\
    .step.idle{stroke-dasharray:5 4}.step.done{fill:#eafbee;stroke:#1a7f37;stroke-width:2}\
    .step.open{fill:#fff8e5;stroke:#9a6700;stroke-width:2}\
    .step.undone{fill:#eef4ff;stroke:#3b64c4;stroke-width:2}\
    .step.bad{fill:#fff1f0;stroke:#c02a2a;stroke-width:2.5}\
    .said.done{fill:#1a7f37}.said.open{fill:#9a6700}.said.undone{fill:#3b64c4}\
    .said.bad{fill:#c02a2a}\
    .way{fill:none;stroke:#818b98;stroke-width:1.4}.way.idle{stroke-dasharray:5 4}\
    .way.done{stroke:#1a7f37;stroke-width:2.6}.way.open{stroke:#9a6700;stroke-width:2.6}\
    .way.undone{stroke:#3b64c4;stroke-width:2.6}.way.bad{stroke:#c02a2a;stroke-width:2.6}\
    .tip,.tip.idle{fill:#818b98}.tip.done{fill:#1a7f37}.tip.open{fill:#9a6700}\
    .tip.undone{fill:#3b64c4}.tip.bad{fill:#c02a2a}\
    @media(prefers-color-scheme:dark){.page{fill:#0d1117}.title,.name{fill:#e6edf3}\
    .note,.what,.said{fill:#9198a1}.step{fill:#161b22;stroke:#7d8590}.inner{stroke:#7d8590}\
    .step.done{fill:#12261b;stroke:#5fd07a}.step.open{fill:#272113;stroke:#e3b341}\
    .step.undone{fill:#131d33;stroke:#8fb1ff}.step.bad{fill:#2d1517;stroke:#ff8a80}\
    .said.done,.tip.done{fill:#5fd07a}.said.open,.tip.open{fill:#e3b341}\
    .said.undone,.tip.undone{fill:#8fb1ff}.said.bad,.tip.bad{fill:#ff8a80}\
    .way{stroke:#7d8590}.way.done{stroke:#5fd07a}.way.open{stroke:#e3b341}\
    .way.undone{stroke:#8fb1ff}.way.bad{stroke:#ff8a80}.tip,.tip.idle{fill:#7d8590}}</style>";

/// One step, as it is shown.
#[derive(Clone, Debug)]
pub struct StepBox {
    /// The operation's id.
    pub name: String,
    /// What it does, and what undoes it.
    pub lines: Vec<String>,
    /// How far it is; `None` where nothing was tried yet.
    pub state: Option<StepState>,
    /// The same in words, with its last trouble on a line of its own.
    pub said: Vec<String>,
    /// Whether there is no way back behind it.
    pub is_pivot: bool,
}

/// The steps of one saga. Edges lead from a step to those that depend on it, in no circle.
#[derive(Clone, Debug)]
pub struct StepPicture {
    /// What it is called.
    pub title: String,
    /// A line below that.
    pub note: String,
    /// In any order.
    pub boxes: Vec<StepBox>,
    /// Indexes of boxes.
    pub edges: Vec<(usize, usize)>,
}

/// The class of what belongs to a step in that state.
fn tone(state: Option<StepState>) -> &'static str {
    match state {
        None => "",
        Some(StepState::Pending) => "idle",
        Some(StepState::Executing | StepState::Compensating) => "open",
        Some(StepState::Completed) => "done",
        Some(StepState::Compensated) => "undone",
        Some(StepState::Failed | StepState::Parked) => "bad",
    }
}

impl StepBox {
    fn text(&self) -> TextBox {
        let said_class = match tone(self.state) {
            "done" => "said done",
            "open" => "said open",
            "undone" => "said undone",
            "bad" => "said bad",
            _ => "said",
        };
        let what = self.lines.iter().map(|line| ("what", shortened(line)));
        let said = self.said.iter().map(|said| (said_class, shortened(said)));
        let title: Vec<&str> = std::iter::once(self.name.as_str())
            .chain(self.lines.iter().map(String::as_str))
            .chain(self.said.iter().map(String::as_str))
            .collect();
        TextBox {
            title: title.join("; "),
            name: shortened(&self.name),
            lines: what.chain(said).collect(),
        }
    }
}

impl StepPicture {
    /// The whole document.
    pub fn svg(&self) -> String {
        let boxes: Vec<TextBox> = self.boxes.iter().map(StepBox::text).collect();
        let sizes: Vec<(f64, f64)> = boxes.iter().map(TextBox::size).collect();
        let shape = Shape { rings: vec![None; boxes.len()], edges: &self.edges };
        let layout = Layout::of(&shape, &sizes);
        let title = shortened(&self.title);
        let width = (layout.width + 2.0 * MARGIN).max(WIDTH_MIN);
        let note = fitted(&self.note, width - 2.0 * MARGIN);
        let height = layout.height + HEAD + 2.0 * MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" \
             height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
             aria-label=\"{}\">{STYLE}{}<rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"title\" x=\"24\" y=\"32\">{}</text>\n\
             <text class=\"note\" x=\"24\" y=\"54\">{}</text>\n\
             <g transform=\"translate({MARGIN} {})\">\n",
            escaped(&format!("The steps of {}", self.title)),
            markers(),
            escaped(&title),
            escaped(&note),
            HEAD + MARGIN
        );
        for (edge, way) in self.edges.iter().zip(&layout.ways) {
            self.push_way(&mut svg, *edge, way);
        }
        for ((step, text), spot) in self.boxes.iter().zip(&boxes).zip(&layout.spots) {
            text.push(&mut svg, format!("step {}", tone(step.state)).trim_end(), spot);
            if step.is_pivot {
                let _ = writeln!(
                    svg,
                    "<rect class=\"inner\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" \
                     height=\"{:.1}\" rx=\"3\"/>",
                    spot.x + INNER,
                    spot.y + INNER,
                    spot.width - 2.0 * INNER,
                    spot.height - 2.0 * INNER
                );
            }
        }
        svg.push_str("</g>\n</svg>\n");
        svg
    }

    /// The way to a step has the step's colour: it was taken if the step was asked.
    fn push_way(&self, svg: &mut String, (from, to): (usize, usize), way: &[Point]) {
        let tone = tone(self.boxes[to].state);
        let _ = writeln!(
            svg,
            "<path class=\"{}\" d=\"{}\" marker-end=\"url(#tip{tone})\"><title>{}, then {}</title>\
             </path>",
            format!("way {tone}").trim_end(),
            layout::path(way, false),
            escaped(&self.boxes[from].name),
            escaped(&self.boxes[to].name)
        );
    }
}

fn markers() -> String {
    let mut markers = String::from("<defs>");
    for tone in ["", "idle", "open", "done", "undone", "bad"] {
        let _ = write!(
            markers,
            "<marker id=\"tip{tone}\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" \
             markerWidth=\"10\" markerHeight=\"10\" markerUnits=\"userSpaceOnUse\" \
             orient=\"auto\"><path class=\"{}\" d=\"M0 0L10 5L0 10z\"/></marker>",
            format!("tip {tone}").trim_end()
        );
    }
    markers.push_str("</defs>");
    markers
}

/// As much of a line as the page is wide.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a page's width")]
fn fitted(text: &str, width: f64) -> String {
    let most = (width / NOTE_ADVANCE) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}\u{2026}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, state: Option<StepState>) -> StepBox {
        let said = state.iter().map(|state| state.as_str().to_owned()).collect();
        StepBox {
            name: name.to_owned(),
            lines: vec!["a.b".to_owned()],
            state,
            said,
            is_pivot: false,
        }
    }

    #[test]
    fn the_way_taken_has_the_colour_of_what_became_of_it() {
        let boxes = vec![
            step("a", Some(StepState::Compensated)),
            step("b", Some(StepState::Failed)),
            step("c", Some(StepState::Pending)),
        ];
        let edges = vec![(0, 1), (1, 2)];
        let svg = StepPicture { title: "t".into(), note: String::new(), boxes, edges }.svg();
        for class in ["step undone", "step bad", "step idle", "way bad", "way idle"] {
            assert_eq!(svg.matches(&format!("class=\"{class}\"")).count(), 1, "{class}");
        }
        for words in [">compensated<", ">failed<", ">pending<"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn a_plain_picture_has_no_colours_and_a_pivot_has_two_frames() {
        let boxes = vec![StepBox { is_pivot: true, ..step("a", None) }, step("b", None)];
        let edges = vec![(0, 1)];
        let svg = StepPicture { title: "t".into(), note: String::new(), boxes, edges }.svg();
        assert_eq!(svg.matches("class=\"step\"").count(), 2);
        assert_eq!(svg.matches("class=\"inner\"").count(), 1);
        assert_eq!(svg.matches("class=\"way\"").count(), 1);
    }

    #[test]
    fn nothing_that_users_wrote_acts() {
        let evil = "</text><script>alert(1)</script>\u{1b}\"'&";
        let picture = StepPicture {
            title: evil.into(),
            note: evil.into(),
            boxes: vec![StepBox { said: vec![evil.into()], ..step(evil, None) }],
            edges: Vec::new(),
        };
        let svg = picture.svg();
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains("href"));
    }
}
