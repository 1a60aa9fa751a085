//! Who waits for whom, as a picture: plain data, then text and DOT. SVG is in `graph_svg`.
//!
//! Not the search for a victim (`protocol/deadlock`): here every circle is marked, whoever gives
//! way. Pure functions over what a manager told. Invariants: names that users chose are escaped in
//! every form, and cannot move a terminal's cursor; the same graph gives the same text.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use super::layout::Shape;

/// One who waits, or is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The requester.
    pub name: String,
    /// What it waits for, for people: `exclusive on accounts/7`.
    pub wants: Vec<String>,
    /// Which circle it lies on, if on any.
    pub circle: Option<usize>,
}

/// A graph with its circles marked. Edges lead from who waits to who is in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub(super) nodes: Vec<Node>,
    pub(super) edges: Vec<(usize, usize)>,
    circles: Vec<Vec<usize>>,
}

impl Picture {
    /// The picture of a graph. `wants` says for some what they wait for.
    pub fn of(
        waits: &BTreeMap<String, Vec<String>>,
        wants: &BTreeMap<String, Vec<String>>,
    ) -> Self {
        let blockers = waits.values().flatten();
        let names: BTreeSet<&String> = waits.keys().chain(blockers).collect();
        let index: BTreeMap<&String, usize> = names.iter().copied().zip(0..).collect();
        let edges: BTreeSet<(usize, usize)> = waits
            .iter()
            .flat_map(|(from, to)| to.iter().map(|to| (index[from], index[to])))
            .collect();
        let node = |name: &&String| Node {
            name: (*name).clone(),
            wants: wants.get(*name).cloned().unwrap_or_default(),
            circle: None,
        };
        let nodes = names.iter().map(node).collect();
        let mut picture = Self { nodes, edges: edges.into_iter().collect(), circles: Vec::new() };
        picture.mark_circles();
        picture
    }

    /// For each knot of circles one of the shortest, by names: each waits for the next, the last
    /// for the first.
    pub fn circles(&self) -> Vec<Vec<&str>> {
        let name = |index: &usize| self.nodes[*index].name.as_str();
        self.circles.iter().map(|circle| circle.iter().map(name).collect()).collect()
    }

    /// Whether an edge is part of a circle.
    pub(super) fn is_in_circle(&self, (from, to): (usize, usize)) -> bool {
        self.nodes[from].circle.is_some() && self.nodes[from].circle == self.nodes[to].circle
    }

    pub(super) fn successors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.edges.iter().filter(move |(from, _)| *from == node).map(|(_, to)| *to)
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        let rings = self.nodes.iter().map(|node| node.circle).collect();
        Shape { rings, edges: &self.edges }
    }

    /// Nodes that reach each other lie in one knot of circles.
    fn mark_circles(&mut self) {
        let reached: Vec<BTreeSet<usize>> =
            (0..self.nodes.len()).map(|node| self.reached_from(node)).collect();
        for node in 0..self.nodes.len() {
            if self.nodes[node].circle.is_some() || !reached[node].contains(&node) {
                continue;
            }
            let knot: Vec<usize> =
                reached[node].iter().copied().filter(|to| reached[*to].contains(&node)).collect();
            for member in &knot {
                self.nodes[*member].circle = Some(self.circles.len());
            }
            let circle = self.shortest_circle(&knot);
            self.circles.push(circle);
        }
    }

    fn reached_from(&self, node: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open = vec![node];
        while let Some(next) = open.pop() {
            open.extend(self.successors(next).filter(|to| reached.insert(*to)));
        }
        reached
    }

    fn shortest_circle(&self, knot: &[usize]) -> Vec<usize> {
        let found = knot.iter().filter_map(|start| self.way_back_to(*start));
        found.min_by_key(Vec::len).unwrap_or_default()
    }

    fn way_back_to(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_from = BTreeMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(node) = open.pop_front() {
            for to in self.successors(node) {
                if to == start {
                    let step = |at: &usize| came_from.get(at).copied();
                    let mut way: Vec<usize> = std::iter::successors(Some(node), step).collect();
                    way.reverse();
                    return Some(way);
                }
                if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(to) {
                    entry.insert(node);
                    open.push_back(to);
                }
            }
        }
        None
    }

    /// For terminals: one line for each wait, then the circles.
    pub fn text(&self) -> String {
        if self.edges.is_empty() {
            return "nobody waits".to_owned();
        }
        let mut lines = Vec::new();
        for (from, to) in &self.edges {
            let (waiter, blocker) = (&self.nodes[*from], &self.nodes[*to]);
            let mut line = format!("{} waits for {}", shown(&waiter.name), shown(&blocker.name));
            if !waiter.wants.is_empty() {
                let wants: Vec<String> = waiter.wants.iter().map(|want| shown(want)).collect();
                let _ = write!(line, ", wants {}", wants.join(", "));
            }
            if self.is_in_circle((*from, *to)) {
                line.push_str("  [circle]");
            }
            lines.push(line);
        }
        for circle in self.circles() {
            let names: Vec<String> =
                circle.iter().chain(circle.first()).map(|n| shown(n)).collect();
            lines.push(format!("deadlock: {}", names.join(" -> ")));
        }
        lines.join("\n")
    }

    /// For Graphviz.
    pub fn dot(&self) -> String {
        let mut dot = String::from(
            "digraph waits {\n  rankdir=LR;\n  node [shape=box, style=rounded, \
             fontname=\"monospace\"];\n",
        );
        for (index, node) in self.nodes.iter().enumerate() {
            let label: Vec<String> =
                std::iter::once(&node.name).chain(&node.wants).map(|line| quoted(line)).collect();
            let marked = if node.circle.is_some() { ", color=\"#c02a2a\", penwidth=2" } else { "" };
            let _ = writeln!(dot, "  n{index} [label=\"{}\"{marked}];", label.join("\\n"));
        }
        for (from, to) in &self.edges {
            let in_circle = self.is_in_circle((*from, *to));
            let marked = if in_circle { " [color=\"#c02a2a\", penwidth=2]" } else { "" };
            let _ = writeln!(dot, "  n{from} -> n{to}{marked};");
        }
        dot.push_str("}\n");
        dot
    }
}

/// Text without characters that move a cursor, turn the writing round, or are not allowed in XML.
pub(super) fn shown(text: &str) -> String {
    let is_unseen = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    text.chars().map(|c| if is_unseen(c) { '\u{fffd}' } else { c }).collect()
}

/// The inside of a quoted DOT string.
fn quoted(text: &str) -> String {
    shown(text).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Picture {
        let mut waits: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (from, to) in edges {
            waits.entry((*from).to_owned()).or_default().push((*to).to_owned());
        }
        let wants = BTreeMap::from([("a".to_owned(), vec!["exclusive on r".to_owned()])]);
        Picture::of(&waits, &wants)
    }

    #[test]
    fn a_circle_is_marked_and_what_hangs_on_it_is_not() {
        let picture = graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a"), ("c", "e")]);
        assert_eq!(picture.circles(), [["a", "b", "c"]]);
        let marked: Vec<&str> =
            picture.nodes.iter().filter(|n| n.circle.is_some()).map(|n| n.name.as_str()).collect();
        assert_eq!(marked, ["a", "b", "c"]);
        assert_eq!(
            picture.text(),
            "a waits for b, wants exclusive on r  [circle]\n\
             b waits for c  [circle]\n\
             c waits for a  [circle]\n\
             c waits for e\n\
             d waits for a\n\
             deadlock: a -> b -> c -> a"
        );
    }

    #[test]
    fn two_knots_are_two_circles_and_each_is_told_by_its_shortest() {
        let picture = graph(&[
            ("a", "b"),
            ("b", "a"),
            ("b", "c"),
            ("c", "d"),
            ("d", "b"),
            ("x", "y"),
            ("y", "x"),
            ("a", "x"),
        ]);
        assert_eq!(picture.circles(), [vec!["a", "b"], vec!["x", "y"]]);
        assert!(!picture.is_in_circle((0, 4)), "from one knot to another is no circle");
    }

    #[test]
    fn an_empty_graph_says_that_nobody_waits() {
        assert_eq!(graph(&[]).text(), "nobody waits");
        assert!(graph(&[]).circles().is_empty());
    }

    #[test]
    fn dot_escapes_names_and_hides_control_characters() {
        let picture = graph(&[("a\"\\\n\u{1b}[31m", "b")]);
        assert!(picture.dot().contains("label=\"a\\\"\\\\\u{fffd}\u{fffd}[31m\""));
        assert!(!picture.text().contains('\u{1b}'));
    }
}
