//! Eventual consistency: operations that are accepted durably, all at once, and then delivered,
//! each by itself, until they are done.
//!
//! # Theory of operation
//!
//! The transactional outbox as a machine (Richardson, "Microservices Patterns", 2018, chapter 3):
//! the begin is the acceptance, and the acceptance is the decision. There is nothing to abort and
//! nothing to undo. Operations on different keys go side by side, those on one key in the order in
//! which they are listed; for the order among coordinations the machine stands in line for its
//! keys (`key_order`), and leaves a line when it has nothing left to do there.
//!
//! A try that failed, or of which nobody knows, is repeated after a backoff until the retries are
//! spent; then the operation is parked and waits for an operator. It keeps its place in the line:
//! what comes after it on the same key waits too, because skipping it would let a redriven old
//! value overwrite a new one. Other keys go on.
//!
//! # Invariants
//!
//! - No participant is asked before the intent is on disk; the begin is the intent of the first try
//!   of the first operation of each key.
//! - An operation is asked only while this coordination has its key's turn, and after every
//!   operation of the key that is listed before it is done or given up.
//! - A line is left only when what was done there is on disk.
//! - It ends when every operation is done, or given up by an operator.
//! - Whoever asked is answered at his deadline with what is true then.

mod delivering;
mod outcome;
mod parking;
mod plan;
mod resume;
mod rules;

pub use plan::{CheckError, Plan, Step, check};
pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::sync::Arc;

use crate::model::outcome::Decision;
use crate::model::request::{ConsistencyLevel, CoordinationRequest};
use crate::model::time::Timestamp;

use super::key_order::TurnKey;
use super::lock_plan::LockWish;
use super::step_records;
use super::track::Track;
use super::{Effect, Input, Machine, ProtocolError, View};

/// The machine.
#[derive(Clone, Debug)]
pub struct Eventual {
    plan: Plan,
    state: State,
    tracks: Vec<Track>,
    lines: Vec<Line>,
    began_at: Timestamp,
    /// Until when the caller waits; `None` once answered.
    answer_at: Option<Timestamp>,
    no_locks: Arc<[LockWish]>,
    /// One bit for each rule that was taken.
    taken: u64,
}

/// The operations of one key, in their order.
#[derive(Clone, Debug)]
struct Line {
    key: TurnKey,
    steps: Vec<usize>,
    has_turn: bool,
}

impl Eventual {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        for (step, planned) in plan.steps.iter().enumerate() {
            match lines.iter_mut().find(|line| line.key == planned.key) {
                Some(line) => line.steps.push(step),
                None => lines.push(Line {
                    key: planned.key.clone(),
                    steps: vec![step],
                    has_turn: false,
                }),
            }
        }
        Self {
            state: State::New,
            tracks: plan.steps.iter().map(|_| Track::new()).collect(),
            lines,
            began_at: now,
            answer_at: Some(now + plan.request.timeout),
            no_locks: Arc::default(),
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

    fn ignored(&mut self) -> Vec<Effect> {
        self.take(Rule::Ignored);
        Vec::new()
    }

    fn time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let is_due = |track: &Track| track.retry_at().is_some_and(|at| now >= at);
        let due: Vec<usize> =
            (0..self.tracks.len()).filter(|step| is_due(&self.tracks[*step])).collect();
        let is_answer_due =
            self.state == State::Delivering && self.answer_at.is_some_and(|at| now >= at);
        if due.is_empty() && !is_answer_due {
            return self.ignored();
        }
        if !due.is_empty() {
            self.take(Rule::TryAgain);
            self.ask(now, &due, &mut effects);
        }
        if is_answer_due {
            self.take(Rule::AnswerDue);
            self.answer(&mut effects);
        }
        effects
    }

    fn impossible(&self, input: &'static str) -> ProtocolError {
        ProtocolError::Impossible { input, state: self.state.as_str() }
    }

    fn check_input(&self, input: &Input) -> Result<(), ProtocolError> {
        match input {
            Input::StepAnswered { step, .. } | Input::Redriven { step }
                if *step >= self.tracks.len() =>
            {
                return Err(ProtocolError::NoSuchStep { step: *step });
            }
            Input::TurnCame { turn } if *turn >= self.lines.len() => {
                return Err(ProtocolError::NoSuchTurn { turn: *turn });
            }
            _ => {}
        }
        let is_begun = matches!(input, Input::Started | Input::Resumed);
        let is_first = is_begun || matches!(input, Input::AbortRequested { .. });
        if self.state == State::New && !is_first || self.state != State::New && is_begun {
            return Err(self.impossible(input.name()));
        }
        Ok(())
    }
}

impl Machine for Eventual {
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        self.check_input(&input)?;
        let mut effects = match input {
            Input::Started => self.accept(now),
            Input::Resumed => self.go_on(now),
            Input::TurnCame { turn } => self.turn_came(now, turn),
            Input::StepAnswered { step, work, attempt, answer } => {
                self.answered(now, step, (work, attempt), answer)
            }
            Input::Redriven { step } => self.redriven(now, step),
            Input::Resolved { decision, reason } => self.resolved(now, decision, &reason)?,
            Input::AbortRequested { .. } => {
                self.take(Rule::AbortTooLate);
                Vec::new()
            }
            Input::TimeReached => self.time_reached(now),
            _ => return Err(self.impossible(input.name())),
        };
        step_records::settle_durability(&mut effects);
        Ok(effects)
    }

    fn deadline(&self) -> Option<Timestamp> {
        let of_answer = self.answer_at.filter(|_| self.state == State::Delivering);
        let retries = self.tracks.iter().filter_map(Track::retry_at);
        match self.state {
            State::New | State::Ended => None,
            _ => retries.chain(of_answer).min(),
        }
    }

    fn view(&self) -> View {
        View {
            state: self.public_state(),
            decision: (self.state != State::New).then_some(Decision::Commit),
            outcome: self.outcome(),
            stores: Vec::new(),
            steps: self.summaries(),
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
        &self.no_locks
    }

    fn awaits_answer(&self) -> bool {
        self.answer_at.is_some()
    }

    fn is_to_abort(&self) -> bool {
        false
    }

    fn is_unbegun(&self) -> bool {
        false
    }

    fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    fn is_quiet(&self) -> bool {
        !self.tracks.iter().any(Track::is_out)
    }
}

impl Eventual {
    /// Whether the caller is answered by the acceptance.
    fn answers_early(&self) -> bool {
        self.plan.request.consistency == ConsistencyLevel::Eventual
    }
}
