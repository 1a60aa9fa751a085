//! What lies between processes, stores, the disk and the consensus service: delay, loss, echoes.
//!
//! Invariant (duty 3 of a caller): every question is answered exactly once as long as the process
//! that asked lives; an answer that got lost is told as unknown.

use std::time::Duration;

use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{Decision, Vote};
use unanimity::model::record::{Durability, Record};
use unanimity::model::time::Timestamp;
use unanimity::protocol::{Ask, Machine};
use unanimity::protocol::{Input, Standing};

use super::bugs::Bug;
use super::journal::{Answer, Append};
use super::store::Kept;
use super::world::{Address, Happening, Question, World, instance};

/// What is prepared for shorter than this may still be somebody's.
const SWEEP_AGE: Duration = Duration::from_secs(60);

impl World {
    pub(super) fn delay(&mut self) -> Duration {
        let hangs = self.climate.hangs;
        if self.chance(hangs) {
            self.random.millis(4_000, 200_000)
        } else if self.chance(5) {
            self.random.millis(500, 8_000)
        } else {
            self.random.millis(1, 20)
        }
    }

    pub(super) fn ask(&mut self, of: &Address, party: usize, ask: Ask, timeout: Duration) {
        let request = &self.nodes[of.node].driven[&of.id].machine.request().stores[party];
        let to = self.stores.iter().position(|store| store.name == *request);
        let to = to.expect("requests name only the world's stores");
        self.check_asking(of, ask);
        self.check_locks(of);
        if self.bug == Some(Bug::ReleasesTooEarly) && ask != Ask::Prepare {
            self.release_locks(of);
        }
        let question = Question {
            to,
            life: self.stores[to].life,
            asker: (of.node, self.nodes[of.node].life),
            party,
            ask,
            receipt: self.nodes[of.node].driven[&of.id].machine.receipt(party),
            of_use_until: self.now + timeout,
            from: Some(of.clone()),
            id: of.id.clone(),
        };
        let slow_prepares = self.climate.slow_prepares;
        let delay = match ask {
            Ask::Prepare if self.chance(slow_prepares) => self.random.millis(100, 6_000),
            _ => self.delay(),
        };
        if ask != Ask::Prepare && self.chance(4) {
            let echo = Question { from: None, ..question.clone() };
            self.schedule(delay + Duration::from_millis(3), Happening::Arrives(echo));
        }
        self.schedule(delay, Happening::Arrives(question));
    }

    pub(super) fn arrives(&mut self, question: Question) {
        let (to, party) = (question.to, question.party);
        let calm = self.is_calm();
        let (asker, life) = question.asker;
        if self.stores[to].is_inside && self.nodes[asker].life != life {
            return;
        }
        let is_over = self.disk.rows.get(&question.id).is_some_and(|row| row.outcome.is_some());
        let refuses = self.chance(1) && !is_over;
        let is_last = self.is_last(&question.id, party);
        let keeps_receipt = self.last_resource(&question.id).is_none();
        let (now, store) = (self.now, &mut self.stores[to]);
        let input = if store.life == question.life {
            match question.ask {
                Ask::Prepare if store.is_busy_for(&question.id) => {
                    if now < question.of_use_until {
                        let later = Duration::from_millis(200);
                        self.schedule(later, Happening::Arrives(question));
                        return;
                    }
                    Input::Voted { party, vote: Vote::Abort { reason: "it is busy".to_owned() } }
                }
                Ask::Prepare => {
                    let vote =
                        store.prepare(now, &question.id, (calm, keeps_receipt), &mut self.random);
                    Input::Voted { party, vote }
                }
                ask if is_last => {
                    let answer = store.told_as_last(&question.id, ask);
                    Input::Acknowledged { party, answer }
                }
                Ask::Commit => {
                    let answer = store.commit(&question.id, question.receipt.as_ref(), refuses);
                    Input::Acknowledged { party, answer }
                }
                Ask::Abort => {
                    let answer = store.abort(&question.id, refuses);
                    Input::Acknowledged { party, answer }
                }
            }
        } else {
            Self::lost(question.ask, party)
        };
        let (ask, id) = (question.ask, question.id);
        self.note(|| format!("   s{to} {id} {ask:?}: {input:?}"));
        if let Some(from) = question.from {
            let loss = self.climate.loss;
            let input = if self.chance(loss) { Self::lost(ask, party) } else { input };
            let delay = self.delay();
            self.schedule(delay, Happening::Answered { to: from, input });
        }
    }

    /// The last resource of a coordination: its index among the request's stores.
    pub(super) fn last_resource(&self, id: &CoordinationId) -> Option<usize> {
        self.requests.iter().find(|request| request.id == *id)?.last_resource()
    }

    fn is_last(&self, id: &CoordinationId, party: usize) -> bool {
        self.last_resource(id) == Some(party)
    }

    /// Proposes with the votes as evidence, as they stand then.
    pub(super) fn propose(&mut self, of: &Address, decision: Decision) {
        let Some(driven) = self.driven(of) else { return };
        let stores = driven.machine.view().stores.into_iter();
        let read_only = stores.filter(|store| store.vote.as_deref() == Some("READ_ONLY"));
        let read_only = read_only.map(|store| store.store).collect();
        let (from, is_answered, delay) = (of.clone(), true, self.delay());
        self.schedule(delay, Happening::Proposal { from, decision, read_only, is_answered });
    }

    pub(super) fn proposal(
        &mut self,
        from: Address,
        decision: Decision,
        read_only: Vec<StoreName>,
        is_answered: bool,
    ) {
        if is_answered && self.chance(15) {
            // It is away; the proposal may have reached it all the same, late.
            if self.chance(50) {
                let (from, is_answered) = (from.clone(), false);
                let later = self.random.millis(10, 9_000);
                let again = Happening::Proposal { from, decision, read_only, is_answered };
                self.schedule(later, again);
            }
            self.answer_soon(from, Input::Proposed { taken: false });
            return;
        }
        let first = self.consensus.entry(from.id.clone()).or_insert((decision, read_only));
        let standing = first.0;
        if is_answered {
            let lost = self.chance(10);
            self.answer_soon(from, Input::Proposed { taken: standing == decision && !lost });
        }
    }

    pub(super) fn read_decision(&mut self, from: Address) {
        let is_away = self.chance(25);
        let standing = match self.consensus.get(&from.id) {
            _ if is_away => Standing::Unknown,
            Some((decision, read_only)) => {
                Standing::Decided { decision: *decision, read_only: read_only.clone() }
            }
            None => Standing::Open,
        };
        self.answer_soon(from, Input::DecisionRead(standing));
    }

    fn answer_soon(&mut self, to: Address, input: Input) {
        let delay = self.random.millis(1, 20);
        self.schedule(delay, Happening::Answered { to, input });
    }

    /// Queues a record in its process.
    pub(super) fn append(&mut self, node: usize, append: Append) {
        let of = Address { node, id: append.id.clone(), run: append.run };
        // Alone on the journal, the order is certain before the disk has it.
        let at_once = append.durability == Durability::Accepted && self.nodes.len() == 1;
        let process = &self.nodes[node];
        let mut on_their_way = process.committing.iter().chain(&process.queue);
        // What follows an own begin that the disk does not have yet follows nobody else's.
        let answer = match on_their_way.any(|earlier| earlier.id == append.id) {
            true if matches!(append.record, Record::Begin { .. }) => Answer::Exists,
            true if !self.disk.rows.contains_key(&append.id) => Answer::Recorded,
            _ => self.disk.judge(&append),
        };
        if !(at_once && answer == Answer::Exists) {
            self.nodes[node].queue.push(append);
            self.plan_commit(node);
        }
        if at_once {
            self.recorded(&of, answer);
        }
    }

    fn plan_commit(&mut self, node: usize) {
        let (is_planned, life) = (self.nodes[node].commit_is_planned, self.nodes[node].life);
        let is_urgent =
            self.nodes[node].queue.iter().any(|append| append.durability != Durability::Lazy);
        if is_planned && !is_urgent || !self.nodes[node].committing.is_empty() {
            return;
        }
        self.nodes[node].commit_is_planned = true;
        let wait = Duration::from_millis(if is_urgent { 0 } else { 20 });
        self.schedule(wait, Happening::CommitStarts { node, life });
    }

    pub(super) fn commit_starts(&mut self, node: usize, life: u64) {
        let slow = self.chance(4);
        let process = &mut self.nodes[node];
        if process.life != life || !process.committing.is_empty() || process.queue.is_empty() {
            return;
        }
        process.committing = std::mem::take(&mut process.queue);
        let took = if slow { self.random.millis(300, 5_000) } else { self.random.millis(1, 5) };
        self.schedule(took, Happening::CommitEnds { node, life });
    }

    pub(super) fn commit_ends(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        self.nodes[node].commit_is_planned = false;
        let group = std::mem::take(&mut self.nodes[node].committing);
        if self.chance(4) {
            self.write_failed(node, group);
        } else {
            for append in group {
                self.write(node, &append);
            }
        }
        if self.nodes[node].life == life && !self.nodes[node].queue.is_empty() {
            self.plan_commit(node);
        }
    }

    /// Begins that wait are refused; everything else is written again until it stands.
    fn write_failed(&mut self, node: usize, group: Vec<Append>) {
        self.note(|| format!("n{node} cannot write its journal"));
        let alone = self.nodes.len() == 1;
        let is_refused = |append: &Append| {
            let was_answered = alone && append.durability == Durability::Accepted;
            matches!(append.record, Record::Begin { .. }) && !was_answered
        };
        let (refused, mut kept): (Vec<_>, Vec<_>) = group.into_iter().partition(is_refused);
        kept.append(&mut self.nodes[node].queue);
        self.nodes[node].queue = kept;
        for append in refused {
            let of = Address { node, id: append.id, run: append.run };
            self.recorded(&of, Answer::Failed);
        }
    }

    fn write(&mut self, node: usize, append: &Append) {
        let answer = self.disk.write(append);
        self.note(|| format!("disk {}: {} is {answer:?}", append.id, append.record.kind()));
        if answer == Answer::Recorded && matches!(append.record, Record::End { .. }) {
            self.forget(&append.id);
        }
        let at_once = append.durability == Durability::Accepted && self.nodes.len() == 1;
        if append.durability != Durability::Lazy && !at_once {
            let of = Address { node, id: append.id.clone(), run: append.run };
            self.recorded(&of, answer);
        }
    }

    /// The end is on disk: the stores' markers may go.
    pub(super) fn forget(&mut self, id: &CoordinationId) {
        for store in &mut self.stores {
            store.markers.remove(id);
            store.rows.retain(|row, (decision, _)| row != id || *decision == Decision::Abort);
        }
    }

    pub(super) fn node_dies(&mut self, node: usize) {
        let process = &mut self.nodes[node];
        if process.instance.take().is_none() || self.now >= Timestamp(60_000_000) {
            return;
        }
        process.life += 1;
        process.queue.clear();
        process.commit_is_planned = false;
        let group = std::mem::take(&mut process.committing);
        let driven = std::mem::take(&mut process.driven);
        for driven in driven.values() {
            self.took(driven.machine.rules_taken());
        }
        self.session_breaks(node, self.nodes[node].life - 1);
        let reached_disk = self.random.chance(50);
        self.note(|| format!("n{node} dies; its last group reached the disk: {reached_disk}"));
        if reached_disk {
            for append in &group {
                self.disk.write(append);
            }
        }
        for id in driven.keys() {
            self.is_dropped(id);
        }
        let pause = self.random.millis(50, 6_000);
        self.schedule(pause, Happening::NodeStarts { node });
    }

    pub(super) fn node_starts(&mut self, node: usize) {
        if self.nodes[node].instance.is_some() {
            return;
        }
        let name = instance(node, self.nodes[node].life);
        self.note(|| format!("n{node} starts as {name}"));
        self.nodes[node].instance = Some(name);
        if self.bug != Some(Bug::AdmitsBeforeRecovery) {
            self.adopt(node);
        }
    }

    /// Takes over what belongs to the dead, and rarely, by mistake, to the living.
    fn adopt(&mut self, node: usize) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let living: Vec<_> =
            self.nodes.iter().filter_map(|process| process.instance.clone()).collect();
        let open: Vec<(CoordinationId, u32, bool)> = self
            .disk
            .rows
            .iter()
            .filter(|(_, row)| row.outcome.is_none() && row.owner != owner)
            .map(|(id, row)| (id.clone(), row.epoch + 1, living.contains(&row.owner)))
            .collect();
        for (id, epoch, is_alive) in open {
            // A living process goes on with the stores inside of it, whoever owns the coordination.
            let can_be_far = self.stores.iter().all(|store| !store.is_inside);
            if is_alive && !(can_be_far && self.chance(3))
                || self.nodes[node].instance.as_ref() != Some(&owner)
            {
                continue;
            }
            self.note(|| format!("n{node} adopts {id}, epoch {epoch}, owner lives: {is_alive}"));
            let record = Record::Adopted { owner: owner.clone(), epoch };
            let (at, durability) = (self.now, Durability::Forced);
            self.disk.write(&Append { id: id.clone(), epoch, at, record, durability, run: 0 });
            self.resume(node, &id);
        }
    }

    pub(super) fn adopt_and_sweep(&mut self) {
        for node in 0..self.nodes.len() {
            self.adopt(node);
            if self.nodes[node].instance.is_some() && self.bug != Some(Bug::NeverSweeps) {
                self.sweep(node);
            }
        }
        self.resolve_heuristics();
    }

    /// Rolls back what is prepared although no coordination will ever tell it to commit.
    fn sweep(&mut self, node: usize) {
        for store in 0..self.stores.len() {
            let prepared = self.stores[store].kept.iter().filter_map(|(id, kept)| match kept {
                Kept::Prepared(since) => Some((id.clone(), *since)),
                Kept::Committed => None,
            });
            let prepared: Vec<_> = prepared.collect();
            for (id, since) in prepared {
                let is_old = self.now.since(since) > SWEEP_AGE;
                let is_over = match self.disk.rows.get(&id) {
                    None => !self.nodes[node].driven.contains_key(&id),
                    Some(row) => row.outcome.is_some() && row.decision != Some(Decision::Commit),
                };
                let sweeps = is_over || self.bug == Some(Bug::SweepsUndecided);
                if self.stores[store].lists_prepared && is_old && sweeps {
                    self.note(|| format!("n{node} sweeps {id} at s{store}"));
                    self.stores[store].abort(&id, false);
                }
            }
        }
    }
}
