//! Which applied-markers may go: those of coordinations whose end is on disk.
//!
//! A marker that went before the end record was durable would turn a repeated commit, after a
//! crash, into "never prepared". So an end waits here until some later record of this process is
//! known to be on disk (the journal keeps one order), and markers are then dropped in batches.
//! Invariant: `waiting` is sorted by sequence.

use std::collections::{HashMap, VecDeque};

use crate::model::ids::{CoordinationId, StoreName};

use super::core::Core;

const BATCH: usize = 64;

#[derive(Default)]
pub(super) struct Forgettable {
    waiting: VecDeque<(u64, CoordinationId, Vec<StoreName>)>,
    ready: HashMap<StoreName, Vec<CoordinationId>>,
}

impl Forgettable {
    /// The end record of `id` is the process's append number `sequence`.
    pub(super) fn ended(&mut self, sequence: u64, id: CoordinationId, stores: Vec<StoreName>) {
        self.waiting.push_back((sequence, id, stores));
    }

    /// Everything up to the append number `sequence` is on disk.
    pub(super) fn durable(&mut self, core: &Core, sequence: u64) {
        while self.waiting.front().is_some_and(|(ended, ..)| *ended < sequence) {
            let Some((_, id, stores)) = self.waiting.pop_front() else { break };
            for store in stores {
                let ids = self.ready.entry(store).or_default();
                ids.push(id.clone());
            }
        }
        self.send(core, BATCH);
    }

    /// Tells every store that has at least `least` markers to drop.
    pub(super) fn send(&mut self, core: &Core, least: usize) {
        for (store, ids) in &mut self.ready {
            if ids.len() >= least.max(1)
                && let Some(participant) = core.ports.store(store)
            {
                participant.forget(std::mem::take(ids));
            }
        }
    }
}
