//! What must hold in every run: on the way, and when everything is over.
//!
//! Not the world and not the rules. Each check names its invariant in words, for the trace.

use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::{Decision, OutcomeKind};
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::protocol::Input;
use unanimity::protocol::two_phase::{State, TwoPhase};
use unanimity::protocol::{Ask, Machine};

use super::journal::Append;
use super::store::{Kept, Store};
use super::world::{Address, World};

impl World {
    /// Record before you tell, the stores.
    pub(super) fn check_asking(&mut self, of: &Address, ask: Ask) {
        let stands = self.disk.decision(&of.id).or(self.row_decision(&of.id));
        if ask == Ask::Commit && stands != Some(Decision::Commit) {
            self.fail(format!("{} is told to commit without a durable decision", of.id));
        }
    }

    /// Record before you tell, the caller.
    pub(super) fn check_telling(&mut self, of: &Address, kind: OutcomeKind) {
        let row = self.row_decision(&of.id);
        let standing = self.disk.decision(&of.id).or(row);
        let against_row = row == Some(Decision::Commit) && !self.resolved.contains(&of.id);
        let has_writer = self.stores.iter().any(|store| store.promised.contains(&of.id));
        if kind == OutcomeKind::Committed && standing != Some(Decision::Commit) && has_writer {
            self.fail(format!("{} is told as committed, the journal has {standing:?}", of.id));
        }
        if kind == OutcomeKind::Aborted && (standing == Some(Decision::Commit) || against_row) {
            self.fail(format!("{} is told as aborted, the journal has {standing:?}", of.id));
        }
    }

    /// Callers are answered in their time, and nobody changes what it has prepared.
    pub(super) fn check_on_the_way(&mut self) {
        let now = self.now;
        let forgotten = self.nodes.iter().flat_map(|node| &node.driven).find(|(_, driven)| {
            let timeout = driven.machine.request().timeout;
            let is_late = now.since(driven.machine.began_at()) > timeout;
            driven.caller_waits && is_late && !driven.waits_for_record
        });
        if let Some((id, driven)) = forgotten {
            let words = format!(
                "the caller of {id} is not answered in time, state {:?}",
                driven.machine.state()
            );
            self.fail(words);
        }
    }

    /// An operator looks after what waits for him.
    pub(super) fn resolve_heuristics(&mut self) {
        if !self.operator_is_up() {
            return;
        }
        let mut waiting = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            for (id, driven) in &process.driven {
                if driven.machine.state() == State::Heuristic {
                    let decision =
                        decision_of(&driven.machine).expect("what is heuristic was decided");
                    let address = Address { node, id: id.clone(), run: driven.run };
                    waiting.push((address, decision));
                }
            }
        }
        for (address, decision) in waiting {
            let reason = "repaired by hand".to_owned();
            self.step(&address, Input::Resolved { decision, reason });
        }
    }

    pub(super) fn operator_decides(
        &mut self,
        request: usize,
        decision: Decision,
        in_journal: bool,
    ) {
        let id = self.requests[request].id.clone();
        if in_journal {
            self.operator_writes_abort(&id);
            return;
        }
        for node in 0..self.nodes.len() {
            let Some(driven) = self.nodes[node].driven.get(&id) else { continue };
            let state = driven.machine.state();
            let is_open = matches!(state, State::Proposing | State::Reading | State::InDoubt);
            let is_same = decision_of(&driven.machine) == Some(decision)
                && matches!(state, State::Committing | State::Aborting);
            if is_open || is_same || state == State::Preparing && decision == Decision::Abort {
                self.resolved.insert(id.clone());
                let address = Address { node, id: id.clone(), run: driven.run };
                let reason = "it takes too long".to_owned();
                self.step(&address, Input::Resolved { decision, reason });
                return;
            }
        }
    }

    /// From another process, under the epoch that stands. Never commit: without a decision in the
    /// journal abort is presumed, and somebody may have been told so.
    fn operator_writes_abort(&mut self, id: &CoordinationId) {
        let decision = Decision::Abort;
        let Some(row) = self.disk.rows.get(id) else { return };
        let is_over = row.decision.is_some() || row.outcome.is_some();
        // Where a last resource decides, the journal is not the place to do so first.
        if is_over || self.is_on_its_way(id) || self.last_resource(id).is_some() {
            return;
        }
        let record = Record::Decision {
            decision,
            reason: None,
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        let (epoch, at, durability) = (row.epoch, self.now, Durability::Forced);
        self.resolved.insert(id.clone());
        self.note(|| format!("an operator writes {decision:?} for {id} into the journal"));
        self.disk.write(&Append { id: id.clone(), epoch, at, record, durability, run: 0 });
    }

    /// A process that opens a journal comes after whatever was accepted by one that was alone.
    fn is_on_its_way(&self, id: &CoordinationId) -> bool {
        let mut appends =
            self.nodes.iter().flat_map(|node| node.queue.iter().chain(&node.committing));
        self.nodes.len() == 1 && appends.any(|append| append.id == *id)
    }

    pub(super) fn wish_abort(&mut self, request: usize, node: usize) {
        let id = self.requests[request].id.clone();
        if let Some(driven) = self.nodes[node].driven.get(&id) {
            let address = Address { node, id, run: driven.run };
            let reason = "changed my mind".to_owned();
            self.step(&address, Input::AbortRequested { reason });
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.what_is_open().is_empty()
    }

    /// Everything that is not over, in words.
    pub(super) fn what_is_open(&self) -> String {
        let mut open = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            for (id, driven) in &process.driven {
                open.push(format!("n{node} drives {id} in {:?}", driven.machine.state()));
            }
            if process.queue.len() + process.committing.len() > 0 {
                open.push(format!("n{node} has records on their way"));
            }
        }
        for (id, row) in &self.disk.rows {
            if row.outcome.is_none() {
                open.push(format!("{id} has no end"));
            }
        }
        for store in &self.stores {
            for (id, kept) in &store.kept {
                if matches!(kept, Kept::Prepared(_)) && !self.is_declared(store, id) {
                    open.push(format!("{id} is prepared at {}", store.name));
                }
            }
        }
        open.join("; ")
    }

    /// Whether the journal says that this store went its own way.
    fn is_declared(&self, store: &Store, id: &CoordinationId) -> bool {
        let row = self.disk.rows.get(id);
        row.is_some_and(|row| row.heuristics().any(|declared| *declared == store.name))
    }

    pub(super) fn check_the_end(&mut self) {
        let nodes = self.nodes.iter().flat_map(|node| node.driven.values());
        let rules: Vec<_> = nodes.flat_map(|driven| driven.machine.rules_taken()).collect();
        self.took(rules.into_iter());
        for request in self.requests.clone() {
            self.check_stores_agree(&request);
            self.check_what_was_told(&request);
            self.check_consensus_agrees(&request);
        }
    }

    fn check_stores_agree(&mut self, request: &CoordinationRequest) {
        let id = &request.id;
        let standing = self.disk.decision(id);
        let mut broken = Vec::new();
        for store in &self.stores {
            let is_committed = store.kept.get(id) == Some(&Kept::Committed);
            let should = standing == Some(Decision::Commit) && store.promised.contains(id);
            if self.is_declared(store, id) {
                if !store.heuristic.contains(id) && !self.resolved.contains(id) {
                    broken.push(format!("{} is declared to disagree on {id}, falsely", store.name));
                }
            } else if store.heuristic.contains(id) {
                // Of what died before its begin was on disk nobody knows, and nobody was told.
                if self.disk.rows.contains_key(id) {
                    broken.push(format!("{} went its own way on {id}, undeclared", store.name));
                }
            } else if is_committed != should {
                broken.push(format!(
                    "{} has committed {id}: {is_committed}, the journal has {standing:?}",
                    store.name
                ));
            }
        }
        if !broken.is_empty() {
            self.fail(broken.join("; "));
        }
    }

    /// What was decided is what the consensus service holds, unless an operator stepped in.
    fn check_consensus_agrees(&mut self, request: &CoordinationRequest) {
        let id = &request.id;
        let agreed = self.consensus.get(id).map(|(decision, _)| *decision);
        let standing = self.disk.decision(id);
        let is_free = !self.climate.has_consensus || self.resolved.contains(id);
        if !is_free && standing.is_some() && standing != agreed {
            self.fail(format!("{id}: {standing:?} stands, the consensus service has {agreed:?}"));
        }
    }

    fn check_what_was_told(&mut self, request: &CoordinationRequest) {
        let id = &request.id;
        let standing = self.disk.decision(id);
        let has_writer = self.stores.iter().any(|store| store.promised.contains(id));
        let is_committed = standing == Some(Decision::Commit);
        // An operator may decide against a row that somebody was told of before the crash.
        let against_row = request.last_resource().is_some() && self.resolved.contains(id);
        if self.is_told(id, OutcomeKind::Committed) && !is_committed && has_writer && !against_row {
            self.fail(format!("{id} was told as committed and is lost, {standing:?} stands"));
        }
        if self.is_told(id, OutcomeKind::Aborted) && is_committed {
            self.fail(format!("{id} was told as aborted and is committed"));
        }
    }
}

fn decision_of(machine: &TwoPhase) -> Option<Decision> {
    machine.view().decision
}
