//! One step of one machine, and its effects carried out in the order of the law.
//!
//! Decides nothing: what a fact leads to is the machine's. Invariant: what stands behind a record
//! in an entry's list of effects is not looked at until the journal has answered the record.

use std::collections::{HashMap, VecDeque};

use crate::journal::{Answer, Append, OpenCoordination};
use crate::model::ids::CoordinationId;
use crate::model::lock::Grant;
use crate::model::outcome::{Decision, Outcome};
use crate::model::record::{Durability, Record};
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;
use crate::protocol::key_order::KeyOrder;
use crate::protocol::{Effect, Input, RouteEnd};
use crate::reply::Reply;

use super::Waiter;
use super::asks::StepAsk;
use super::core::{Core, Fact, can_wait};
use super::forget::Forgettable;
use super::locking::FirstStarts;
use super::projections::Lines;
use super::table::{Awaited, SlotKey, Table};

/// Everything that is changed under the core's lock.
pub(super) struct State {
    pub(super) table: Table,
    /// Those that wait for their turn; keys of entries that are gone are skipped.
    pub(super) queue: VecDeque<SlotKey>,
    /// Whether coordinations may begin: not before those that were left open have queued for
    /// their locks.
    pub(super) admits: bool,
    pub(super) first_starts: FirstStarts,
    /// How many run.
    pub(super) running: usize,
    /// The room of the facts that were taken last.
    pub(super) taken: Vec<Fact>,
    /// Records of this drain, handed to the journal together.
    outgoing: Vec<Append>,
    /// The journal's work is to be done by whoever holds this, once it is let go.
    pub(super) owes_work: bool,
    /// How many records were handed over so far.
    sequence: u64,
    pub(super) forgettable: Forgettable,
    /// Who stands in line for which key.
    pub(super) turns: KeyOrder<SlotKey>,
    pub(super) lines: Lines,
    /// Callers who wait for a coordination of another process.
    pub(super) followers: HashMap<CoordinationId, Vec<Waiter>>,
    /// Locks of coordinations that other processes have taken over.
    pub(super) kept_locks: HashMap<CoordinationId, Vec<Grant>>,
    /// Adopted while another entry stood under their ids.
    pub(super) adopted_early: HashMap<CoordinationId, OpenCoordination>,
    /// When an unknown prepared transaction was first seen at a store.
    pub(super) orphans: HashMap<(usize, CoordinationId), Timestamp>,
    pub(super) reports: Vec<super::recovery::Collector>,
    pub(super) closing: Option<Reply<Result<(), super::EngineError>>>,
}

impl State {
    pub(super) fn new(admits: bool) -> Self {
        Self {
            table: Table::default(),
            queue: VecDeque::new(),
            admits,
            first_starts: FirstStarts::default(),
            running: 0,
            taken: Vec::new(),
            outgoing: Vec::new(),
            owes_work: false,
            sequence: 0,
            forgettable: Forgettable::default(),
            turns: KeyOrder::default(),
            lines: Lines::default(),
            followers: HashMap::new(),
            kept_locks: HashMap::new(),
            adopted_early: HashMap::new(),
            orphans: HashMap::new(),
            reports: Vec::new(),
            closing: None,
        }
    }

    pub(super) fn handle(&mut self, core: &Core, fact: Fact) {
        match fact {
            Fact::Submitted { request, attachment, enlisted, waiter } => {
                self.submit(core, request, (attachment, enlisted), waiter);
            }
            Fact::Answered(answers) => {
                for (token, answer) in answers {
                    self.journal_answered(core, SlotKey::from_token(token), answer);
                }
            }
            Fact::Voted { key, party, vote } => {
                self.step(core, key, Input::Voted { party, vote });
            }
            Fact::Acknowledged { key, party, answer } => {
                self.step(core, key, Input::Acknowledged { party, answer });
            }
            Fact::StepAnswered { key, step, work, attempt, answer } => {
                self.step(core, key, Input::StepAnswered { step, work, attempt, answer });
            }
            Fact::Projection(news) => self.projection_news(core, news),
            Fact::TurnCame { key, turn } => self.turn_came(core, key, turn),
            Fact::LocksAnswered { key, asker, result } => {
                self.locks_answered(core, key, &asker, result);
            }
            Fact::LockLost { lock_id, requester, reason } => {
                self.lock_lost(core, &lock_id, &requester, &reason);
            }
            Fact::AdmissionOpens => self.open_admission(core),
            Fact::Proposed { key, taken } => self.step(core, key, Input::Proposed { taken }),
            Fact::ProposalRefused { key, reason } => {
                self.step(core, key, Input::ProposalRefused { reason });
            }
            Fact::DecisionRead { key, standing } => {
                self.step(core, key, Input::DecisionRead(standing));
            }
            Fact::TimeReached => self.time_reached(core),
            Fact::AbortAsked { id, reason, reply } => self.abort_asked(core, &id, reason, reply),
            Fact::WaitAsked { id, waiter } => self.wait_asked(core, id, waiter),
            Fact::ResolveAsked { id, decision, reason, waiter } => {
                self.resolve_asked(core, id, decision, reason, waiter);
            }
            Fact::RedriveAsked { operation_id, coordination, reply } => {
                self.redrive_asked(core, &operation_id, coordination.as_ref(), reply);
            }
            Fact::LookedAt { id, reply } => self.look_at(core, &id, reply),
            Fact::Adopted { open, report } => {
                self.adopt(core, open, report);
                self.open_admission(core);
            }
            Fact::Listed { store, ids } => self.listed(core, store, ids),
            Fact::RouteEnded { id, end } => self.route_ended(core, &id, end),
            Fact::Orphaned { store, id, decision } => self.orphaned(core, store, &id, decision),
            Fact::Followed { id, found } => self.followed(core, &id, found),
            Fact::WaitElsewhere { id, waiter } => {
                self.followers.entry(id).or_default().push(waiter);
            }
            Fact::ActiveAsked(reply) => reply.send(Ok(self.table.ids())),
            Fact::OpenWorkAsked { age, reply } => reply.send(Ok(self.open_work(core, age))),
            Fact::GaugesAsked(reply) => reply.send(Ok(self.gauges(core))),
            Fact::Patrol => self.patrol(core),
            Fact::Closing(reply) => self.close(core, reply),
            Fact::Dropped => {
                self.leave_locks(core);
                drop(self.everybody());
            }
        }
    }

    fn route_ended(&mut self, core: &Core, id: &CoordinationId, end: RouteEnd) {
        if let Some(key) = self.table.find(id) {
            self.step(core, key, Input::RouteEnded(end));
        }
    }

    /// Hands the records of this drain to the journal, as one batch.
    pub(super) fn flush(&mut self, core: &Core) {
        if self.outgoing.is_empty() {
            return;
        }
        let journal = &core.ports.journal;
        if self.running <= 1 {
            // Waking another thread would take longer than what it is woken for.
            self.owes_work |= journal.append_alone(&mut self.outgoing, can_wait());
        } else {
            journal.append(&mut self.outgoing);
        }
    }

    pub(super) fn next_timer(&self) -> Option<Timestamp> {
        self.table.next_timer()
    }

    /// Steps one machine and carries out what it asks for. A slot that is gone is late news.
    pub(super) fn step(&mut self, core: &Core, key: SlotKey, input: Input) {
        let now = core.clock.now();
        let Some(entry) = self.table.get(key) else { return };
        match entry.machine.step(now, input) {
            Ok(effects) => self.effects(core, key, effects),
            // The machine has not changed; going on is safe, keeping silent is not.
            Err(error) => {
                tracing::error!(coordination = %entry.id(), %error, "a step was refused");
            }
        }
    }

    pub(super) fn effects(&mut self, core: &Core, key: SlotKey, effects: Vec<Effect>) {
        let Some(entry) = self.table.get(key) else { return };
        let answers = effects.iter().any(|effect| matches!(effect, Effect::Answer(_)));
        if answers && entry.awaits_decision() {
            // His time is over while the decision is on its way to the disk: a moment later it is
            // certain, and he hears it instead of a doubt.
            entry.doubt_at = Some(core.clock.now() + core.ports.options.confirm_wait);
        }
        entry.held.extend(effects);
        if entry.awaited.is_none() {
            self.pump(core, key);
        }
        let deadline = self.table.get(key).and_then(|entry| entry.deadline());
        self.table.set_timer(key, deadline);
        self.tell_reports(key);
    }

    /// Carries out effects up to the next record that must be waited for.
    fn pump(&mut self, core: &Core, key: SlotKey) {
        while let Some(entry) = self.table.get(key) {
            let Some(effect) = entry.held.pop_front() else {
                let settled = std::mem::take(&mut entry.settled_waiters);
                if !settled.is_empty() {
                    let outcome = entry.machine.view().outcome;
                    entry.tell(core, settled, &outcome);
                }
                return;
            };
            match effect {
                Effect::Record { record, durability } => {
                    if self.record(core, key, record, durability) {
                        return;
                    }
                }
                other => self.carry_out(core, key, other),
            }
        }
    }

    /// Queues a record; true when the rest has to wait for its answer.
    fn record(
        &mut self,
        core: &Core,
        key: SlotKey,
        record: Record,
        durability: Durability,
    ) -> bool {
        let Some(entry) = self.table.get(key) else { return true };
        self.sequence += 1;
        let decision = match &record {
            Record::Decision { decision, .. } => Some(*decision),
            Record::Begin { request, .. } if request.kind == CoordinationType::EventSourcing => {
                Some(Decision::Commit)
            }
            _ => None,
        };
        let ended = matches!(record, Record::End { .. });
        let is_begin = matches!(record, Record::Begin { .. });
        let id = entry.id().clone();
        let epoch = entry.machine.epoch();
        let waits = durability != Durability::Lazy;
        let at = core.clock.now();
        if waits {
            let (sequence, kind) = (self.sequence, record.kind());
            entry.awaited = Some(Awaited { durability, is_begin, decision, sequence, kind, at });
        }
        if ended && let Some(stores) = entry.machine.stores_with_markers() {
            self.forgettable.ended(self.sequence, id.clone(), stores);
        }
        self.outgoing.push(Append { token: key.token(), id, epoch, at, record, durability });
        waits
    }

    fn carry_out(&mut self, core: &Core, key: SlotKey, effect: Effect) {
        match effect {
            Effect::Ask { party, ask, timeout } => self.ask(core, key, party, ask, timeout),
            Effect::Execute { step, work, attempt, context, timeout } => {
                self.execute(core, key, StepAsk { step, work, attempt, context, timeout });
            }
            Effect::EnterTurns { turns } => self.enter_turns(core, key, &turns),
            Effect::AwaitProjections => self.await_projections(core, key),
            Effect::LeaveTurn { turn } => self.leave_turn(core, key, turn),
            Effect::Propose { .. } | Effect::ReadDecision => self.ask_decider(core, key, effect),
            Effect::Acquire { locks, timeout } => self.acquire(core, key, &locks, timeout),
            Effect::Release => {
                self.release(core, key);
                self.release_left_behind(core, key);
            }
            Effect::Publish(event) => {
                if let Some(bus) = &core.ports.bus {
                    bus.tell(event);
                }
            }
            Effect::Alert { message } => self.alert(core, key, message),
            Effect::Walk { walk } => self.walk(core, key, walk),
            Effect::Answer(outcome) => self.answer(core, key, &outcome, false),
            Effect::Finish(outcome) => self.answer(core, key, &outcome, true),
            Effect::Close => self.closed(core, key),
            Effect::Record { .. } => unreachable!("records are taken out before"),
        }
    }

    fn answer(&mut self, core: &Core, key: SlotKey, outcome: &Outcome, finished: bool) {
        let Some(entry) = self.table.get(key) else { return };
        let mut waiters = std::mem::take(&mut entry.waiters);
        if finished {
            waiters.append(&mut entry.finish_waiters);
        }
        if entry.machine.is_unbegun() {
            core.tell_unbegun(entry, waiters, outcome);
        } else {
            entry.tell(core, waiters, outcome);
        }
        if finished {
            self.tell_reports(key);
        }
        // Its caller is answered: what is left to deliver takes nobody's place.
        self.give_up_place(core, key);
    }

    fn closed(&mut self, core: &Core, key: SlotKey) {
        self.give_up_place(core, key);
        if let Some(mut entry) = self.remove(core, key) {
            // Its end came behind a record, such as an operator's: they have not been told yet.
            let settled = std::mem::take(&mut entry.settled_waiters);
            // A view tells of every step, and nearly always nobody asks.
            if !settled.is_empty() {
                let outcome = entry.machine.view().outcome;
                entry.tell(core, settled, &outcome);
            }
        }
        self.tell_reports(key);
        self.close_when_idle(core);
    }

    fn journal_answered(&mut self, core: &Core, key: SlotKey, answer: Answer) {
        let Some(entry) = self.table.get(key) else { return };
        let Some(awaited) = entry.awaited.take() else { return };
        entry.doubt_at = None;
        core.observe_record(entry, &awaited, &answer);
        if let Answer::Appended { through } = answer {
            entry.events_through = Some(through);
        }
        match answer {
            Answer::Decided(standing) if awaited.decision != Some(standing) => {
                entry.held.clear();
                self.step(core, key, Input::Overruled(standing));
            }
            Answer::Recorded | Answer::Appended { .. } | Answer::Decided(_) => {
                if awaited.durability == Durability::Forced {
                    self.forgettable.durable(core, awaited.sequence);
                }
                self.pump(core, key);
                self.tell_reports(key);
            }
            Answer::Exists(stored) => self.begin_exists(core, key, &stored),
            Answer::VersionMismatch { stream, expected, actual } => {
                entry.held.clear();
                self.step(core, key, Input::VersionRefused { stream, expected, actual });
            }
            Answer::Failed(error) if awaited.is_begin => self.begin_failed(core, key, &error),
            Answer::Failed(error) => self.abandoned(core, key, &error),
            Answer::Deposed => self.deposed(core, key),
        }
    }

    fn time_reached(&mut self, core: &Core) {
        let now = core.clock.now();
        while let Some(key) = self.table.pop_due(now) {
            let Some(entry) = self.table.get(key) else { continue };
            if entry.queued {
                self.queue_deadline(core, key, now);
                continue;
            }
            if entry.doubt_at.is_some_and(|at| at <= now) {
                entry.answer_in_doubt(core);
            }
            match entry.deadline() {
                Some(at) if at <= now => self.step(core, key, Input::TimeReached),
                later => self.table.set_timer(key, later),
            }
        }
    }

    /// Everybody who waits for anything here, taken out.
    pub(super) fn everybody(&mut self) -> Vec<Waiter> {
        let mut waiters = Vec::new();
        for mut entry in self.table.drain() {
            waiters.append(&mut entry.waiters);
            waiters.append(&mut entry.finish_waiters);
            waiters.append(&mut entry.settled_waiters);
        }
        waiters.extend(self.followers.drain().flat_map(|(_, followers)| followers));
        waiters
    }
}
