//! Event sourcing: events are appended, all of a request or none, and then brought into stores.
//!
//! # Theory of operation
//!
//! The source of truth is the row of events, and what stores hold is a projection of it (Fowler,
//! "Event Sourcing", 2005; Young, "CQRS Documents", 2010). The begin record *is* the append: the
//! journal keeps it only if every stream has the version that the request expects, so that one
//! forced record is the beginning, the check of all streams, and the decision to commit. There is
//! nothing to prepare and nothing to roll back. A begin that is not kept ends the coordination, and
//! no record tells of it.
//!
//! What is left is to wait for the participating stores: each has a projection, which hands it
//! every event of the journal in order, from a position that is kept. That goes on without this
//! machine. It tells when each store has come as far as the events of this request, and ends.
//!
//! No locks are taken, also not by strong coordinations: what isolates two writers of a stream is
//! the version that they expect, and the journal looks at it when nobody else can write.
//!
//! # Invariants
//!
//! - Nothing is told to anybody before the events are on disk.
//! - There is no record of a decision: the begin that stands is one, and nothing can undo it.
//! - It ends when every participating store has applied the events, or when an operator says that
//!   nobody waits for the others; those get them all the same.

mod rules;
mod words;

pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::sync::Arc;

use crate::model::event::CoordinationEvent;
use crate::model::ids::{InstanceId, StoreName};
use crate::model::outcome::{Decision, Outcome, StoreSummary, TransactionState};
use crate::model::record::{Durability, Reason, Record};
use crate::model::request::{ConsistencyLevel, CoordinationRequest};
use crate::model::time::Timestamp;

use super::lock_plan::LockWish;
use super::{Effect, Input, Machine, ProtocolError, View};

/// What the machine is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Arc<CoordinationRequest>,
    /// Who drives it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// No locks: versions isolate.
    pub no_locks: Arc<[LockWish]>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct EventSourcing {
    plan: Plan,
    state: State,
    began_at: Timestamp,
    /// Until when the caller waits; `None` once answered.
    answer_at: Option<Timestamp>,
    /// When each store of the request had applied the events.
    projected_at: Vec<Option<Timestamp>>,
    /// Why nothing was appended, or an operator's words.
    reason: Option<Reason>,
    is_refused: bool,
    /// One bit for each rule that was taken.
    taken: u64,
}

impl EventSourcing {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        Self {
            state: State::New,
            began_at: now,
            answer_at: Some(now + plan.request.timeout),
            projected_at: vec![None; plan.request.stores.len()],
            reason: None,
            is_refused: false,
            taken: 0,
            plan,
        }
    }

    /// A machine as its records tell it: it began, and how far the stores are is told anew.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        let began_at = records.first().map_or(Timestamp(0), |(at, _)| *at);
        let mut machine = Self::new(plan, began_at);
        // Nobody waits: whoever asked died with the process, or asks again by the id.
        machine.answer_at = None;
        machine
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

    fn nothing(&mut self, rule: Rule) -> Vec<Effect> {
        self.take(rule);
        Vec::new()
    }

    fn begin(&mut self, now: Timestamp) -> Vec<Effect> {
        self.take(Rule::Begin);
        let request = &self.plan.request;
        let record = Record::Begin {
            request: Arc::clone(request),
            owner: self.plan.owner.clone(),
            epoch: self.plan.epoch,
            locks: Vec::new(),
        };
        let mut effects = vec![
            Effect::Record { record, durability: Durability::Forced },
            Effect::Publish(CoordinationEvent::Started {
                id: request.id.clone(),
                kind: request.kind,
                stores: request.stores.clone(),
                at: now,
            }),
        ];
        if request.consistency == ConsistencyLevel::Eventual {
            self.answer(&mut effects);
        }
        effects.push(Effect::AwaitProjections);
        effects
    }

    fn version_refused(&mut self, reason: Reason) -> Vec<Effect> {
        self.take(Rule::VersionRefused);
        self.reason = Some(reason);
        self.answer_at = None;
        self.is_refused = true;
        vec![Effect::Finish(self.outcome()), Effect::Close]
    }

    fn projected(&mut self, now: Timestamp, party: usize) -> Vec<Effect> {
        self.projected_at[party].get_or_insert(now);
        if self.projected_at.iter().any(Option::is_none) {
            return self.nothing(Rule::Projected);
        }
        self.take(Rule::AllProjected);
        self.end(now, Durability::Lazy)
    }

    fn resolved(
        &mut self,
        now: Timestamp,
        decision: Decision,
        words: &str,
    ) -> Result<Vec<Effect>, ProtocolError> {
        if decision == Decision::Abort {
            let (standing, asked) = (Decision::Commit.as_str(), decision.as_str());
            return Err(ProtocolError::Contradicts { standing, asked });
        }
        self.take(Rule::ResolvedCommit);
        self.reason = Some(words::resolved_reason(&self.behind(), words));
        // The operator hears that it is so, and a crash must not bring it back.
        Ok(self.end(now, Durability::Forced))
    }

    fn end(&mut self, now: Timestamp, durability: Durability) -> Vec<Effect> {
        self.answer_at = None;
        let outcome = self.outcome();
        let (stores, steps) = (self.summaries(), Vec::new());
        let record = Record::End { outcome: outcome.clone(), stores, steps };
        let duration = now.since(self.began_at).as_millis();
        vec![
            Effect::Record { record, durability },
            Effect::Publish(CoordinationEvent::Completed {
                id: self.plan.request.id.clone(),
                success: outcome.is_success(),
                state: outcome.state.as_str(),
                duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
            }),
            Effect::Finish(outcome),
            Effect::Close,
        ]
    }

    fn time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        if self.state != State::Projecting || self.answer_at.is_none_or(|at| now < at) {
            return self.nothing(Rule::Ignored);
        }
        let mut effects = self.nothing(Rule::AnswerDue);
        self.answer(&mut effects);
        effects
    }

    fn answer(&mut self, effects: &mut Vec<Effect>) {
        if self.answer_at.take().is_some() {
            effects.push(Effect::Answer(self.outcome()));
        }
    }

    /// The stores that have not applied the events.
    fn behind(&self) -> Vec<&StoreName> {
        let stores = self.plan.request.stores.iter().zip(&self.projected_at);
        stores.filter(|(_, at)| at.is_none()).map(|(store, _)| store).collect()
    }

    fn summaries(&self) -> Vec<StoreSummary> {
        let summary = |(store, projected_at): (&StoreName, &Option<Timestamp>)| StoreSummary {
            store: store.clone(),
            vote: None,
            note: None,
            prepare_asked_at: None,
            voted_at: None,
            delivery_asked_at: Some(self.began_at),
            acknowledged_at: *projected_at,
            attempts: 0,
        };
        self.plan.request.stores.iter().zip(&self.projected_at).map(summary).collect()
    }

    fn public_state(&self) -> TransactionState {
        match self.state {
            State::New => TransactionState::Initiated,
            State::Projecting => TransactionState::Committing,
            State::Ended if self.is_refused => TransactionState::Aborted,
            State::Ended => TransactionState::Committed,
        }
    }

    fn outcome(&self) -> Outcome {
        let (state, request) = (self.public_state(), &self.plan.request);
        words::outcome(state, self.reason.as_ref(), &self.behind(), request)
    }

    fn impossible(&self, input: &'static str) -> ProtocolError {
        ProtocolError::Impossible { input, state: self.state.as_str() }
    }
}

impl Machine for EventSourcing {
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        if let Input::Projected { party } = input
            && party >= self.projected_at.len()
        {
            return Err(ProtocolError::NoSuchParty { party });
        }
        let is_first = matches!(input, Input::Started | Input::Resumed);
        if is_first != (self.state == State::New) && !matches!(input, Input::AbortRequested { .. })
        {
            return Err(self.impossible(input.name()));
        }
        let is_over = self.state == State::Ended;
        Ok(match input {
            Input::Started => self.begin(now),
            Input::Resumed => {
                self.take(Rule::Resume);
                vec![Effect::AwaitProjections]
            }
            Input::AbortRequested { .. } => self.nothing(Rule::AbortTooLate),
            Input::TimeReached => self.time_reached(now),
            Input::Projected { .. } | Input::Resolved { .. } if is_over => {
                self.nothing(Rule::Ignored)
            }
            Input::Projected { party } => self.projected(now, party),
            Input::Resolved { decision, reason } => self.resolved(now, decision, &reason)?,
            Input::VersionRefused { stream, expected, actual } if !is_over => {
                self.version_refused(words::version_reason(&stream, expected, actual))
            }
            Input::LockLost { .. } | Input::Overruled(_) => self.nothing(Rule::Ignored),
            _ => return Err(self.impossible(input.name())),
        })
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.answer_at.filter(|_| self.state == State::Projecting)
    }

    fn view(&self) -> View {
        let has_decided = self.state != State::New && !self.is_refused;
        View {
            state: self.public_state(),
            decision: has_decided.then_some(Decision::Commit),
            outcome: self.outcome(),
            stores: self.summaries(),
            steps: Vec::new(),
        }
    }

    fn request(&self) -> &Arc<CoordinationRequest> {
        &self.plan.request
    }

    fn epoch(&self) -> u32 {
        self.plan.epoch
    }

    fn began_at(&self) -> Timestamp {
        self.began_at
    }

    fn locks(&self) -> &Arc<[LockWish]> {
        &self.plan.no_locks
    }

    fn awaits_answer(&self) -> bool {
        self.answer_at.is_some()
    }

    fn is_to_abort(&self) -> bool {
        self.is_refused
    }

    fn is_unbegun(&self) -> bool {
        self.is_refused
    }

    fn is_parked(&self) -> bool {
        false
    }

    fn is_quiet(&self) -> bool {
        true
    }
}
