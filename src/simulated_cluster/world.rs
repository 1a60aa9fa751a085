//! The simulated world: three processes, stores, a network, one time, and what is planned.
//!
//! A tick is: what is due happens, letters arrive, each process that runs does so for the tick,
//! and what it heard is acted upon. Not the faults (`misfortune`), not the driving (`driver`,
//! `locking`), not the end (`ending`). Invariant: what a process knows dies with it; its folder
//! and the stores remember.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::audit::Audit;
use super::misfortune::Climate;
use super::network::{Letter, Wires};
use super::planted::Bug;
use super::process::{Process, Setting, Word};
use super::random::Random;
use super::store::Store;
use super::witness::Shared;
use crate::consensus::raft::simulated::audit_by;
use crate::model::ids::CoordinationId;
use crate::model::lock::Fence;
use crate::model::outcome::OutcomeKind;
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::time::Timestamp;
use crate::model::value::Value;
use crate::protocol::replica::Command;
use crate::protocol::{Ask, Input};
use crate::simulated;

pub(super) const NAMES: [&str; 3] = ["n0", "n1", "n2"];
pub(super) const TICK: Duration = Duration::from_millis(5);
/// From then on nothing goes wrong any more.
pub(super) const CALM_AT: Duration = Duration::from_secs(20);
/// By then everything has to be over.
const END_AT: Duration = Duration::from_secs(90);

/// Whom an answer is for: one run of one machine in one life of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) id: CoordinationId,
    pub(super) run: u64,
}

/// A question on its way to a store.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) to: usize,
    pub(super) from: Address,
    pub(super) party: usize,
    pub(super) ask: Ask,
    pub(super) fences: Vec<Fence>,
}

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    Request { node: usize, request: usize },
    AbortWish { node: usize, request: usize },
    ByHand { node: usize, request: usize },
    Arrives(Question),
    Answered { to: Address, input: Input },
    Time { of: Address },
    Adopts { node: usize, life: u64 },
    Guest { node: usize, number: u64 },
    GuestLeaves { node: usize, life: u64, wait: u64 },
    AsksAgain { of: Address },
    Settles { node: usize, life: u64, wait: u64 },
    Proposes { node: usize, life: u64, commands: Vec<Command> },
    Looks { node: usize },
    Starts { node: usize },
    Crashes { node: usize },
    PowerFails,
    Stalls { node: Option<usize>, millis: u64, jumps: bool },
    Cuts { node: usize, both_ways: bool },
    Heals,
    Calms,
}

/// One of the machines that processes run on.
pub(super) struct Node {
    pub(super) folder: PathBuf,
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    /// Until when it does not run, and whether its clock jumps then.
    pub(super) stalled: Option<(Timestamp, Timestamp, bool)>,
    /// By how much its wall clock is wrong.
    pub(super) skew: Duration,
}

/// The world.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: Timestamp,
    pub(super) bug: Option<Bug>,
    pub(super) witness: Shared,
    pub(super) audit: Rc<Audit>,
    pub(super) wires: Wires,
    pub(super) climate: Climate,
    pub(super) nodes: Vec<Node>,
    pub(super) stores: Vec<Store>,
    pub(super) requests: Vec<Arc<CoordinationRequest>>,
    pub(super) told: BTreeMap<CoordinationId, Vec<OutcomeKind>>,
    pub(super) runs: u64,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    planned: u64,
    _folder: tempfile::TempDir,
}

/// In memory where there is such a place: nothing has to outlive the run.
fn folder() -> tempfile::TempDir {
    let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    made.expect("a folder can be made")
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Self {
        let mut random = Random::new(seed);
        let (witness, folder) = (Shared::new(is_traced), folder());
        let audit = Rc::new(Audit::new(witness.clone(), bug));
        audit_by(Rc::clone(&audit) as Rc<_>);
        let wires = Wires::new(Random::new(seed.wrapping_add(1 << 40)), witness.clone());
        let climate = Climate::draw(&mut random);
        let node = |name: &&str| Node {
            folder: folder.path().join(name),
            life: 0,
            process: None,
            stalled: None,
            skew: Duration::ZERO,
        };
        let mut world = Self {
            now: Timestamp(0),
            bug,
            witness,
            audit,
            wires,
            climate,
            nodes: NAMES.iter().map(node).collect(),
            stores: ["s0", "s1", "s2"].map(Store::new).into(),
            requests: Vec::new(),
            told: BTreeMap::new(),
            runs: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            _folder: folder,
            random,
        };
        world.plan_requests();
        world.plan_misfortune();
        world
    }

    fn plan_requests(&mut self) {
        for request in 0..12 + self.random.below(8) {
            let drawn = self.draw_request(request);
            self.requests.push(Arc::new(drawn));
            let node = self.random.below(NAMES.len());
            let at = self.random.millis(1_500, 17_000);
            self.schedule(at, Happening::Request { node, request });
            if self.random.chance(10) {
                let wish = at + self.random.millis(0, 1_500);
                self.schedule(wish, Happening::AbortWish { node, request });
            }
            if self.random.chance(30) {
                let node = self.random.below(NAMES.len());
                let by_hand = at + self.random.millis(0, 1_000);
                self.schedule(by_hand, Happening::ByHand { node, request });
            }
        }
        for number in 0..10 {
            let (node, at) = (self.random.below(NAMES.len()), self.random.millis(1_500, 18_000));
            self.schedule(at, Happening::Guest { node, number });
        }
        for _ in 0..40 {
            let (node, at) = (self.random.below(NAMES.len()), self.random.millis(500, 20_000));
            self.schedule(at, Happening::Looks { node });
        }
    }

    fn draw_request(&mut self, number: usize) -> CoordinationRequest {
        let mut stores: Vec<String> =
            self.stores.iter().map(|store| store.name.to_string()).collect();
        if self.random.chance(50) {
            let gone = self.random.below(stores.len());
            stores.remove(gone);
        }
        let operations = stores.iter().map(|store| self.draw_operation(store)).collect();
        CoordinationRequest::check(RequestParts {
            id: format!("c{number}"),
            kind: "two_phase_commit".into(),
            stores,
            operations,
            timeout_seconds: [0.8, 3.0, 10.0][self.random.below(3)],
            consistency: "strong".into(),
            metadata: Value::Map(Vec::new()),
        })
        .expect("the parts are made to be right")
    }

    /// A write or a read of one of two keys.
    fn draw_operation(&mut self, store: &str) -> Value {
        let mut fields = vec![("store", store), ("type", "put")];
        if self.random.chance(30) {
            fields.push(("access", "read"));
        }
        fields.push(("key", ["k0", "k1"][self.random.below(2)]));
        let fields = fields.into_iter().map(|(name, word)| (name.to_owned(), Value::from(word)));
        Value::Map(fields.collect())
    }

    pub(super) fn schedule(&mut self, delay: Duration, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((self.now + delay, self.planned), happening);
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= Timestamp(0) + CALM_AT
    }

    /// The process of a node in this life, if it is alive.
    pub(super) fn alive(&mut self, node: usize, life: u64) -> Option<&mut Process> {
        let node = &mut self.nodes[node];
        node.process.as_mut().filter(|_| node.life == life)
    }

    /// Runs until all is over, or an invariant breaks; the error is that.
    pub(super) fn run(&mut self) -> Result<(), String> {
        loop {
            self.now = self.now + TICK;
            self.witness.lock().now = self.now;
            self.wires.lock().now = self.now;
            self.happen_what_is_due();
            self.deliver();
            for node in 0..NAMES.len() {
                self.tick(node);
            }
            if let Some(broken) = self.witness.lock().failure.clone() {
                return Err(broken);
            }
            if self.is_calm() && self.now.0 % 500_000 == 0 && self.is_over() {
                return self.check_the_end();
            }
            if self.now >= Timestamp(0) + END_AT {
                return Err(format!("it never ends: {}", self.what_is_open().join("; ")));
            }
        }
    }

    fn happen_what_is_due(&mut self) {
        while let Some(first) = self.agenda.first_entry().filter(|it| it.key().0 <= self.now) {
            let happening = first.remove();
            self.happen(happening);
        }
    }

    /// Letters arrive where somebody runs.
    fn deliver(&mut self) {
        loop {
            let Some(letter) = self.wires.lock().next() else { return };
            match letter {
                Letter::Answers { bytes, back, .. } => drop(back.send(Ok(bytes))),
                Letter::Asks { ref to, .. } => {
                    let node = NAMES.iter().position(|name| name == to).unwrap_or(0);
                    self.arrive(node, letter);
                }
            }
        }
    }

    fn arrive(&mut self, node: usize, letter: Letter) {
        if let Some((_, until, _)) = self.nodes[node].stalled {
            return self.wires.lock().put(until.max(self.now) + TICK, letter);
        }
        // Nobody listens: whoever asked waits until his time is over.
        let Some(process) = &self.nodes[node].process else { return };
        let (wires, handler) = (self.wires.clone(), process.raft.handler());
        process.runtime.spawn(wires.serve(NAMES[node].to_owned(), handler, letter));
    }

    fn tick(&mut self, node: usize) {
        if self.is_stalled(node) {
            return;
        }
        let place = &self.nodes[node];
        let Some(process) = &place.process else { return };
        simulated::turn_to(self.now + place.skew, self.climate.slowness(self.is_calm(), node));
        process.run_for(TICK);
        if let Some(words) = process.raft.why_stopped() {
            self.witness.fail(format!("{} stopped by itself: {words}", NAMES[node]));
        }
        let life = self.nodes[node].life;
        while let Some(word) = self.alive(node, life).and_then(|process| process.inbox.take()) {
            self.hear(node, word);
        }
    }

    /// Whether it does not run; when it runs again, its clock may have gone on.
    fn is_stalled(&mut self, node: usize) -> bool {
        let Some((since, until, jumps)) = self.nodes[node].stalled else { return false };
        if self.now < until {
            return true;
        }
        self.nodes[node].stalled = None;
        self.witness.note(&format!("{} runs again", NAMES[node]));
        if let Some(process) = self.nodes[node].process.as_ref().filter(|_| jumps) {
            process.jump(until.since(since));
        }
        false
    }

    fn hear(&mut self, node: usize, word: Word) {
        match word {
            Word::Journal(answers) => {
                for (token, answer) in answers {
                    self.recorded(node, token, answer);
                }
            }
            Word::OwnerDied => self.adopt(node),
            Word::Adopted(Ok(open)) => open.into_iter().for_each(|it| self.resume(node, &it)),
            Word::Adopted(Err(_)) => {}
            Word::LockAnswer { wait, result } => self.lock_answered(node, wait, result),
            Word::Settled { wait, is_heard } => self.settled(node, wait, is_heard),
            Word::Again(commands) => {
                let life = self.nodes[node].life;
                let later = Duration::from_millis(200);
                self.schedule(later, Happening::Proposes { node, life, commands });
            }
            Word::Effects(effects) => {
                for effect in effects {
                    self.lock_effect(node, effect);
                }
            }
            Word::Replaced => self.state_replaced(node),
            Word::Step(of, input) => self.step_if_there(&of, input),
        }
    }

    /// Starts the process of a node, unless it runs.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        self.witness.note(&format!("{} starts, life {}", NAMES[node], self.nodes[node].life));
        simulated::turn_to(self.now + self.nodes[node].skew, (1, 1));
        let setting = Setting {
            name: NAMES[node],
            folder: &self.nodes[node].folder,
            wires: self.wires.clone(),
            witness: self.witness.clone(),
            bug: self.bug,
            threshold: self.climate.threshold,
        };
        match Process::start(&setting) {
            Ok(process) => {
                self.nodes[node].process = Some(process);
                let life = self.nodes[node].life;
                let soon = Duration::from_millis(100);
                self.schedule(soon, Happening::Adopts { node, life });
            }
            Err(words) => self.witness.fail(format!("{} does not start: {words}", NAMES[node])),
        }
    }

    /// Where something waits for a process that does not run now.
    pub(super) fn waits_for(&mut self, node: usize, happening: &Happening) -> bool {
        let Some((_, until, _)) = self.nodes[node].stalled else { return false };
        self.schedule(until.since(self.now) + TICK, happening.clone());
        true
    }
}
