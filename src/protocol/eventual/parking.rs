//! What waits for an operator, and what he can do about it.
//!
//! Invariants: whatever is parked is a forced record, an alert, and told as failed; an operator's
//! word is a record before it has an effect.

use std::sync::Arc;

use crate::model::outcome::Decision;
use crate::model::step::Work;
use crate::model::time::Timestamp;
use crate::model::value::Value;

use crate::protocol::step_records;
use crate::protocol::track::{Progress, Track};

use super::{Effect, Eventual, ProtocolError, Rule, State};

impl Eventual {
    /// The tries of an operation are spent; the caller has taken the row.
    pub(super) fn park(
        &mut self,
        now: Timestamp,
        step: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        self.tracks[step].progress = Progress::Parked(Work::Execute);
        effects.push(step_records::parked(step, Work::Execute, message));
        effects.push(Effect::Alert { message: self.alert(step) });
        self.finish_parked(now, effects);
    }

    /// An operator wants a parked operation to be tried again, with fresh tries.
    pub(super) fn redriven(&mut self, now: Timestamp, step: usize) -> Vec<Effect> {
        if !self.tracks[step].is_parked() {
            return self.ignored();
        }
        let mut effects = vec![step_records::redriven(step)];
        self.tracks[step].failures = 0;
        if self.has_turn(step) {
            self.take(Rule::Redriven);
            self.ask(now, &[step], &mut effects);
        } else {
            self.take(Rule::RedrivenLater);
            self.tracks[step].progress = Progress::Waiting;
        }
        self.unpark();
        effects
    }

    fn has_turn(&self, step: usize) -> bool {
        self.lines.iter().any(|line| line.has_turn && line.steps.contains(&step))
    }

    /// An operator has done by hand what is in trouble, or gives it up.
    pub(super) fn resolved(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: &str,
    ) -> Result<Vec<Effect>, ProtocolError> {
        let is_in_trouble = |track: &Track| track.is_parked() || track.retry_at().is_some();
        let steps: Vec<usize> =
            (0..self.tracks.len()).filter(|step| is_in_trouble(&self.tracks[*step])).collect();
        if steps.is_empty() {
            return Err(self.impossible("Resolved"));
        }
        let is_done = decision == Decision::Commit;
        self.take(if is_done { Rule::ByHand } else { Rule::GivenUpByHand });
        let mut effects = Vec::new();
        for step in &steps {
            self.settle_by_hand(now, *step, is_done, reason, &mut effects);
        }
        self.unpark();
        self.settled(now, &steps, &mut effects);
        Ok(effects)
    }

    fn settle_by_hand(
        &mut self,
        now: Timestamp,
        step: usize,
        is_done: bool,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        let (track, work) = (&mut self.tracks[step], Work::Execute);
        if track.is_parked() {
            effects.push(step_records::redriven(step));
        }
        let verb = if is_done { "did it by hand" } else { "gave it up" };
        let message = format!("an operator {verb}: {reason}");
        track.note = Some(message.clone());
        effects.push(step_records::failed(step, work, message, (false, !is_done)));
        if is_done {
            let result = Arc::new(Value::Null);
            track.settled(now, work, Arc::clone(&result));
            effects.push(step_records::done(step, work, result));
        } else {
            track.given_up(now);
        }
    }

    /// Leaves the state when nothing is parked any more.
    fn unpark(&mut self) {
        if self.state == State::Parked && !self.tracks.iter().any(Track::is_parked) {
            self.take(Rule::Unparked);
        }
    }
}
