//! The table as people and tests see it: holders, waits, who waits for whom.
//!
//! Not a step: nothing here changes anything. Invariant: what is listed is in an order that the
//! inputs alone decide: resources by name, holders by token, waits in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::queue::Queue;
use super::registry::Slot;
use super::{LockTable, NAMED_MAX};
use crate::model::lock::{LockId, LockInfo, LockMode, RequesterId, ResourceId};
use crate::protocol::claim::Claim;

impl LockTable {
    /// Who holds a resource, then who waits for it, in order; of all resources for `None`.
    pub fn status(&self, resource: Option<&ResourceId>) -> Vec<LockInfo> {
        self.queues_of(resource).into_iter().flat_map(|queue| self.infos(queue)).collect()
    }

    /// The claims on a resource in their order, as `protocol/claim.rs` judges them.
    pub fn claims(&self, resource: &ResourceId) -> Vec<Claim> {
        let Some(at) = self.queues.find(resource.as_str()) else { return Vec::new() };
        let queue = &self.queues[at];
        let holders = queue.holders.iter().map(|holder| (holder.requester, holder.mode));
        let waiters = queue.waiters.iter().map(|waiter| (waiter.requester, waiter.mode));
        let claim = |(slot, mode): (Slot, LockMode)| {
            let requester = &self.requesters[slot];
            Claim {
                requester: requester.name.clone(),
                mode,
                working_since: requester.working_since,
                is_protected: requester.is_protected,
            }
        };
        holders.chain(waiters).map(claim).collect()
    }

    /// For each requester that waits, those that it waits for.
    pub fn wait_for_graph(&self) -> BTreeMap<RequesterId, Vec<RequesterId>> {
        let mut graph: BTreeMap<RequesterId, BTreeSet<RequesterId>> = BTreeMap::new();
        for (_, queue) in self.queues.iter() {
            for (place, waiter) in queue.waiters.iter().enumerate() {
                let name = self.requesters[waiter.requester].name.clone();
                let blockers = queue.in_the_way(Some(waiter.requester), waiter.mode, place);
                let names = blockers.map(|slot| self.requesters[slot].name.clone());
                graph.entry(name).or_default().extend(names);
            }
        }
        let listed =
            |(waiter, blockers): (_, BTreeSet<_>)| (waiter, blockers.into_iter().collect());
        graph.into_iter().map(listed).collect()
    }

    /// How many asks wait.
    pub fn waiting(&self) -> usize {
        self.waits.len()
    }

    /// Whether nothing is held and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.queues.iter().next().is_none()
    }

    fn queues_of(&self, resource: Option<&ResourceId>) -> Vec<&Queue> {
        if let Some(name) = resource {
            let found = self.queues.find(name.as_str());
            return found.map(|at| &self.queues[at]).into_iter().collect();
        }
        let mut queues: Vec<&Queue> = self.queues.iter().map(|(_, queue)| queue).collect();
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        queues
    }

    fn infos<'a>(&'a self, queue: &'a Queue) -> impl Iterator<Item = LockInfo> + 'a {
        let name = |slot: Slot| self.requesters[slot].name.clone();
        let held = queue.holders.iter().enumerate().map(move |(position, holder)| LockInfo {
            resource: queue.name.clone(),
            mode: holder.mode,
            requester: name(holder.requester),
            lock_id: Some(LockId::new(&queue.name, holder.mode, holder.token)),
            position,
            since: holder.since,
            expires_at: holder.until,
            fencing_token: Some(holder.token),
        });
        let waiting = queue.waiters.iter().enumerate().map(move |(position, waiter)| LockInfo {
            resource: queue.name.clone(),
            mode: waiter.mode,
            requester: name(waiter.requester),
            lock_id: None,
            position,
            since: waiter.since,
            expires_at: waiter.until,
            fencing_token: None,
        });
        held.chain(waiting)
    }

    /// Who is in the way, for people.
    pub(super) fn told_blockers(
        &self,
        at: Slot,
        requester: Option<Slot>,
        (mode, ahead): (LockMode, usize),
    ) -> String {
        let mut slots: Vec<Slot> = Vec::new();
        for slot in self.queues[at].in_the_way(requester, mode, ahead) {
            if !slots.contains(&slot) {
                slots.push(slot);
            }
            // Nobody reads more, and a long queue would make every refusal dear.
            if slots.len() > NAMED_MAX {
                break;
            }
        }
        let mut told = String::new();
        for (place, slot) in slots.iter().take(NAMED_MAX).enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let _ = write!(told, "{comma}'{}'", self.requesters[*slot].name);
        }
        if slots.len() > NAMED_MAX {
            told.push_str(" and others");
        }
        told
    }
}
