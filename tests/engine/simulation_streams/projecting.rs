//! Projections of the simulated processes, and the stores that they hand events to.
//!
//! As `engine/projections` does it: one process runs a store's projection, hands over one event
//! after the other, and writes how far the store is. Invariant: what a process that is dead was
//! about to hand over does not arrive.

use std::collections::BTreeSet;
use std::time::Duration;

use super::bugs::Bug;
use super::disk::{Answer, Append};
use super::world::{Happening, STORES, World};

/// How often a projection looks for what others did.
const POLL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(1);
const ATTEMPTS_MAX: u32 = 4;

/// A projection in the process that runs it.
#[derive(Debug)]
pub(super) struct Projector {
    pub(super) generation: u64,
    /// How far the store is, as it said.
    pub(super) position: u64,
    is_parked: bool,
    /// The event that is out, and its try.
    out: Option<(u64, u32)>,
}

/// An event on its way to a store.
#[derive(Clone, Debug)]
pub(super) struct Handing {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) store: usize,
    pub(super) generation: u64,
    pub(super) position: u64,
    pub(super) attempt: u32,
}

/// A store, which outlives every process.
#[derive(Default)]
pub(super) struct Store {
    /// The events that it has applied since its projection was begun.
    pub(super) applied: BTreeSet<u64>,
    /// All that it ever applied, in its order.
    pub(super) history: Vec<u64>,
}

impl Store {
    /// Up to which event it has all.
    pub(super) fn reached(&self) -> u64 {
        let gapless = self.applied.iter().zip(1..).take_while(|(position, at)| **position == *at);
        gapless.count() as u64
    }
}

impl World {
    pub(super) fn round(&mut self, node: usize, life: u64, store: usize) {
        if !self.lives(node, life) {
            return;
        }
        self.schedule(POLL, Happening::Round { node, life, store });
        self.see_owner(node, store);
        self.look_at_projections(node);
        if self.lives(node, life) {
            self.hand_next(node, store);
        }
    }

    /// Follows what the disk says of a projection; claims it where it may.
    fn see_owner(&mut self, node: usize, store: usize) {
        let Some(own) = self.nodes[node].instance.clone() else { return };
        let row = self.disk.positions[store].clone();
        let is_living =
            row.owner.is_some() && self.nodes.iter().any(|process| process.instance == row.owner);
        if row.owner.as_ref() != Some(&own) {
            self.nodes[node].projectors.remove(&store);
            let is_taken = self.bug == Some(Bug::ClaimsFromTheLiving) && self.chance(5);
            if is_living && !is_taken {
                return;
            }
            self.note(|| format!("n{node} runs the projection of {}", STORES[store]));
            self.disk.positions[store].owner = Some(own);
        }
        // One that parks it here may not have written so yet.
        let is_known = self.nodes[node].projectors.get(&store).is_some_and(|projector| {
            projector.generation == row.generation && (projector.is_parked || !row.is_parked)
        });
        if !is_known {
            let (generation, position, is_parked) = (row.generation, row.position, row.is_parked);
            let projector = Projector { generation, position, is_parked, out: None };
            self.nodes[node].projectors.insert(store, projector);
        }
    }

    fn hand_next(&mut self, node: usize, store: usize) {
        let last = self.disk.last_position();
        let Some(projector) = self.nodes[node].projectors.get_mut(&store) else { return };
        if projector.out.is_none() && !projector.is_parked && projector.position < last {
            projector.out = Some((projector.position + 1, 1));
            self.hand(node, store);
        }
    }

    fn hand(&mut self, node: usize, store: usize) {
        if self.dies_now(node) {
            return;
        }
        let life = self.nodes[node].life;
        let Some(projector) = self.nodes[node].projectors.get(&store) else { return };
        let Some((position, attempt)) = projector.out else { return };
        let generation = projector.generation;
        let handing = Handing { node, life, store, generation, position, attempt };
        if self.bug == Some(Bug::WritesBeforeApplied) {
            self.write_position(node, store, position);
        }
        self.note(|| format!("n{node} hands event {position} to {}", STORES[store]));
        self.check_handing(&handing);
        let loss = self.climate.loss;
        if self.chance(loss) {
            let answered = Happening::Answered { to: handing, is_applied: false };
            return self.schedule(TIMEOUT, answered);
        }
        let delay = self.random.millis(1, 20);
        self.schedule(delay, Happening::Arrives(handing));
    }

    pub(super) fn arrives(&mut self, handing: Handing) {
        if !self.lives(handing.node, handing.life) {
            return;
        }
        let (trouble, loss) = (self.climate.trouble, self.climate.loss);
        let mut is_applied = !self.chance(trouble);
        if is_applied {
            let store = &mut self.stores[handing.store];
            store.history.push(handing.position);
            // One that was begun anew meanwhile gets it again in its turn.
            if self.disk.positions[handing.store].generation == handing.generation {
                store.applied.insert(handing.position);
            }
            is_applied = !self.chance(loss);
        }
        let delay = self.random.millis(1, 20);
        self.schedule(delay, Happening::Answered { to: handing, is_applied });
    }

    pub(super) fn answered(&mut self, to: &Handing, is_applied: bool) {
        if !self.lives(to.node, to.life) {
            return;
        }
        let is_applied = is_applied || self.bug == Some(Bug::LostIsApplied);
        let Some(projector) = self.nodes[to.node].projectors.get_mut(&to.store) else { return };
        let is_out = projector.out == Some((to.position, to.attempt));
        if projector.generation != to.generation || !is_out {
            return;
        }
        if is_applied {
            projector.out = None;
            projector.position = to.position;
            // Not each by itself: a page is written at its end.
            if to.position == self.disk.last_position() || self.random.chance(40) {
                self.write_position(to.node, to.store, to.position);
            }
            self.look_at_projections(to.node);
            if self.lives(to.node, to.life) {
                self.hand_next(to.node, to.store);
            }
        } else if to.attempt >= ATTEMPTS_MAX {
            projector.out = None;
            projector.is_parked = true;
            let position = projector.position;
            self.write_position(to.node, to.store, position);
        } else {
            projector.out = Some((to.position, to.attempt + 1));
            self.hand(to.node, to.store);
        }
    }

    fn write_position(&mut self, node: usize, store: usize, position: u64) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let Some(projector) = self.nodes[node].projectors.get(&store) else { return };
        let (generation, is_parked) = (projector.generation, projector.is_parked);
        self.append(node, Append::Position { store, owner, generation, position, is_parked });
    }

    /// Whatever stands is read again; what was not written is handed over again.
    pub(super) fn position_written(&mut self, node: usize, store: usize, answer: &Answer) {
        if *answer != Answer::Recorded {
            self.nodes[node].projectors.remove(&store);
        }
    }

    /// Somebody has a projection begun anew, while writes go on.
    pub(super) fn rebuild(&mut self, store: usize) {
        self.note(|| format!("the projection of {} is begun anew", STORES[store]));
        let row = &mut self.disk.positions[store];
        row.generation += 1;
        row.position = 0;
        row.is_parked = false;
        self.stores[store].applied.clear();
    }

    /// An operator lets what is parked go on.
    pub(super) fn redrive(&mut self) {
        for row in self.disk.positions.iter_mut().filter(|row| row.is_parked) {
            row.generation += 1;
            row.is_parked = false;
        }
    }
}
