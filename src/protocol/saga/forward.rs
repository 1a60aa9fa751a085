//! Going forward: steps are asked when what they depend on is done, and tried again.
//!
//! Not the decision, and not the way back. Invariants: the intent is a record before the question;
//! what is done is on disk before anything that depends on it is asked.

use std::sync::Arc;
use std::time::Duration;

use crate::model::event::CoordinationEvent;
use crate::model::outcome::Decision;
use crate::model::record::{Durability, Record};
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;
use crate::model::value::Value;

use crate::protocol::step_records;
use crate::protocol::track::Progress;

use super::{Effect, Rule, Saga, State, Undo};

impl Saga {
    /// Records the begin and asks for the steps that depend on none.
    pub(super) fn begin(&mut self, now: Timestamp, locks: Vec<u64>) -> Vec<Effect> {
        let request = Arc::clone(&self.plan.request);
        let mut effects = vec![
            Effect::Record {
                record: Record::Begin {
                    request: Arc::clone(&request),
                    owner: self.plan.owner.clone(),
                    epoch: self.plan.epoch,
                    locks,
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
        for step in self.first_steps() {
            self.steps.tracks[step].asked(now, Work::Execute);
            self.steps.asked.push(step);
            effects.push(self.execute(now, step, Work::Execute));
        }
        self.proceed(now, &mut effects);
        effects
    }

    /// The steps that depend on none: the begin is the intent of their first try.
    pub(super) fn first_steps(&self) -> Vec<usize> {
        let steps = self.plan.steps.iter().enumerate();
        steps.filter(|(_, step)| step.depends_on.is_empty()).map(|(at, _)| at).collect()
    }

    /// Records the intents as one batch, then asks.
    pub(super) fn ask(
        &mut self,
        now: Timestamp,
        work: Work,
        steps: &[usize],
        effects: &mut Vec<Effect>,
    ) {
        let mut tries = Vec::with_capacity(steps.len());
        for step in steps {
            tries.push((*step, self.steps.tracks[*step].asked(now, work)));
            if work == Work::Execute && !self.steps.asked.contains(step) {
                self.steps.asked.push(*step);
            }
        }
        effects.extend(step_records::started(work, &tries));
        for step in steps {
            let execute = self.execute(now, *step, work);
            effects.push(execute);
        }
    }

    fn execute(&self, now: Timestamp, step: usize, work: Work) -> Effect {
        Effect::Execute {
            step,
            work,
            attempt: self.steps.tracks[step].attempts_of(work),
            context: self.context(step, work),
            timeout: self.try_timeout(now, step, work),
        }
    }

    /// What was done before; for a compensation before its step, and the step's own result.
    fn context(&self, step: usize, work: Work) -> Vec<(usize, Arc<Value>)> {
        let done = &self.steps.done;
        let own = done.iter().position(|other| *other == step && work == Work::Compensate);
        let until = own.map_or(done.len(), |own| own + 1);
        let result = |step: &usize| Some((*step, self.steps.tracks[*step].result.clone()?));
        done[..until].iter().filter_map(result).collect()
    }

    /// A try that can still be undecided when the caller's time passes is not waited for longer.
    fn try_timeout(&self, now: Timestamp, step: usize, work: Work) -> Duration {
        let whole = self.plan.steps[step].timeout.unwrap_or(self.plan.step_timeout);
        let is_bounded = self.decision.is_none() && work == Work::Execute && self.wish.is_none();
        if is_bounded { whole.min(self.expires_at.since(now)) } else { whole }
    }

    pub(super) fn answered(
        &mut self,
        now: Timestamp,
        step: usize,
        (work, attempt): (Work, u32),
        answer: StepAnswer,
    ) -> Vec<Effect> {
        let is_awaited = self.steps.tracks[step].is_awaited(work, attempt);
        if self.state == State::Ended || !is_awaited {
            return self.ignored();
        }
        self.note_answer_since_decision(step, work, attempt, &answer);
        let mut effects = Vec::new();
        self.take_answer(now, step, work, answer, &mut effects);
        self.proceed(now, &mut effects);
        effects
    }

    pub(super) fn take_answer(
        &mut self,
        now: Timestamp,
        step: usize,
        work: Work,
        answer: StepAnswer,
        effects: &mut Vec<Effect>,
    ) {
        match (work, answer) {
            (_, StepAnswer::Done { result }) => {
                let is_step = work == Work::Execute;
                self.take(if is_step { Rule::StepDone } else { Rule::StepUndone });
                self.done(now, step, work, Arc::new(result), effects);
            }
            (Work::Execute, StepAnswer::Failed { message, retryable }) => {
                self.try_failed(now, step, message, (false, !retryable), effects);
            }
            (Work::Execute, StepAnswer::Unknown { message }) => {
                self.try_failed(now, step, message, (true, false), effects);
            }
            (Work::Compensate, StepAnswer::Failed { message, retryable }) => {
                self.undo_failed(now, step, message, (false, !retryable), effects);
            }
            (Work::Compensate, StepAnswer::Unknown { message }) => {
                self.undo_failed(now, step, message, (true, false), effects);
            }
        }
    }

    /// A step is done, or undone; listed lazily, `step_records` says what it needs.
    pub(super) fn done(
        &mut self,
        now: Timestamp,
        step: usize,
        work: Work,
        result: Arc<Value>,
        effects: &mut Vec<Effect>,
    ) {
        self.steps.tracks[step].settled(now, work, Arc::clone(&result));
        if work == Work::Execute {
            self.steps.done.push(step);
        }
        effects.push(step_records::done(step, work, result));
    }

    fn try_failed(
        &mut self,
        now: Timestamp,
        step: usize,
        message: String,
        (is_unknown, is_refused): (bool, bool),
        effects: &mut Vec<Effect>,
    ) {
        let work = Work::Execute;
        self.steps.tracks[step].failed(work, message.clone(), is_unknown);
        let failures = self.steps.tracks[step].failures;
        let is_committed = self.decision == Some(Decision::Commit);
        let is_retried = match self.state {
            State::Executing => !is_refused && failures <= self.plan.steps[step].max_retries,
            _ => is_committed && !is_refused,
        };
        let words = (is_unknown, !is_retried);
        effects.push(step_records::failed(step, work, message.clone(), words));
        if is_retried {
            self.take(Rule::TryFailed);
            let again_at = now + self.plan.backoff.delay(failures - 1);
            self.steps.tracks[step].progress = Progress::RetryAt(work, again_at);
        } else if is_committed {
            self.take(Rule::StepParked);
            self.park(now, step, work, message, effects);
        } else {
            self.take(Rule::TriesSpent);
            self.steps.tracks[step].given_up(now);
            if self.state == State::Executing {
                let reason = self.step_reason(step);
                self.wish.get_or_insert(reason);
            }
        }
    }

    /// Before the decision: the next steps, or the decision.
    pub(super) fn go_on_undecided(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.is_past_return() {
            return self.decide_commit(now, effects);
        }
        match self.wish.clone() {
            Some(reason) => self.turn(now, reason, effects),
            None if now >= self.expires_at => {
                self.take(Rule::TimedOut);
                let reason = self.turn_for_time(now);
                self.turn(now, reason, effects);
            }
            None => self.ask_ready(now, effects),
        }
    }

    /// Whether nothing may be undone any more.
    pub(super) fn is_past_return(&self) -> bool {
        let is_done = |at: usize| self.steps.tracks[at].is_done();
        let pivot = self.plan.steps.iter().position(|step| step.is_pivot);
        pivot.map_or_else(|| self.steps.done.len() == self.plan.steps.len(), is_done)
    }

    /// Whether its pivot is done and cannot be undone.
    pub(super) fn pivot_done_for_good(&self) -> bool {
        let mut steps = self.plan.steps.iter().zip(&self.steps.tracks);
        steps.any(|(step, track)| step.is_pivot && step.undo == Undo::Impossible && track.is_done())
    }

    /// The pivot, if it cannot be undone and is not known to have had no effect.
    pub(super) fn pivot_at_risk(&self) -> Option<usize> {
        let is_pivot = |step: &super::Step| step.is_pivot && step.undo == Undo::Impossible;
        let pivot = self.plan.steps.iter().position(is_pivot)?;
        let track = &self.steps.tracks[pivot];
        (track.is_out() || track.may_have_run || track.is_parked()).then_some(pivot)
    }

    /// After a commit: the next steps, or the end.
    pub(super) fn go_forward(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.ask_ready(now, effects);
        if self.state == State::Committing && self.steps.done.len() == self.plan.steps.len() {
            self.take(Rule::CommitDone);
            self.end(now, effects);
        }
    }

    fn ask_ready(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let is_done = |at: &usize| self.steps.tracks[*at].is_done();
        let is_ready = |at: &usize| {
            self.steps.tracks[*at].progress == Progress::Waiting
                && self.plan.steps[*at].depends_on.iter().all(is_done)
        };
        let ready: Vec<usize> = (0..self.plan.steps.len()).filter(is_ready).collect();
        if !ready.is_empty() {
            self.take(Rule::StepsReady);
            self.ask(now, Work::Execute, &ready, effects);
        }
    }
}
