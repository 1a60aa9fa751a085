//! Drawings of random graphs: nothing overlaps, nothing leaves the page, no text escapes.

use std::collections::BTreeMap;

use super::*;
use crate::observe::layout::Spot;

fn picture(edges: &[(usize, usize)]) -> Picture {
    let mut waits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (from, to) in edges {
        waits.entry(format!("transfer-{from}")).or_default().push(format!("transfer-{to}"));
    }
    Picture::of(&waits, &BTreeMap::new())
}

/// A small generator of numbers, so that a seed tells the whole graph.
fn random_edges(mut seed: u64, nodes: usize, count: usize) -> Vec<(usize, usize)> {
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).expect("31 bits fit") % nodes
    };
    let pairs = (0..count).map(|_| (next(), next()));
    pairs.filter(|(from, to)| from != to).collect()
}

fn overlap(a: &Spot, b: &Spot) -> bool {
    let apart = a.x + a.width <= b.x || b.x + b.width <= a.x;
    !(apart || a.y + a.height <= b.y || b.y + b.height <= a.y)
}

#[test]
fn boxes_never_overlap_and_stay_on_the_page_whatever_the_graph() {
    for seed in 0..200 {
        let nodes = 2 + usize::try_from(seed).expect("small") % 24;
        let edges = random_edges(seed, nodes, nodes + nodes / 2);
        let picture = picture(&edges);
        let sizes: Vec<(f64, f64)> =
            picture.nodes.iter().map(|node| text_box(node).size()).collect();
        let layout = Layout::of(&picture.shape(), &sizes);
        for (index, spot) in layout.spots.iter().enumerate() {
            let on_page = spot.x >= -0.01
                && spot.y >= -0.01
                && spot.x + spot.width <= layout.width + 0.01
                && spot.y + spot.height <= layout.height + 0.01;
            assert!(on_page, "seed {seed}: {spot:?} is outside");
            for other in &layout.spots[..index] {
                assert!(!overlap(spot, other), "seed {seed}: {spot:?} and {other:?} overlap");
            }
        }
        assert_eq!(layout.ways.len(), picture.edges.len());
    }
}

#[test]
fn names_are_escaped_and_nothing_in_the_document_acts() {
    let evil = "</text><script>alert(1)</script>\u{1b}\"'&".to_owned();
    let waits = BTreeMap::from([(evil, vec!["b".to_owned()])]);
    let svg = Picture::of(&waits, &BTreeMap::new()).svg();
    assert!(!svg.contains("<script") && !svg.contains('\u{1b}'));
    assert!(svg.contains("&lt;/text&gt;&lt;script&gt;"));
    assert!(!svg.contains("href") && !svg.contains("onload"));
}

#[test]
fn a_circle_is_marked_and_said_in_words() {
    let svg = picture(&[(1, 2), (2, 1), (3, 1)]).svg();
    assert!(svg.contains("1 deadlock: those in the ring wait for each other"));
    assert_eq!(svg.matches("class=\"node bad\"").count(), 2);
    assert_eq!(svg.matches("class=\"wait bad\"").count(), 2);
    assert!(svg.contains("prefers-color-scheme:dark"));
}

#[test]
fn long_names_lose_their_middle_and_keep_it_in_the_title() {
    let long = format!("begin-{}-end", "x".repeat(100));
    let waits = BTreeMap::from([(long.clone(), vec!["b".to_owned()])]);
    let svg = Picture::of(&waits, &BTreeMap::new()).svg();
    assert!(svg.contains("\u{2026}"));
    assert!(svg.contains(&format!("<title>{long}</title>")));
}
