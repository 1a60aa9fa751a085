//! The queue of one resource, read from the names of its container's children.
//!
//! Pure; not a client. **Order**: a child stands at its sequence, an upgrade before the sequence
//! that its name tells. **Rule**: the longest beginning of the queue of which every two are
//! compatible, or one requester's own, is granted; the rest waits. So grants are first come, first
//! served, compatible neighbours are granted together, and who is granted stays granted whoever
//! goes, because going only takes conflicts away.
//!
//! **Upgrades.** One who waits while the same requester holds already would wait for those who
//! wait for that hold. It is moved before the first who waits. That is safe only while that first
//! one waits, for then nobody behind it was ever granted: so the move is made in one transaction
//! with checks that the first one still stands, and a guard too, who is in its way.
//!
//! Invariants: the answer depends on nothing but the set of names; while all of `to_watch` stand,
//! there is no grant, so watching those is enough.

use crate::model::lock::LockMode;

use super::zookeeper_path::ChildName;

/// One child.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: ChildName,
    /// The node's name as the server spells it.
    pub(super) child: String,
}

/// All children of one container, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    places: Vec<Place>,
    granted: usize,
}

/// How an upgrade goes ahead of those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overtaking {
    /// The sequence before which it is to stand.
    pub(super) before: u32,
    /// The child that waits there, and must still stand when it moves.
    pub(super) first: String,
    /// The child that is in its way, and must still stand too.
    pub(super) guard: String,
}

impl Queue {
    /// The queue of these children. What is not ours does not count.
    pub(super) fn of(children: impl IntoIterator<Item = String>) -> Self {
        let mut places: Vec<Place> = children
            .into_iter()
            .filter_map(|child| Some(Place { name: ChildName::parse(&child)?, child }))
            .collect();
        let first = first_sequence(&places);
        places.sort_by_key(|place| {
            let from_first = |sequence: u32| sequence.wrapping_sub(first);
            let ChildName { before, sequence, .. } = place.name;
            (from_first(before.unwrap_or(sequence)), before.is_none(), from_first(sequence))
        });
        let granted = granted_count(&places);
        Self { places, granted }
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// How many of the first hold.
    pub(super) fn granted(&self) -> usize {
        self.granted
    }

    pub(super) fn index_of(&self, child: &str) -> Option<usize> {
        self.places.iter().position(|place| place.child == child)
    }

    /// The child with this tag.
    pub(super) fn tagged(&self, tag: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.name.tag == tag)
    }

    fn conflicts(&self, index: usize, with: usize) -> bool {
        conflict(&self.places[index].name, &self.places[with].name)
    }

    /// Those that the one at `index` waits for: whoever is ahead and in conflict with it, or with
    /// one ahead of it that waits too.
    pub(super) fn blockers(&self, index: usize) -> Vec<usize> {
        let of = |waiter: usize| (0..waiter).filter(move |ahead| self.conflicts(waiter, *ahead));
        let mut found: Vec<usize> = (self.granted..=index)
            .filter(|waiter| *waiter < self.places.len())
            .flat_map(of)
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whom the one at `index` has to watch: it is not granted before one of these leaves. One is
    /// enough where it is in conflict itself, for it does not leave. Where it agrees with all who
    /// are ahead, two of those are in conflict, and the leaving of either may be its grant. Empty
    /// when it is granted.
    pub(super) fn to_watch(&self, index: usize) -> Vec<&str> {
        let nearest =
            |waiter: usize| (0..waiter).rev().find(|ahead| self.conflicts(waiter, *ahead));
        let pair = |waiter: usize| Some((waiter, nearest(waiter)?));
        let Some((waiter, ahead)) = (self.granted..=index).rev().find_map(pair) else {
            return Vec::new();
        };
        let child = |index: usize| self.places[index].child.as_str();
        if waiter == index { vec![child(ahead)] } else { vec![child(ahead), child(waiter)] }
    }

    /// How the one at `index` goes ahead, where its requester holds already and somebody else
    /// waits before it.
    pub(super) fn overtaking(&self, index: usize) -> Option<Overtaking> {
        let own = &self.places[index].name;
        let is_own = |place: &Place| place.name.mark == own.mark;
        let first = self.granted;
        let holds = self.places[..first].iter().any(is_own);
        if own.before.is_some() || !holds || index <= first {
            return None;
        }
        if self.places[first..index].iter().all(is_own) {
            return None;
        }
        let in_the_way = |ahead: &usize| self.conflicts(first, *ahead);
        // The requester's own hold makes the best guard: it does not go while this one waits.
        let own_guard = (0..first).filter(in_the_way).find(|ahead| is_own(&self.places[*ahead]));
        let guard = own_guard.or_else(|| (0..first).rev().find(in_the_way))?;
        let ChildName { before, sequence, .. } = self.places[first].name;
        let child = |index: usize| self.places[index].child.clone();
        Some(Overtaking {
            before: before.unwrap_or(sequence),
            first: child(first),
            guard: child(guard),
        })
    }
}

fn conflict(one: &ChildName, other: &ChildName) -> bool {
    one.mark != other.mark && !one.mode.is_compatible_with(other.mode)
}

/// The sequence that comes first, where the count may have gone around: the one after the widest
/// gap, as those who stand in one queue were counted closely one after the other.
fn first_sequence(places: &[Place]) -> u32 {
    let mut all: Vec<u32> = places
        .iter()
        .flat_map(|place| [place.name.sequence, place.name.before.unwrap_or(place.name.sequence)])
        .collect();
    all.sort_unstable();
    let (Some(least), Some(greatest)) = (all.first(), all.last()) else { return 0 };
    let mut widest = (least.wrapping_sub(*greatest), *least);
    for pair in all.windows(2) {
        widest = widest.max((pair[1] - pair[0], pair[1]));
    }
    if greatest - least <= u32::MAX / 2 { *least } else { widest.1 }
}

/// Who holds a mode: what is needed to tell whether somebody else does.
#[derive(Clone, Copy)]
enum Holders<'a> {
    Nobody,
    One(&'a str),
    Several,
}

/// The length of the granted beginning.
fn granted_count(places: &[Place]) -> usize {
    let mut by_mode = [Holders::Nobody; LockMode::ALL.len()];
    for (index, place) in places.iter().enumerate() {
        let mark = place.name.mark.as_str();
        let is_blocked = LockMode::ALL.iter().zip(&by_mode).any(|(mode, holders)| {
            !mode.is_compatible_with(place.name.mode)
                && match holders {
                    Holders::Nobody => false,
                    Holders::One(holder) => *holder != mark,
                    Holders::Several => true,
                }
        });
        if is_blocked {
            return index;
        }
        for (mode, holders) in LockMode::ALL.iter().zip(&mut by_mode) {
            if *mode == place.name.mode {
                *holders = match *holders {
                    Holders::Nobody => Holders::One(mark),
                    Holders::One(holder) if holder == mark => Holders::One(mark),
                    _ => Holders::Several,
                };
            }
        }
    }
    places.len()
}

#[cfg(test)]
#[path = "zookeeper_queue_test.rs"]
mod tests;
