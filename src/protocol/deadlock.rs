//! Circles of waits: who waits for whom, and who gives way.
//!
//! Not the rule of who waits (`claim.rs`, `lock_table`), and not a timer. A manager that sees every
//! wait begin asks for the circle through the new one; a manager that sees snapshots asks for all.
//!
//! The victim is the youngest of the circle by `working_since` that is not protected (prepared or
//! decided: it cannot be undone); of two of one age the one with the greater name. Only its wait is
//! refused: what it holds it lets go of itself. A circle of which all are protected has no victim
//! and is left alone; that it exists is told.
//!
//! Invariants: the same graph gives the same answer. After [`WaitGraph::resolve`] every circle that
//! had somebody unprotected is open, and no wait was refused that lay on none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::claim::{Claim, blockers_of};
use crate::model::lock::{Deadlock, RequesterId, ResourceId};
use crate::model::time::Timestamp;

/// Who waits for whom, and for what.
#[derive(Clone, Debug, Default)]
pub struct WaitGraph {
    waits: BTreeMap<RequesterId, BTreeMap<ResourceId, BTreeSet<RequesterId>>>,
    standings: BTreeMap<RequesterId, Standing>,
}

/// What counts when a victim is chosen.
#[derive(Clone, Copy, Debug)]
struct Standing {
    working_since: Timestamp,
    is_protected: bool,
}

/// A circle of waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circle {
    /// Each waits for the next, the last for the first. The victim comes first.
    pub members: Vec<RequesterId>,
    /// What the first waits for.
    pub resource: ResourceId,
    /// Whether the first gives way; else all are protected, and nobody does.
    pub has_victim: bool,
}

impl Circle {
    /// Who gives way.
    pub fn victim(&self) -> Option<&RequesterId> {
        self.members.first().filter(|_| self.has_victim)
    }

    /// As people and the victim are told; `None` when nobody gives way.
    pub fn deadlock(self, detected_at: Timestamp) -> Option<Deadlock> {
        let victim = self.victim()?.clone();
        Some(Deadlock { victim, cycle: self.members, resource: self.resource, detected_at })
    }
}

impl WaitGraph {
    /// Adds the waits on one resource, from its claims in their order (see `claim.rs`).
    pub fn add_resource(&mut self, resource: &ResourceId, claims: &[Claim]) {
        for (index, claim) in claims.iter().enumerate() {
            self.add_standing(claim);
            let blockers = blockers_of(claims, index);
            self.add_wait(resource, &claim.requester, blockers.into_iter().map(|at| &claims[at]));
        }
    }

    fn add_wait<'a>(
        &mut self,
        resource: &ResourceId,
        waiter: &RequesterId,
        blockers: impl Iterator<Item = &'a Claim>,
    ) {
        let blockers: BTreeSet<_> = blockers.map(|claim| claim.requester.clone()).collect();
        if !blockers.is_empty() {
            let waits = self.waits.entry(waiter.clone()).or_default();
            waits.entry(resource.clone()).or_default().extend(blockers);
        }
    }

    /// Of several claims of one requester the oldest tells its age, and one that is protected
    /// protects it.
    fn add_standing(&mut self, claim: &Claim) {
        let Claim { working_since, is_protected, .. } = *claim;
        let standing = self
            .standings
            .entry(claim.requester.clone())
            .or_insert(Standing { working_since, is_protected });
        standing.working_since = standing.working_since.min(working_since);
        standing.is_protected |= is_protected;
    }

    /// For each requester that waits, those that it waits for.
    pub fn edges(&self) -> BTreeMap<RequesterId, Vec<RequesterId>> {
        let flat = |waits: &BTreeMap<ResourceId, BTreeSet<RequesterId>>| {
            let targets: BTreeSet<_> = waits.values().flatten().cloned().collect();
            targets.into_iter().collect()
        };
        self.waits.iter().map(|(waiter, waits)| (waiter.clone(), flat(waits))).collect()
    }

    /// A circle that this requester closes, if there is one. One with a victim comes before one
    /// without, then the shortest.
    pub fn circle_through(&self, requester: &RequesterId) -> Option<Circle> {
        let circle = self.shortest_through(requester)?;
        if circle.has_victim {
            return Some(circle);
        }
        // All on the shortest way are protected; another way may lead past somebody who is not.
        let others =
            self.unprotected().into_iter().filter_map(|other| self.shortest_through(other));
        let is_through = |circle: &Circle| circle.has_victim && circle.members.contains(requester);
        Some(others.into_iter().find(is_through).unwrap_or(circle))
    }

    /// Every circle, each victim's wait taken out before the next is looked for.
    pub fn resolve(mut self) -> Vec<Circle> {
        let mut circles = Vec::new();
        let candidates: Vec<RequesterId> = self.unprotected().into_iter().cloned().collect();
        for candidate in candidates {
            // The youngest come first, so whoever lies on a circle here is the youngest of it.
            while let Some(circle) = self.shortest_through(&candidate) {
                self.remove_wait(&candidate, &circle.resource);
                circles.push(circle);
            }
        }
        let mut told = BTreeSet::new();
        for requester in self.waits.keys() {
            if told.contains(requester) {
                continue;
            }
            if let Some(circle) = self.shortest_through(requester) {
                told.extend(circle.members.iter().cloned());
                circles.push(circle);
            }
        }
        circles
    }

    fn remove_wait(&mut self, requester: &RequesterId, resource: &ResourceId) {
        if let Some(waits) = self.waits.get_mut(requester) {
            waits.remove(resource);
        }
    }

    fn shortest_through(&self, requester: &RequesterId) -> Option<Circle> {
        let next = |of: &&RequesterId| match self.waits.get(*of) {
            Some(waits) => waits.values().flatten().collect(),
            None => Vec::new(),
        };
        // `next` lends from the graph, so that the search copies no names.
        let start = self.waits.get_key_value(requester)?.0;
        let mut members = shortest_circle(&start, next)?;
        let victim = youngest(&members, |member| self.age_of(member));
        turn_to(&mut members, victim);
        let second = members.get(1).unwrap_or(&members[0]);
        let waits = self.waits.get(members[0])?;
        let (resource, _) = waits.iter().find(|(_, blockers)| blockers.contains(*second))?;
        Some(Circle {
            resource: resource.clone(),
            members: members.into_iter().cloned().collect(),
            has_victim: victim.is_some(),
        })
    }

    /// Those who may be victims, the youngest first.
    fn unprotected(&self) -> Vec<&RequesterId> {
        let mut names: Vec<_> =
            self.waits.keys().filter(|name| self.age_of(name).is_some()).collect();
        names.sort_by_key(|name| Reverse(self.age_of(name)));
        names
    }

    /// What the choice of a victim goes by; `None` for one who is protected.
    fn age_of<'a>(&self, name: &'a RequesterId) -> Option<(Timestamp, &'a RequesterId)> {
        let standing = self.standings.get(name).filter(|standing| !standing.is_protected)?;
        Some((standing.working_since, name))
    }
}

/// The shortest way from `start` along `next` back to `start`: each leads to the one after it, the
/// last to the first.
pub fn shortest_circle<N: Ord + Clone>(
    start: &N,
    mut next: impl FnMut(&N) -> Vec<N>,
) -> Option<Vec<N>> {
    let mut reached_from: BTreeMap<N, N> = BTreeMap::new();
    let mut waiting = VecDeque::from([start.clone()]);
    while let Some(node) = waiting.pop_front() {
        for target in next(&node) {
            if target == *start {
                return Some(way_back(start, node, &reached_from));
            }
            if !reached_from.contains_key(&target) {
                reached_from.insert(target.clone(), node.clone());
                waiting.push_back(target);
            }
        }
    }
    None
}

fn way_back<N: Ord + Clone>(start: &N, last: N, reached_from: &BTreeMap<N, N>) -> Vec<N> {
    let mut way = vec![last];
    while let Some(before) =
        way.last().filter(|node| *node != start).and_then(|node| reached_from.get(node))
    {
        way.push(before.clone());
    }
    way.reverse();
    way
}

/// Where the victim stands among these: at the greatest age that `age_of` gives, which gives none
/// for the protected.
pub fn youngest<N, K: Ord>(members: &[N], age_of: impl Fn(&N) -> Option<K>) -> Option<usize> {
    let ages = members.iter().enumerate().filter_map(|(at, member)| Some((age_of(member)?, at)));
    ages.max().map(|(_, at)| at)
}

/// Turns a circle so that the victim comes first, or the least member where there is no victim.
fn turn_to<N: Ord>(members: &mut [N], victim: Option<usize>) {
    let least = || (0..members.len()).min_by_key(|at| &members[*at]).unwrap_or(0);
    let first = victim.unwrap_or_else(least);
    members.rotate_left(first);
}

#[cfg(test)]
#[path = "deadlock_test.rs"]
mod tests;
