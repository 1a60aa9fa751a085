//! Going back: what was done, or may have been, is undone, one step after the other.
//!
//! Not the decision to turn round. Invariants: nothing is undone before every try that was out has
//! answered; a compensation begins only when the one before it is done, so that the order holds
//! whatever depends on what.

use crate::model::step::Work;
use crate::model::time::Timestamp;

use crate::protocol::step_records;
use crate::protocol::track::{Progress, Track};

use super::outcome;
use super::{Effect, Rule, Saga, State, Undo};

/// Compensations are tried again this often at least: what is half undone is worse than either end.
const RETRIES_MIN: u32 = 3;

impl Saga {
    pub(super) fn go_back(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.state == State::Turning {
            if self.steps.tracks.iter().any(Track::is_out) {
                return;
            }
            self.take(Rule::Turned);
        }
        let is_under_way = |progress: Progress| {
            matches!(
                progress,
                Progress::Out(Work::Compensate)
                    | Progress::RetryAt(Work::Compensate, _)
                    | Progress::Parked(Work::Compensate)
            )
        };
        if self.steps.tracks.iter().any(|track| is_under_way(track.progress)) {
            return;
        }
        if let Some(step) = self.next_to_undo() {
            self.take(Rule::UndoNext);
            self.ask(now, Work::Compensate, &[step], effects);
        } else {
            self.take(Rule::AbortDone);
            self.end(now, effects);
        }
    }

    /// What may have run comes first: nothing that is done can depend on it.
    fn next_to_undo(&self) -> Option<usize> {
        let unknown = self.steps.asked.iter().filter(|step| !self.steps.tracks[**step].is_done());
        let mut in_order = unknown.rev().chain(self.steps.done.iter().rev());
        in_order.find(|step| self.is_to_be_undone(**step)).copied()
    }

    /// Whether a step still needs its compensation.
    pub(super) fn is_to_be_undone(&self, step: usize) -> bool {
        let track = &self.steps.tracks[step];
        let has_effect =
            (track.is_done() || track.may_have_run) && !matches!(track.progress, Progress::Undone);
        match self.plan.steps[step].undo {
            Undo::Asked => has_effect,
            Undo::Nothing => false,
            // Whoever aborts in spite of it: an operator has said that it was not done; anybody
            // else leaves it to the participant, which will refuse, and so to an operator.
            Undo::Impossible => {
                let is_operators =
                    self.reason.as_ref().is_some_and(|reason| reason.code == outcome::RESOLVED);
                has_effect && (track.is_done() || !is_operators)
            }
        }
    }

    pub(super) fn undo_failed(
        &mut self,
        now: Timestamp,
        step: usize,
        message: String,
        (is_unknown, is_refused): (bool, bool),
        effects: &mut Vec<Effect>,
    ) {
        let work = Work::Compensate;
        self.steps.tracks[step].failed(work, message.clone(), is_unknown);
        let failures = self.steps.tracks[step].failures;
        let retries = self.plan.steps[step].max_retries.max(RETRIES_MIN);
        let is_final = is_refused || failures > retries;
        let words = (is_unknown, is_final);
        effects.push(step_records::failed(step, work, message.clone(), words));
        if is_final {
            self.take(Rule::UndoParked);
            self.park(now, step, work, message, effects);
        } else {
            self.take(Rule::UndoFailed);
            let again_at = now + self.plan.backoff.delay(failures - 1);
            self.steps.tracks[step].progress = Progress::RetryAt(work, again_at);
        }
    }
}
