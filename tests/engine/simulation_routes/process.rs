//! A simulated process: it drives the machines of sagas that it answers for, and writes.
//!
//! Effects wait behind the record that they stand behind. Not what it does at stops (`stop`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::InstanceId;
use unanimity::model::outcome::Outcome;
use unanimity::model::record::{Durability, Reason, Record};
use unanimity::model::step::Work;
use unanimity::model::time::Timestamp;
use unanimity::protocol::choreography::{Choreography, Plan};
use unanimity::protocol::retry::Backoff;
use unanimity::protocol::{Effect, Input, Machine, RouteEnd};

use crate::support::driving::{DriverBug, Driving, Held};

use super::bugs::Bug;
use super::bus::{Message, Slip, Word};
use super::stop::{StopEnd, StopId};
use super::world::{Happening, World, instance};

/// One run of one machine in one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) saga: usize,
    pub(super) run: u64,
}

/// Something on its way to a disk.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Record { of: Address, epoch: u32, at: Timestamp, record: Record, is_awaited: bool },
    StopBegins { stop: StopId, message: usize },
    StopEnds { stop: StopId, end: StopEnd },
}

/// A saga as the disk of its home has it.
pub(super) struct SagaRow {
    owner: InstanceId,
    epoch: u32,
    records: Vec<(Timestamp, Record)>,
    pub(super) outcome: Option<Outcome>,
}

/// A machine with what it holds back.
pub(super) struct Driven {
    pub(super) held: Held<Choreography>,
    /// Somebody waits for its outcome and has not been told.
    pub(super) caller_waits: bool,
}

/// One process; without an instance it is dead.
pub(super) struct Node {
    pub(super) journal: usize,
    pub(super) instance: Option<InstanceId>,
    pub(super) life: u64,
    pub(super) driven: BTreeMap<usize, Driven>,
    /// The stops that it is at, and the messages that wait for each.
    pub(super) at_stops: BTreeMap<StopId, Vec<usize>>,
    /// When the last write will be on the disk: they go in order.
    writes_until: Timestamp,
}

impl Node {
    pub(super) fn of(journal: usize) -> Self {
        Self {
            journal,
            instance: None,
            life: 0,
            driven: BTreeMap::new(),
            at_stops: BTreeMap::new(),
            writes_until: Timestamp(0),
        }
    }
}

impl Driving for World {
    type Address = Address;
    type Machine = Choreography;

    fn machine(held: &mut Held<Choreography>) -> &mut dyn Machine {
        &mut held.machine
    }

    fn held(&mut self, of: &Address) -> Option<&mut Held<Choreography>> {
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
        self.note(|| format!("n{} c{}: {text}", of.node, of.saga));
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
    fn plan(&self, saga: usize, owner: InstanceId, epoch: u32) -> Plan {
        // Shorter than in life, so that several slips of one saga are on their way.
        let (base, cap) = (Duration::from_secs(3), Duration::from_secs(12));
        Plan {
            request: Arc::clone(&self.sagas[saga].request),
            owner,
            epoch,
            backoff: Backoff { base, cap, seed: saga as u64 },
            no_locks: Arc::default(),
        }
    }

    pub(super) fn begin(&mut self, saga: usize) {
        let home = self.sagas[saga].home;
        let living = (0..self.nodes.len())
            .find(|node| self.nodes[*node].journal == home && self.nodes[*node].instance.is_some());
        let Some(node) = living.filter(|_| !self.rows.contains_key(&saga)) else {
            if !self.rows.contains_key(&saga) {
                // Nobody is there; whoever asks tries again.
                self.schedule(Duration::from_millis(300), Happening::Request { saga });
            }
            return;
        };
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let machine = Choreography::new(self.plan(saga, owner, 1), self.now);
        self.drive(node, saga, machine, true, Input::Started);
    }

    /// Takes over what belongs to the dead of its journal: sagas, and stops.
    pub(super) fn adopt(&mut self, node: usize) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let (life, journal) = (self.nodes[node].life, self.nodes[node].journal);
        let living: Vec<_> = self.nodes.iter().filter_map(|it| it.instance.clone()).collect();
        let left: Vec<usize> = self
            .rows
            .iter()
            .filter(|(saga, row)| {
                let is_here = self.sagas[**saga].home == journal;
                is_here && row.outcome.is_none() && !living.contains(&row.owner)
            })
            .map(|(saga, _)| *saga)
            .collect();
        for saga in left {
            if self.bug == Some(Bug::NeverRecovers) || !self.lives(node, life) {
                break;
            }
            let row = self.rows.get_mut(&saga).expect("it was found just now");
            row.epoch += 1;
            row.owner = owner.clone();
            let (epoch, records) = (row.epoch, row.records.clone());
            self.note(|| format!("n{node} adopts c{saga}, epoch {epoch}"));
            let plan = self.plan(saga, owner.clone(), epoch);
            let machine = Choreography::from_records(plan, &records);
            self.drive(node, saga, machine, false, Input::Resumed);
        }
        if self.lives(node, life) {
            self.adopt_stops(node, &living);
        }
    }

    fn drive(
        &mut self,
        node: usize,
        saga: usize,
        machine: Choreography,
        caller_waits: bool,
        input: Input,
    ) {
        self.runs += 1;
        let driven = Driven { held: Held::new(machine, self.runs), caller_waits };
        self.nodes[node].driven.insert(saga, driven);
        self.step(&Address { node, saga, run: self.runs }, input);
    }

    fn driven(&mut self, of: &Address) -> Option<&mut Driven> {
        let driven = self.nodes[of.node].driven.get_mut(&of.saga)?;
        (driven.held.run == of.run).then_some(driven)
    }

    fn carry_out(&mut self, of: &Address, effect: Effect) {
        self.note(|| format!("n{} c{}: does {effect:?}", of.node, of.saga));
        match effect {
            Effect::Record { record, durability } => self.record(of, record, durability),
            Effect::Walk { walk } => {
                self.check_walking(of.saga);
                let (saga, place, work) = (of.saga, 0, Work::Execute);
                let slip = Slip { saga, walk, place, work, has_failed: false };
                self.send(of.node, Message { word: Word::Slip(slip), follows: None });
            }
            Effect::Answer(outcome) | Effect::Finish(outcome) => self.tell(of, &outcome),
            Effect::Publish(_) | Effect::Alert { .. } => {}
            Effect::Close => drop(self.nodes[of.node].driven.remove(&of.saga)),
            other => self.fail(format!("a choreographed saga asks for {other:?}")),
        }
    }

    fn record(&mut self, of: &Address, record: Record, durability: Durability) {
        let at = self.now;
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = durability != Durability::Lazy;
        let is_awaited = driven.held.waits_for_record;
        let epoch = driven.held.machine.epoch();
        self.write(of.node, Write::Record { of: of.clone(), epoch, at, record, is_awaited });
    }

    /// Brings something to the disk of a process, behind what it wrote before.
    pub(super) fn write(&mut self, node: usize, write: Write) {
        let is_slow = self.chance(3);
        let took = if is_slow { self.random.millis(300, 3_000) } else { self.random.millis(1, 5) };
        let until = self.nodes[node].writes_until.max(self.now + took);
        self.nodes[node].writes_until = until;
        let life = self.nodes[node].life;
        self.schedule(until.since(self.now), Happening::Written { node, life, write });
    }

    /// It is on the disk; what was on its way when its process died is lost. A process may die
    /// before it hears so.
    pub(super) fn written(&mut self, node: usize, life: u64, write: Write) {
        if !self.lives(node, life) {
            return;
        }
        match write {
            Write::Record { of, epoch, at, record, is_awaited } => {
                let stands = self.write_record(&of, epoch, at, record);
                if !self.dies_now(node) && is_awaited {
                    self.recorded(&of, stands);
                }
            }
            Write::StopBegins { stop, message } => self.stop_begins(node, stop, message),
            Write::StopEnds { stop, end } => self.stop_ends(node, stop, end),
        }
    }

    fn write_record(&mut self, of: &Address, epoch: u32, at: Timestamp, record: Record) -> bool {
        if let Record::Begin { owner, .. } = &record {
            if self.rows.contains_key(&of.saga) {
                return false;
            }
            let (owner, records) = (owner.clone(), vec![(at, record)]);
            self.rows.insert(of.saga, SagaRow { owner, epoch, records, outcome: None });
            return true;
        }
        let row = self.rows.get_mut(&of.saga).filter(|row| row.epoch == epoch);
        let Some(row) = row else { return false };
        if let Record::End { outcome, .. } = &record {
            row.outcome = Some(outcome.clone());
        }
        row.records.push((at, record));
        true
    }

    fn recorded(&mut self, of: &Address, stands: bool) {
        let Some(driven) = self.driven(of) else { return };
        driven.held.waits_for_record = false;
        if stands {
            self.release(of);
        } else {
            self.nodes[of.node].driven.remove(&of.saga);
        }
    }

    /// Every process that lives hears the last word.
    pub(super) fn end_is_told(&mut self, saga: usize, is_done: bool) {
        let is_done = is_done || self.bug == Some(Bug::EveryEndIsSuccess);
        for node in 0..self.nodes.len() {
            let Some(run) = self.nodes[node].driven.get(&saga).map(|driven| driven.held.run) else {
                continue;
            };
            let reason = || Reason::new("transaction.aborted.step", "an operation failed");
            let undone = (!is_done).then(reason);
            let end = RouteEnd { undone, steps: Vec::new() };
            self.step(&Address { node, saga, run }, Input::RouteEnded(end));
        }
    }

    fn tell(&mut self, of: &Address, outcome: &Outcome) {
        let Some(driven) = self.driven(of) else { return };
        driven.caller_waits = false;
        self.check_telling(of.saga, outcome.kind);
        self.told.entry(of.saga).or_default().push(outcome.kind);
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
        *process = Node { life: process.life + 1, ..Node::of(process.journal) };
        self.note(|| format!("n{node} dies"));
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
        self.adopt(node);
    }
}
