//! A simulated process: it drives machines as `unanimity::protocol` tells a caller to, and writes.
//!
//! Effects wait behind the record that they stand behind. Not its projections (`projecting`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::Outcome;
use unanimity::model::record::{Durability, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::model::time::Timestamp;
use unanimity::protocol::event_sourcing::{EventSourcing, Plan};
use unanimity::protocol::{Effect, Input, Machine};

use crate::support::driving::{DriverBug, Driving, Held};

use super::bugs::Bug;
use super::disk::{Answer, Append};
use super::projecting::Projector;
use super::world::{Happening, STORES, World, instance};

/// One run of one machine in one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) id: CoordinationId,
    pub(super) run: u64,
}

/// A machine with what it holds back.
pub(super) struct Driven {
    pub(super) held: Held<EventSourcing>,
    /// Somebody waits for its outcome and has not been told.
    pub(super) caller_waits: bool,
    /// Up to which event its stores have to come, once that is known.
    pub(super) through: Option<u64>,
    /// Whether it wants to hear of its stores.
    awaits_projections: bool,
    /// The stores of which it has heard.
    heard: BTreeSet<usize>,
}

/// One process; without an instance it is dead.
#[derive(Default)]
pub(super) struct Node {
    pub(super) instance: Option<InstanceId>,
    pub(super) life: u64,
    pub(super) driven: BTreeMap<CoordinationId, Driven>,
    pub(super) projectors: BTreeMap<usize, Projector>,
    /// What is not on the disk.
    pub(super) queue: Vec<Append>,
    pub(super) committing: Vec<Append>,
    is_commit_planned: bool,
}

impl Driving for World {
    type Address = Address;
    type Machine = EventSourcing;

    fn machine(held: &mut Held<EventSourcing>) -> &mut dyn Machine {
        &mut held.machine
    }

    fn held(&mut self, of: &Address) -> Option<&mut Held<EventSourcing>> {
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
    fn plan(request: &Arc<CoordinationRequest>, owner: InstanceId, epoch: u32) -> Plan {
        Plan { request: Arc::clone(request), owner, epoch, no_locks: Arc::default() }
    }

    pub(super) fn begin(&mut self, number: usize) {
        let living: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].instance.is_some()).collect();
        if living.is_empty() {
            // Nobody is there; whoever asks tries again.
            let again = Happening::Request { request: number };
            return self.schedule(Duration::from_millis(300), again);
        }
        let node = living[self.random.below(living.len())];
        let request = Arc::clone(&self.requests[number]);
        if self.nodes[node].driven.contains_key(&request.id) {
            return;
        }
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let machine = EventSourcing::new(Self::plan(&request, owner, 0), self.now);
        self.drive(node, machine, true, Input::Started);
    }

    /// Takes over what belongs to the dead.
    pub(super) fn adopt(&mut self, node: usize) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let life = self.nodes[node].life;
        let living = self.living();
        let is_left = |row: &super::disk::Row| {
            row.outcome.is_none() && row.owner != owner && !living.contains(&row.owner)
        };
        let rows = self.disk.rows.iter().filter(|(_, row)| is_left(row));
        let left: Vec<_> = rows.map(|(id, row)| (id.clone(), row.epoch + 1)).collect();
        for (id, epoch) in left {
            if self.bug == Some(Bug::NeverRecovers) || !self.lives(node, life) {
                return;
            }
            self.note(|| format!("n{node} adopts {id}, epoch {epoch}"));
            let record = Record::Adopted { owner: owner.clone(), epoch };
            let at = self.now;
            self.disk.write(&Append::Record { id: id.clone(), epoch, at, record, run: None });
            let row = &self.disk.rows[&id];
            let plan = Self::plan(&row.request, owner.clone(), epoch);
            let machine = EventSourcing::from_records(plan, &row.records);
            self.drive(node, machine, false, Input::Resumed);
        }
    }

    fn living(&self) -> Vec<InstanceId> {
        self.nodes.iter().filter_map(|node| node.instance.clone()).collect()
    }

    fn drive(&mut self, node: usize, machine: EventSourcing, caller_waits: bool, input: Input) {
        self.runs += 1;
        let id = machine.request().id.clone();
        let address = Address { node, id: id.clone(), run: self.runs };
        let driven = Driven {
            held: Held::new(machine, self.runs),
            caller_waits,
            through: None,
            awaits_projections: false,
            heard: BTreeSet::new(),
        };
        self.nodes[node].driven.insert(id, driven);
        self.step(&address, input);
    }

    fn driven(&mut self, of: &Address) -> Option<&mut Driven> {
        let driven = self.nodes[of.node].driven.get_mut(&of.id)?;
        (driven.held.run == of.run).then_some(driven)
    }

    fn carry_out(&mut self, of: &Address, effect: Effect) {
        self.note(|| format!("n{} {}: does {effect:?}", of.node, of.id));
        match effect {
            Effect::Record { record, durability } => self.record(of, record, durability),
            Effect::AwaitProjections => self.await_projections(of),
            Effect::Answer(outcome) | Effect::Finish(outcome) => self.tell(of, &outcome),
            Effect::Publish(_) | Effect::Alert { .. } => {}
            Effect::Close => drop(self.nodes[of.node].driven.remove(&of.id)),
            other => self.fail(format!("event sourcing asks for {other:?}")),
        }
    }

    fn await_projections(&mut self, of: &Address) {
        let last = self.disk.last_position();
        let is_forgetful = self.bug == Some(Bug::RecoveryWaitsForNothing);
        let Some(driven) = self.driven(of) else { return };
        driven.awaits_projections = true;
        // Records say no positions: whoever has come to the end has come far enough.
        driven.through.get_or_insert(if is_forgetful { 0 } else { last });
        self.look_at_projections(of.node);
    }

    /// Tells machines of the stores that have come far enough.
    pub(super) fn look_at_projections(&mut self, node: usize) {
        let at: Vec<u64> = (0..STORES.len())
            .map(|store| {
                let own = self.nodes[node].projectors.get(&store).map(|own| own.position);
                own.unwrap_or(self.disk.positions[store].position)
            })
            .collect();
        let mut reached = Vec::new();
        for (id, driven) in &self.nodes[node].driven {
            let Some(through) = driven.through.filter(|_| driven.awaits_projections) else {
                continue;
            };
            for (party, name) in driven.held.machine.request().stores.iter().enumerate() {
                let store = STORES.iter().position(|store| *store == name.as_str());
                let is_far = store.is_some_and(|store| at[store] >= through);
                if is_far && !driven.heard.contains(&party) {
                    reached.push((Address { node, id: id.clone(), run: driven.held.run }, party));
                }
            }
        }
        for (of, party) in reached {
            if let Some(driven) = self.driven(&of) {
                driven.heard.insert(party);
                self.step(&of, Input::Projected { party });
            }
        }
    }

    fn record(&mut self, of: &Address, record: Record, durability: Durability) {
        if matches!(record, Record::End { .. }) {
            self.check_ending(&of.id);
        }
        let at = self.now;
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = durability != Durability::Lazy;
        let run = driven.held.waits_for_record.then_some(of.run);
        let (id, epoch) = (of.id.clone(), driven.held.machine.epoch());
        self.append(of.node, Append::Record { id, epoch, at, record, run });
    }

    pub(super) fn append(&mut self, node: usize, append: Append) {
        self.nodes[node].queue.push(append);
        self.plan_commit(node);
    }

    fn plan_commit(&mut self, node: usize) {
        let process = &mut self.nodes[node];
        if process.is_commit_planned || !process.committing.is_empty() {
            return;
        }
        process.is_commit_planned = true;
        let life = process.life;
        let wait = self.random.millis(0, 20);
        self.schedule(wait, Happening::CommitStarts { node, life });
    }

    pub(super) fn commit_starts(&mut self, node: usize, life: u64) {
        let is_slow = self.chance(4);
        if !self.lives(node, life) || !self.nodes[node].committing.is_empty() {
            return;
        }
        let process = &mut self.nodes[node];
        process.committing = std::mem::take(&mut process.queue);
        let took = if is_slow { self.random.millis(300, 3_000) } else { self.random.millis(1, 5) };
        self.schedule(took, Happening::CommitEnds { node, life });
    }

    pub(super) fn commit_ends(&mut self, node: usize, life: u64) {
        if !self.lives(node, life) {
            return;
        }
        self.nodes[node].is_commit_planned = false;
        for append in std::mem::take(&mut self.nodes[node].committing) {
            let answer = self.write(&append);
            if !self.lives(node, life) {
                return;
            }
            match append {
                Append::Record { id, run: Some(run), .. } => {
                    self.recorded(&Address { node, id, run }, answer);
                }
                Append::Record { .. } => {}
                Append::Position { store, .. } => self.position_written(node, store, &answer),
            }
        }
        if self.lives(node, life) && !self.nodes[node].queue.is_empty() {
            self.plan_commit(node);
        }
    }

    /// Writes it, and looks at what stands then.
    fn write(&mut self, append: &Append) -> Answer {
        let answer = self.disk.write(append);
        match append {
            Append::Record { id, record, .. } => {
                let kind = record.kind();
                self.note(|| format!("disk {id}: {kind} is {answer:?}"));
                self.check_events();
            }
            Append::Position { store, position, .. } => {
                let (store, position) = (*store, *position);
                self.note(|| format!("disk: {} at {position} is {answer:?}", STORES[store]));
                if answer == Answer::Recorded {
                    self.check_position(store, position);
                }
            }
        }
        answer
    }

    fn recorded(&mut self, of: &Address, answer: Answer) {
        let goes_on = self.bug == Some(Bug::RefusedGoesOn);
        let through = self.disk.rows.get(&of.id).map(|row| row.through);
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = false;
        match answer {
            Answer::Recorded => {
                driven.through = driven.through.or(through);
                self.release(of);
            }
            Answer::Mismatch { .. } if goes_on => self.release(of),
            Answer::Mismatch { stream, expected, actual } => {
                driven.held.effects.clear();
                self.step(of, Input::VersionRefused { stream, expected, actual });
            }
            // Somebody else has it: this machine has nothing more to say.
            Answer::Deposed | Answer::Exists => drop(self.nodes[of.node].driven.remove(&of.id)),
        }
        self.plan_timer(of);
    }

    fn tell(&mut self, of: &Address, outcome: &Outcome) {
        let is_there = self.disk.rows.contains_key(&of.id);
        let Some(driven) = self.driven(of) else { return };
        driven.caller_waits = false;
        // A try that never began says nothing of another one.
        if !driven.held.machine.is_unbegun() || !is_there {
            self.check_telling(of, outcome.kind);
            self.told.entry(of.id.clone()).or_default().push(outcome.kind);
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
        let mut group = std::mem::take(&mut process.committing);
        let life = process.life + 1;
        *process = Node { life, ..Node::default() };
        // Whatever part of its last group reached the disk.
        group.truncate(self.random.below(group.len() + 1));
        self.note(|| format!("n{node} dies; {} records reached the disk", group.len()));
        for append in &group {
            self.write(append);
        }
        let is_begin =
            |append: &Append| matches!(append, Append::Record { record: Record::Begin { .. }, .. });
        if self.bug == Some(Bug::TornAppend) && group.last().is_some_and(is_begin) {
            self.disk.tear();
        }
        let pause = self.random.millis(50, 6_000);
        self.schedule(pause, Happening::NodeStarts { node });
    }

    pub(super) fn node_starts(&mut self, node: usize) {
        if self.nodes[node].instance.is_some() {
            return;
        }
        let life = self.nodes[node].life;
        let name = instance(node, life);
        self.note(|| format!("n{node} starts as {name}"));
        self.nodes[node].instance = Some(name);
        self.adopt(node);
        for store in 0..STORES.len() {
            let wait = self.random.millis(0, 200);
            self.schedule(wait, Happening::Round { node, life, store });
        }
    }
}
