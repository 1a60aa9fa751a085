//! Delivery: operations are asked when their key's turn is here, one after the other on a key.
//!
//! Invariants: the intent is a record before the question; what is done is on disk before the next
//! operation of its key is asked, here or by the next in line.

use std::sync::Arc;

use crate::model::event::CoordinationEvent;
use crate::model::record::{Durability, Record};
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;

use crate::protocol::step_records;
use crate::protocol::track::{Progress, Track};

use super::{Effect, Eventual, Rule, State};

impl Eventual {
    pub(super) fn accept(&mut self, now: Timestamp) -> Vec<Effect> {
        self.take(Rule::Accept);
        let request = Arc::clone(&self.plan.request);
        let mut effects = vec![Effect::Record {
            record: Record::Begin {
                request: Arc::clone(&request),
                owner: self.plan.owner.clone(),
                epoch: self.plan.epoch,
                locks: Vec::new(),
            },
            durability: Durability::Forced,
        }];
        self.enter_lines(&mut effects);
        effects.push(Effect::Publish(CoordinationEvent::Started {
            id: request.id.clone(),
            kind: request.kind,
            stores: request.stores.clone(),
            at: now,
        }));
        if self.answers_early() && !self.tracks.is_empty() {
            self.answer(&mut effects);
        }
        self.end_if_settled(now, &mut effects);
        effects
    }

    /// Directly behind the begin, so that lines stand in the order of acceptance.
    pub(super) fn enter_lines(&self, effects: &mut Vec<Effect>) {
        if !self.lines.is_empty() {
            let turns = self.lines.iter().map(|line| line.key.clone()).collect();
            effects.push(Effect::EnterTurns { turns });
        }
    }

    pub(super) fn turn_came(&mut self, now: Timestamp, turn: usize) -> Vec<Effect> {
        if self.state == State::Ended || self.lines[turn].has_turn {
            return self.ignored();
        }
        self.take(Rule::TurnCame);
        self.lines[turn].has_turn = true;
        let mut effects = Vec::new();
        self.serve(now, turn, &mut effects);
        effects
    }

    /// Asks for what is next on a key, or leaves its line. The caller has taken the row.
    fn serve(&mut self, now: Timestamp, turn: usize, effects: &mut Vec<Effect>) {
        let line = &self.lines[turn];
        let open = line.steps.iter().find(|step| !is_settled(&self.tracks[**step]));
        let Some(step) = open.copied() else {
            self.take(Rule::KeyDone);
            effects.push(Effect::LeaveTurn { turn });
            return;
        };
        if self.tracks[step].progress != Progress::Waiting {
            return;
        }
        let is_intended =
            line.steps[0] == step && self.tracks[step].attempts_of(Work::Execute) == 0;
        if is_intended {
            self.tracks[step].asked(now, Work::Execute);
            effects.push(self.execute(step));
        } else {
            self.ask(now, &[step], effects);
        }
    }

    /// Records the intents as one batch, then asks.
    pub(super) fn ask(&mut self, now: Timestamp, steps: &[usize], effects: &mut Vec<Effect>) {
        let mut tries = Vec::with_capacity(steps.len());
        for step in steps {
            tries.push((*step, self.tracks[*step].asked(now, Work::Execute)));
        }
        effects.extend(step_records::started(Work::Execute, &tries));
        effects.extend(steps.iter().map(|step| self.execute(*step)));
    }

    fn execute(&self, step: usize) -> Effect {
        Effect::Execute {
            step,
            work: Work::Execute,
            attempt: self.tracks[step].attempts_of(Work::Execute),
            context: Vec::new(),
            timeout: self.plan.steps[step].timeout.unwrap_or(self.plan.step_timeout),
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Timestamp,
        step: usize,
        (work, attempt): (Work, u32),
        answer: StepAnswer,
    ) -> Vec<Effect> {
        if self.state == State::Ended || !self.tracks[step].is_awaited(work, attempt) {
            return self.ignored();
        }
        let mut effects = Vec::new();
        match answer {
            StepAnswer::Done { result } => {
                self.take(Rule::StepDone);
                let result = Arc::new(result);
                self.tracks[step].settled(now, work, Arc::clone(&result));
                effects.push(step_records::done(step, work, result));
                self.settled(now, &[step], &mut effects);
            }
            StepAnswer::Failed { message, retryable } => {
                self.try_failed(now, step, message, (false, !retryable), &mut effects);
            }
            StepAnswer::Unknown { message } => {
                self.try_failed(now, step, message, (true, false), &mut effects);
            }
        }
        effects
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
        self.tracks[step].failed(work, message.clone(), is_unknown);
        // Never final: what is final is said by an operator alone.
        effects.push(step_records::failed(step, work, message.clone(), (is_unknown, false)));
        let failures = self.tracks[step].failures;
        if is_refused || failures > self.plan.steps[step].max_retries {
            self.take(Rule::StepParked);
            self.park(now, step, message, effects);
        } else {
            self.take(Rule::TryFailed);
            let again_at = now + self.plan.backoff.delay(failures - 1);
            self.tracks[step].progress = Progress::RetryAt(work, again_at);
        }
    }

    /// These operations are done or given up: their keys go on, or the coordination ends.
    pub(super) fn settled(&mut self, now: Timestamp, steps: &[usize], effects: &mut Vec<Effect>) {
        let mut turns: Vec<usize> = (0..self.lines.len())
            .filter(|turn| self.lines[*turn].has_turn)
            .filter(|turn| steps.iter().any(|step| self.lines[*turn].steps.contains(step)))
            .collect();
        // Records first: what else follows from this is one batch with them.
        turns.sort_by_key(|turn| !self.is_open(*turn));
        for turn in turns {
            if self.is_open(turn) {
                self.take(Rule::NextOfKey);
            }
            self.serve(now, turn, effects);
        }
        self.end_if_settled(now, effects);
    }

    fn is_open(&self, turn: usize) -> bool {
        self.lines[turn].steps.iter().any(|step| !is_settled(&self.tracks[*step]))
    }

    pub(super) fn end_if_settled(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.state == State::Delivering && self.tracks.iter().all(is_settled) {
            self.take(Rule::Done);
            self.end(now, effects);
        }
    }
}

/// Whether nothing is left to do for it.
pub(super) fn is_settled(track: &Track) -> bool {
    matches!(track.progress, Progress::Done | Progress::Failed)
}
