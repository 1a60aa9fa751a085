//! Two-phase commit with presumed abort.
//!
//! # Theory of operation
//!
//! Every store is asked to prepare, in parallel, under one deadline. If all can, the decision to
//! commit becomes one forced record: the point of no return. From then on every store is told to
//! commit until it acknowledges, for ever. If one cannot, or its answer is unknown, or time is up,
//! the decision is abort, which needs no force: a coordination without a decision in the journal
//! is aborted by recovery anyway ("presumed abort": Mohan, Lindsay, Obermarck, "Transaction
//! Management in the R* Distributed Database Management System", ACM TODS 11(4), 1986; X/Open XA).
//! Read-only stores get no second phase (same source). With a consensus service the decision is
//! proposed to it first; an answer that is lost leaves the coordination in doubt, never aborted.
//!
//! One store may be the *last resource*: it is not asked to prepare. When all others have, it is
//! proposed to commit, which it does in one transaction with a row that is the decision. It is to
//! this coordination what a consensus service is to all: it refuses, takes it, or its answer is
//! lost and the row is read; before an abort that it has not said itself, a row is put in the place
//! of the one that must not come any more. (docs/internals/decisions/0009-last-resource.md)
//!
//! A coordination that is to hold locks takes them before anything of it is recorded or asked, all
//! or none, and lets go of them when it has ended. Locks that are refused end it: there is nothing
//! to undo, and no record forbids a later try under the same id. After a crash they are taken again
//! before the machine goes on, for as long as that takes.
//!
//! Single-writer stores (one prepared transaction at a time) are asked one after the other in the
//! order of their names, so that two coordinations over two of them cannot wait for each other.
//!
//! # Invariants
//!
//! - Commit is asked only after `DECISION commit` was listed as a forced record, or stands; where a
//!   last resource has committed its row stands, and the record need only be accepted.
//! - A last resource is proposed COMMIT once, by the machine that began, and with all votes for it.
//! - `decision` is set once by this machine; only the journal's standing decision replaces it, and
//!   only while the own record is not yet answered.
//! - Nothing is asked of a store before the locks are held, also after a crash; they are let go of
//!   behind the end record. A lock that is lost before the decision aborts; after it, only fencing
//!   helps, and the delivery goes on.
//! - It ends only when every store has answered its prepare and the decision.
//! - Whoever asked is answered at his deadline with what is true then.

mod deciding;
mod delivering;
mod locking;
mod outcome;
mod party;
mod plan;
mod resume;
mod rules;
mod voting;

pub use plan::{PartyPlan, Plan};
pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::sync::Arc;

use crate::model::ids::StoreName;
use crate::model::outcome::{Decision, Receipt};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;

use super::lock_plan::LockWish;
use super::locking::Locking;
use super::{Ask, Effect, Input, Machine, ProtocolError, Standing, View};
use party::Party;

/// The machine.
#[derive(Clone, Debug)]
pub struct TwoPhase {
    plan: Plan,
    state: State,
    parties: Vec<Party>,
    /// The party that decides by a row of its own.
    last: Option<usize>,
    locking: Locking,
    began_at: Timestamp,
    /// Since and until when votes are waited for.
    prepare_from: Timestamp,
    prepare_until: Timestamp,
    /// Until when the caller waits; `None` once answered.
    answer_at: Option<Timestamp>,
    /// `answer_at` before the decision was recorded: an answer that was held back behind a record
    /// which the journal overruled was never given.
    answer_at_if_overruled: Option<Timestamp>,
    decision: Option<Decision>,
    reason: Option<Reason>,
    /// What was last proposed to the consensus service.
    proposal: Decision,
    doubt_attempts: u32,
    read_again_at: Timestamp,
    /// One bit for each rule that was taken.
    taken: u64,
}

impl TwoPhase {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        let parties: Vec<Party> = plan
            .parties
            .iter()
            .map(|party| Party::new(party.store.clone(), party.single_writer))
            .collect();
        let answer_at = now + plan.request.timeout;
        Self {
            state: State::New,
            parties,
            last: plan.request.last_resource(),
            locking: Locking::default(),
            began_at: now,
            prepare_from: now,
            prepare_until: answer_at.min(now + plan.prepare_timeout),
            answer_at: Some(answer_at),
            answer_at_if_overruled: None,
            decision: None,
            reason: None,
            proposal: Decision::Commit,
            doubt_attempts: 0,
            read_again_at: Timestamp::PAST,
            taken: 0,
            plan,
        }
    }

    /// The state by the table.
    pub fn state(&self) -> State {
        self.state
    }

    /// The rules that were taken so far, for coverage.
    pub fn rules_taken(&self) -> impl Iterator<Item = Rule> {
        Rule::of_bits(self.taken)
    }

    /// Takes a row of the table: the only way in which the state changes.
    fn take(&mut self, rule: Rule) {
        self.state = rule.after(self.state);
        self.taken |= rule.bit();
    }

    fn time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let taken = self.taken;
        self.taken = 0;
        if self.state == State::Locking {
            effects = self.locking_time_reached(now);
        } else if self.state == State::Preparing && now >= self.prepare_until {
            let reason = self.timeout_reason();
            let rules = (Rule::PrepareTimedOut, Rule::PrepareTimedOutPropose);
            effects = self.decide_abort(now, reason, rules);
        } else if self.state == State::InDoubt && now >= self.read_again_at {
            self.take(Rule::AskAgain);
            effects.push(Effect::ReadDecision);
        } else if let Some(decision) = self.decision.filter(|_| self.state != State::Ended) {
            self.ask_due_deliveries(now, decision, &mut effects);
        }
        if self.answer_at.is_some_and(|at| now >= at) && self.is_answerable() {
            self.take(Rule::AnswerDue);
            self.answer(&mut effects);
        }
        if self.taken == 0 {
            self.take(Rule::Ignored);
        }
        self.taken |= taken;
        effects
    }

    /// Whether the decision is somebody else's: a consensus service's, or a last resource's.
    fn is_decided_elsewhere(&self) -> bool {
        self.plan.consensus || self.last.is_some()
    }

    fn is_answerable(&self) -> bool {
        Rule::AnswerDue.row().from.contains(&self.state)
    }

    fn impossible(&self, input: &'static str) -> ProtocolError {
        ProtocolError::Impossible { input, state: self.state.as_str() }
    }
}

impl Machine for TwoPhase {
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        if let Input::Voted { party, .. } | Input::Acknowledged { party, .. } = &input
            && *party >= self.parties.len()
        {
            return Err(ProtocolError::NoSuchParty { party: *party });
        }
        if self.state == State::New
            && !matches!(input, Input::Started | Input::Resumed | Input::AbortRequested { .. })
        {
            return Err(self.impossible(input.name()));
        }
        let effects = match input {
            Input::Started if self.state == State::New => self.start(now),
            Input::Resumed if self.state == State::New => self.resume(now),
            Input::Started | Input::Resumed => return Err(self.impossible(input.name())),
            Input::Voted { .. } | Input::Acknowledged { .. } if self.state == State::Ended => {
                self.take(Rule::Ignored);
                Vec::new()
            }
            Input::Locked { tokens } => self.locked(now, tokens),
            Input::LockRefused { reason } => self.lock_refused(now, reason),
            Input::LockLost { message } => self.lock_lost(now, &message),
            Input::Voted { party, vote } => self.vote(now, party, vote),
            Input::Acknowledged { party, answer } => self.acknowledge(now, party, answer),
            Input::Proposed { taken } => self.proposed(now, taken),
            Input::ProposalRefused { reason } => self.proposal_refused(now, reason),
            Input::DecisionRead(standing) => self.decision_read(now, standing),
            Input::Overruled(standing) => self.overruled(now, standing)?,
            Input::AbortRequested { reason } => self.abort_requested(now, reason),
            Input::Resolved { decision, reason } => self.resolved(now, decision, &reason)?,
            Input::TimeReached => self.time_reached(now),
            Input::StepAnswered { .. }
            | Input::TurnCame { .. }
            | Input::Redriven { .. }
            | Input::VersionRefused { .. }
            | Input::Projected { .. }
            | Input::RouteEnded(_) => {
                return Err(self.impossible(input.name()));
            }
        };
        debug_assert!(self.decision.is_some() || !self.has_delivered(), "told without a decision");
        Ok(effects)
    }

    fn deadline(&self) -> Option<Timestamp> {
        let of_state = match self.state {
            State::Locking => return self.locking_deadline(),
            State::Preparing => Some(self.prepare_until),
            State::InDoubt => Some(self.read_again_at),
            State::Ended => return None,
            _ => None,
        };
        let of_answer = self.answer_at.filter(|_| self.is_answerable());
        let deliveries = self.parties.iter().filter_map(|party| self.delivery_due(party));
        deliveries.chain(of_state).chain(of_answer).min()
    }

    fn view(&self) -> View {
        View {
            state: self.public_state(),
            decision: self.decision,
            outcome: self.outcome(),
            stores: self.parties.iter().map(Party::summary).collect(),
            steps: Vec::new(),
        }
    }

    fn epoch(&self) -> u32 {
        self.plan.epoch
    }

    fn request(&self) -> &Arc<CoordinationRequest> {
        &self.plan.request
    }

    fn began_at(&self) -> Timestamp {
        self.began_at
    }

    fn locks(&self) -> &Arc<[LockWish]> {
        &self.plan.locks
    }

    fn awaits_answer(&self) -> bool {
        self.answer_at.is_some()
    }

    fn is_to_abort(&self) -> bool {
        let proposed = matches!(self.state, State::Proposing | State::Reading | State::InDoubt)
            && self.proposal == Decision::Abort;
        self.decision == Some(Decision::Abort) || self.decision.is_none() && proposed
    }

    fn is_unbegun(&self) -> bool {
        self.state == State::Ended && self.locking.ended_unbegun
    }

    fn is_parked(&self) -> bool {
        self.state == State::Heuristic
    }

    fn is_quiet(&self) -> bool {
        !matches!(self.state, State::Proposing | State::Reading)
            && !self.waits_for_locks()
            && !self.parties.iter().any(Party::is_asked)
    }

    fn receipt(&self, party: usize) -> Option<Receipt> {
        self.parties[party].receipt.clone()
    }

    fn last_resource(&self) -> Option<(usize, Timestamp)> {
        self.last.map(|party| (party, self.prepare_until))
    }

    fn read_only_stores(&self) -> Vec<StoreName> {
        self.read_only()
    }

    fn stores_with_markers(&self) -> Option<Vec<StoreName>> {
        if self.decision != Some(Decision::Commit) {
            return None;
        }
        let has_marker = |party: &&Party| !party.is_read_only() && party.receipt.is_none();
        let marked = self.parties.iter().filter(has_marker);
        Some(marked.map(|party| party.store.clone()).collect())
    }
}
