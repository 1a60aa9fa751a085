//! The simulated world: processes, participants, one disk, a consensus service, a clock, bad luck.
//!
//! Everything happens in one loop over a queue ordered by time, from one seed. Not the rules: those
//! are `unanimity::protocol`, used as they are. Invariant: what a process knows dies with it; only
//! the disk and the participants remember.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId};
use unanimity::model::outcome::{Decision, OutcomeKind};
use unanimity::model::record::Reason;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::step::Work;
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::{Input, saga};

use crate::support::driving::Driving;

use super::bugs::Bug;
use super::disk::Disk;
use super::driver::Node;
use super::participant::{Nature, Participants};
use crate::support::agenda::{Agenda, trace_line};
use crate::support::random::Random;

/// From then on nothing goes wrong any more.
pub(super) const CALM_AT: Duration = Duration::from_secs(60);
/// By then everything has to be over.
const END_AT: Duration = Duration::from_secs(4_000);
const TICK: Duration = Duration::from_secs(5);

/// Which machines a world runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Saga,
    Eventual,
}

/// Whom an answer is for: one run of one machine in one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) id: CoordinationId,
    pub(super) run: u64,
}

/// A question on its way to a participant.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) from: Address,
    /// The asking process's life.
    pub(super) life: u64,
    pub(super) step: usize,
    pub(super) work: Work,
    pub(super) attempt: u32,
}

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Request { request: usize },
    Arrives(Question),
    Answered { to: Address, input: Input },
    Time { of: Address },
    CommitStarts { node: usize, life: u64 },
    CommitEnds { node: usize, life: u64 },
    LocksAnswered { to: Address, refused: Option<Reason> },
    Proposal { from: Address, decision: Decision, is_answered: bool },
    Read { from: Address },
    AbortWish { request: usize },
    OperatorWritesAbort { request: usize },
    NodeDies { node: usize },
    NodeStarts { node: usize },
    Tick,
}

/// What is drawn once for a run.
pub(super) struct Climate {
    pub(super) has_consensus: bool,
    /// How many answers of 100 are lost.
    pub(super) loss: usize,
    /// How many of 1000 records and asks are the last act of a process.
    pub(super) deaths_per_mille: usize,
    /// How many questions of 100 hang for longer than they are waited for.
    pub(super) hangs: usize,
    /// How many tries of 100 end otherwise than well.
    pub(super) trouble: bool,
}

/// The world.
pub(super) struct World {
    pub(super) kind: Kind,
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) climate: Climate,
    pub(super) disk: Disk,
    pub(super) participants: Participants,
    pub(super) consensus: BTreeMap<CoordinationId, Decision>,
    pub(super) nodes: Vec<Node>,
    /// The process that accepts, and the life in which it does: eventual consistency promises an
    /// order among what one process accepts, and what it took over before.
    pub(super) accepting: Option<(usize, u64)>,
    pub(super) requests: Vec<Arc<CoordinationRequest>>,
    /// Each saga's steps, as they were checked.
    pub(super) steps: BTreeMap<CoordinationId, Vec<saga::Step>>,
    pub(super) told: BTreeMap<CoordinationId, Vec<OutcomeKind>>,
    /// Where an operator stepped in.
    pub(super) resolved: BTreeSet<CoordinationId>,
    pub(super) bug: Option<Bug>,
    pub(super) failure: Option<String>,
    pub(super) trace: Option<Vec<String>>,
    pub(super) runs: u64,
    pub(super) deaths_left: usize,
    agenda: Agenda<Happening>,
}

impl World {
    pub(super) fn new(kind: Kind, seed: u64, bug: Option<Bug>, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let climate = Climate {
            has_consensus: kind == Kind::Saga && random.chance(30),
            loss: [0, 3, 10][random.below(3)],
            deaths_per_mille: [0, 5, 20][random.below(3)],
            hangs: [0, 2, 8][random.below(3)],
            trouble: random.chance(80),
        };
        let nodes = (0..=random.below(3)).map(|_| Node::default()).collect();
        let participants =
            Participants { has_barrier: random.chance(50), ..Participants::default() };
        let mut world = Self {
            kind,
            random,
            now: Timestamp(0),
            climate,
            disk: Disk { bug, ..Disk::default() },
            participants,
            consensus: BTreeMap::new(),
            nodes,
            accepting: None,
            requests: Vec::new(),
            steps: BTreeMap::new(),
            told: BTreeMap::new(),
            resolved: BTreeSet::new(),
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
        for number in 0..2 + self.random.below(4) {
            let request = Arc::new(self.draw_request(number));
            self.requests.push(Arc::clone(&request));
            if self.kind == Kind::Saga {
                let steps = saga::check(&request, |_| false).expect("it is drawn to be right");
                self.steps.insert(request.id.clone(), steps);
            }
            for step in 0..request.operations.len() {
                let is_doomed = self.random.chance(12) && self.may_be_doomed(&request.id, step);
                let nature = if is_doomed { Nature::Doomed } else { Nature::Willing };
                self.participants.natures.insert((request.id.clone(), step), nature);
            }
            let at = self.random.millis(10, 15_000);
            self.schedule(at, Happening::Request { request: number });
            if self.random.chance(20) {
                let again = at + self.random.millis(0, 3_000);
                self.schedule(again, Happening::Request { request: number });
            }
            if self.random.chance(25) {
                let wish = at + self.random.millis(0, 3_000);
                self.schedule(wish, Happening::AbortWish { request: number });
            }
            if self.random.chance(10) {
                let act = at + self.random.millis(0, 4_000);
                self.schedule(act, Happening::OperatorWritesAbort { request: number });
            }
        }
    }

    /// What comes after a pivot is repeated until it is done, so it has to be possible.
    fn may_be_doomed(&self, id: &CoordinationId, step: usize) -> bool {
        let Some(steps) = self.steps.get(id) else { return true };
        let pivot = steps.iter().position(|step| step.is_pivot);
        pivot.is_none() || !self.depends_on(id, step, |other| steps[other].is_pivot)
    }

    /// Whether a step depends, directly or not, on one that is `wanted`.
    pub(super) fn depends_on(
        &self,
        id: &CoordinationId,
        step: usize,
        wanted: impl Fn(usize) -> bool + Copy,
    ) -> bool {
        let before = &self.steps[id][step].depends_on;
        before.iter().any(|other| wanted(*other) || self.depends_on(id, *other, wanted))
    }

    fn draw_request(&mut self, number: usize) -> CoordinationRequest {
        let count = 1 + self.random.below(5);
        let operations = match self.kind {
            Kind::Saga => self.draw_saga(count),
            Kind::Eventual => (0..count).map(|index| self.draw_delivery(index)).collect(),
        };
        let levels = ["strong", "session", "session", "eventual"];
        let kinds = match self.kind {
            Kind::Saga => "saga_orchestration",
            Kind::Eventual => "eventual_consistency",
        };
        CoordinationRequest::check(RequestParts {
            id: format!("c{number}"),
            kind: kinds.into(),
            stores: vec!["s".into()],
            operations,
            timeout_seconds: [1.0, 4.0, 20.0, 100.0][self.random.below(4)],
            consistency: levels[self.random.below(4)].into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the parts are made to be right")
    }

    fn base(&mut self, index: usize) -> Vec<(String, Value)> {
        let retries = i64::try_from(self.random.below(4)).expect("it is small");
        vec![
            ("operation_id".to_owned(), Value::Text(format!("o{index}"))),
            ("store".to_owned(), Value::from("s")),
            ("type".to_owned(), Value::from("do")),
            ("max_retries".to_owned(), Value::Int(retries)),
        ]
    }

    fn draw_delivery(&mut self, index: usize) -> Value {
        let mut fields = self.base(index);
        if self.random.chance(90) {
            fields.push(("key".to_owned(), Value::from(["k0", "k1"][self.random.below(2)])));
        }
        Value::Map(fields)
    }

    fn draw_saga(&mut self, count: usize) -> Vec<Value> {
        let pivot = self.random.chance(60).then(|| self.random.below(count));
        let is_chain = self.random.chance(40);
        let mut operations = Vec::new();
        for index in 0..count {
            let mut fields = self.base(index);
            if !is_chain {
                let before: Vec<Value> = (0..index)
                    .filter(|_| self.random.chance(35))
                    .map(|other| Value::Text(format!("o{other}")))
                    .collect();
                fields.push(("depends_on".to_owned(), Value::List(before)));
            }
            if pivot == Some(index) {
                fields.push(("pivot".to_owned(), Value::Bool(true)));
            }
            if pivot != Some(index) || self.random.chance(30) {
                let compensation = Value::Map(vec![("type".to_owned(), Value::from("undo"))]);
                let is_nothing = pivot != Some(index) && self.random.chance(10);
                let undo = if is_nothing { Value::Null } else { compensation };
                fields.push(("compensation".to_owned(), undo));
            }
            operations.push(Value::Map(fields));
        }
        operations
    }

    fn plan_misfortune(&mut self) {
        for node in 0..self.nodes.len() {
            let at = if node == 0 { Duration::ZERO } else { self.random.millis(0, 2_000) };
            self.schedule(at, Happening::NodeStarts { node });
            for _ in 0..self.random.below(3) {
                let at = self.random.millis(100, 30_000);
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
            Happening::Arrives(question) => self.arrives(&question),
            Happening::Answered { to, input } => self.answered(&to, input),
            Happening::Time { of } => self.time_reached(&of),
            Happening::CommitStarts { node, life } => self.commit_starts(node, life),
            Happening::CommitEnds { node, life } => self.commit_ends(node, life),
            Happening::LocksAnswered { to, refused } => self.locks_answered(&to, refused),
            Happening::Proposal { from, decision, is_answered } => {
                self.proposal(from, decision, is_answered);
            }
            Happening::Read { from } => self.read_decision(from),
            Happening::AbortWish { request } => self.wish_abort(request),
            Happening::OperatorWritesAbort { request } => self.operator_writes_abort(request),
            Happening::NodeDies { node } => self.node_dies(node),
            Happening::NodeStarts { node } => self.node_starts(node),
            Happening::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        for node in 0..self.nodes.len() {
            self.adopt(node);
        }
        self.operator_looks();
        self.check_callers();
        if self.is_calm() && self.what_is_open().is_empty() {
            return;
        }
        if self.now > Timestamp(0) + END_AT {
            let open = self.what_is_open();
            self.fail(format!("it never ends: {open}"));
        }
        self.schedule(TICK, Happening::Tick);
    }
}

/// A process's new name for its hold on the journal.
pub(super) fn instance(node: usize, life: u64) -> InstanceId {
    InstanceId::new(&format!("n{node}.{life}")).expect("it is short")
}
