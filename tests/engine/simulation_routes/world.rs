//! The simulated world of choreographed sagas: processes around journals, a bus, a clock, bad luck.
//!
//! Everything happens in one loop over a queue ordered by time, from one seed. Not the rules: the
//! route and the machine of whoever began a saga are `unanimity::protocol::choreography`, used as
//! they are. Each store belongs to one journal, whose processes take its slips in turn. Invariant:
//! what a process knows dies with it; only disks, stores and the bus remember.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::InstanceId;
use unanimity::model::outcome::OutcomeKind;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::choreography::Route;

use crate::support::driving::Driving;

use super::bugs::Bug;
use super::bus::{Bus, Message};
use super::process::{Address, Node, SagaRow, Write};
use super::stop::{Cell, StopId, StopRow};
use crate::support::agenda::{Agenda, trace_line};
use crate::support::random::Random;

/// From then on nothing goes wrong any more.
pub(super) const CALM_AT: Duration = Duration::from_secs(40);
/// By then everything has to be over.
const END_AT: Duration = Duration::from_secs(200);
const TICK: Duration = Duration::from_secs(2);
const STORES: usize = 4;

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Request { saga: usize },
    Time { of: Address },
    Written { node: usize, life: u64, write: Write },
    Sent { node: usize, life: u64, message: Message },
    Handed { message: usize },
    StopAsks { node: usize, life: u64, stop: StopId },
    NodeDies { node: usize },
    NodeStarts { node: usize },
    Tick,
}

/// What is drawn once for a run.
pub(super) struct Climate {
    /// How many answers of 100 are lost, and how many messages are not taken.
    pub(super) loss: usize,
    /// How many of 1000 acts are the last one of a process.
    pub(super) deaths_per_mille: usize,
    /// How many stops of 100 cannot be begun now: somebody else has the locks.
    pub(super) refusals: usize,
}

/// A saga as it was drawn.
pub(super) struct Saga {
    pub(super) request: Arc<CoordinationRequest>,
    pub(super) route: Route,
    /// The journal of whoever began it.
    pub(super) home: usize,
    /// The operations that can never be done.
    pub(super) doomed: BTreeSet<usize>,
}

/// The world.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) climate: Climate,
    pub(super) journals: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) sagas: Vec<Saga>,
    /// What is on the disks: each in one journal, found by its id.
    pub(super) rows: BTreeMap<usize, SagaRow>,
    pub(super) stops: BTreeMap<StopId, StopRow>,
    pub(super) cells: BTreeMap<(usize, usize), Cell>,
    pub(super) bus: Bus,
    pub(super) told: BTreeMap<usize, Vec<OutcomeKind>>,
    pub(super) bug: Option<Bug>,
    pub(super) failure: Option<String>,
    pub(super) trace: Option<Vec<String>>,
    pub(super) runs: u64,
    deaths_left: usize,
    agenda: Agenda<Happening>,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let climate = Climate {
            loss: [0, 5, 15][random.below(3)],
            deaths_per_mille: [0, 10, 30][random.below(3)],
            refusals: [0, 5, 20][random.below(3)],
        };
        let journals = 1 + random.below(3);
        let nodes = (0..journals + random.below(3)).map(|node| Node::of(node % journals));
        let nodes = nodes.collect();
        let mut world = Self {
            random,
            now: Timestamp(0),
            climate,
            journals,
            nodes,
            sagas: Vec::new(),
            rows: BTreeMap::new(),
            stops: BTreeMap::new(),
            cells: BTreeMap::new(),
            bus: Bus::default(),
            told: BTreeMap::new(),
            bug,
            failure: None,
            trace: is_traced.then(Vec::new),
            runs: 0,
            deaths_left: 6,
            agenda: Agenda::default(),
        };
        world.plan_sagas();
        world.plan_misfortune();
        world.schedule(TICK, Happening::Tick);
        world
    }

    fn plan_sagas(&mut self) {
        for number in 0..=self.random.below(4) {
            let count = 1 + self.random.below(4);
            let request = Arc::new(self.draw_request(number, count));
            let route = Route::check(&request, |_| true).expect("it is drawn to be right");
            let home = self.random.below(self.journals);
            let doomed = (0..count).filter(|_| self.random.chance(12)).collect();
            self.sagas.push(Saga { request, route, home, doomed });
            let at = self.random.millis(10, 12_000);
            self.schedule(at, Happening::Request { saga: number });
        }
    }

    fn draw_request(&mut self, number: usize, count: usize) -> CoordinationRequest {
        // Some operations are triggered by an earlier one than the one before.
        let operations = (0..count).map(|index| {
            let mut fields = vec![
                ("operation_id".to_owned(), Value::Text(format!("o{index}"))),
                ("store".to_owned(), Value::Text(format!("s{}", self.random.below(STORES)))),
                ("type".to_owned(), Value::from("do")),
                ("compensation".to_owned(), Value::Bool(true)),
            ];
            if index > 1 && self.random.chance(30) {
                let trigger = self.random.below(index);
                fields.push(("on".to_owned(), Value::Text(format!("o{trigger}.completed"))));
            }
            Value::Map(fields)
        });
        let operations = operations.collect();
        let levels = ["strong", "session", "eventual"];
        CoordinationRequest::check(RequestParts {
            id: format!("c{number}"),
            kind: "saga_choreography".into(),
            stores: (0..STORES).map(|store| format!("s{store}")).collect(),
            operations,
            timeout_seconds: [1.0, 4.0, 20.0][self.random.below(3)],
            consistency: levels[self.random.below(3)].into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the parts are made to be right")
    }

    /// The journal that has the store of an operation.
    pub(super) fn journal_of(&self, saga: usize, operation: usize) -> usize {
        let store = self.sagas[saga].request.operations[operation].store.as_str();
        store[1..].parse::<usize>().expect("stores have numbers") % self.journals
    }

    fn plan_misfortune(&mut self) {
        for node in 0..self.nodes.len() {
            let at = if node == 0 { Duration::ZERO } else { self.random.millis(0, 2_000) };
            self.schedule(at, Happening::NodeStarts { node });
            for _ in 0..self.random.below(3) {
                let at = self.random.millis(100, 25_000);
                self.schedule(at, Happening::NodeDies { node });
            }
            self.schedule(CALM_AT, Happening::NodeStarts { node });
        }
    }

    pub(super) fn schedule(&mut self, delay: Duration, happening: Happening) {
        self.agenda.plan(self.now + delay, happening);
    }

    /// Whether bad luck is over.
    pub(super) fn is_calm(&self) -> bool {
        self.now >= Timestamp(0) + CALM_AT
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        !self.is_calm() && self.random.chance(percent)
    }

    /// A process may die before and after each of its acts.
    pub(super) fn dies_now(&mut self, node: usize) -> bool {
        let dies = !self.is_calm()
            && self.deaths_left > 0
            && self.random.below(1_000) < self.climate.deaths_per_mille;
        if dies {
            self.deaths_left -= 1;
            self.node_dies(node);
        }
        dies
    }

    pub(super) fn fail(&mut self, invariant: impl Into<String>) {
        let invariant = invariant.into();
        self.note(|| format!("FAILED: {invariant}"));
        self.failure.get_or_insert(invariant);
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(trace_line(now, &text()));
        }
    }

    /// Lets everything happen until all is over, or an invariant breaks.
    pub(super) fn run(&mut self) {
        while let Some((at, happening)) = self.agenda.next() {
            self.now = at;
            self.happen(happening);
            if self.failure.is_some() {
                return;
            }
        }
        self.check_the_end();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Request { saga } => self.begin(saga),
            Happening::Time { of } => self.time_reached(&of),
            Happening::Written { node, life, write } => self.written(node, life, write),
            Happening::Sent { node, life, message } => self.sent(node, life, message),
            Happening::Handed { message } => self.handed(message),
            Happening::StopAsks { node, life, stop } => self.stop_asks(node, life, stop),
            Happening::NodeDies { node } => self.node_dies(node),
            Happening::NodeStarts { node } => self.node_starts(node),
            Happening::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            self.adopt(node);
        }
        self.hand_over_again();
        self.check_callers();
        if self.is_calm() && self.what_is_open().is_empty() {
            return;
        }
        if self.now > Timestamp(0) + END_AT {
            let open = self.what_is_open();
            return self.fail(format!("it never ends: {open}"));
        }
        self.schedule(TICK, Happening::Tick);
    }
}

/// A process's new name for its hold on its journal.
pub(super) fn instance(node: usize, life: u64) -> InstanceId {
    InstanceId::new(&format!("n{node}.{life}")).expect("it is short")
}
