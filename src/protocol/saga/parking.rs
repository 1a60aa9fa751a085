//! What waits for an operator, and what he can do about it.
//!
//! Invariants: whatever is parked is a forced record, an alert, and told as failed; an operator's
//! word is a record before it has an effect; it never stands against the decision.

use std::sync::Arc;

use crate::model::outcome::Decision;
use crate::model::record::Reason;
use crate::model::step::Work;
use crate::model::time::Timestamp;
use crate::model::value::Value;

use crate::protocol::step_records;
use crate::protocol::track::{Progress, Track};

use super::outcome::RESOLVED;
use super::{Effect, ProtocolError, Rule, Saga, State};

impl Saga {
    /// The tries of a step are spent; the caller has taken the row.
    pub(super) fn park(
        &mut self,
        now: Timestamp,
        step: usize,
        work: Work,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        self.steps.tracks[step].progress = Progress::Parked(work);
        effects.push(step_records::parked(step, work, message));
        effects.push(Effect::Alert { message: self.alert(step) });
        self.finish_parked(now, effects);
    }

    /// An operator wants a parked step to be tried again, with fresh tries.
    pub(super) fn redriven(&mut self, now: Timestamp, step: usize) -> Vec<Effect> {
        let Progress::Parked(work) = self.steps.tracks[step].progress else {
            return self.ignored();
        };
        if self.state != State::Parked {
            return self.ignored();
        }
        self.take(Rule::Redriven);
        self.steps.tracks[step].failures = 0;
        let mut effects = vec![step_records::redriven(step)];
        self.ask(now, work, &[step], &mut effects);
        self.unpark();
        self.proceed(now, &mut effects);
        effects
    }

    /// An operator's decision.
    pub(super) fn resolved(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: &str,
    ) -> Result<Vec<Effect>, ProtocolError> {
        let words = Reason::new(RESOLVED, format!("resolved by an operator: {reason}"));
        let is_abort = decision == Decision::Abort;
        match (self.state, self.decision) {
            (State::Locking, None) if is_abort && !self.locking.resumed => {
                Ok(self.give_up_locking(words))
            }
            (State::Executing, None) if is_abort => Ok(self.wish_abort(now, words)),
            (State::Proposing | State::Reading | State::InDoubt, None) => {
                Ok(self.resolve_doubt(now, decision, words))
            }
            (State::Parked, None) if is_abort => Ok(self.give_up_pivot(now, words)),
            (State::Parked, None) => Ok(self.by_hand(now, reason)),
            (_, Some(standing)) if standing != decision => {
                let (standing, asked) = (standing.as_str(), decision.as_str());
                Err(ProtocolError::Contradicts { standing, asked })
            }
            (State::Committing | State::Compensating | State::Parked, Some(_))
                if !self.in_trouble().is_empty() =>
            {
                Ok(self.by_hand(now, reason))
            }
            _ => Err(self.impossible("Resolved")),
        }
    }

    /// What is parked, or failed and waits to be tried again.
    fn in_trouble(&self) -> Vec<(usize, Work)> {
        let tracks = self.steps.tracks.iter().enumerate();
        tracks
            .filter_map(|(step, track)| match track.progress {
                Progress::Parked(work) | Progress::RetryAt(work, _) => Some((step, work)),
                _ => None,
            })
            .collect()
    }

    /// An operator did by hand whatever is in trouble.
    fn by_hand(&mut self, now: Timestamp, reason: &str) -> Vec<Effect> {
        self.take(Rule::ByHand);
        let mut effects = Vec::new();
        for (step, work) in self.in_trouble() {
            if self.decision.is_none() && !self.steps.tracks[step].is_parked() {
                continue;
            }
            let verb = if work == Work::Execute { "did" } else { "undid" };
            let message = format!("an operator {verb} it by hand: {reason}");
            self.say_by_hand(step, (work, false), message, &mut effects);
            self.done(now, step, work, Arc::new(Value::Null), &mut effects);
        }
        self.unpark();
        self.proceed(now, &mut effects);
        effects
    }

    /// Before the decision: an operator says that the pivot was not done.
    fn give_up_pivot(&mut self, now: Timestamp, words: Reason) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (step, work) in self.in_trouble() {
            if self.steps.tracks[step].is_parked() {
                let message = format!("an operator says that it was not done: {}", words.message);
                self.say_by_hand(step, (work, true), message, &mut effects);
                self.steps.tracks[step].given_up(now);
            }
        }
        self.take(Rule::GivenUpByHand);
        self.wish = Some(words);
        self.unpark();
        self.proceed(now, &mut effects);
        effects
    }

    /// Keeps an operator's words as the step's note.
    fn say_by_hand(
        &mut self,
        step: usize,
        (work, is_final): (Work, bool),
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let track = &mut self.steps.tracks[step];
        track.note = Some(message.clone());
        if track.is_parked() {
            effects.push(step_records::redriven(step));
        }
        effects.push(step_records::failed(step, work, message, (false, is_final)));
    }

    /// Leaves the state when nothing is parked any more.
    fn unpark(&mut self) {
        if self.state != State::Parked || self.steps.tracks.iter().any(Track::is_parked) {
            return;
        }
        self.take(match self.decision {
            Some(Decision::Commit) => Rule::UnparkedForward,
            Some(Decision::Abort) => Rule::UnparkedBack,
            None => Rule::UnparkedUndecided,
        });
    }
}
