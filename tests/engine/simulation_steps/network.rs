//! What lies between processes, participants, the disk and the consensus service: delay, loss,
//! echoes, and the lives of processes.
//!
//! Invariant (duty 3 of a caller): every question is answered at least once as long as the process
//! that asked lives; an answer that got lost is told as unknown. Later ones are echoes, which the
//! machines have to ignore.

use std::time::Duration;

use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::Decision;
use unanimity::model::record::{Durability, Reason, Record};
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::time::Timestamp;
use unanimity::protocol::saga::Undo;
use unanimity::protocol::{Input, Standing};

use crate::support::driving::Driving;

use super::bugs::Bug;
use super::disk::{Answer, Append};
use super::world::{Address, CALM_AT, Happening, Kind, Question, World, instance};

impl World {
    pub(super) fn ask(&mut self, of: &Address, asked: (usize, Work, u32), timeout: Duration) {
        self.check_asking(of, asked);
        let (step, work, attempt) = asked;
        if let Some(driven) = self.driven(of)
            && work == Work::Execute
        {
            driven.out.insert((step, attempt));
        }
        let life = self.nodes[of.node].life;
        let question = Question { from: of.clone(), life, step, work, attempt };
        let has_barrier = self.participants.has_barrier;
        let (hangs, loss) = (self.climate.hangs, self.climate.loss);
        let mut delay = self.random.millis(1, 20);
        if self.chance(5) {
            delay = self.random.millis(100, 1_500);
        }
        if self.chance(hangs) {
            delay = timeout + self.random.millis(1, 5_000);
        }
        let is_late = delay >= timeout;
        if is_late || self.chance(loss) {
            let words = "no answer came in time".to_owned();
            let answer = StepAnswer::Unknown { message: words };
            let input = Input::StepAnswered { step, work, attempt, answer };
            self.schedule(timeout, Happening::Answered { to: of.clone(), input });
            // Without a barrier nothing may be done when nobody reckons with it any more.
            if is_late && has_barrier {
                self.send(delay, question);
            }
            return;
        }
        if has_barrier && self.chance(4) {
            let echo = delay + self.random.millis(1, 3_000);
            self.send(echo, question.clone());
        }
        self.send(delay, question);
    }

    fn send(&mut self, delay: Duration, question: Question) {
        let key = (question.from.id.clone(), question.step);
        self.participants.cell(&key).on_the_way += 1;
        self.schedule(delay, Happening::Arrives(question));
    }

    pub(super) fn arrives(&mut self, question: &Question) {
        let Question { from, life, step, work, attempt } = question;
        let key = (from.id.clone(), *step);
        self.participants.cell(&key).on_the_way -= 1;
        if !self.participants.has_barrier && self.nodes[from.node].life != *life {
            return;
        }
        let calm = self.is_calm() || !self.climate.trouble;
        let cannot = *work == Work::Compensate && self.undo_of(&from.id, *step) == Undo::Impossible;
        let (mut answer, ran) = if cannot {
            let message = "it has no compensation".to_owned();
            (StepAnswer::Failed { message, retryable: false }, false)
        } else {
            self.participants.ask(&key, (*work, *attempt), calm, &mut self.random)
        };
        let word = work.as_str();
        self.note(|| format!("   {} o{step} {word} {attempt}: {answer:?}, ran: {ran}", from.id));
        if ran {
            self.check_run(&key);
        }
        let loss = self.climate.loss;
        if self.chance(loss) {
            answer = StepAnswer::Unknown { message: "the answer got lost".to_owned() };
        }
        let (step, work, attempt) = (*step, *work, *attempt);
        let input = Input::StepAnswered { step, work, attempt, answer };
        let delay = self.random.millis(1, 20);
        self.schedule(delay, Happening::Answered { to: from.clone(), input });
    }

    pub(super) fn undo_of(&self, id: &CoordinationId, step: usize) -> Undo {
        self.steps.get(id).map_or(Undo::Nothing, |steps| steps[step].undo)
    }

    pub(super) fn acquire(&mut self, of: &Address, is_for_ever: bool) {
        if self.bug == Some(Bug::AsksBeforeLocked) {
            let tokens = vec![1; self.driven(of).map_or(0, |it| it.held.machine.locks().len())];
            let (to, input) = (of.clone(), Input::Locked { tokens });
            return self.schedule(Duration::ZERO, Happening::Answered { to, input });
        }
        let is_slow = self.chance(5) && !is_for_ever;
        let delay =
            if is_slow { self.random.millis(500, 5_000) } else { self.random.millis(1, 50) };
        let refused = self
            .chance(10)
            .then(|| Reason::new("transaction.aborted.lock_timeout", "somebody else has it"));
        self.schedule(delay, Happening::LocksAnswered { to: of.clone(), refused });
    }

    pub(super) fn locks_answered(&mut self, to: &Address, refused: Option<Reason>) {
        let is_to_be_lost = self.chance(10);
        let Some(driven) = self.driven(to) else { return };
        if let Some(reason) = refused {
            return self.step(to, Input::LockRefused { reason });
        }
        driven.has_locks = true;
        let tokens = vec![1; driven.held.machine.locks().len()];
        self.step(to, Input::Locked { tokens });
        if is_to_be_lost {
            let delay = self.random.millis(1, 2_000);
            let message = "the session ended".to_owned();
            let (to, input) = (to.clone(), Input::LockLost { message });
            self.schedule(delay, Happening::Answered { to, input });
        }
    }

    pub(super) fn proposal(&mut self, from: Address, decision: Decision, is_answered: bool) {
        if is_answered && self.chance(15) {
            // It is away; the proposal may have reached it all the same, late.
            if self.chance(50) {
                let later = self.random.millis(10, 9_000);
                let from = from.clone();
                self.schedule(later, Happening::Proposal { from, decision, is_answered: false });
            }
            return self.answer_soon(from, Input::Proposed { taken: false });
        }
        let standing = *self.consensus.entry(from.id.clone()).or_insert(decision);
        if is_answered {
            let is_lost = self.chance(10);
            self.answer_soon(from, Input::Proposed { taken: standing == decision && !is_lost });
        }
    }

    pub(super) fn read_decision(&mut self, from: Address) {
        let is_away = self.chance(25);
        let standing = match self.consensus.get(&from.id) {
            _ if is_away => Standing::Unknown,
            Some(decision) => Standing::Decided { decision: *decision, read_only: Vec::new() },
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
        self.nodes[node].queue.push(append);
        self.plan_commit(node);
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
        let is_slow = self.chance(4);
        let process = &mut self.nodes[node];
        if process.life != life || !process.committing.is_empty() || process.queue.is_empty() {
            return;
        }
        process.committing = std::mem::take(&mut process.queue);
        let took = if is_slow { self.random.millis(300, 5_000) } else { self.random.millis(1, 5) };
        self.schedule(took, Happening::CommitEnds { node, life });
    }

    pub(super) fn commit_ends(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        self.nodes[node].commit_is_planned = false;
        let group = std::mem::take(&mut self.nodes[node].committing);
        for append in &group {
            let answer = self.disk.write(append);
            let kind = append.record.kind();
            self.note(|| format!("disk {}: {kind} is {answer:?}", append.id));
            // An own record that comes behind an own begin which was refused is of no use.
            if append.durability != Durability::Lazy && self.nodes[node].life == life {
                let of = Address { node, id: append.id.clone(), run: append.run };
                self.recorded(&of, answer);
            }
        }
        if self.nodes[node].life == life && !self.nodes[node].queue.is_empty() {
            self.plan_commit(node);
        }
    }

    pub(super) fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].life == life && self.nodes[node].instance.is_some()
    }

    pub(super) fn node_dies(&mut self, node: usize) {
        let is_calm = self.is_calm();
        let process = &mut self.nodes[node];
        if is_calm || process.instance.take().is_none() {
            return;
        }
        process.life += 1;
        process.queue.clear();
        process.driven.clear();
        process.lines = unanimity::protocol::key_order::KeyOrder::default();
        process.commit_is_planned = false;
        let mut group = std::mem::take(&mut process.committing);
        // Whatever part of its last group reached the disk.
        group.truncate(self.random.below(group.len() + 1));
        self.note(|| format!("n{node} dies; {} records reached the disk", group.len()));
        for append in &group {
            self.disk.write(append);
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
        if self.bug == Some(Bug::AdmitsBeforeRecovery) && !self.is_calm() {
            self.accepting = Some((node, self.nodes[node].life));
            return;
        }
        self.adopt(node);
    }

    /// Takes over what belongs to the dead, in the order of acceptance; rarely, by mistake, what
    /// belongs to the living. Then it accepts, if nobody else does.
    pub(super) fn adopt(&mut self, node: usize) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let life = self.nodes[node].life;
        let living: Vec<_> =
            self.nodes.iter().filter_map(|process| process.instance.clone()).collect();
        let rows = self.disk.rows.iter();
        let mut open: Vec<(usize, CoordinationId, u32, bool)> = rows
            .filter(|(_, row)| row.outcome.is_none() && row.owner != owner)
            .map(|(id, row)| (row.order, id.clone(), row.epoch + 1, living.contains(&row.owner)))
            .collect();
        open.sort();
        if self.kind == Kind::Eventual
            && self.accepting.is_some_and(|(other, its)| other != node && self.lives(other, its))
        {
            // What was accepted stays in one order: with the process that accepts.
            return;
        }
        for (_, id, epoch, is_alive) in open {
            let by_mistake = is_alive
                && self.kind == Kind::Saga
                && self.participants.has_barrier
                && self.chance(3);
            if is_alive && !by_mistake || !self.lives(node, life) {
                continue;
            }
            if self.bug == Some(Bug::NeverRecovers) && self.disk.decision(&id).is_none() {
                continue;
            }
            self.note(|| format!("n{node} adopts {id}, epoch {epoch}, owner lives: {is_alive}"));
            let record = Record::Adopted { owner: owner.clone(), epoch };
            let (at, durability) = (self.now, Durability::Forced);
            self.disk.write(&Append { id: id.clone(), epoch, at, record, durability, run: 0 });
            self.resume(node, &id);
        }
        if self.lives(node, life) && self.accepting.is_none_or(|(it, its)| !self.lives(it, its)) {
            self.accepting = Some((node, life));
        }
    }

    /// How long ago it became calm.
    pub(super) fn calm_for(&self) -> Duration {
        self.now.since(Timestamp(0) + CALM_AT)
    }

    pub(super) fn is_decided(&self, id: &CoordinationId, answer: Decision) -> bool {
        self.disk.decision(id) == Some(answer)
    }

    pub(super) fn write_as_operator(&mut self, id: &CoordinationId, record: Record) -> Answer {
        let epoch = self.disk.rows[id].epoch;
        let (at, durability) = (self.now, Durability::Forced);
        self.disk.write(&Append { id: id.clone(), epoch, at, record, durability, run: 0 })
    }
}
