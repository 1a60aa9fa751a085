//! What must hold in every run: at every handing over, at every write, and when everything is over.
//!
//! Not the world and not the rules. Each check names its invariant in words, for the trace. All
//! compare what is done with what is on the disk, since that is all that a crash leaves.

use std::collections::BTreeMap;

use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::OutcomeKind;
use unanimity::model::stream::EventDraft;
use unanimity::protocol::Machine;

use super::process::Address;
use super::projecting::Handing;
use super::world::{STORES, World};

impl World {
    /// Versions without a gap, events of one coordination together and whole, and behind the
    /// versions that it expected.
    pub(super) fn check_events(&mut self) {
        let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
        let mut trouble = None;
        for (at, event) in self.disk.events.iter().enumerate() {
            let version = versions.entry(&event.stream).or_default();
            let Some(row) = self.disk.rows.get(&event.of) else {
                trouble = Some(format!("an event of {} stands without its begin", event.of));
                break;
            };
            let draft = EventDraft::of(&row.request.operations[event.operation]);
            let expected = draft.ok().and_then(|draft| draft.expected_version);
            let own = &self.disk.events[at - event.operation.min(at)..at];
            let is_first = own.iter().all(|other| other.stream != event.stream);
            if is_first && expected.is_some_and(|expected| expected != *version) {
                trouble = Some(format!("{} stands behind version {version}", event.of));
            }
            *version += 1;
            if event.version != *version {
                trouble = Some(format!("{} has a gap before {}", event.stream, event.version));
            }
        }
        for (id, row) in &self.disk.rows {
            let own = |at: &usize| self.disk.events[*at].of == *id;
            let places: Vec<usize> = (0..self.disk.events.len()).filter(own).collect();
            let is_together = places.windows(2).all(|pair| pair[0] + 1 == pair[1]);
            if !is_together || places.len() != row.request.operations.len() {
                trouble = Some(format!("the events of {id} stand at {places:?}"));
            }
        }
        if let Some(trouble) = trouble {
            self.fail(trouble);
        }
    }

    /// One process at a time, in order, and no event left out.
    pub(super) fn check_handing(&mut self, handing: &Handing) {
        let (name, position) = (STORES[handing.store], handing.position);
        let row = &self.disk.positions[handing.store];
        if row.owner != self.nodes[handing.node].instance {
            return self.fail(format!("{name} is handed event {position} by another process"));
        }
        let reached = self.stores[handing.store].reached();
        if row.generation == handing.generation && position > reached + 1 {
            self.fail(format!("{name} is handed event {position} and has {reached} only"));
        }
    }

    /// What is written is never ahead of what the store has.
    pub(super) fn check_position(&mut self, store: usize, position: u64) {
        let reached = self.stores[store].reached();
        if position > reached {
            self.fail(format!(
                "{} is written to be at {position}, and is at {reached}",
                STORES[store]
            ));
        }
    }

    /// An end means that every store was handed the events; what was begun anew since counts.
    pub(super) fn check_ending(&mut self, id: &CoordinationId) {
        let Some(row) = self.disk.rows.get(id) else {
            return self.fail(format!("{id} ends, and nothing is on disk"));
        };
        let own = row.through - row.request.operations.len() as u64 + 1..=row.through;
        for (store, name) in STORES.iter().enumerate() {
            let is_asked = row.request.stores.iter().any(|asked| asked.as_str() == *name);
            let history = &self.stores[store].history;
            if is_asked && !own.clone().all(|position| history.contains(&position)) {
                return self.fail(format!("{id} ends before {name} has its events"));
            }
        }
    }

    /// Record before you tell, the caller.
    pub(super) fn check_telling(&mut self, of: &Address, kind: OutcomeKind) {
        let stands = self.disk.rows.contains_key(&of.id);
        match kind {
            OutcomeKind::Committed if !stands => {
                self.fail(format!("{} is told as committed, and is not on disk", of.id));
            }
            OutcomeKind::Aborted if stands => {
                self.fail(format!("{} is told as aborted, and is on disk", of.id));
            }
            _ => {}
        }
    }

    /// Callers are answered in their time.
    pub(super) fn check_callers(&mut self) {
        let now = self.now;
        let forgotten = self.nodes.iter().flat_map(|node| &node.driven).find(|(_, driven)| {
            let waited = now.since(driven.held.machine.began_at());
            let patience =
                driven.held.machine.request().timeout + std::time::Duration::from_secs(2);
            driven.caller_waits && waited > patience && !driven.held.waits_for_record
        });
        if let Some((id, _)) = forgotten {
            self.fail(format!("the caller of {id} is not answered in time"));
        }
    }

    /// Everything that is not over, in words.
    pub(super) fn what_is_open(&self) -> String {
        let mut open = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            open.extend(process.driven.keys().map(|id| format!("n{node} drives {id}")));
            if process.queue.len() + process.committing.len() > 0 {
                open.push(format!("n{node} has records on their way"));
            }
        }
        for (id, row) in &self.disk.rows {
            if row.outcome.is_none() {
                open.push(format!("{id} has no end"));
            }
        }
        for (name, row) in STORES.iter().zip(&self.disk.positions) {
            if row.position < self.disk.last_position() {
                open.push(format!("{name} is at {}", row.position));
            }
        }
        open.join("; ")
    }

    pub(super) fn check_the_end(&mut self) {
        let last = self.disk.last_position();
        for (store, name) in STORES.iter().enumerate() {
            if self.stores[store].reached() != last {
                let reached = self.stores[store].reached();
                return self.fail(format!("{name} has {reached} of {last} events"));
            }
        }
        let told: Vec<_> =
            self.told.iter().map(|(id, kinds)| (id.clone(), kinds.clone())).collect();
        for (id, kinds) in told {
            let stands = self.disk.rows.contains_key(&id);
            if !stands && kinds.contains(&OutcomeKind::Committed) {
                return self.fail(format!("{id} was told as committed, and does not stand"));
            }
        }
    }
}
