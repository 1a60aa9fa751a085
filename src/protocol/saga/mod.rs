//! An orchestrated saga: steps that are done one after the other, or side by side, and undone in
//! reverse order when one of them cannot be done.
//!
//! # Theory of operation
//!
//! After Garcia-Molina and Salem, "Sagas" (SIGMOD 1987), with a pivot as in Richardson,
//! "Microservices Patterns" (2018), chapter 4. Steps are the request's operations; each waits for
//! those that it depends on. Before a participant is asked, the intent is a durable record; what it
//! answered is one before anything that depends on it is asked. So after a crash only the steps
//! that were out may have run without a record, and they are asked again under the next number.
//!
//! A try that failed, or of which nobody knows, is repeated after a backoff until the operation's
//! retries are spent. Then the saga turns round: the decision to abort is recorded before the first
//! compensation, the tries that are still out are waited for, and everything that was done, or may
//! have been, is undone, strictly one after the other: first what may have run, then what was done
//! in the reverse order of its completion. When the pivot is done (without a pivot: all steps) the
//! decision is commit, and from then on the saga only goes forward, for as long as that takes.
//!
//! A pivot that cannot be undone and is out, or in doubt, holds a turn back: only its answer says
//! which way the saga can go. When nobody gives that answer, it waits for an operator. So does a
//! compensation whose tries are spent, and a step after the pivot that is refused for good.
//!
//! # Invariants
//!
//! - No participant is asked before the intent is on disk; the begin is the intent of the first try
//!   of the steps that depend on none.
//! - No compensation is asked before `DECISION abort` is on disk, and nothing is begun forward
//!   after it; nothing is undone after `DECISION commit`.
//! - `decision` is set once by this machine; only the journal's standing decision replaces it, and
//!   what was listed behind the own record counts as never listed then.
//! - What is unknown may have run: it is undone, or repeated until it is known.
//! - It ends when all steps are done, or all that were done are undone; else an operator is told.
//! - Whoever asked is answered at his deadline with what is true then.

mod check;
#[cfg(test)]
mod check_test;
mod deciding;
mod forward;
mod locking;
mod outcome;
mod parking;
mod plan;
mod resume;
mod rules;
mod undoing;

pub(in crate::protocol) use check::{max_retries, timeout};

pub use check::{CheckError, check};
pub use plan::{Plan, Step, Undo};
pub use rules::{Rule, State, TRANSITIONS, Transition};

use std::sync::Arc;

use crate::model::outcome::Decision;
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;

use super::lock_plan::LockWish;
use super::locking::Locking;
use super::step_records;
use super::track::Track;
use super::{Effect, Input, Machine, ProtocolError, View};

/// The machine.
#[derive(Clone, Debug)]
pub struct Saga {
    plan: Plan,
    state: State,
    steps: Steps,
    locking: Locking,
    began_at: Timestamp,
    /// Until when the decision has to be made.
    expires_at: Timestamp,
    /// Until when the caller waits; `None` once answered.
    answer_at: Option<Timestamp>,
    decision: Option<Decision>,
    reason: Option<Reason>,
    /// Why it is to turn round, while it has not.
    wish: Option<Reason>,
    agreement: Agreement,
    /// What an overruled decision would have to be taken back to.
    before_decision: Option<Box<BeforeDecision>>,
    /// One bit for each rule that was taken.
    taken: u64,
}

/// How far the steps are.
#[derive(Clone, Debug)]
struct Steps {
    tracks: Vec<Track>,
    /// Those that were asked, in the order of their first try.
    asked: Vec<usize>,
    /// Those that are done, in the order of their completion.
    done: Vec<usize>,
}

/// How far the consensus service is.
#[derive(Clone, Debug, Default)]
struct Agreement {
    /// What was last proposed by this machine.
    proposal: Option<Decision>,
    /// That nothing stands was read after it was proposed.
    is_vain: bool,
    doubts: u32,
    read_again_at: Option<Timestamp>,
}

/// How it was when the decision was recorded, and the answers that came since to what was out.
#[derive(Clone, Debug)]
struct BeforeDecision {
    steps: Steps,
    answer_at: Option<Timestamp>,
    since: Vec<(usize, StepAnswer)>,
}

impl Saga {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        let expires_at = now + plan.request.timeout;
        let tracks = plan.steps.iter().map(|_| Track::new()).collect();
        Self {
            state: State::New,
            steps: Steps { tracks, asked: Vec::new(), done: Vec::new() },
            locking: Locking::default(),
            began_at: now,
            expires_at,
            answer_at: Some(expires_at),
            decision: None,
            reason: None,
            wish: None,
            agreement: Agreement::default(),
            before_decision: None,
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

    /// Does whatever the state and the steps ask for now: the one place that goes on.
    fn proceed(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        match self.state {
            State::Executing => self.go_on_undecided(now, effects),
            State::Committing | State::Parked if self.decision == Some(Decision::Commit) => {
                self.go_forward(now, effects);
            }
            State::Turning | State::Compensating => self.go_back(now, effects),
            _ => {}
        }
    }

    fn time_reached(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let taken = std::mem::take(&mut self.taken);
        if self.state == State::Locking {
            effects = self.locking_time_reached(now);
        } else if self.state == State::Executing && self.wish.is_none() && now >= self.expires_at {
            self.proceed(now, &mut effects);
        } else if self.agreement.read_again_at.is_some_and(|at| now >= at) {
            self.take(Rule::AskAgain);
            self.agreement.read_again_at = None;
            effects.push(Effect::ReadDecision);
        } else {
            self.try_again(now, &mut effects);
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

    /// Tries again what is due.
    fn try_again(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let is_due = |at: &Timestamp| now >= *at;
        let due: Vec<usize> = (0..self.steps.tracks.len())
            .filter(|step| self.due(*step).as_ref().is_some_and(is_due))
            .collect();
        if due.is_empty() {
            return;
        }
        let is_undo = self.state == State::Compensating;
        self.take(if is_undo { Rule::UndoAgain } else { Rule::TryAgain });
        let work = if is_undo { Work::Compensate } else { Work::Execute };
        self.ask(now, work, &due, effects);
    }

    /// When a step is to be tried again, if it is as things stand.
    fn due(&self, step: usize) -> Option<Timestamp> {
        let is_retried = match self.state {
            State::Executing => self.wish.is_none() || self.plan.steps[step].is_pivot,
            State::Committing | State::Compensating => true,
            State::Parked => self.decision == Some(Decision::Commit),
            _ => false,
        };
        self.steps.tracks[step].retry_at().filter(|_| is_retried)
    }

    /// An answer before its time comes only when the decision waits for a pivot.
    fn is_answerable(&self) -> bool {
        Rule::AnswerDue.row().from.contains(&self.state)
            && (self.state != State::Executing || self.wish.is_some())
    }

    fn impossible(&self, input: &'static str) -> ProtocolError {
        ProtocolError::Impossible { input, state: self.state.as_str() }
    }

    fn check_input(&self, input: &Input) -> Result<(), ProtocolError> {
        if let Input::StepAnswered { step, .. } | Input::Redriven { step } = input
            && *step >= self.steps.tracks.len()
        {
            return Err(ProtocolError::NoSuchStep { step: *step });
        }
        let is_first =
            matches!(input, Input::Started | Input::Resumed | Input::AbortRequested { .. });
        let is_begun = matches!(input, Input::Started | Input::Resumed);
        if self.state == State::New && !is_first || self.state != State::New && is_begun {
            return Err(self.impossible(input.name()));
        }
        Ok(())
    }
}

impl Machine for Saga {
    fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        self.check_input(&input)?;
        let mut effects = match input {
            Input::Started => self.start(now),
            Input::Resumed => self.resume(now),
            Input::Locked { tokens } => self.locked(now, tokens),
            Input::LockRefused { reason } => self.lock_refused(now, reason),
            Input::LockLost { message } => self.lock_lost(now, &message),
            Input::StepAnswered { step, work, attempt, answer } => {
                self.answered(now, step, (work, attempt), answer)
            }
            Input::Redriven { step } => self.redriven(now, step),
            Input::Proposed { taken } => self.proposed(now, taken),
            Input::DecisionRead(standing) => self.decision_read(now, standing),
            Input::Overruled(standing) => self.overruled(now, standing)?,
            Input::AbortRequested { reason } => self.abort_requested(now, &reason),
            Input::Resolved { decision, reason } => self.resolved(now, decision, &reason)?,
            Input::TimeReached => self.time_reached(now),
            Input::Voted { .. }
            | Input::Acknowledged { .. }
            | Input::TurnCame { .. }
            | Input::ProposalRefused { .. }
            | Input::VersionRefused { .. }
            | Input::Projected { .. }
            | Input::RouteEnded(_) => {
                return Err(self.impossible(input.name()));
            }
        };
        step_records::settle_durability(&mut effects);
        Ok(effects)
    }

    fn deadline(&self) -> Option<Timestamp> {
        let of_state = match self.state {
            State::New | State::Ended => return None,
            State::Locking => return self.locking.deadline(self.lock_until()),
            State::Executing if self.wish.is_none() => Some(self.expires_at),
            State::InDoubt => self.agreement.read_again_at,
            _ => None,
        };
        let of_answer = self.answer_at.filter(|_| self.is_answerable());
        let retries = (0..self.steps.tracks.len()).filter_map(|step| self.due(step));
        retries.chain(of_state).chain(of_answer).min()
    }

    fn view(&self) -> View {
        View {
            state: self.public_state(),
            decision: self.decision,
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
        &self.plan.locks
    }

    fn awaits_answer(&self) -> bool {
        self.answer_at.is_some()
    }

    fn is_to_abort(&self) -> bool {
        let is_proposing = matches!(self.state, State::Proposing | State::Reading | State::InDoubt);
        self.decision == Some(Decision::Abort)
            || self.decision.is_none()
                && is_proposing
                && self.agreement.proposal == Some(Decision::Abort)
    }

    fn is_unbegun(&self) -> bool {
        self.state == State::Ended && self.locking.ended_unbegun
    }

    fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    fn is_quiet(&self) -> bool {
        let asks_others = matches!(self.state, State::Proposing | State::Reading)
            || self.state == State::Locking && self.locking.again_at.is_none();
        !asks_others && !self.steps.tracks.iter().any(Track::is_out)
    }
}
