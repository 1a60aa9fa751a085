//! What people and callers are told of a saga: outcomes, reasons, the end.
//!
//! Not the rules. Invariants: what is unknown is told as unknown; every step that is waited for, or
//! needs an operator, is named with its trouble.

use std::fmt::Write as _;

use crate::model::event::CoordinationEvent;
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::record::{Durability, Reason, Record};
use crate::model::step::{StepSummary, Work};
use crate::model::time::Timestamp;

use crate::protocol::step_records::number;
use crate::protocol::track::{Progress, Track};

use super::{Effect, Saga, State};

/// The code of what an operator decided.
pub(super) const RESOLVED: &str = "transaction.resolved";

/// A kind, a code and words.
type Words = (OutcomeKind, Option<String>, Option<String>);

pub(super) fn untaken_reason() -> Reason {
    let message = "the consensus service did not take the decision to commit";
    Reason::new("transaction.aborted.consensus", message)
}

pub(super) fn consensus_reason() -> Reason {
    let message = "the consensus service holds the decision to abort";
    Reason::new("transaction.aborted.consensus", message)
}

pub(super) fn overruled_reason() -> Reason {
    let message = "the journal holds a decision to abort that was made elsewhere, \
                   by an operator or by a process that took over";
    Reason::new("transaction.aborted.elsewhere", message)
}

pub(super) fn requested_reason(words: &str) -> Reason {
    Reason::new("transaction.aborted.requested", format!("aborted on request: {words}"))
}

fn tries(count: u32) -> String {
    if count == 1 { "1 try".to_owned() } else { format!("{count} tries") }
}

impl Saga {
    /// `operation 'charge' of store 'payments'`
    fn name(&self, step: usize) -> String {
        let operation = &self.plan.request.operations[step];
        format!("operation '{}' of store '{}'", operation.id, operation.store)
    }

    fn names(&self, wanted: impl Fn(usize, &Track) -> bool) -> String {
        let tracks = self.steps.tracks.iter().enumerate();
        let named = tracks.filter(|(step, track)| wanted(*step, track)).map(|(step, track)| {
            let id = &self.plan.request.operations[step].id;
            let note = track.note.as_ref().filter(|_| track.progress != Progress::Done);
            note.map_or_else(|| format!("'{id}'"), |note| format!("'{id}' (last trouble: {note})"))
        });
        named.collect::<Vec<_>>().join(", ")
    }

    /// Why a saga turns round whose step cannot be done.
    pub(super) fn step_reason(&self, step: usize) -> Reason {
        let track = &self.steps.tracks[step];
        let note = track.note.as_deref().filter(|note| !note.is_empty());
        let note = note.unwrap_or("it gave no reason");
        let tries = tries(track.attempts_of(Work::Execute));
        let message = format!("{} failed after {tries}: {note}", self.name(step));
        Reason::new("transaction.aborted.step", message)
    }

    pub(super) fn timeout_reason(&self) -> Reason {
        let waited = self.plan.request.timeout;
        let open = self.names(|_, track| !track.is_done());
        let message = format!("timed out: not done within {waited:?}: {open}");
        Reason::new("transaction.aborted.timeout", message)
    }

    pub(super) fn alert(&self, step: usize) -> String {
        format!(
            "manual intervention required: coordination '{}': {}",
            self.plan.request.id,
            self.parked_words(step)
        )
    }

    fn parked_words(&self, step: usize) -> String {
        let track = &self.steps.tracks[step];
        let name = self.name(step);
        let note = track.note.as_deref().unwrap_or("it gave no reason");
        let id = &self.plan.request.operations[step].id;
        match (track.progress, self.decision) {
            (Progress::Parked(Work::Compensate), _) => format!(
                "{name} could not be undone after {}: {note}; mend the cause and redrive '{id}', \
                 or undo it by hand and resolve the coordination as ABORT",
                tries(track.attempts_of(Work::Compensate))
            ),
            (_, None) => format!(
                "whether {name}, the pivot, was done is not known after {}, and it cannot be \
                 undone: {note}; mend the cause and redrive '{id}', or look and resolve the \
                 coordination, as COMMIT if it was done, as ABORT if it was not",
                tries(track.attempts_of(Work::Execute))
            ),
            _ => format!(
                "{name} could not be done after {}, and nothing is undone any more: {note}; mend \
                 the cause and redrive '{id}', or do it by hand and resolve the coordination as \
                 COMMIT",
                tries(track.attempts_of(Work::Execute))
            ),
        }
    }

    pub(super) fn summaries(&self) -> Vec<StepSummary> {
        let tracks = self.steps.tracks.iter().zip(&self.plan.request.operations);
        tracks.map(|(track, operation)| track.summary(&operation.id)).collect()
    }

    pub(super) fn public_state(&self) -> TransactionState {
        match self.state {
            State::New => TransactionState::Initiated,
            State::Locking => self.locking_state(),
            State::Executing if self.is_held_back() => TransactionState::Prepared,
            State::Executing => TransactionState::Preparing,
            State::Proposing | State::Reading | State::InDoubt => TransactionState::Prepared,
            State::Committing => TransactionState::Committing,
            State::Turning | State::Compensating => TransactionState::Aborting,
            State::Parked => TransactionState::Failed,
            State::Ended if self.decision == Some(Decision::Commit) => TransactionState::Committed,
            State::Ended => TransactionState::Aborted,
        }
    }

    /// Whether it would turn round, were it not for a pivot that may have been done.
    fn is_held_back(&self) -> bool {
        self.state == State::Executing && self.wish.is_some()
    }

    /// What a caller would be told now.
    pub(super) fn outcome(&self) -> Outcome {
        let state = self.public_state();
        let (kind, code, message) = match state {
            TransactionState::Committing => self.committing_words(),
            TransactionState::Committed => {
                (OutcomeKind::Committed, None, self.reason.as_ref().map(|it| it.message.clone()))
            }
            TransactionState::Aborting | TransactionState::Aborted => self.abort_words(),
            TransactionState::Prepared => self.doubt_words(),
            TransactionState::Failed => self.failed_words(),
            _ => (OutcomeKind::Unknown, None, None),
        };
        let (operations_completed, operations_failed) = self.operation_counts(kind);
        Outcome { kind, state, code, message, operations_completed, operations_failed }
    }

    fn committing_words(&self) -> Words {
        let open = self.names(|_, track| !track.is_done());
        let message =
            format!("the decision to commit stands; the saga goes on until these are done: {open}");
        (OutcomeKind::Committed, Some("transaction.committing".to_owned()), Some(message))
    }

    fn abort_words(&self) -> Words {
        let mut message = match &self.reason {
            Some(reason) => reason.message.clone(),
            None => "aborted".to_owned(),
        };
        let open = self.names(|step, track| track.is_out() || self.is_to_be_undone(step));
        if self.state != State::Ended && !open.is_empty() {
            let _ = write!(message, "; undoing goes on until these are undone: {open}");
        }
        let code = self.reason.as_ref().map_or("transaction.aborted", |reason| &reason.code);
        (OutcomeKind::Aborted, Some(code.to_owned()), Some(message))
    }

    fn doubt_words(&self) -> Words {
        let message = if self.is_held_back() {
            let pivot = self.names(|step, _| self.plan.steps[step].is_pivot);
            format!(
                "in doubt: the saga is to turn round, but whether its pivot {pivot} was done is \
                 not known yet, and it cannot be undone; wait_for() waits for the answer"
            )
        } else {
            "in doubt: the consensus service has not said yet whether the decision was made; it is \
             asked again, and wait_for() waits for the answer"
                .to_owned()
        };
        (OutcomeKind::Unknown, Some("transaction.in_doubt".to_owned()), Some(message))
    }

    fn failed_words(&self) -> Words {
        let parked =
            (0..self.steps.tracks.len()).filter(|step| self.steps.tracks[*step].is_parked());
        let mut message = String::from("manual intervention required: ");
        if let (Some(Decision::Abort), Some(reason)) = (self.decision, &self.reason) {
            let _ = write!(message, "{}; ", reason.message);
        }
        let words: Vec<String> = parked.map(|step| self.parked_words(step)).collect();
        message.push_str(&words.join("; "));
        (OutcomeKind::Heuristic, Some("saga.parked".to_owned()), Some(message))
    }

    /// Operations whose effect is certain and stays, and those that will have none.
    fn operation_counts(&self, kind: OutcomeKind) -> (u32, u32) {
        let count = |wanted: &dyn Fn(&Track) -> bool| -> u32 {
            number(self.steps.tracks.iter().filter(|track| wanted(track)).count())
        };
        let done = |track: &Track| track.progress == Progress::Done;
        match kind {
            OutcomeKind::Aborted => (0, number(self.steps.tracks.len())),
            OutcomeKind::Heuristic => {
                let failed =
                    |track: &Track| track.is_parked() || track.progress == Progress::Failed;
                (count(&done), count(&failed))
            }
            _ => (count(&done), 0),
        }
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
        if !self.plan.locks.is_empty() {
            effects.push(Effect::Release);
        }
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
