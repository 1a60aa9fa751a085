//! Circles in graphs that are written down, and in random ones whose circles are counted.

use super::*;
use crate::model::lock::LockMode;

fn name(text: &str) -> RequesterId {
    RequesterId::new(text).unwrap()
}

fn resource(text: &str) -> ResourceId {
    ResourceId::new(text).unwrap()
}

/// `holder<waiter` at a resource each; the age of a name is its place in `ages`, oldest first, and
/// a name with `!` is protected.
fn graph(waits: &str, ages: &str) -> WaitGraph {
    let standing = |requester: &str| {
        let place = ages.split_whitespace().position(|word| word.trim_matches('!') == requester);
        let is_protected = ages.split_whitespace().any(|word| word == format!("{requester}!"));
        (Timestamp(i64::try_from(place.expect("has an age")).unwrap()), is_protected)
    };
    let claim = |requester: &str| {
        let (working_since, is_protected) = standing(requester);
        let mode = LockMode::Exclusive;
        Claim { requester: name(requester), mode, working_since, is_protected }
    };
    let mut graph = WaitGraph::default();
    for (number, queue) in waits.split_whitespace().enumerate() {
        let claims: Vec<Claim> = queue.split('<').map(claim).collect();
        graph.add_resource(&resource(&format!("r{number}")), &claims);
    }
    graph
}

fn shown(circle: &Circle) -> String {
    let members: Vec<&str> = circle.members.iter().map(RequesterId::as_str).collect();
    let victim = circle.victim().map_or("nobody", |victim| victim.as_str());
    format!("{} at {}: {victim}", members.join(">"), circle.resource)
}

fn resolved(waits: &str, ages: &str) -> Vec<String> {
    graph(waits, ages).resolve().iter().map(shown).collect()
}

#[test]
fn without_a_circle_there_is_nothing_to_find() {
    let graph = graph("a<b<c b<d", "a b c d");
    assert!(graph.circle_through(&name("c")).is_none());
    assert!(graph.circle_through(&name("nobody")).is_none());
    assert!(graph.resolve().is_empty());
}

#[test]
fn the_youngest_gives_way_whoever_closed_the_circle() {
    let graph = graph("a<b b<c c<a", "a c b");
    for closer in ["a", "b", "c"] {
        let circle = graph.circle_through(&name(closer)).expect("a circle");
        assert_eq!(shown(&circle), "b>a>c at r0: b");
    }
    let deadlock = graph.resolve().remove(0).deadlock(Timestamp(5)).expect("a victim");
    assert_eq!((deadlock.victim.as_str(), deadlock.detected_at), ("b", Timestamp(5)));
}

#[test]
fn of_one_age_the_greater_name_gives_way() {
    let mut same = graph("a<b b<a", "a b");
    same.standings.values_mut().for_each(|standing| standing.working_since = Timestamp(1));
    assert_eq!(shown(&same.resolve()[0]), "b>a at r0: b");
}

#[test]
fn a_protected_one_never_gives_way() {
    assert_eq!(resolved("a<b b<a", "a b!"), ["a>b at r1: a"]);
    assert_eq!(resolved("a<b b<a", "a! b!"), ["a>b at r1: nobody"]);
}

#[test]
fn a_circle_past_somebody_unprotected_comes_before_a_shorter_one_without() {
    let graph = graph("a<b b<a b<c c<a", "a! b! c");
    assert_eq!(shown(&graph.circle_through(&name("a")).expect("a circle")), "c>b>a at r2: c");
    let circles: Vec<String> = graph.resolve().iter().map(shown).collect();
    assert_eq!(circles, ["c>b>a at r2: c", "a>b at r1: nobody"]);
}

#[test]
fn a_place_in_a_queue_counts_as_a_wait() {
    // b waits behind a at r0, and c behind both; b waits for c at r1.
    assert_eq!(resolved("a<b<c c<b", "a b c"), ["c>b at r0: c"]);
}

#[test]
fn one_victim_opens_two_circles_that_meet_in_it() {
    assert_eq!(resolved("a<c c<a b<c c<b", "a b c").len(), 2, "c waits twice, so twice refused");
    assert_eq!(resolved("a<b<c c<a c<b", "a b c").len(), 1, "c waits once for both");
}

#[test]
fn the_edges_are_those_of_all_resources() {
    let edges = graph("a<b<c d<c", "a b c d").edges();
    assert_eq!(edges[&name("c")], ["a", "b", "d"].map(name));
    assert_eq!(edges.len(), 2);
}

/// `SplitMix64`, as `retry.rs` uses it.
fn mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether some circle is left, by taking away all who wait for nobody until none is left: another
/// way of looking than the code's.
fn has_circle(edges: &BTreeMap<RequesterId, Vec<RequesterId>>) -> bool {
    let mut waiting: BTreeSet<&RequesterId> = edges.keys().collect();
    loop {
        let is_free =
            |name: &&&RequesterId| !edges[**name].iter().any(|target| waiting.contains(target));
        let Some(free) = waiting.iter().find(is_free).copied() else { return !waiting.is_empty() };
        waiting.remove(free);
    }
}

#[test]
fn in_random_graphs_every_victim_lay_on_a_circle_and_none_is_left() {
    let mut with_circles = 0;
    for seed in 0..500_u64 {
        let mut state = seed;
        let mut graph = WaitGraph::default();
        for number in 0..4 + mix(&mut state) % 8 {
            let queue: Vec<Claim> = (0..2 + mix(&mut state) % 2)
                .map(|_| {
                    let requester = mix(&mut state) % 10;
                    Claim {
                        requester: name(&format!("q{requester}")),
                        mode: LockMode::Exclusive,
                        working_since: Timestamp(i64::try_from(requester % 4).unwrap()),
                        is_protected: requester == 3,
                    }
                })
                .collect();
            graph.add_resource(&resource(&format!("r{number}")), &queue);
        }
        let (mut left, circles) = (graph.clone(), graph.clone().resolve());
        assert_eq!(has_circle(&graph.edges()), !circles.is_empty(), "seed {seed}");
        with_circles += usize::from(!circles.is_empty());
        for circle in &circles {
            let victim = circle.victim().expect("only one is protected, and no circle is of one");
            assert_ne!(victim.as_str(), "q3", "seed {seed}");
            for (at, member) in circle.members.iter().enumerate() {
                let next = &circle.members[(at + 1) % circle.members.len()];
                assert!(left.edges()[member].contains(next), "seed {seed}: {circle:?}");
                let age = |who: &RequesterId| (left.standings[who].working_since, who.clone());
                let is_younger = age(member) > age(victim) && member.as_str() != "q3";
                assert!(!is_younger, "seed {seed}: {member} is younger than {victim}");
            }
            left.remove_wait(victim, &circle.resource);
        }
        assert!(!has_circle(&left.edges()), "seed {seed}: a circle is left");
    }
    assert!(with_circles > 100, "only {with_circles} of the graphs had circles");
}
