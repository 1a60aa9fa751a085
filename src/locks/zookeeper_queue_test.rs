//! The queue of a resource: order, grants, blockers, upgrades; by cases and by all small histories.

use std::collections::BTreeSet;

use super::*;

/// Children from words: `a:S` stands at the next sequence, `a:X<2` is an upgrade before 2.
fn queue(text: &str) -> Queue {
    Queue::of(text.split_whitespace().zip(0..).map(|(word, sequence)| child(word, sequence)))
}

fn child(word: &str, sequence: i32) -> String {
    let (mark, mode) = word.split_once(':').unwrap();
    let (mode, before) = match mode.split_once('<') {
        Some((mode, before)) => (mode, Some(before.parse().unwrap())),
        None => (mode, None),
    };
    let mode = match mode {
        "IS" => LockMode::IntentShared,
        "IX" => LockMode::IntentExclusive,
        "S" => LockMode::Shared,
        _ => LockMode::Exclusive,
    };
    let prefix = ChildName::prefix(mode, mark, &format!("t{}", sequence.cast_unsigned()), before);
    format!("{prefix}{sequence:010}")
}

fn marks(queue: &Queue) -> String {
    queue.places().iter().map(|place| place.name.mark.as_str()).collect()
}

#[test]
fn the_granted_are_the_longest_beginning_without_a_conflict() {
    for (text, granted) in [
        ("", 0),
        ("a:X b:X", 1),
        ("a:S b:S c:X d:S", 2),
        ("a:X a:S a:X b:IS", 3),
        ("a:S b:IX c:IS", 1),
        ("a:IS b:IX c:IX d:S", 3),
    ] {
        assert_eq!(queue(text).granted(), granted, "{text}");
    }
}

#[test]
fn the_order_is_the_sequences_also_where_they_went_around() {
    let names = [child("b:X", i32::MAX), child("c:X", i32::MIN), child("a:X", i32::MAX - 1)];
    assert_eq!(marks(&Queue::of(names)), "abc");
    let names = [child("b:X", 0), child("a:X", -1), child("c:X", 1)];
    assert_eq!(marks(&Queue::of(names)), "abc");
}

#[test]
fn what_is_not_ours_does_not_count() {
    assert_eq!(Queue::of(["lock-0000000001".to_owned(), child("a:S", 2)]).places().len(), 1);
}

#[test]
fn who_is_watched_is_in_conflict_with_the_one_who_waits_or_with_one_ahead_of_it() {
    let queue = queue("a:S b:S c:X d:S e:X");
    let child = |index: usize| queue.places()[index].child.as_str();
    assert_eq!(queue.to_watch(0), [""; 0]);
    assert_eq!(queue.to_watch(2), [child(1)]);
    assert_eq!(queue.to_watch(3), [child(2)]);
    assert_eq!(queue.blockers(3), [0, 1, 2]);
    let behind = self::queue("a:S b:IX c:IS");
    let child = |index: usize| behind.places()[index].child.as_str();
    assert_eq!(behind.to_watch(2), [child(0), child(1)], "either leaving is its grant");
    assert_eq!(behind.blockers(2), [0]);
}

#[test]
fn issue_3_nobody_is_granted_while_all_whom_it_watches_stand() {
    let words: Vec<String> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| ["IS", "IX", "S", "X"].map(|mode| format!("{name}:{mode}")))
        .collect();
    let mut tried = 0;
    for number in 0..words.len().pow(4) {
        let word = |place: u32| words[number / words.len().pow(place) % words.len()].as_str();
        let whole = queue(&[0, 1, 2, 3].map(word).join(" "));
        for index in whole.granted()..whole.places().len() {
            let watched = whole.to_watch(index);
            assert!(!watched.is_empty());
            let waiter = whole.places()[index].child.clone();
            // Every set of others that may have left before it reads the queue again.
            for left in 0..1_u32 << whole.places().len() {
                let stands = |at: usize| left >> at & 1 == 0;
                let all_stand = watched.iter().all(|child| stands(whole.index_of(child).unwrap()));
                if all_stand && stands(index) {
                    let places = whole.places().iter().enumerate();
                    let rest = places.filter(|(at, _)| stands(*at)).map(|(_, it)| it.child.clone());
                    let rest = Queue::of(rest);
                    assert!(rest.index_of(&waiter).unwrap() >= rest.granted(), "{whole:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 100_000, "{tried}");
}

#[test]
fn an_upgrade_moves_before_the_first_who_waits_and_then_waits_for_holders_only() {
    let waiting = queue("a:S b:S c:X d:X a:X");
    let child = |index: usize| waiting.places()[index].child.clone();
    let expected = Overtaking { before: 2, first: child(2), guard: child(0) };
    assert_eq!(waiting.overtaking(4), Some(expected));
    let moved = queue("a:S b:S c:X d:X a:X<2");
    assert_eq!((marks(&moved), moved.blockers(2)), ("abacd".to_owned(), vec![1]));
    assert_eq!(moved.overtaking(2), None);
    assert_eq!(queue("a:S b:X a:X<1").granted(), 2, "its own hold is not in its way");
}

#[test]
fn only_who_holds_and_waits_behind_others_overtakes() {
    assert_eq!(queue("a:S b:X c:X").overtaking(2), None);
    assert_eq!(queue("a:S b:S a:X").overtaking(2), None, "nobody waits before it");
    assert_eq!(queue("a:X b:X a:S").overtaking(2).map(|found| found.before), Some(1));
}

#[test]
fn two_upgraders_wait_for_each_other() {
    let queue = queue("a:S b:S c:X a:X<2 b:X<2");
    assert_eq!(marks(&queue), "ababc");
    assert_eq!((queue.blockers(2), queue.blockers(3)), (vec![1], vec![0, 1, 2]));
}

/// All histories of up to six acts of three requesters over one server: ask, move ahead as the
/// server would allow it, leave. Each process acts on the list of any earlier moment since its own
/// child stands, so that stale reads are tried too.
#[test]
fn no_two_in_conflict_are_ever_granted_whoever_goes_or_overtakes() {
    let mut histories = 0;
    explore(&World::default(), 6, &mut histories);
    assert!(histories > 10_000, "{histories}");
}

#[derive(Clone, Default)]
struct World {
    sequence: i32,
    /// What stood after each change.
    lists: Vec<Vec<String>>,
    standing: Vec<String>,
    /// Those that some process took for granted, on some list since they stood.
    granted: BTreeSet<String>,
}

impl World {
    fn changed(mut self) -> Self {
        self.lists.push(self.standing.clone());
        // The boldest processes: each judges every list at once.
        let queue = Queue::of(self.standing.clone());
        for place in &queue.places()[..queue.granted()] {
            self.granted.insert(place.child.clone());
        }
        let held: Vec<ChildName> = self
            .granted
            .iter()
            .filter(|child| self.standing.contains(child))
            .filter_map(|child| ChildName::parse(child))
            .collect();
        for (at, one) in held.iter().enumerate() {
            assert!(held[at + 1..].iter().all(|other| !conflict(one, other)), "{:?}", self.lists);
        }
        assert!(self.standing.is_empty() || queue.granted() > 0, "somebody is always granted");
        self
    }

    fn with(&self, word: &str) -> Self {
        let mut next = self.clone();
        next.standing.push(child(word, next.sequence));
        next.sequence += 1;
        next.changed()
    }

    fn without(&self, gone: &str) -> Self {
        let mut next = self.clone();
        next.standing.retain(|child| child != gone);
        next.changed()
    }

    /// The move that one who read `list` would ask for, if the server's check lets it pass.
    fn moved(&self, list: &[String], child: &str) -> Option<Self> {
        let queue = Queue::of(list.to_vec());
        let index = queue.index_of(child)?;
        let Overtaking { before, first, guard } = queue.overtaking(index)?;
        if ![first, guard].iter().all(|checked| self.standing.contains(checked)) {
            return None;
        }
        let name = &queue.places()[index].name;
        let mut next = self.clone();
        next.standing.retain(|other| other != child);
        let prefix = ChildName::prefix(name.mode, &name.mark, &name.tag, Some(before));
        next.standing.push(format!("{prefix}{:010}", next.sequence));
        next.sequence += 1;
        Some(next.changed())
    }
}

fn explore(world: &World, acts: usize, histories: &mut u64) {
    *histories += 1;
    if acts == 0 {
        return;
    }
    for name in ["a", "b", "c"] {
        for mode in ["S", "X"] {
            if world.standing.len() < 4 {
                explore(&world.with(&format!("{name}:{mode}")), acts - 1, histories);
            }
        }
    }
    for child in world.standing.clone() {
        explore(&world.without(&child), acts - 1, histories);
        for list in world.lists.iter().filter(|list| list.contains(&child)) {
            if let Some(next) = world.moved(list, &child) {
                explore(&next, acts - 1, histories);
            }
        }
    }
}
