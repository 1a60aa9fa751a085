//! The simulated world of event sourcing: processes, stores, one disk, a clock, bad luck.
//!
//! Everything happens in one loop over a queue ordered by time, from one seed. Not the rules: those
//! are `unanimity::protocol::event_sourcing`, used as they are. Invariant: what a process knows
//! dies with it; only the disk and the stores remember.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::OutcomeKind;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;

use crate::support::driving::Driving;

use super::bugs::Bug;
use super::disk::{Disk, Projection};
use super::process::{Address, Node};
use super::projecting::{Handing, Store};
use crate::support::agenda::{Agenda, trace_line};
use crate::support::random::Random;

/// From then on nothing goes wrong any more.
pub(super) const CALM_AT: Duration = Duration::from_secs(30);
/// By then everything has to be over.
const END_AT: Duration = Duration::from_secs(600);
const TICK: Duration = Duration::from_secs(2);
pub(super) const STORES: [&str; 2] = ["p", "q"];

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Request {
        request: usize,
    },
    Time {
        of: Address,
    },
    CommitStarts {
        node: usize,
        life: u64,
    },
    CommitEnds {
        node: usize,
        life: u64,
    },
    /// The projection of a store looks at what there is to do.
    Round {
        node: usize,
        life: u64,
        store: usize,
    },
    Arrives(Handing),
    Answered {
        to: Handing,
        is_applied: bool,
    },
    /// Somebody has a projection begun anew.
    Rebuild {
        store: usize,
    },
    NodeDies {
        node: usize,
    },
    NodeStarts {
        node: usize,
    },
    Tick,
}

/// What is drawn once for a run.
pub(super) struct Climate {
    /// How many answers of 100 are lost.
    pub(super) loss: usize,
    /// How many of 1000 records and asks are the last act of a process.
    pub(super) deaths_per_mille: usize,
    /// How many events of 100 a store cannot apply now.
    pub(super) trouble: usize,
}

/// The world.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) climate: Climate,
    pub(super) disk: Disk,
    pub(super) nodes: Vec<Node>,
    pub(super) stores: Vec<Store>,
    pub(super) requests: Vec<Arc<CoordinationRequest>>,
    pub(super) told: BTreeMap<CoordinationId, Vec<OutcomeKind>>,
    pub(super) bug: Option<Bug>,
    pub(super) failure: Option<String>,
    pub(super) trace: Option<Vec<String>>,
    pub(super) runs: u64,
    pub(super) deaths_left: usize,
    agenda: Agenda<Happening>,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let climate = Climate {
            loss: [0, 5, 15][random.below(3)],
            deaths_per_mille: [0, 10, 40][random.below(3)],
            trouble: [0, 5, 20][random.below(3)],
        };
        let nodes = (0..=random.below(3)).map(|_| Node::default()).collect();
        let positions = STORES.iter().map(|_| Projection::default()).collect();
        let mut world = Self {
            random,
            now: Timestamp(0),
            climate,
            disk: Disk { positions, bug, ..Disk::default() },
            nodes,
            stores: STORES.iter().map(|_| Store::default()).collect(),
            requests: Vec::new(),
            told: BTreeMap::new(),
            bug,
            failure: None,
            trace: is_traced.then(Vec::new),
            runs: 0,
            deaths_left: 6,
            agenda: Agenda::default(),
        };
        world.plan_requests();
        world.plan_misfortune();
        world.schedule(TICK, Happening::Tick);
        world
    }

    fn plan_requests(&mut self) {
        for number in 0..3 + self.random.below(6) {
            let request = Arc::new(self.draw_request(number));
            self.requests.push(request);
            let at = self.random.millis(10, 12_000);
            self.schedule(at, Happening::Request { request: number });
            if self.random.chance(30) {
                let again = at + self.random.millis(0, 3_000);
                self.schedule(again, Happening::Request { request: number });
            }
        }
    }

    fn draw_request(&mut self, number: usize) -> CoordinationRequest {
        let mut stores: Vec<&str> = STORES.to_vec();
        if self.random.chance(40) {
            stores.remove(self.random.below(2));
        }
        let operations = (0..=self.random.below(4)).map(|_| {
            let mut fields = vec![
                ("store".to_owned(), Value::from(stores[self.random.below(stores.len())])),
                ("type".to_owned(), Value::from("noted")),
                ("stream".to_owned(), Value::Text(format!("s{}", self.random.below(3)))),
            ];
            if self.random.chance(35) {
                let version = i64::try_from(self.random.below(4)).expect("it is small");
                fields.push(("expected_version".to_owned(), Value::Int(version)));
            }
            Value::Map(fields)
        });
        let operations = operations.collect();
        let levels = ["strong", "session", "eventual"];
        CoordinationRequest::check(RequestParts {
            id: format!("c{number}"),
            kind: "event_sourcing".into(),
            stores: stores.into_iter().map(str::to_owned).collect(),
            operations,
            timeout_seconds: [1.0, 4.0, 20.0][self.random.below(3)],
            consistency: levels[self.random.below(3)].into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the parts are made to be right")
    }

    fn plan_misfortune(&mut self) {
        for node in 0..self.nodes.len() {
            let at = if node == 0 { Duration::ZERO } else { self.random.millis(0, 2_000) };
            self.schedule(at, Happening::NodeStarts { node });
            for _ in 0..self.random.below(3) {
                let at = self.random.millis(100, 20_000);
                self.schedule(at, Happening::NodeDies { node });
            }
            self.schedule(CALM_AT, Happening::NodeStarts { node });
        }
        for store in 0..STORES.len() {
            if self.random.chance(30) {
                let at = self.random.millis(1_000, 20_000);
                self.schedule(at, Happening::Rebuild { store });
            }
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
            Happening::Request { request } => self.begin(request),
            Happening::Time { of } => self.time_reached(&of),
            Happening::CommitStarts { node, life } => self.commit_starts(node, life),
            Happening::CommitEnds { node, life } => self.commit_ends(node, life),
            Happening::Round { node, life, store } => self.round(node, life, store),
            Happening::Arrives(handing) => self.arrives(handing),
            Happening::Answered { to, is_applied } => self.answered(&to, is_applied),
            Happening::Rebuild { store } => self.rebuild(store),
            Happening::NodeDies { node } => self.node_dies(node),
            Happening::NodeStarts { node } => self.node_starts(node),
            Happening::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            self.adopt(node);
        }
        self.redrive();
        self.check_callers();
        if self.is_calm() && self.what_is_open().is_empty() {
            // Rounds end with it.
            self.agenda = Agenda::default();
            return;
        }
        if self.now > Timestamp(0) + END_AT {
            let open = self.what_is_open();
            return self.fail(format!("it never ends: {open}"));
        }
        self.schedule(TICK, Happening::Tick);
    }
}

/// A process's new name for its hold on the journal.
pub(super) fn instance(node: usize, life: u64) -> InstanceId {
    InstanceId::new(&format!("n{node}.{life}")).expect("it is short")
}
