//! When a run is over, and what has to be true then.
//!
//! Invariants: every coordination that began ends, and nothing stays prepared or locked; each store
//! did what was decided; what somebody was told stands; every node knows everything that anybody
//! was told of.

use super::store::Kept;
use super::world::{NAMES, World};
use crate::cluster::ReplicatedLog as _;
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Decision, OutcomeKind};
use crate::protocol::replica::Replica;

impl World {
    fn replica_of(&self, node: usize) -> Option<Replica> {
        let process = self.nodes[node].process.as_ref()?;
        let mut copy = None;
        process.log.glance(&mut |replica| copy = Some(replica.clone()));
        copy
    }

    pub(super) fn is_over(&self) -> bool {
        self.what_is_open().is_empty()
    }

    /// Everything that is not over, in words.
    pub(super) fn what_is_open(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (node, name) in NAMES.iter().enumerate() {
            let Some(process) = &self.nodes[node].process else {
                open.push(format!("{name} does not run"));
                continue;
            };
            open.extend(self.driven_by(node));
            if !process.locks.is_idle() {
                open.push(format!("{name} {}", process.locks.told()));
            }
            let Some(replica) = self.replica_of(node) else { continue };
            if replica.applied().index < self.witness.floor() {
                let (index, floor) = (replica.applied().index, self.witness.floor());
                open.push(format!("{name} is at {index}, and {floor} is lost"));
            }
            let without_end = replica.open_coordinations();
            open.extend(without_end.map(|it| format!("{} has no end", it.request.id)));
            if !replica.lock_table().is_empty() {
                open.push(format!("{name} has locks: {:?}", replica.lock_table()));
            }
        }
        for store in &self.stores {
            let prepared = store.kept.iter().filter(|(_, kept)| matches!(kept, Kept::Prepared(_)));
            open.extend(prepared.map(|(id, _)| format!("{id} is prepared at {}", store.name)));
        }
        open
    }

    /// All nodes run, and are level with what was told: their states are compared entry by entry on
    /// the way.
    pub(super) fn check_the_end(&mut self) -> Result<(), String> {
        let decisions = self.witness.lock().decisions.clone();
        for (node, name) in NAMES.iter().enumerate() {
            let Some(replica) = self.replica_of(node) else { continue };
            for (id, (decision, index)) in &decisions {
                let standing = replica.decision(id).map(|made| made.decision);
                if standing != Some(*decision) {
                    return Err(format!(
                        "the decision on {id}, {decision:?} in {index}, is lost on {name}: \
                         {standing:?}"
                    ));
                }
            }
        }
        for id in self.requests.iter().map(|request| request.id.clone()) {
            let decision = decisions.get(&id).map(|(decision, _)| *decision);
            self.check_stores(&id, decision)?;
            self.check_told(&id, decision)?;
        }
        Ok(())
    }

    fn check_stores(&self, id: &CoordinationId, decision: Option<Decision>) -> Result<(), String> {
        for store in &self.stores {
            let is_committed = store.kept.get(id) == Some(&Kept::Committed);
            let should = decision == Some(Decision::Commit) && store.promised.contains(id);
            if is_committed != should {
                return Err(format!(
                    "{} has committed {id}: {is_committed}, and {decision:?} stands",
                    store.name
                ));
            }
        }
        Ok(())
    }

    fn check_told(&self, id: &CoordinationId, decision: Option<Decision>) -> Result<(), String> {
        let told = self.told.get(id).map(Vec::as_slice).unwrap_or_default();
        let has_writer = self.stores.iter().any(|store| store.promised.contains(id));
        let is_committed = decision == Some(Decision::Commit);
        if told.contains(&OutcomeKind::Committed) && !is_committed && has_writer {
            return Err(format!("{id} was told as committed and is lost"));
        }
        if told.contains(&OutcomeKind::Aborted) && is_committed {
            return Err(format!("{id} was told as aborted and is committed"));
        }
        Ok(())
    }
}
