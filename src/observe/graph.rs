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

    /// Whom a node waits for. Edges stand in order.
    pub(super) fn successors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let first = self.edges.partition_point(|(from, _)| *from < node);
        self.edges[first..].iter().take_while(move |(from, _)| *from == node).map(|(_, to)| *to)
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        let rings = self.nodes.iter().map(|node| node.circle).collect();
        Shape { rings, edges: &self.edges }
    }

    /// Nodes that reach each other lie in one knot of circles.
    fn mark_circles(&mut self) {
        for knot in self.knots() {
            for member in &knot {
                self.nodes[*member].circle = Some(self.circles.len());
            }
            let circle = self.shortest_circle(&knot);
            self.circles.push(circle);
        }
    }

    /// The strongly connected components that have a circle, by their first member (S. R. Kosaraju,
    /// as in Aho, Hopcroft and Ullman, "Data Structures and Algorithms", 1983).
    fn knots(&self) -> Vec<Vec<usize>> {
        let mut reversed: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (from, to) in &self.edges {
            reversed[*to].push(*from);
        }
        let mut seen = vec![false; self.nodes.len()];
        let mut knots = Vec::new();
        for root in self.left_in_order().into_iter().rev() {
            let mut knot = Vec::new();
            let mut open = vec![root];
            while let Some(node) = open.pop() {
                if !std::mem::replace(&mut seen[node], true) {
                    knot.push(node);
                    open.extend(reversed[node].iter().copied().filter(|from| !seen[*from]));
                }
            }
            let waits_for_itself = |node: usize| self.edges.binary_search(&(node, node)).is_ok();
            if knot.len() > 1 || knot.first().is_some_and(|only| waits_for_itself(*only)) {
                knot.sort_unstable();
                knots.push(knot);
            }
        }
        knots.sort_unstable();
        knots
    }

    /// Every node, in the order in which a walk in depth leaves it.
    fn left_in_order(&self) -> Vec<usize> {
        let mut seen = vec![false; self.nodes.len()];
        let mut left = Vec::with_capacity(self.nodes.len());
        for root in 0..self.nodes.len() {
            if std::mem::replace(&mut seen[root], true) {
                continue;
            }
            let mut way = vec![(root, self.successors(root))];
            while let Some((node, next)) = way.last_mut() {
                let node = *node;
                match next.find(|to| !seen[*to]) {
                    Some(to) => {
                        seen[to] = true;
                        way.push((to, self.successors(to)));
                    }
                    None => {
                        left.push(node);
                        way.pop();
                    }
                }
            }
        }
        left
    }

    fn shortest_circle(&self, knot: &[usize]) -> Vec<usize> {
        let mut shortest: Option<Vec<usize>> = None;
        let inner =
            |node: usize| self.successors(node).filter(move |to| self.is_in_circle((node, *to)));
        // Where everybody has one way on, there is only one circle.
        let is_ring = knot.iter().all(|node| inner(*node).count() == 1);
        for start in &knot[..if is_ring { 1 } else { knot.len() }] {
            let most = shortest.as_ref().map_or(knot.len(), |circle| circle.len() - 1);
            if let Some(circle) = self.way_back_to(*start, most) {
                shortest = Some(circle);
            }
        }
        shortest.unwrap_or_default()
    }

    /// The shortest circle through a node, inside of its knot, of at most `most` nodes.
    fn way_back_to(&self, start: usize, most: usize) -> Option<Vec<usize>> {
        let mut came_from: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let mut open = VecDeque::from([(start, 1)]);
        while let Some((node, length)) = open.pop_front() {
            if length > most {
                return None;
            }
            for to in self.successors(node).filter(|to| self.is_in_circle((node, *to))) {
                if to == start {
                    let step = |at: &usize| came_from[*at];
                    let mut way: Vec<usize> = std::iter::successors(Some(node), step).collect();
                    way.reverse();
                    return Some(way);
                }
                if came_from[to].is_none() {
                    came_from[to] = Some(node);
                    open.push_back((to, length + 1));
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
    fn one_who_waits_for_himself_is_a_circle() {
        assert_eq!(graph(&[("a", "a"), ("b", "a")]).circles(), [["a"]]);
    }

    #[test]
    fn thousands_in_one_ring_and_thousands_behind_it_are_marked() {
        let name = |number: usize| format!("w{number:05}");
        let mut waits: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for number in 0..3_000 {
            waits.insert(name(number), vec![name((number + 1) % 3_000)]);
            waits.insert(name(10_000 + number), vec![name(number), name(10_001 + number)]);
        }
        let picture = Picture::of(&waits, &BTreeMap::new());
        assert_eq!(picture.circles().len(), 1);
        assert_eq!(picture.circles()[0].len(), 3_000);
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
