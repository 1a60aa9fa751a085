//! A simulated process: it drives machines exactly as `unanimity::protocol` tells a caller to.
//!
//! Effects wait behind the record that they stand behind; answers go back to who asked.
//! Not the engine: there are no threads, and no real store. The duties are the same.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Outcome, OutcomeKind, Vote};
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::model::time::Timestamp;
use unanimity::protocol::Input;
use unanimity::protocol::retry::Backoff;
use unanimity::protocol::two_phase::{PartyPlan, Plan, State, TwoPhase};
use unanimity::protocol::{Ask, Effect, Machine};

use super::bugs::Bug;
use super::journal::{Answer, Append};
use super::world::{Address, Happening, World};

/// A machine with what it holds back.
pub(super) struct Driven {
    pub(super) machine: TwoPhase,
    held: VecDeque<Effect>,
    /// A record of it is not answered yet.
    pub(super) waits_for_record: bool,
    pub(super) run: u64,
    timer_at: Option<Timestamp>,
    /// Somebody waits for its outcome and has not been told.
    pub(super) caller_waits: bool,
}

/// One process; without an instance it is dead.
#[derive(Default)]
pub(super) struct Node {
    pub(super) instance: Option<InstanceId>,
    pub(super) life: u64,
    pub(super) driven: BTreeMap<CoordinationId, Driven>,
    /// Records that are not on the disk.
    pub(super) queue: Vec<Append>,
    pub(super) committing: Vec<Append>,
    pub(super) commit_is_planned: bool,
}

impl World {
    fn plan(&self, request: &Arc<CoordinationRequest>, owner: InstanceId, epoch: u32) -> Plan {
        let party = |name: &StoreName| {
            let store = self.stores.iter().find(|store| store.name == *name);
            let store = store.expect("requests name only the world's stores");
            PartyPlan {
                store: store.name.clone(),
                lists_prepared: store.lists_prepared,
                single_writer: store.single_writer,
            }
        };
        Plan {
            locks: self.locks_of(request),
            request: Arc::clone(request),
            owner,
            epoch,
            parties: request.stores.iter().map(party).collect(),
            consensus: self.climate.has_consensus,
            prepare_timeout: Duration::from_secs(5),
            commit_timeout: Duration::from_secs(5),
            abort_wait: Duration::from_secs(1),
            backoff: Backoff {
                base: Duration::from_millis(50),
                cap: Duration::from_secs(5),
                seed: u64::from(epoch),
            },
        }
    }

    pub(super) fn begin(&mut self, node: usize, request: usize) {
        let request = Arc::clone(&self.requests[request]);
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        if self.nodes[node].driven.contains_key(&request.id) {
            return;
        }
        let machine = TwoPhase::new(self.plan(&request, owner, 0), self.now);
        self.drive(node, machine, true, Input::Started);
    }

    pub(super) fn resume(&mut self, node: usize, id: &CoordinationId) {
        let row = &self.disk.rows[id];
        if self.bug == Some(Bug::RecoveryForgetsAbort) && row.decision.is_none() {
            return;
        }
        let mut plan = self.plan(&row.request, row.owner.clone(), row.epoch);
        if self.bug == Some(Bug::RecoveryTakesNoLocks) {
            plan.locks = Arc::default();
        }
        let mut records = row.records.clone();
        if self.bug == Some(Bug::PresumedCommit) && row.decision.is_none() {
            let decision = unanimity::model::outcome::Decision::Commit;
            let record = Record::Decision {
                decision,
                reason: None,
                read_only: Vec::new(),
                receipts: Vec::new(),
            };
            records.push((self.now, record));
        }
        let machine = TwoPhase::from_records(plan, &records);
        self.drive(node, machine, false, Input::Resumed);
    }

    fn drive(&mut self, node: usize, machine: TwoPhase, caller_waits: bool, input: Input) {
        self.runs += 1;
        let id = machine.request().id.clone();
        let address = Address { node, id: id.clone(), run: self.runs };
        let driven = Driven {
            machine,
            held: VecDeque::new(),
            waits_for_record: false,
            run: self.runs,
            timer_at: None,
            caller_waits,
        };
        // One that it drove and lost to another process, and now gets back.
        if let Some(before) = self.nodes[node].driven.insert(id.clone(), driven) {
            self.keep_locks(&Address { node, id, run: before.run });
        }
        self.step(&address, input);
    }

    pub(super) fn driven(&mut self, of: &Address) -> Option<&mut Driven> {
        let driven = self.nodes[of.node].driven.get_mut(&of.id)?;
        (driven.run == of.run).then_some(driven)
    }

    /// Steps a machine, and says which parties it asks something by that.
    pub(super) fn step(&mut self, of: &Address, input: Input) -> Vec<usize> {
        let now = self.now;
        let Some(driven) = self.driven(of) else { return Vec::new() };
        let before = driven.machine.state();
        let told = format!("{input:?}");
        let result = driven.machine.step(now, input);
        let after = driven.machine.state();
        self.note(|| format!("n{} {}: {told}  {before:?} -> {after:?}", of.node, of.id));
        let effects = match result {
            Ok(effects) => effects,
            Err(error) => {
                self.fail(format!("a legal input is an error: {told}: {error}"));
                return Vec::new();
            }
        };
        let asked = effects.iter().filter_map(|effect| match effect {
            Effect::Ask { party, .. } => Some(*party),
            _ => None,
        });
        let asked = asked.collect();
        if let Some(driven) = self.driven(of) {
            driven.held.extend(effects);
        }
        self.release(of);
        self.plan_timer(of);
        asked
    }

    /// Carries out what no record holds back.
    fn release(&mut self, of: &Address) {
        let cut_ignored = self.bug == Some(Bug::CutIgnored);
        loop {
            let Some(driven) = self.driven(of) else { return };
            if driven.waits_for_record && !cut_ignored {
                return;
            }
            let Some(effect) = driven.held.pop_front() else { return };
            if self.dies_now(of.node) {
                return;
            }
            self.carry_out(of, effect);
            if self.dies_now(of.node) {
                return;
            }
        }
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
            Effect::Acquire { locks, timeout } => self.acquire(of, locks, timeout),
            Effect::Release => {
                if self.driven(of).is_some_and(|driven| !driven.machine.is_unbegun()) {
                    self.is_exposed_no_more(&of.id);
                }
                self.release_locks(of);
            }
            effect @ (Effect::Propose { .. } | Effect::ReadDecision)
                if self.ask_last_resource(of, &effect) => {}
            Effect::Propose { decision } => {
                self.propose(of, decision);
            }
            Effect::ReadDecision => {
                let delay = self.delay();
                self.schedule(delay, Happening::Read { from: of.clone() });
            }
            Effect::Ask { party, ask, timeout } => self.ask(of, party, ask, timeout),
            Effect::Execute { .. }
            | Effect::Walk { .. }
            | Effect::EnterTurns { .. }
            | Effect::LeaveTurn { .. }
            | Effect::AwaitProjections => unreachable!("two-phase commit has no steps"),
            Effect::Answer(outcome) | Effect::Finish(outcome) => self.tell(of, &outcome),
            Effect::Publish(_) | Effect::Alert { .. } => {}
            Effect::Close => self.close(of),
        }
    }

    fn record(&mut self, of: &Address, record: Record, durability: Durability) {
        self.check_deciding(of, &record);
        let now = self.now;
        let Some(driven) = self.driven(of) else { return };
        driven.waits_for_record = durability != Durability::Lazy;
        let epoch = driven.machine.epoch();
        let (id, run) = (of.id.clone(), of.run);
        self.append(of.node, Append { id, epoch, at: now, record, durability, run });
    }

    /// The journal's answer to the record that is waited for.
    pub(super) fn recorded(&mut self, of: &Address, answer: Answer) {
        let goes_on = self.bug == Some(Bug::OverruledGoesOn);
        let Some(driven) = self.driven(of) else { return };
        driven.waits_for_record = false;
        match answer {
            Answer::Recorded => self.release(of),
            Answer::Decided(standing) if driven.machine.view().decision == Some(standing) => {
                self.release(of);
            }
            Answer::Decided(_) if goes_on => self.release(of),
            Answer::Decided(standing) => {
                driven.held.clear();
                self.step(of, Input::Overruled(standing));
            }
            // Somebody else has it, or nobody: this machine has nothing more to say.
            Answer::Deposed => {
                self.keep_locks(of);
                self.close(of);
            }
            Answer::Exists | Answer::Failed => self.close(of),
        }
        self.plan_timer(of);
    }

    fn close(&mut self, of: &Address) {
        if self.driven(of).is_some()
            && let Some(driven) = self.nodes[of.node].driven.remove(&of.id)
        {
            self.took(driven.machine.rules_taken());
            if !self.keeps_locks(of) {
                self.release_locks(of);
            }
            self.is_dropped(&of.id);
            if self.bug == Some(Bug::ForgetsTooEarly) {
                self.forget(&of.id);
            }
        }
    }

    fn tell(&mut self, of: &Address, outcome: &Outcome) {
        let Some(driven) = self.driven(of) else { return };
        driven.caller_waits = false;
        if driven.machine.is_unbegun() {
            // Its caller is told what the journal has of the id, or that this try never began,
            // which says nothing of another one.
            return;
        }
        self.check_telling(of, outcome.kind);
        self.told.entry(of.id.clone()).or_default().push(outcome.kind);
    }

    fn plan_timer(&mut self, of: &Address) {
        let now = self.now;
        let Some(driven) = self.driven(of) else { return };
        let Some(deadline) = driven.machine.deadline() else { return };
        if driven.timer_at.is_none_or(|at| deadline < at || at < now) {
            driven.timer_at = Some(deadline);
            self.schedule(deadline.since(now), Happening::Time { of: of.clone() });
        }
    }

    pub(super) fn time_reached(&mut self, of: &Address) {
        let now = self.now;
        let Some(driven) = self.driven(of) else { return };
        driven.timer_at = None;
        let is_due = driven.machine.deadline().is_some_and(|deadline| deadline <= now);
        if !is_due || self.bug == Some(Bug::TimeStandsStill) {
            self.plan_timer_unless_still(of);
            return;
        }
        self.step(of, Input::TimeReached);
        let deadline = self.driven(of).and_then(|driven| driven.machine.deadline());
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.fail("a deadline that was served stays in the past");
        }
    }

    fn plan_timer_unless_still(&mut self, of: &Address) {
        if self.bug != Some(Bug::TimeStandsStill) {
            self.plan_timer(of);
        }
    }

    pub(super) fn answered(&mut self, to: &Address, input: Input) {
        let Some(driven) = self.driven(to) else { return };
        let is_late = driven.machine.state() != State::Preparing;
        let party = match &input {
            Input::Voted { party, .. } | Input::Acknowledged { party, .. } => Some(*party),
            _ => None,
        };
        let input = match (input, self.bug) {
            (Input::Voted { .. }, Some(Bug::LateVoteDropped)) if is_late => return,
            (input, Some(bug)) => self.mistaken(to, input, bug),
            (input, None) => input,
        };
        let again = self.chance(4).then(|| input.clone());
        let asked = self.step(to, input);
        // A doubled answer comes at once: after a new question it would be that one's answer.
        if let Some(again) = again.filter(|_| party.is_none_or(|party| !asked.contains(&party))) {
            self.step(to, again);
        }
    }

    /// What a driver with a mistake makes of an answer.
    fn mistaken(&mut self, to: &Address, input: Input, bug: Bug) -> Input {
        use unanimity::model::outcome::Decision;
        use unanimity::protocol::Standing;
        let decision = self.driven(to).and_then(|driven| driven.machine.view().decision);
        let is_abort = decision == Some(Decision::Abort);
        match (input, bug) {
            (
                Input::Acknowledged { party, answer: Acknowledgement::Unknown { .. } },
                Bug::LostAbortIsDone,
            ) if is_abort => Input::Acknowledged { party, answer: Acknowledgement::Done },
            (
                Input::Acknowledged { party, answer: Acknowledgement::Unknown { .. } },
                Bug::LostCommitIsDone,
            ) if !is_abort => Input::Acknowledged { party, answer: Acknowledgement::Done },
            (Input::DecisionRead(Standing::Unknown), Bug::LostReadIsAbort) => {
                let read_only = Vec::new();
                Input::DecisionRead(Standing::Decided { decision: Decision::Abort, read_only })
            }
            (input, _) => input,
        }
    }

    pub(super) fn lost(ask: Ask, party: usize) -> Input {
        let words = || "the answer got lost".to_owned();
        match ask {
            Ask::Prepare => Input::Voted { party, vote: Vote::Unknown { reason: words() } },
            Ask::Commit | Ask::Abort => {
                let answer = Acknowledgement::Unknown { message: words() };
                Input::Acknowledged { party, answer }
            }
        }
    }

    pub(super) fn is_told(&self, id: &CoordinationId, kind: OutcomeKind) -> bool {
        self.told.get(id).is_some_and(|told| told.contains(&kind))
    }
}
