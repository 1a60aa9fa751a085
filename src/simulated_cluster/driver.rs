//! A process drives its machines, as `protocol` tells a caller to: records, decisions, stores.
//!
//! Not the locks (`locking`) and not the cutting of effects at records (`driving`). Not the engine:
//! there are no threads; the duties are the same. Invariant checked here: record before you tell.

use std::sync::Arc;
use std::time::Duration;

use super::driving::{DriverBug, Driving, Held};
use super::locking::Who;
use super::process::Word;
use super::world::{Address, Happening, NAMES, Question, World};
use crate::cluster::ReplicatedLog as _;
use crate::consensus::{Consensus, Proposal};
use crate::journal::{Answer as Told, Append, Journal as _, OpenCoordination};
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::{Acknowledgement, Decision, Outcome, OutcomeKind, Vote};
use crate::model::record::{Durability, Record};
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;
use crate::model::value::Value;
use crate::protocol::lock_plan::locks_of;
use crate::protocol::retry::Backoff;
use crate::protocol::two_phase::{PartyPlan, Plan, TwoPhase};
use crate::protocol::{Ask, Effect, Input, Machine, Standing};
use crate::reply::Reply;

impl World {
    fn plan(&self, node: usize, request: &Arc<CoordinationRequest>, epoch: u32) -> Option<Plan> {
        let process = self.nodes[node].process.as_ref()?;
        let party = |name: &StoreName| PartyPlan {
            store: name.clone(),
            lists_prepared: false,
            single_writer: false,
        };
        Some(Plan {
            locks: locks_of(request).into(),
            request: Arc::clone(request),
            owner: process.instance(),
            epoch,
            parties: request.stores.iter().map(party).collect(),
            consensus: self.climate.has_consensus,
            prepare_timeout: Duration::from_secs(2),
            commit_timeout: Duration::from_secs(2),
            abort_wait: Duration::from_secs(1),
            backoff: Backoff {
                base: Duration::from_millis(50),
                cap: Duration::from_secs(2),
                seed: u64::from(epoch),
            },
        })
    }

    pub(super) fn begin(&mut self, node: usize, request: usize) {
        let request = Arc::clone(&self.requests[request]);
        if self.waits_for_request(node, &request.id) {
            return;
        }
        let Some(plan) = self.plan(node, &request, 0) else { return };
        let process = self.nodes[node].process.as_ref();
        if process.is_some_and(|process| process.driven.contains_key(&request.id)) {
            // It joins the one that runs.
            return;
        }
        self.witness.count("begun");
        let machine = TwoPhase::new(plan, self.now);
        self.drive(node, machine, Input::Started);
    }

    fn waits_for_request(&mut self, node: usize, id: &CoordinationId) -> bool {
        let request = self.requests.iter().position(|request| request.id == *id).unwrap_or(0);
        self.waits_for(node, &Happening::Request { node, request })
    }

    pub(super) fn wish_abort(&mut self, node: usize, request: usize) {
        let id = self.requests[request].id.clone();
        let life = self.nodes[node].life;
        let Some(run) = self.alive(node, life).and_then(|it| it.driven.get(&id)).map(|it| it.run)
        else {
            return;
        };
        if self.nodes[node].stalled.is_none() {
            let reason = "changed my mind".to_owned();
            self.step(&Address { node, life, id, run }, Input::AbortRequested { reason });
        }
    }

    /// Somebody proposes a decision at another process: to abort, so that no store is asked to keep
    /// what it has not promised.
    pub(super) fn abort_by_hand(&mut self, node: usize, request: usize) {
        let id = self.requests[request].id.clone();
        if self.nodes[node].stalled.is_none()
            && let Some(process) = &self.nodes[node].process
        {
            let reply = Reply::new(drop);
            Consensus::propose(&*process.raft, &id, Decision::Abort, Value::Null, reply);
        }
    }

    /// Asks for what the dead have left open, and again after a while.
    pub(super) fn adopts(&mut self, node: usize, life: u64) {
        if self.alive(node, life).is_some() {
            self.adopt(node);
            let later = self.random.millis(1_500, 2_500);
            self.schedule(later, Happening::Adopts { node, life });
        }
    }

    pub(super) fn adopt(&mut self, node: usize) {
        let stores = self.stores.iter().map(|store| store.name.clone()).collect();
        let Some(process) = &self.nodes[node].process else { return };
        let inbox = process.inbox.clone();
        process.journal.adopt(stores, Reply::new(move |found| inbox.put(Word::Adopted(found))));
    }

    pub(super) fn resume(&mut self, node: usize, open: &OpenCoordination) {
        let Some((_, Record::Begin { request, .. })) = open.records.first() else { return };
        let Some(plan) = self.plan(node, request, open.epoch) else { return };
        self.witness.count("adopted");
        let machine = TwoPhase::from_records(plan, &open.records);
        self.drive(node, machine, Input::Resumed);
    }

    fn drive(&mut self, node: usize, machine: TwoPhase, input: Input) {
        self.runs += 1;
        let (life, run, id) = (self.nodes[node].life, self.runs, machine.request().id.clone());
        // One that it drove, lost to another process, and now gets back.
        let before = self.alive(node, life).and_then(|it| it.driven.get(&id)).map(|it| it.run);
        if let Some(run) = before {
            let of = Address { node, life, id: id.clone(), run };
            self.give_up_locks(node, &Who::Machine(of));
        }
        let Some(process) = self.alive(node, life) else { return };
        process.driven.insert(id.clone(), Held::new(machine, run));
        self.step(&Address { node, life, id, run }, input);
    }

    pub(super) fn step_if_there(&mut self, of: &Address, input: Input) {
        if self.held(of).is_some() {
            self.step(of, input);
        }
    }

    pub(super) fn time_comes(&mut self, of: &Address) {
        self.time_reached(of);
    }

    fn record(&mut self, of: &Address, record: Record, durability: Durability) {
        let now = self.now;
        let Some(held) = self.held(of) else { return };
        held.waits_for_record = durability != Durability::Lazy;
        let epoch = held.machine.epoch();
        let Some(process) = self.alive(of.node, of.life) else { return };
        process.last_token += 1;
        let token = process.last_token;
        if durability != Durability::Lazy {
            process.records.insert(token, of.clone());
        }
        let append = Append { token, id: of.id.clone(), epoch, at: now, record, durability };
        process.journal.append(&mut vec![append]);
    }

    /// The journal's answer to a record that is waited for.
    pub(super) fn recorded(&mut self, node: usize, token: u64, answer: Told) {
        let life = self.nodes[node].life;
        let Some(of) = self.alive(node, life).and_then(|it| it.records.remove(&token)) else {
            return;
        };
        self.note_of(&of, &format!("is told {}", word_of(&answer)));
        let Some(held) = self.held(&of) else { return };
        held.waits_for_record = false;
        let own = held.machine.view().decision;
        match answer {
            Told::Recorded => self.release(&of),
            Told::Decided(standing) if own == Some(standing) => self.release(&of),
            Told::Decided(standing) => {
                held.effects.clear();
                self.step(&of, Input::Overruled(standing));
            }
            Told::Deposed => {
                self.witness.count("deposed");
                self.close(&of);
            }
            _ => self.close(&of),
        }
        self.plan_timer(&of);
    }

    fn close(&mut self, of: &Address) {
        if self.held(of).is_some() {
            self.give_up_locks(of.node, &Who::Machine(of.clone()));
            if let Some(process) = self.alive(of.node, of.life) {
                process.driven.remove(&of.id);
            }
        }
    }

    fn propose_decision(&mut self, of: &Address, decision: Decision) {
        let Some(held) = self.held(of) else { return };
        let stores = held.machine.view().stores.into_iter();
        let votes = stores.filter_map(|it| Some((it.store.to_string(), it.vote?.as_str().into())));
        let evidence = Value::Map(vec![("votes".to_owned(), Value::Map(votes.collect()))]);
        let Some(process) = self.alive(of.node, of.life) else { return };
        let (inbox, to) = (process.inbox.clone(), of.clone());
        let reply = Reply::new(move |proposal| {
            let input = Input::Proposed { taken: proposal == Proposal::Taken };
            inbox.put(Word::Step(to, input));
        });
        Consensus::propose(&*process.raft, &of.id, decision, evidence, reply);
    }

    /// Reads which decision stands. One that was told before stands for every reader.
    fn read_decision(&mut self, of: &Address) {
        let (floor, witness, id) = (self.witness.floor(), self.witness.clone(), of.id.clone());
        let Some(process) = self.alive(of.node, of.life) else { return };
        let (inbox, to) = (process.inbox.clone(), of.clone());
        let reply = Reply::new(move |standing| {
            let known = witness.lock().decisions.get(&id).copied();
            if standing == Standing::Open && known.is_some_and(|(_, index)| index <= floor) {
                witness.fail(format!("a stale read: {id} is decided, {known:?}"));
            }
            inbox.put(Word::Step(to, Input::DecisionRead(standing)));
        });
        Consensus::read(&*process.raft, &of.id, reply);
    }

    /// A status, which has to tell what was answered before.
    pub(super) fn look(&mut self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            self.witness.count("reads");
            process.log.read(Box::new(|_| ()));
        }
    }

    fn delay(&mut self) -> Duration {
        let hangs = self.climate.hangs;
        if !self.is_calm() && self.random.chance(hangs) {
            self.random.millis(1_500, 8_000)
        } else {
            self.random.millis(1, 30)
        }
    }

    fn ask(&mut self, of: &Address, party: usize, ask: Ask) {
        let Some(held) = self.held(of) else { return };
        let (name, wishes) =
            (held.machine.request().stores[party].clone(), held.machine.locks().clone());
        let fences = self.fences(of, party, &wishes);
        let to = self.stores.iter().position(|store| store.name == name).unwrap_or(0);
        self.check_asking(&of.id, ask);
        let (from, delay) = (of.clone(), self.delay());
        self.schedule(delay, Happening::Arrives(Question { to, from, party, ask, fences }));
    }

    /// Record before you tell, the stores.
    fn check_asking(&mut self, id: &CoordinationId, ask: Ask) {
        let standing = self.witness.lock().decisions.get(id).copied();
        if ask == Ask::Commit && standing.is_none_or(|(it, _)| it != Decision::Commit) {
            self.witness.fail(format!("{id} is told to commit, and {standing:?} stands"));
        }
    }

    pub(super) fn arrives(&mut self, question: Question) {
        let Question { to, from, party, ask, fences } = question;
        let (is_calm, loss) = (self.is_calm(), self.climate.loss);
        let store = &mut self.stores[to];
        let input = match ask {
            Ask::Prepare => {
                let vote = store.prepare(&from.id, &fences, &mut self.random, is_calm);
                Input::Voted { party, vote }
            }
            Ask::Commit => match store.commit(&from.id) {
                Ok(answer) => Input::Acknowledged { party, answer },
                Err(broken) => return self.witness.fail(broken),
            },
            Ask::Abort => Input::Acknowledged { party, answer: store.abort(&from.id) },
        };
        self.witness.note(&format!("   s{to} {} {ask:?}: {input:?}", from.id));
        let input = if !is_calm && self.random.chance(loss) { lost(ask, party) } else { input };
        let delay = self.delay();
        self.schedule(delay, Happening::Answered { to: from, input });
    }

    /// Record before you tell, the caller.
    fn tell(&mut self, of: &Address, outcome: &Outcome) {
        let Some(held) = self.held(of) else { return };
        if held.machine.is_unbegun() {
            return;
        }
        let id = of.id.clone();
        let standing = self.witness.lock().decisions.get(&id).map(|(decision, _)| *decision);
        let has_writer = self.stores.iter().any(|store| store.promised.contains(&id));
        let is_committed = standing == Some(Decision::Commit);
        let is_wrong = match outcome.kind {
            OutcomeKind::Committed => !is_committed && has_writer,
            OutcomeKind::Aborted => is_committed,
            OutcomeKind::Heuristic => true,
            _ => false,
        };
        if is_wrong {
            let kind = outcome.kind;
            self.witness.fail(format!("{id} is told as {kind:?}, and {standing:?} stands"));
        }
        self.told.entry(id).or_default().push(outcome.kind);
    }
}

fn lost(ask: Ask, party: usize) -> Input {
    let reason = "the answer is lost".to_owned();
    match ask {
        Ask::Prepare => Input::Voted { party, vote: Vote::Unknown { reason } },
        Ask::Commit | Ask::Abort => {
            Input::Acknowledged { party, answer: Acknowledgement::Unknown { message: reason } }
        }
    }
}

fn word_of(answer: &Told) -> String {
    match answer {
        Told::Exists(_) => "exists".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Driving for World {
    type Address = Address;
    type Machine = TwoPhase;

    fn machine(held: &mut Held<TwoPhase>) -> &mut dyn Machine {
        &mut held.machine
    }

    fn held(&mut self, of: &Address) -> Option<&mut Held<TwoPhase>> {
        let held = self.alive(of.node, of.life)?.driven.get_mut(&of.id)?;
        (held.run == of.run).then_some(held)
    }

    fn time(&self) -> Timestamp {
        self.now
    }

    fn has_bug(&self, _bug: DriverBug) -> bool {
        false
    }

    fn note_of(&mut self, of: &Address, text: &str) {
        let state = self.held(of).map(|held| held.machine.state());
        self.witness.note(&format!("{} {}: {text}, {state:?}", NAMES[of.node], of.id));
    }

    fn break_with(&mut self, invariant: String) {
        self.witness.fail(invariant);
    }

    fn is_struck(&mut self, of: &Address) -> bool {
        self.dies_now(of.node)
    }

    fn carry_out(&mut self, of: &Address, effect: Effect) {
        self.note_of(of, &format!("does {effect:?}"));
        match effect {
            Effect::Record { record, durability } => self.record(of, record, durability),
            Effect::Acquire { locks, timeout } => self.acquire(of, &locks, timeout),
            Effect::Release => self.give_up_locks(of.node, &Who::Machine(of.clone())),
            Effect::Propose { decision } => self.propose_decision(of, decision),
            Effect::ReadDecision => self.read_decision(of),
            Effect::Ask { party, ask, .. } => self.ask(of, party, ask),
            Effect::Answer(outcome) | Effect::Finish(outcome) => self.tell(of, &outcome),
            Effect::Close => self.close(of),
            Effect::Publish(_) | Effect::Alert { .. } => {}
            other => unreachable!("two-phase commit has no steps: {other:?}"),
        }
    }

    fn plan_time(&mut self, of: Address, delay: Duration) {
        self.schedule(delay, Happening::Time { of });
    }
}
