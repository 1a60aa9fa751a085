//! What people and callers are told: outcomes and the end.
//!
//! Not the rules. Invariant: every operation that is waited for, needs an operator, or was given
//! up is named.

use crate::model::event::CoordinationEvent;
use crate::model::outcome::{Outcome, OutcomeKind, TransactionState};
use crate::model::record::{Durability, Record};
use crate::model::step::{StepSummary, Work};
use crate::model::time::Timestamp;

use crate::protocol::step_records::number;
use crate::protocol::track::{Progress, Track};

use super::delivering::is_settled;
use super::{Effect, Eventual, State};

/// A kind, a code and words.
type Words = (OutcomeKind, Option<String>, Option<String>);

fn is_given_up(track: &Track) -> bool {
    track.progress == Progress::Failed
}

impl Eventual {
    pub(super) fn alert(&self, step: usize) -> String {
        format!(
            "manual intervention required: coordination '{}': {}",
            self.plan.request.id,
            self.parked_words(step)
        )
    }

    fn parked_words(&self, step: usize) -> String {
        let operation = &self.plan.request.operations[step];
        let track = &self.tracks[step];
        let note = track.note.as_deref().unwrap_or("it gave no reason");
        let count = track.attempts_of(Work::Execute);
        let tries = if count == 1 { "1 try".to_owned() } else { format!("{count} tries") };
        format!(
            "operation '{}' of store '{}' could not be done after {tries}: {note}; what comes after \
             it on the same key waits; mend the cause and redrive '{}', or resolve the \
             coordination, as COMMIT if you did it by hand, as ABORT to give it up",
            operation.id, operation.store, operation.id
        )
    }

    pub(super) fn summaries(&self) -> Vec<StepSummary> {
        let tracks = self.tracks.iter().zip(&self.plan.request.operations);
        tracks.map(|(track, operation)| track.summary(&operation.id)).collect()
    }

    pub(super) fn public_state(&self) -> TransactionState {
        match self.state {
            State::New => TransactionState::Initiated,
            State::Delivering => TransactionState::Committing,
            State::Parked => TransactionState::Failed,
            State::Ended => TransactionState::Committed,
        }
    }

    /// What a caller would be told now.
    pub(super) fn outcome(&self) -> Outcome {
        let (kind, code, message) = match self.state {
            State::New => (OutcomeKind::Unknown, None, None),
            State::Delivering => self.delivering_words(),
            State::Parked => self.failed_words(),
            State::Ended => (OutcomeKind::Committed, None, self.given_up_words()),
        };
        let count = |wanted: &dyn Fn(&Track) -> bool| {
            number(self.tracks.iter().filter(|track| wanted(track)).count())
        };
        Outcome {
            kind,
            state: self.public_state(),
            code,
            message,
            operations_completed: count(&Track::is_done),
            operations_failed: count(&|track| track.is_parked() || is_given_up(track)),
        }
    }

    fn names(&self, wanted: impl Fn(&Track) -> bool) -> Vec<String> {
        let tracks = self.tracks.iter().zip(&self.plan.request.operations);
        let named = tracks.filter(|(track, _)| wanted(track)).map(|(track, operation)| {
            let note = track.note.as_ref();
            note.map_or_else(
                || format!("'{}'", operation.id),
                |note| format!("'{}' ({note})", operation.id),
            )
        });
        named.collect()
    }

    fn delivering_words(&self) -> Words {
        let open = self.names(|track| !is_settled(track)).join(", ");
        let message = format!("accepted for good; delivery goes on until these are done: {open}");
        (OutcomeKind::Committed, Some("transaction.committing".to_owned()), Some(message))
    }

    fn failed_words(&self) -> Words {
        let parked = (0..self.tracks.len()).filter(|step| self.tracks[*step].is_parked());
        let words: Vec<String> = parked.map(|step| self.parked_words(step)).collect();
        let message = format!("manual intervention required: {}", words.join("; "));
        (OutcomeKind::Heuristic, Some("eventual.parked".to_owned()), Some(message))
    }

    fn given_up_words(&self) -> Option<String> {
        let given_up = self.names(is_given_up);
        (!given_up.is_empty()).then(|| format!("not done: {}", given_up.join(", ")))
    }

    /// Tells the caller how it stands, once.
    pub(super) fn answer(&mut self, effects: &mut Vec<Effect>) {
        if self.answer_at.take().is_some() {
            effects.push(Effect::Answer(self.outcome()));
        }
    }

    /// Nothing is left to do: record that, tell everybody.
    pub(super) fn end(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.answer_at = None;
        let outcome = self.outcome();
        let record =
            Record::End { outcome: outcome.clone(), stores: Vec::new(), steps: self.summaries() };
        effects.push(Effect::Record { record, durability: Durability::Lazy });
        effects.push(Effect::Publish(CoordinationEvent::Completed {
            id: self.plan.request.id.clone(),
            success: outcome.is_success(),
            state: outcome.state.as_str(),
            duration_ms: u64::try_from(now.since(self.began_at).as_millis()).unwrap_or(u64::MAX),
        }));
        effects.push(Effect::Finish(outcome));
        effects.push(Effect::Close);
    }

    /// It waits for an operator now.
    pub(super) fn finish_parked(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.answer_at = None;
        let outcome = self.outcome();
        effects.push(Effect::Publish(CoordinationEvent::Failed {
            id: self.plan.request.id.clone(),
            message: outcome.message.clone().unwrap_or_default(),
            at: now,
        }));
        effects.push(Effect::Finish(outcome));
    }
}
