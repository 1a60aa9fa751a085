//! The simulated world: processes, stores, one disk, a consensus service, a clock and bad luck.
//!
//! Everything happens in one loop over a queue ordered by time, from one seed. Not the rules: those
//! are `unanimity::protocol`, used as they are. Invariant: what a process knows dies with it; only
//! the disk and the stores remember.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::{CoordinationId, InstanceId, StoreName};
use unanimity::model::outcome::{Decision, OutcomeKind, Receipt};
use unanimity::model::record::Reason;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::protocol::Ask;
use unanimity::protocol::Input;
use unanimity::protocol::two_phase::Rule;

use super::bugs::Bug;
use super::driver::Node;
use super::journal::Disk;
use super::last_resource::LastQuestion;
use super::locks::Locks;
use super::store::Store;
use crate::support::agenda::{Agenda, trace_line};
use crate::support::random::Random;

/// From then on nothing goes wrong any more.
const CALM_AT: Duration = Duration::from_secs(60);
/// By then everything has to be over.
const END_AT: Duration = Duration::from_secs(4_000);
/// Operators look after what needs them from then on.
const OPERATOR_AT: Duration = Duration::from_secs(500);
const TICK: Duration = Duration::from_secs(5);

/// Whom an answer is for: one run of one machine in one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) id: CoordinationId,
    pub(super) run: u64,
}

/// A question on its way to a store.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) to: usize,
    /// The store's life when it was asked, and the asking process's.
    pub(super) life: u64,
    pub(super) asker: (usize, u64),
    pub(super) party: usize,
    pub(super) ask: Ask,
    /// What the store gave with its vote, as the machine knows it.
    pub(super) receipt: Option<Receipt>,
    pub(super) of_use_until: Timestamp,
    /// `None` for an echo, which nobody waits for.
    pub(super) from: Option<Address>,
    pub(super) id: CoordinationId,
}

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Request { node: usize, request: usize },
    Arrives(Question),
    Answered { to: Address, input: Input },
    Time { of: Address },
    CommitStarts { node: usize, life: u64 },
    CommitEnds { node: usize, life: u64 },
    LocksAnswered { to: Address, refused: Option<Reason> },
    LockWaitEnds { of: Address },
    LockIsLost { of: Address },
    LockSessionEnds { node: usize, life: u64 },
    Proposal { from: Address, decision: Decision, read_only: Vec<StoreName>, is_answered: bool },
    Read { from: Address },
    LastAsked(LastQuestion),
    AbortWish { request: usize, node: usize },
    OperatorDecides { request: usize, decision: Decision, in_journal: bool },
    NodeDies { node: usize },
    NodeStarts { node: usize },
    StoreDies { store: usize },
    Tick,
}

/// What is drawn once for a run.
pub(super) struct Climate {
    pub(super) has_consensus: bool,
    pub(super) has_locks: bool,
    /// The lock manager outlives a process, and is asked by all.
    pub(super) locks_are_shared: bool,
    /// How many answers of 100 are lost.
    pub(super) loss: usize,
    /// How many of 1000 records and asks are the last act of a process.
    pub(super) deaths_per_mille: usize,
    /// How many questions of 100 hang for long.
    pub(super) hangs: usize,
    /// How many prepares of 100 take about as long as they are waited for.
    pub(super) slow_prepares: usize,
}

/// The world.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) climate: Climate,
    pub(super) disk: Disk,
    pub(super) locks: Locks,
    pub(super) consensus: BTreeMap<CoordinationId, (Decision, Vec<StoreName>)>,
    pub(super) nodes: Vec<Node>,
    pub(super) stores: Vec<Store>,
    pub(super) requests: Vec<Arc<CoordinationRequest>>,
    pub(super) told: BTreeMap<CoordinationId, Vec<OutcomeKind>>,
    /// What an operator decided; stores may have to go their own way there.
    pub(super) resolved: BTreeSet<CoordinationId>,
    pub(super) rules: BTreeSet<u8>,
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
        let names = (0..=random.below(5)).map(|index| name(&format!("s{index}")));
        let mut draws = random.clone();
        let mut stores: Vec<Store> = names.map(|name| Store::new(name, &mut draws)).collect();
        let nodes: Vec<_> = (0..=draws.below(3)).map(|_| Node::default()).collect();
        let climate = Climate {
            has_consensus: draws.chance(35),
            has_locks: draws.chance(70),
            locks_are_shared: nodes.len() > 1 || draws.chance(50),
            loss: [0, 2, 10][draws.below(3)],
            deaths_per_mille: [0, 5, 20][draws.below(3)],
            hangs: [0, 1, 5][draws.below(3)],
            slow_prepares: [0, 10, 40][draws.below(3)],
        };
        // With a consensus service the decision stands before its record does.
        for store in stores.iter_mut().filter(|_| !climate.has_consensus) {
            store.gives_receipts = draws.chance(50);
        }
        let mut world = Self {
            random: draws,
            now: Timestamp(0),
            climate,
            disk: Disk { bug, ..Disk::default() },
            locks: Locks::default(),
            consensus: BTreeMap::new(),
            nodes,
            stores,
            requests: Vec::new(),
            told: BTreeMap::new(),
            resolved: BTreeSet::new(),
            rules: BTreeSet::new(),
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
        for request in 0..2 + self.random.below(4) {
            let mut drawn = self.draw_request(request);
            if !self.climate.has_consensus && self.random.chance(40) {
                let last = drawn.stores[self.random.below(drawn.stores.len())].clone();
                drawn.set_last_resource(&last);
            }
            self.requests.push(Arc::new(drawn));
            let node = self.random.below(self.nodes.len());
            let at = self.random.millis(10, 15_000);
            self.schedule(at, Happening::Request { node, request });
            if self.random.chance(20) {
                let node = self.random.below(self.nodes.len());
                let again = at + self.random.millis(0, 3_000);
                self.schedule(again, Happening::Request { node, request });
            }
            if self.random.chance(15) {
                let wish = at + self.random.millis(0, 3_000);
                self.schedule(wish, Happening::AbortWish { request, node });
            }
            if self.random.chance(12) {
                let decision =
                    if self.random.chance(40) { Decision::Commit } else { Decision::Abort };
                let in_journal = self.random.chance(50);
                let act = at + self.random.millis(0, 9_000);
                self.schedule(act, Happening::OperatorDecides { request, decision, in_journal });
            }
        }
    }

    fn draw_request(&mut self, number: usize) -> CoordinationRequest {
        let mut stores: Vec<String> =
            self.stores.iter().map(|store| store.name.to_string()).collect();
        while stores.len() > 1 && self.random.chance(30) {
            let gone = self.random.below(stores.len());
            stores.remove(gone);
        }
        let operations: Vec<Value> =
            stores.iter().map(|store| self.draw_operation(store)).collect();
        let seconds = [0.3, 2.0, 10.0, 45.0][self.random.below(4)];
        let levels = ["strong", "strong", "strong", "session", "eventual"];
        CoordinationRequest::check(RequestParts {
            id: format!("c{number}"),
            kind: "two_phase_commit".into(),
            stores,
            operations,
            timeout_seconds: seconds,
            consistency: levels[self.random.below(5)].into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the parts are made to be right")
    }

    /// Mostly a write of one of two keys; sometimes a read, or of no key at all.
    fn draw_operation(&mut self, store: &str) -> Value {
        let mut fields = vec![("store", store), ("type", "put")];
        if self.random.chance(25) {
            fields.push(("access", "read"));
        }
        if self.random.chance(90) {
            fields.push(("key", ["k0", "k1"][self.random.below(2)]));
        }
        let fields = fields.into_iter().map(|(name, word)| (name.to_owned(), Value::from(word)));
        Value::Map(fields.collect())
    }

    fn plan_misfortune(&mut self) {
        for node in 0..self.nodes.len() {
            let at = if node == 0 { Duration::ZERO } else { self.random.millis(0, 2_000) };
            self.schedule(at, Happening::NodeStarts { node });
            for _ in 0..self.random.below(3) {
                let at = self.random.millis(100, 40_000);
                self.schedule(at, Happening::NodeDies { node });
            }
            self.schedule(CALM_AT, Happening::NodeStarts { node });
        }
        for store in 0..self.stores.len() {
            for _ in 0..self.random.below(6) {
                let at = self.random.millis(100, 30_000);
                self.schedule(at, Happening::StoreDies { store });
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

    pub(super) fn operator_is_up(&self) -> bool {
        self.now >= Timestamp(0) + OPERATOR_AT
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

    pub(super) fn took(&mut self, rules: impl Iterator<Item = Rule>) {
        self.rules.extend(rules.map(|rule| rule as u8));
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
            Happening::Request { node, request } => self.begin(node, request),
            Happening::Arrives(question) => self.arrives(question),
            Happening::Answered { to, input } => self.answered(&to, input),
            Happening::Time { of } => self.time_reached(&of),
            Happening::CommitStarts { node, life } => self.commit_starts(node, life),
            Happening::CommitEnds { node, life } => self.commit_ends(node, life),
            Happening::LocksAnswered { to, refused } => self.locks_answered(&to, refused),
            Happening::LockWaitEnds { of } => self.lock_wait_ends(&of),
            Happening::LockIsLost { of } => self.lock_is_lost(&of),
            Happening::LockSessionEnds { node, life } => self.session_ends(node, life),
            Happening::Proposal { from, decision, read_only, is_answered } => {
                self.proposal(from, decision, read_only, is_answered);
            }
            Happening::LastAsked(question) => self.last_asked(question),
            Happening::Read { from } => self.read_decision(from),
            Happening::AbortWish { request, node } => self.wish_abort(request, node),
            Happening::OperatorDecides { request, decision, in_journal } => {
                self.operator_decides(request, decision, in_journal);
            }
            Happening::NodeDies { node } => self.node_dies(node),
            Happening::NodeStarts { node } => self.node_starts(node),
            Happening::StoreDies { store } => {
                self.stores[store].life += 1;
                self.note(|| format!("store s{store} dies, and what was on its way to it"));
            }
            Happening::Tick => self.tick(),
        }
    }

    fn tick(&mut self) {
        self.adopt_and_sweep();
        self.release_kept_locks();
        self.check_on_the_way();
        if self.is_calm() && self.is_over() {
            return;
        }
        if self.now > Timestamp(0) + END_AT {
            let open = self.what_is_open();
            self.fail(format!("it never ends: {open}"));
        }
        self.schedule(TICK, Happening::Tick);
    }
}

fn name(text: &str) -> StoreName {
    StoreName::new(text).expect("it is short")
}

/// A process's new name for its hold on the journal.
pub(super) fn instance(node: usize, life: u64) -> InstanceId {
    InstanceId::new(&format!("n{node}.{life}")).expect("it is short")
}
