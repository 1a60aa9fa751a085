//! The wait-for graph as one SVG document: no scripts, no links, no outside resources.
//!
//! Who waits stands to the left of whom he waits for; those in one circle stand in a ring. A way
//! past other columns gets a lane of its own in each. Invariants: no two boxes overlap; text is
//! escaped; colours follow the reader's light or dark page.

use std::fmt::Write as _;

use super::graph::{Node, Picture};
use super::layout::{self, Layout, Point};
use super::svg_box::{TextBox, escaped, shortened};

const WANTS_MAX: usize = 2;
const MARGIN: f64 = 24.0;
const HEAD: f64 = 64.0;
const WIDTH_MIN: f64 = 420.0;

// Plain colours, no variables: several viewers of SVG know none.
const STYLE: &str = "<style>\
    text{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
    .page{fill:#ffffff}.title{font-size:15px;font-weight:bold;fill:#1f2328}\
    .note{font-size:12px;fill:#59636e}.alarm{font-size:12px;fill:#c02a2a}\
    .name{font-size:13px;fill:#1f2328}.want{font-size:11px;fill:#59636e}\
    .node{fill:#f6f8fa;stroke:#818b98}.node.bad{fill:#fff1f0;stroke:#c02a2a;stroke-width:2.5}\
    .wait{fill:none;stroke:#818b98;stroke-width:1.4}\
    .wait.bad{stroke:#c02a2a;stroke-width:2.6}.tip{fill:#818b98}.badtip{fill:#c02a2a}\
    @media(prefers-color-scheme:dark){.page{fill:#0d1117}.title,.name{fill:#e6edf3}\
    .note,.want{fill:#9198a1}.alarm,.badtip{fill:#ff8a80}.tip{fill:#7d8590}\
    .node{fill:#161b22;stroke:#7d8590}.node.bad{fill:#2d1517;stroke:#ff8a80}\
    .wait{stroke:#7d8590}.wait.bad{stroke:#ff8a80}}</style>";

const MARKERS: &str = "<defs>\
    <marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"9\" \
    markerHeight=\"9\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
    <path class=\"tip\" d=\"M0 0L10 5L0 10z\"/></marker>\
    <marker id=\"badtip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"12\" \
    markerHeight=\"12\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
    <path class=\"badtip\" d=\"M0 0L10 5L0 10z\"/></marker></defs>";

impl Picture {
    /// The whole document.
    pub fn svg(&self) -> String {
        let boxes: Vec<TextBox> = self.nodes.iter().map(text_box).collect();
        let sizes: Vec<(f64, f64)> = boxes.iter().map(TextBox::size).collect();
        let layout = Layout::of(&self.shape(), &sizes);
        let width = (layout.width + 2.0 * MARGIN).max(WIDTH_MIN);
        let height = layout.height + HEAD + 2.0 * MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" \
             height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
             aria-label=\"Who waits for whom\">{STYLE}{MARKERS}\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n"
        );
        self.push_head(&mut svg);
        let _ = writeln!(svg, "<g transform=\"translate({MARGIN} {})\">", HEAD + MARGIN);
        for (edge, way) in self.edges.iter().zip(&layout.ways) {
            self.push_edge(&mut svg, *edge, way);
        }
        for ((node, spot), text) in self.nodes.iter().zip(&layout.spots).zip(&boxes) {
            let class = if node.circle.is_some() { "node bad" } else { "node" };
            text.push(&mut svg, class, spot);
        }
        svg.push_str("</g>\n</svg>\n");
        svg
    }

    fn push_head(&self, svg: &mut String) {
        let title = "<text class=\"title\" x=\"24\" y=\"32\">Who waits for whom</text>\n";
        svg.push_str(title);
        let circles = self.circles().len();
        let (class, note) = match (self.edges.len(), circles) {
            (0, _) => ("note", "nobody waits".to_owned()),
            (_, 0) => ("note", "an arrow leads to whom one waits for; no deadlock".to_owned()),
            (_, 1) => ("alarm", "1 deadlock: those in the ring wait for each other".to_owned()),
            (_, many) => {
                ("alarm", format!("{many} deadlocks: those in a ring wait for each other"))
            }
        };
        let _ = writeln!(svg, "<text class=\"{class}\" x=\"24\" y=\"54\">{note}</text>");
    }

    fn push_edge(&self, svg: &mut String, edge: (usize, usize), way: &[Point]) {
        let (class, tip) =
            if self.is_in_circle(edge) { ("wait bad", "badtip") } else { ("wait", "tip") };
        let path = layout::path(way, self.is_in_circle(edge));
        let names = [edge.0, edge.1].map(|node| escaped(&self.nodes[node].name));
        let _ = writeln!(
            svg,
            "<path class=\"{class}\" d=\"{path}\" marker-end=\"url(#{tip})\">\
             <title>{} waits for {}</title></path>",
            names[0], names[1]
        );
    }
}

fn text_box(node: &Node) -> TextBox {
    let want = |want: &String| ("want", shortened(want));
    let mut lines: Vec<_> = node.wants.iter().take(WANTS_MAX).map(want).collect();
    if node.wants.len() > WANTS_MAX {
        lines.push(("want", format!("and {} more", node.wants.len() - WANTS_MAX)));
    }
    TextBox { title: node.name.clone(), name: shortened(&node.name), lines }
}

#[cfg(test)]
mod tests;
