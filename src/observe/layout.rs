//! Where boxes of a graph and the ways between them go. Numbers only, no text and no SVG.
//!
//! Nodes become blocks: a ring for those in one circle, a single box for each other. Blocks stand
//! in columns by the longest way from one to which no edge leads. Invariant: blocks never overlap,
//! so boxes never do.

use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::fmt::Write as _;

const COLUMN_GAP: f64 = 90.0;
const ROW_GAP: f64 = 22.0;
const RING_GAP: f64 = 46.0;
const LANE_HEIGHT: f64 = 8.0;
const SWEEPS: usize = 4;

/// What is laid out: nodes by number, and edges between them. Every circle lies in a ring.
pub(super) struct Shape<'a> {
    /// For each node, the ring that it stands in, if in any.
    pub(super) rings: Vec<Option<usize>>,
    /// From, to.
    pub(super) edges: &'a [(usize, usize)],
}

impl Shape<'_> {
    fn is_in_ring(&self, (from, to): (usize, usize)) -> bool {
        self.rings[from].is_some() && self.rings[from] == self.rings[to]
    }

    fn successors(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        self.edges.iter().filter(move |(from, _)| *from == node).map(|(_, to)| *to)
    }
}

/// A point in pixels.
pub(super) type Point = (f64, f64);

/// Where a box stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spot {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Spot {
    fn center(&self) -> Point {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }

    /// Where the line from the center towards `target` leaves the box.
    fn border_towards(&self, target: Point) -> Point {
        let (x, y) = self.center();
        let (dx, dy) = (target.0 - x, target.1 - y);
        let by_width = if dx == 0.0 { f64::INFINITY } else { self.width / 2.0 / dx.abs() };
        let by_height = if dy == 0.0 { f64::INFINITY } else { self.height / 2.0 / dy.abs() };
        let part = by_width.min(by_height).min(1.0);
        (x + dx * part, y + dy * part)
    }
}

/// The whole drawing.
pub(super) struct Layout {
    /// For each node.
    pub(super) spots: Vec<Spot>,
    /// For each edge, the points through which it goes.
    pub(super) ways: Vec<Vec<Point>>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// What takes one place in a column.
struct Block {
    /// None for a lane through which an edge passes.
    nodes: Vec<usize>,
    column: usize,
    size: (f64, f64),
    /// Filled in at the end.
    at: Point,
    /// The blocks on both sides to which an edge leads.
    neighbours: Vec<usize>,
}

impl Layout {
    pub(super) fn of(shape: &Shape<'_>, sizes: &[(f64, f64)]) -> Self {
        let (mut blocks, block_of) = blocks(shape, sizes);
        put_into_columns(shape, &block_of, &mut blocks);
        let lanes = add_lanes(shape, &block_of, &mut blocks);
        let columns = ordered_columns(&blocks);
        let (width, height) = place(&mut blocks, &columns);
        let mut spots = vec![Spot::default(); sizes.len()];
        for block in &blocks {
            put_nodes(block, sizes, &mut spots);
        }
        // Straight through the whole column, so that it passes no box of it.
        let lane_points = |lane: &usize| {
            let Block { at, size, .. } = &blocks[*lane];
            let y = at.1 + size.1 / 2.0;
            [(at.0, y), (at.0 + size.0, y)]
        };
        let way = |(edge, lanes): (&(usize, usize), &Vec<usize>)| {
            let middle: Vec<Point> = lanes.iter().flat_map(lane_points).collect();
            way_between(&spots[edge.0], &spots[edge.1], &middle, shape.is_in_ring(*edge))
        };
        let ways = shape.edges.iter().zip(&lanes).map(way).collect();
        Self { spots, ways, width, height }
    }
}

fn blocks(shape: &Shape<'_>, sizes: &[(f64, f64)]) -> (Vec<Block>, Vec<usize>) {
    let mut members: Vec<Vec<usize>> = Vec::new();
    let mut ring_block: BTreeMap<usize, usize> = BTreeMap::new();
    let mut block_of = vec![0; shape.rings.len()];
    for (index, ring) in shape.rings.iter().enumerate() {
        let known = ring.and_then(|ring| ring_block.get(&ring).copied());
        let block = known.unwrap_or(members.len());
        if known.is_none() {
            members.push(Vec::new());
        }
        if let Some(ring) = ring {
            ring_block.insert(*ring, block);
        }
        members[block].push(index);
        block_of[index] = block;
    }
    let block = |nodes: Vec<usize>| {
        let nodes = in_waiting_order(shape, nodes);
        let size = ring_size(&nodes, sizes);
        Block { nodes, column: 0, size, at: (0.0, 0.0), neighbours: Vec::new() }
    };
    (members.into_iter().map(block).collect(), block_of)
}

/// Whoever is waited for comes next in the ring, where that can be.
fn in_waiting_order(shape: &Shape<'_>, mut nodes: Vec<usize>) -> Vec<usize> {
    let mut ordered = Vec::with_capacity(nodes.len());
    let mut next = nodes.first().copied();
    while let Some(node) = next {
        nodes.retain(|other| *other != node);
        ordered.push(node);
        let waited_for = shape.successors(node).find(|to| nodes.contains(to));
        next = waited_for.or(nodes.first().copied());
    }
    ordered
}

#[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
fn radius(count: usize, (width, height): (f64, f64)) -> f64 {
    match count {
        0 | 1 => 0.0,
        2 => f64::midpoint(height, RING_GAP),
        _ => {
            // Neighbours whose centers are a box's diagonal apart cannot overlap.
            let diagonal = (width + RING_GAP / 2.0).hypot(height + RING_GAP);
            diagonal / 2.0 / (PI / count as f64).sin()
        }
    }
}

fn largest(nodes: &[usize], sizes: &[(f64, f64)]) -> (f64, f64) {
    let larger = |a: (f64, f64), node: &usize| (a.0.max(sizes[*node].0), a.1.max(sizes[*node].1));
    nodes.iter().fold((0.0, 0.0), larger)
}

/// Where the boxes of a ring stand, from its middle: the first on top, then clockwise.
#[expect(clippy::cast_precision_loss, reason = "a handful of boxes")]
fn ring(nodes: &[usize], sizes: &[(f64, f64)]) -> Vec<Spot> {
    let count = nodes.len();
    let radius = radius(count, largest(nodes, sizes));
    let spot = |(place, node): (usize, &usize)| {
        let angle = 2.0 * PI * place as f64 / count as f64 - PI / 2.0;
        let (width, height) = sizes[*node];
        // Rounding of the cosine must not shift two that stand one above the other.
        let sideways = if count <= 2 { 0.0 } else { radius * angle.cos() };
        Spot { x: sideways - width / 2.0, y: radius * angle.sin() - height / 2.0, width, height }
    };
    nodes.iter().enumerate().map(spot).collect()
}

/// Left, top, right and bottom of all.
fn extent(spots: &[Spot]) -> [f64; 4] {
    let wider = |[left, top, right, bottom]: [f64; 4], spot: &Spot| {
        let (x, y) = (spot.x + spot.width, spot.y + spot.height);
        [left.min(spot.x), top.min(spot.y), right.max(x), bottom.max(y)]
    };
    spots.iter().fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], wider)
}

fn ring_size(nodes: &[usize], sizes: &[(f64, f64)]) -> (f64, f64) {
    let [left, top, right, bottom] = extent(&ring(nodes, sizes));
    (right - left, bottom - top)
}

fn put_into_columns(shape: &Shape<'_>, block_of: &[usize], blocks: &mut [Block]) {
    // Between blocks there are no circles, so the longest way is found in so many rounds.
    for _ in 0..blocks.len() {
        let mut is_settled = true;
        for (from, to) in shape.edges {
            let (from, to) = (block_of[*from], block_of[*to]);
            if from != to && blocks[to].column <= blocks[from].column {
                blocks[to].column = blocks[from].column + 1;
                is_settled = false;
            }
        }
        if is_settled {
            break;
        }
    }
}

/// Gives an edge that passes columns a lane in each, and notes who is connected.
fn add_lanes(shape: &Shape<'_>, block_of: &[usize], blocks: &mut Vec<Block>) -> Vec<Vec<usize>> {
    let mut all = Vec::with_capacity(shape.edges.len());
    for (from, to) in shape.edges {
        let (from, to) = (block_of[*from], block_of[*to]);
        let mut lanes = Vec::new();
        let mut before = from;
        if from != to {
            for column in blocks[from].column + 1..blocks[to].column {
                let lane = blocks.len();
                let (size, at) = ((0.0, LANE_HEIGHT), (0.0, 0.0));
                blocks.push(Block {
                    nodes: Vec::new(),
                    column,
                    size,
                    at,
                    neighbours: vec![before],
                });
                blocks[before].neighbours.push(lane);
                lanes.push(lane);
                before = lane;
            }
            blocks[before].neighbours.push(to);
            blocks[to].neighbours.push(before);
        }
        all.push(lanes);
    }
    all
}

/// The blocks of each column from top to bottom, each near the middle of its neighbours.
#[expect(clippy::cast_precision_loss, reason = "places in a column are few")]
fn ordered_columns(blocks: &[Block]) -> Vec<Vec<usize>> {
    let count = blocks.iter().map(|block| block.column + 1).max().unwrap_or(0);
    let mut columns = vec![Vec::new(); count];
    for (index, block) in blocks.iter().enumerate() {
        columns[block.column].push(index);
    }
    let mut place = vec![0.0; blocks.len()];
    let renumber = |column: &mut Vec<usize>, place: &mut Vec<f64>, sort: bool| {
        if sort {
            let middle = |block: &usize| {
                let near = &blocks[*block].neighbours;
                let sum: f64 = near.iter().map(|other| place[*other]).sum();
                if near.is_empty() { place[*block] } else { sum / near.len() as f64 }
            };
            column.sort_by(|a, b| middle(a).total_cmp(&middle(b)).then(a.cmp(b)));
        }
        for (at, block) in column.iter().enumerate() {
            place[*block] = at as f64 - column.len() as f64 / 2.0;
        }
    };
    for column in &mut columns {
        renumber(column, &mut place, false);
    }
    for _ in 0..SWEEPS {
        for column in &mut columns {
            renumber(column, &mut place, true);
        }
        for column in columns.iter_mut().rev() {
            renumber(column, &mut place, true);
        }
    }
    columns
}

/// Puts the columns side by side, each centered; the size of all.
fn place(blocks: &mut [Block], columns: &[Vec<usize>]) -> (f64, f64) {
    let height_of = |blocks: &[Block], column: &[usize]| {
        let boxes: f64 = column.iter().map(|block| blocks[*block].size.1 + ROW_GAP).sum();
        (boxes - ROW_GAP).max(0.0)
    };
    let height = columns.iter().map(|column| height_of(blocks, column)).fold(0.0, f64::max);
    let mut x = 0.0;
    for column in columns {
        let width = column.iter().map(|block| blocks[*block].size.0).fold(0.0, f64::max);
        let mut y = (height - height_of(blocks, column)) / 2.0;
        for index in column {
            let block = &mut blocks[*index];
            if block.nodes.is_empty() {
                block.size.0 = width;
            }
            block.at = (x + (width - block.size.0) / 2.0, y);
            y += block.size.1 + ROW_GAP;
        }
        x += width + COLUMN_GAP;
    }
    ((x - COLUMN_GAP).max(0.0), height)
}

fn put_nodes(block: &Block, sizes: &[(f64, f64)], spots: &mut [Spot]) {
    let ring = ring(&block.nodes, sizes);
    let [left, top, ..] = extent(&ring);
    for (node, spot) in block.nodes.iter().zip(ring) {
        let (x, y) = (block.at.0 + spot.x - left, block.at.1 + spot.y - top);
        spots[*node] = Spot { x, y, ..spot };
    }
}

fn way_between(from: &Spot, to: &Spot, middle: &[Point], in_ring: bool) -> Vec<Point> {
    if in_ring {
        // Bent to one side, so that two who wait for each other have two lines.
        let (a, b) = (from.center(), to.center());
        let bend = 0.16;
        let control = (
            f64::midpoint(a.0, b.0) + (b.1 - a.1) * bend,
            f64::midpoint(a.1, b.1) - (b.0 - a.0) * bend,
        );
        return vec![from.border_towards(control), control, to.border_towards(control)];
    }
    let begin = (from.x + from.width, from.y + from.height / 2.0);
    let end = (to.x, to.y + to.height / 2.0);
    std::iter::once(begin).chain(middle.iter().copied()).chain([end]).collect()
}

/// The path of a way: one bow inside a ring, soft steps from column to column elsewhere.
pub(super) fn path(way: &[Point], in_ring: bool) -> String {
    let mut path = String::new();
    if let ([a, control, b], true) = (way, in_ring) {
        let _ = write!(
            path,
            "M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
            a.0, a.1, control.0, control.1, b.0, b.1
        );
        return path;
    }
    let [first, rest @ ..] = way else { return path };
    let _ = write!(path, "M{:.1} {:.1}", first.0, first.1);
    let mut from = *first;
    for to in rest {
        let x = f64::midpoint(from.0, to.0);
        let _ = write!(path, "C{x:.1} {:.1} {x:.1} {:.1} {:.1} {:.1}", from.1, to.1, to.0, to.1);
        from = *to;
    }
    path
}
