//! A simulated process: it drives machines exactly as `unanimity::protocol` tells a caller to.
//!
//! Effects wait behind the record that they stand behind; answers go back to who asked. Not the
//! engine: there are no threads, and no real participant. The duties are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::Outcome;
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::eventual::{self, Eventual};
use unanimity::protocol::key_order::{KeyOrder, TurnKey};
use unanimity::protocol::lock_plan::locks_of;
use unanimity::protocol::retry::Backoff;
use unanimity::protocol::saga::{self, Saga};
use unanimity::protocol::{Coordination, Effect, Input, Machine};

use crate::support::driving::{DriverBug, Driving, Held};

use super::bugs::Bug;
use super::disk::{Answer, Append};
use super::world::{Address, Happening, Kind, World};

/// A machine with what it holds back.
pub(super) struct Driven {
    pub(super) held: Held<Coordination>,
    /// Somebody waits for its outcome and has not been told.
    pub(super) caller_waits: bool,
    /// The tries that are out.
    pub(super) out: BTreeSet<(usize, u32)>,
    pub(super) has_locks: bool,
    turns: Arc<[TurnKey]>,
    /// The lines in which it stands.
    lines: BTreeSet<usize>,
}

/// One process; without an instance it is dead.
#[derive(Default)]
pub(super) struct Node {
    pub(super) instance: Option<InstanceId>,
    pub(super) life: u64,
    pub(super) driven: BTreeMap<CoordinationId, Driven>,
    pub(super) lines: KeyOrder<u64>,
    /// Records that are not on the disk.
    pub(super) queue: Vec<Append>,
    pub(super) committing: Vec<Append>,
    pub(super) commit_is_planned: bool,
}

fn backoff(seed: u32) -> Backoff {
    let (base, cap) = (Duration::from_millis(50), Duration::from_secs(5));
    Backoff { base, cap, seed: u64::from(seed) }
}

impl Driving for World {
    type Address = Address;
    type Machine = Coordination;

    fn machine(held: &mut Held<Coordination>) -> &mut dyn Machine {
        &mut *held.machine
    }

    fn held(&mut self, of: &Address) -> Option<&mut Held<Coordination>> {
        self.driven(of).map(|driven| &mut driven.held)
    }

    fn time(&self) -> Timestamp {
        self.now
    }

    fn has_bug(&self, bug: DriverBug) -> bool {
        self.bug
            == Some(match bug {
                DriverBug::CutIgnored => Bug::CutIgnored,
                DriverBug::TimeStandsStill => Bug::TimeStandsStill,
            })
    }

    fn note_of(&mut self, of: &Address, text: &str) {
        self.note(|| format!("n{} {}: {text}", of.node, of.id));
    }

    fn break_with(&mut self, invariant: String) {
        self.fail(invariant);
    }

    fn is_struck(&mut self, of: &Address) -> bool {
        self.dies_now(of.node)
    }

    fn carry_out(&mut self, of: &Address, effect: Effect) {
        Self::carry_out(self, of, effect);
    }

    fn plan_time(&mut self, of: Address, delay: Duration) {
        self.schedule(delay, Happening::Time { of });
    }
}

impl World {
    fn saga_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> saga::Plan {
        saga::Plan {
            request: Arc::clone(request),
            owner,
            epoch,
            steps: self.steps[&request.id].clone(),
            locks: locks_of(request).into(),
            consensus: self.climate.has_consensus,
            lock_timeout: Duration::from_secs(2),
            step_timeout: Duration::from_secs(2),
            abort_wait: Duration::from_secs(1),
            backoff: backoff(epoch),
        }
    }

    fn eventual_plan(
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> eventual::Plan {
        eventual::Plan {
            steps: eventual::check(request).expect("it is drawn to be right"),
            request: Arc::clone(request),
            owner,
            epoch,
            step_timeout: Duration::from_secs(2),
            backoff: backoff(epoch),
        }
    }

    pub(super) fn begin(&mut self, number: usize) {
        let Some((node, _)) = self.accepting.filter(|(node, life)| self.lives(*node, *life)) else {
            // Nobody is there; whoever asks tries again.
            return self
                .schedule(Duration::from_millis(300), Happening::Request { request: number });
        };
        let request = Arc::clone(&self.requests[number]);
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        if self.nodes[node].driven.contains_key(&request.id) {
            return;
        }
        let machine = match self.kind {
            Kind::Saga => {
                let plan = self.saga_plan(&request, owner, 0);
                Coordination::Saga(Box::new(Saga::new(plan, self.now)))
            }
            Kind::Eventual => {
                let plan = Self::eventual_plan(&request, owner, 0);
                Coordination::Eventual(Box::new(Eventual::new(plan, self.now)))
            }
        };
        self.drive(node, machine, true, Input::Started);
    }

    pub(super) fn resume(&mut self, node: usize, id: &CoordinationId) {
        let row = &self.disk.rows[id];
        let is_seen = |record: &Record| {
            !matches!(
                (record, self.bug),
                (Record::StepStarted { .. }, Some(Bug::RecoveryForgetsTries))
                    | (Record::StepDone { .. }, Some(Bug::RecoveryForgetsDone))
                    | (Record::Decision { .. }, Some(Bug::RecoveryForgetsDecision))
            )
        };
        let records: Vec<_> =
            row.records.iter().filter(|(_, record)| is_seen(record)).cloned().collect();
        let (request, owner, epoch) = (Arc::clone(&row.request), row.owner.clone(), row.epoch);
        let machine = match self.kind {
            Kind::Saga => {
                let plan = self.saga_plan(&request, owner, epoch);
                Coordination::Saga(Box::new(Saga::from_records(plan, &records)))
            }
            Kind::Eventual => {
                let plan = Self::eventual_plan(&request, owner, epoch);
                Coordination::Eventual(Box::new(Eventual::from_records(plan, &records)))
            }
        };
        self.drive(node, machine, false, Input::Resumed);
    }

    fn drive(&mut self, node: usize, machine: Coordination, caller_waits: bool, input: Input) {
        self.runs += 1;
        let id = machine.request().id.clone();
        let address = Address { node, id: id.clone(), run: self.runs };
        let driven = Driven {
            held: Held::new(machine, self.runs),
            caller_waits,
            out: BTreeSet::new(),
            has_locks: false,
            turns: Arc::default(),
            lines: BTreeSet::new(),
        };
        if let Some(before) = self.nodes[node].driven.get(&id).map(|driven| driven.held.run) {
            self.close(&Address { node, id: id.clone(), run: before });
        }
        self.nodes[node].driven.insert(id, driven);
        self.step(&address, input);
    }

    pub(super) fn driven(&mut self, of: &Address) -> Option<&mut Driven> {
        let driven = self.nodes[of.node].driven.get_mut(&of.id)?;
        (driven.held.run == of.run).then_some(driven)
    }

    /// A process may die before and after each of its acts.
    fn dies_now(&mut self, node: usize) -> bool {
        let dies = !self.is_calm()
            && self.deaths_left > 0
            && self.random.below(1_000) < self.climate.deaths_per_mille;
        if dies {
            self.deaths_left -= 1;
            self.node_dies(node);
        }
        dies
    }

    fn carry_out(&mut self, of: &Address, effect: Effect) {
        self.note(|| format!("n{} {}: does {effect:?}", of.node, of.id));
        match effect {
            Effect::Record { record, durability } => self.record(of, record, durability),
            Effect::Acquire { timeout, .. } => self.acquire(of, timeout.is_none()),
            Effect::Release => {
                if let Some(driven) = self.driven(of) {
                    driven.has_locks = false;
                }
            }
            Effect::Propose { decision } => {
                let (from, delay) = (of.clone(), self.random.millis(1, 20));
                self.schedule(delay, Happening::Proposal { from, decision, is_answered: true });
            }
            Effect::ReadDecision => {
                let delay = self.random.millis(1, 20);
                self.schedule(delay, Happening::Read { from: of.clone() });
            }
            Effect::Ask { .. } | Effect::Walk { .. } | Effect::AwaitProjections => {
                unreachable!("a coordination by steps neither prepares, walks nor projects")
            }
            Effect::Execute { step, work, attempt, context, timeout } => {
                self.check_context(of, step, work, &context);
                if self.bug == Some(Bug::LeavesTooEarly) {
                    self.leave_all(of);
                }
                self.ask(of, (step, work, attempt), timeout);
            }
            Effect::EnterTurns { turns } => self.enter_turns(of, turns),
            Effect::LeaveTurn { turn } => self.leave_turn(of, turn),
            Effect::Answer(outcome) | Effect::Finish(outcome) => self.tell(of, &outcome),
            Effect::Publish(_) | Effect::Alert { .. } => {}
            Effect::Close => self.close(of),
        }
    }

    fn enter_turns(&mut self, of: &Address, turns: Arc<[TurnKey]>) {
        let is_ignored = self.bug == Some(Bug::TurnsIgnored);
        let Some(driven) = self.driven(of) else { return };
        driven.turns = Arc::clone(&turns);
        driven.lines = (0..turns.len()).collect();
        for (turn, key) in turns.iter().enumerate() {
            let has_turn = self.nodes[of.node].lines.enter(key, of.run);
            if has_turn || is_ignored {
                let (to, input) = (of.clone(), Input::TurnCame { turn });
                self.schedule(Duration::ZERO, Happening::Answered { to, input });
            }
        }
    }

    fn leave_turn(&mut self, of: &Address, turn: usize) {
        let Some(driven) = self.driven(of) else { return };
        if !driven.lines.remove(&turn) {
            return;
        }
        let key = driven.turns[turn].clone();
        let Some(next) = self.nodes[of.node].lines.leave(&key, of.run) else { return };
        let next = self.nodes[of.node].driven.iter().find(|(_, driven)| driven.held.run == next);
        if let Some((id, driven)) = next {
            let turn = driven.turns.iter().position(|other| *other == key);
            let turn = turn.expect("it stands in the line");
            let to = Address { node: of.node, id: id.clone(), run: driven.held.run };
            let input = Input::TurnCame { turn };
            self.schedule(Duration::ZERO, Happening::Answered { to, input });
        }
    }

    fn leave_all(&mut self, of: &Address) {
        let lines = self.driven(of).map(|driven| driven.lines.clone()).unwrap_or_default();
        for turn in lines {
            self.leave_turn(of, turn);
        }
    }

    fn record(&mut self, of: &Address, record: Record, durability: Durability) {
        let now = self.now;
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = durability != Durability::Lazy;
        let epoch = driven.held.machine.epoch();
        let (id, run) = (of.id.clone(), of.run);
        self.append(of.node, Append { id, epoch, at: now, record, durability, run });
    }

    /// The journal's answer to the record that is waited for.
    pub(super) fn recorded(&mut self, of: &Address, answer: Answer) {
        let goes_on = self.bug == Some(Bug::OverruledGoesOn);
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = false;
        match answer {
            Answer::Recorded => self.release(of),
            Answer::Decided(standing) if driven.held.machine.view().decision == Some(standing) => {
                self.release(of);
            }
            Answer::Decided(_) if goes_on => self.release(of),
            Answer::Decided(standing) => {
                driven.held.effects.clear();
                self.step(of, Input::Overruled(standing));
            }
            // Somebody else has it, or nobody: this machine has nothing more to say.
            Answer::Deposed | Answer::Exists => self.close(of),
        }
        self.plan_timer(of);
    }

    pub(super) fn close(&mut self, of: &Address) {
        if self.driven(of).is_some() {
            self.leave_all(of);
            self.nodes[of.node].driven.remove(&of.id);
        }
    }

    fn tell(&mut self, of: &Address, outcome: &Outcome) {
        let Some(driven) = self.driven(of) else { return };
        driven.caller_waits = false;
        // A try that never began says nothing of another one.
        if !driven.held.machine.is_unbegun() {
            self.check_telling(of, outcome.kind);
            self.told.entry(of.id.clone()).or_default().push(outcome.kind);
        }
    }

    pub(super) fn answered(&mut self, to: &Address, input: Input) {
        let bug = self.bug;
        let Some(driven) = self.driven(to) else { return };
        let input = mistaken(driven, input, bug);
        if let Input::StepAnswered { step, work: Work::Execute, attempt, .. } = &input {
            driven.out.remove(&(*step, *attempt));
        }
        self.step(to, input.clone());
        if self.chance(4) && matches!(input, Input::StepAnswered { .. } | Input::TurnCame { .. }) {
            self.step(to, input);
        }
    }
}

/// What a driver with a mistake makes of an answer.
fn mistaken(driven: &Driven, input: Input, bug: Option<Bug>) -> Input {
    let done = || StepAnswer::Done { result: Value::Null };
    match (input, bug) {
        (
            Input::StepAnswered { step, work, attempt, answer: StepAnswer::Unknown { message } },
            Some(bug @ (Bug::LostIsFailed | Bug::LostIsDone | Bug::LostUndoIsDone)),
        ) => {
            let answer = match (bug, work) {
                (Bug::LostIsFailed, Work::Execute) => {
                    StepAnswer::Failed { message, retryable: true }
                }
                (Bug::LostIsDone, Work::Execute) | (Bug::LostUndoIsDone, Work::Compensate) => {
                    done()
                }
                _ => StepAnswer::Unknown { message },
            };
            Input::StepAnswered { step, work, attempt, answer }
        }
        (Input::StepAnswered { step, work, answer, .. }, Some(Bug::OldTryCounts)) => {
            let summary = &driven.held.machine.view().steps[step];
            let attempt = match work {
                Work::Execute => summary.attempts,
                Work::Compensate => summary.compensation_attempts,
            };
            Input::StepAnswered { step, work, attempt, answer }
        }
        (
            Input::DecisionRead(unanimity::protocol::Standing::Unknown),
            Some(Bug::LostReadIsAbort),
        ) => {
            let decision = unanimity::model::outcome::Decision::Abort;
            Input::DecisionRead(unanimity::protocol::Standing::Decided {
                decision,
                read_only: Vec::new(),
            })
        }
        (input, _) => input,
    }
}
