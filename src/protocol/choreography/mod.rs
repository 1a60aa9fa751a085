//! A choreographed saga, as the process sees it that answers for it.
//!
//! # Theory of operation
//!
//! The saga is a routing slip (Hohpe and Woolf, "Enterprise Integration Patterns", 2003) that
//! travels over a durable event bus from store to store. At each stop exactly one process that has
//! the store takes it, records its operation as a coordination of its own journal, does it, and
//! sends the slip on; when one fails the slip goes back, and each stop undoes its part. The last
//! stop tells the end. This machine is not on that way: it records the beginning, sends the slip
//! off, and records the end that it hears. So the process that began it may die, and the saga ends
//! all the same.
//!
//! A message may be lost with the process that took it, or the end may be told while nobody
//! listens. The slip is therefore sent again, under a new number, after a takeover and whenever no
//! end was heard for long. Stops that have done their part know it by their journals and send it on
//! at once, so the second way leads to the same end as the first.
//!
//! # Invariants
//!
//! - Nothing is sent before the beginning is on disk.
//! - The end is recorded once; the first that is heard stands.
//! - A caller whose time is over is told that it is not known yet: nobody can call the slip back.

#[cfg(test)]
mod machine_test;
mod route;
mod rules;
mod words;

pub use route::{Route, RouteError};
pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::sync::Arc;
use std::time::Duration;

use crate::model::event::CoordinationEvent;
use crate::model::ids::InstanceId;
use crate::model::outcome::{Decision, Outcome, TransactionState};
use crate::model::record::{Durability, Reason, Record};
use crate::model::request::{ConsistencyLevel, CoordinationRequest};
use crate::model::step::StepSummary;
use crate::model::time::Timestamp;

use super::lock_plan::LockWish;
use super::retry::Backoff;
use super::{Effect, Input, Machine, ProtocolError, RouteEnd, View};

/// What the machine is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Arc<CoordinationRequest>,
    /// Who answers for it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// How long an end is waited for before the slip is sent again, the first time and at most.
    pub backoff: Backoff,
    /// No locks: nobody holds them along the way.
    pub no_locks: Arc<[LockWish]>,
}

/// The machine.
#[derive(Debug)]
pub struct Choreography {
    plan: Plan,
    state: State,
    began_at: Timestamp,
    /// Until when the caller waits; `None` once answered.
    answer_at: Option<Timestamp>,
    walks: u32,
    walk_again_at: Timestamp,
    decision: Option<Decision>,
    reason: Option<Reason>,
    steps: Vec<StepSummary>,
    /// One bit for each rule that was taken.
    taken: u64,
}

impl Choreography {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        Self {
            state: State::New,
            began_at: now,
            answer_at: Some(now + plan.request.timeout),
            walks: 0,
            walk_again_at: Timestamp::PAST,
            decision: None,
            reason: None,
            steps: Vec::new(),
            taken: 0,
            plan,
        }
    }

    /// A machine as its records tell it.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        let began_at = records.first().map_or(Timestamp(0), |(at, _)| *at);
        let mut machine = Self::new(plan, began_at);
        machine.answer_at = None;
        for (_, record) in records {
            if let Record::Decision { decision, reason, .. } = record {
                machine.decision = Some(*decision);
                machine.reason.clone_from(reason);
            }
        }
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

    fn walk(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let wait = self.plan.backoff.delay(self.walks);
        self.walks += 1;
        self.walk_again_at = now + wait;
        // Under the epoch's own numbers: a predecessor's slip may still be on its way.
        let walk = self.plan.epoch.saturating_mul(1_000).saturating_add(self.walks);
        effects.push(Effect::Walk { walk });
    }

    fn begin(&mut self, now: Timestamp) -> Vec<Effect> {
        self.take(Rule::Begin);
        let request = Arc::clone(&self.plan.request);
        let mut effects = vec![
            Effect::Record {
                record: Record::Begin {
                    request: Arc::clone(&request),
                    owner: self.plan.owner.clone(),
                    epoch: self.plan.epoch,
                    locks: Vec::new(),
                },
                durability: Durability::Forced,
            },
            Effect::Publish(CoordinationEvent::Started {
                id: request.id.clone(),
                kind: request.kind,
                stores: request.stores.clone(),
                at: now,
            }),
        ];
        self.walk(now, &mut effects);
        if request.consistency == ConsistencyLevel::Eventual {
            self.answer(&mut effects);
        }
        effects
    }

    fn resume(&mut self, now: Timestamp) -> Vec<Effect> {
        self.take(Rule::Resume);
        let mut effects = Vec::new();
        self.walk(now, &mut effects);
        effects
    }

    fn route_ended(&mut self, now: Timestamp, end: RouteEnd) -> Vec<Effect> {
        if self.state != State::Walking {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        let decision = match end.undone {
            None => Decision::Commit,
            Some(_) => Decision::Abort,
        };
        self.take(match decision {
            Decision::Commit => Rule::RouteCompleted,
            Decision::Abort => Rule::RouteUndone,
        });
        self.decision = Some(decision);
        self.reason = end.undone;
        self.steps = end.steps;
        self.answer_at = None;
        self.end(now, decision)
    }

    fn end(&self, now: Timestamp, decision: Decision) -> Vec<Effect> {
        let outcome = self.outcome();
        let reason = self.reason.clone();
        let record = |record, durability| Effect::Record { record, durability };
        let end =
            Record::End { outcome: outcome.clone(), stores: Vec::new(), steps: self.steps.clone() };
        vec![
            record(
                Record::Decision { decision, reason, read_only: Vec::new(), receipts: Vec::new() },
                Durability::Lazy,
            ),
            record(end, Durability::Forced),
            Effect::Publish(CoordinationEvent::Completed {
                id: self.plan.request.id.clone(),
                success: outcome.is_success(),
                state: outcome.state.as_str(),
                duration_ms: u64::try_from(now.since(self.began_at).as_millis())
                    .unwrap_or(u64::MAX),
            }),
            Effect::Finish(outcome),
            Effect::Close,
        ]
    }

    fn time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.state != State::Walking {
            self.take(Rule::Ignored);
            return effects;
        }
        if now >= self.walk_again_at {
            self.take(Rule::WalkAgain);
            self.walk(now, &mut effects);
        }
        if self.answer_at.is_some_and(|at| now >= at) {
            self.take(Rule::AnswerDue);
            self.answer(&mut effects);
        }
        if effects.is_empty() {
            self.take(Rule::Ignored);
        }
        effects
    }

    fn answer(&mut self, effects: &mut Vec<Effect>) {
        if self.answer_at.take().is_some() {
            effects.push(Effect::Answer(self.outcome()));
        }
    }

    fn impossible(&self, input: &'static str) -> ProtocolError {
        ProtocolError::Impossible { input, state: self.state.as_str() }
    }
}

impl Machine for Choreography {
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        let is_first = matches!(input, Input::Started | Input::Resumed);
        if is_first != (self.state == State::New) && !matches!(input, Input::AbortRequested { .. })
        {
            return Err(self.impossible(input.name()));
        }
        Ok(match input {
            Input::Started => self.begin(now),
            Input::Resumed => self.resume(now),
            Input::RouteEnded(end) => self.route_ended(now, end),
            Input::TimeReached => self.time_reached(now),
            Input::AbortRequested { .. } => {
                self.take(Rule::AbortTooLate);
                Vec::new()
            }
            Input::LockLost { .. } | Input::Overruled(_) => {
                self.take(Rule::Ignored);
                Vec::new()
            }
            _ => return Err(self.impossible(input.name())),
        })
    }

    fn deadline(&self) -> Option<Timestamp> {
        if self.state != State::Walking {
            return None;
        }
        Some(self.answer_at.map_or(self.walk_again_at, |at| at.min(self.walk_again_at)))
    }

    fn view(&self) -> View {
        View {
            state: self.public_state(),
            decision: self.decision,
            outcome: self.outcome(),
            stores: Vec::new(),
            steps: self.steps.clone(),
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
        self.decision == Some(Decision::Abort)
    }

    fn is_unbegun(&self) -> bool {
        false
    }

    fn is_parked(&self) -> bool {
        false
    }

    fn is_quiet(&self) -> bool {
        true
    }
}

impl Choreography {
    fn public_state(&self) -> TransactionState {
        match (self.state, self.decision) {
            (State::New, _) => TransactionState::Initiated,
            (State::Walking, _) | (State::Ended, None) => TransactionState::Preparing,
            (State::Ended, Some(Decision::Commit)) => TransactionState::Committed,
            (State::Ended, Some(Decision::Abort)) => TransactionState::Aborted,
        }
    }

    fn outcome(&self) -> Outcome {
        words::outcome(self.public_state(), self.reason.as_ref(), &self.plan.request)
    }
}

/// How long an end is waited for before the slip is sent again.
pub const WALK_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(600));
