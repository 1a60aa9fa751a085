//! What people and callers are told of a coordination: outcomes, reasons, the end.
//!
//! Not the rules. Invariants: what is unknown is told as unknown; every store that is waited for,
//! or went its own way, is named.

use std::fmt::Write as _;

use crate::model::event::CoordinationEvent;
use crate::model::ids::StoreName;
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::record::{Durability, Reason, Record};
use crate::model::time::Timestamp;

use super::party::{Ballot, Delivery, Party};
use super::{Effect, State, TwoPhase};

pub(super) fn overruled_reason() -> Reason {
    let message = "the journal holds a decision to abort that was made elsewhere, \
                   by an operator or by a process that took over";
    Reason::new("transaction.aborted.elsewhere", message)
}

pub(super) fn requested_reason(words: &str) -> Reason {
    Reason::new("transaction.aborted.requested", format!("aborted on request: {words}"))
}

fn names<'a>(parties: impl Iterator<Item = &'a Party>) -> String {
    let names: Vec<String> = parties.map(|party| format!("'{}'", party.store)).collect();
    names.join(", ")
}

impl TwoPhase {
    /// Who was to decide did not.
    pub(super) fn untaken_reason(&self) -> Reason {
        let Some(last) = self.last else {
            let message = "the consensus service did not take the decision to commit";
            return Reason::new("transaction.aborted.consensus", message);
        };
        let message = format!(
            "the last resource '{}' has no row of the decision to commit, and will have none",
            self.parties[last].store
        );
        Reason::new("transaction.aborted.last_resource", message)
    }

    /// Who decides says abort.
    pub(super) fn elsewhere_reason(&self) -> Reason {
        let Some(last) = self.last else {
            let message = "the consensus service holds the decision to abort";
            return Reason::new("transaction.aborted.consensus", message);
        };
        let store = &self.parties[last].store;
        let message = format!("the last resource '{store}' holds the decision to abort");
        Reason::new("transaction.aborted.last_resource", message)
    }

    pub(super) fn vote_reason(&self, party: usize, ballot: Ballot) -> Reason {
        let party = &self.parties[party];
        let note = party.note.as_deref().filter(|note| !note.is_empty());
        let note = note.unwrap_or("it gave no reason");
        if ballot == Ballot::Abort {
            let message = format!("store '{}' voted ABORT: {note}", party.store);
            return Reason::new("transaction.aborted.vote", message);
        }
        let message = format!("store '{}' gave no vote: {note}", party.store);
        Reason::new("transaction.aborted.no_vote", message)
    }

    pub(super) fn timeout_reason(&self) -> Reason {
        let silent = names(self.parties.iter().filter(|party| party.is_preparing()));
        let waited = self.prepare_until.since(self.prepare_from);
        let message = format!("timed out: no vote within {waited:?} from {silent}");
        Reason::new("transaction.aborted.timeout", message)
    }

    pub(super) fn alert(&self, store: &StoreName, expected: Decision, message: &str) -> String {
        format!(
            "manual intervention required: coordination '{}' was decided {}, but store '{store}' \
             gave a contrary final word: {message}. Repair the store, then resolve the \
             coordination.",
            self.plan.request.id,
            expected.as_str(),
        )
    }

    pub(super) fn public_state(&self) -> TransactionState {
        match self.state {
            State::New => TransactionState::Initiated,
            State::Locking => self.locking_state(),
            State::Preparing => TransactionState::Preparing,
            State::Proposing | State::Reading | State::InDoubt => TransactionState::Prepared,
            State::Committing => TransactionState::Committing,
            State::Aborting => TransactionState::Aborting,
            State::Heuristic => TransactionState::Failed,
            State::Ended if self.decision == Some(Decision::Commit) => TransactionState::Committed,
            State::Ended => TransactionState::Aborted,
        }
    }

    /// What a caller would be told now.
    pub(super) fn outcome(&self) -> Outcome {
        let delivering = matches!(self.state, State::Committing | State::Aborting)
            || self.state == State::Locking && self.decision.is_some();
        let refused = self.parties.iter().any(|party| party.delivery == Delivery::Refused);
        if self.state == State::Heuristic || delivering && refused {
            return self.heuristic_outcome();
        }
        let state = self.public_state();
        let (kind, code, message) = match state {
            TransactionState::Committing => self.committing_words(),
            TransactionState::Committed => (OutcomeKind::Committed, None, self.resolved_words()),
            TransactionState::Aborting | TransactionState::Aborted => self.abort_words(delivering),
            TransactionState::Prepared => self.doubt_words(),
            _ => (OutcomeKind::Unknown, None, None),
        };
        let (operations_completed, operations_failed) = self.operation_counts(kind);
        Outcome { kind, state, code, message, operations_completed, operations_failed }
    }

    fn committing_words(&self) -> (OutcomeKind, Option<String>, Option<String>) {
        let silent = self.parties.iter().filter(|party| !party.is_settled());
        let mut message = format!(
            "the decision to commit stands; delivery goes on until these acknowledge: {}",
            names(silent.clone())
        );
        for party in silent {
            if let Some(note) = &party.note {
                let _ = write!(message, "; '{}' last said: {note}", party.store);
            }
        }
        (OutcomeKind::Committed, Some("transaction.committing".to_owned()), Some(message))
    }

    fn resolved_words(&self) -> Option<String> {
        self.reason.as_ref().map(|reason| reason.message.clone())
    }

    fn abort_words(&self, delivering: bool) -> (OutcomeKind, Option<String>, Option<String>) {
        let mut message = match &self.reason {
            Some(reason) => reason.message.clone(),
            None => "aborted".to_owned(),
        };
        if delivering {
            let silent = names(self.parties.iter().filter(|party| !party.is_settled()));
            let _ = write!(message, "; rolling back goes on until these acknowledge: {silent}");
        }
        let code = self.reason.as_ref().map_or("transaction.aborted", |reason| &reason.code);
        (OutcomeKind::Aborted, Some(code.to_owned()), Some(message))
    }

    fn doubt_words(&self) -> (OutcomeKind, Option<String>, Option<String>) {
        let who = self.last.map(|last| format!("last resource '{}'", self.parties[last].store));
        let who = who.as_deref().unwrap_or("consensus service");
        let message = format!(
            "in doubt: the {who} has not said yet whether the decision was made; it is asked \
             again, and wait_for() waits for the answer"
        );
        (OutcomeKind::Unknown, Some("transaction.in_doubt".to_owned()), Some(message))
    }

    fn heuristic_outcome(&self) -> Outcome {
        let expected = self.decision.map_or("nothing", Decision::as_str);
        let mut message = format!(
            "Commit phase failed - manual intervention required: {expected} was decided, but"
        );
        if self.decision == Some(Decision::Abort) {
            message =
                "Abort phase failed - manual intervention required: ABORT was decided, but".into();
        }
        let refused = |party: &&Party| party.delivery == Delivery::Refused;
        for party in self.parties.iter().filter(refused) {
            let note = party.note.as_deref().unwrap_or("it gave no reason");
            let _ = write!(message, " store '{}' gave a contrary final word: {note};", party.store);
        }
        message.push_str(" repair it, then resolve the coordination");
        let (operations_completed, operations_failed) =
            self.operation_counts(OutcomeKind::Heuristic);
        Outcome {
            kind: OutcomeKind::Heuristic,
            state: TransactionState::Failed,
            code: Some("transaction.heuristic".to_owned()),
            message: Some(message),
            operations_completed,
            operations_failed,
        }
    }

    /// Operations whose effect is certain, and those that will have none (or a contrary one).
    fn operation_counts(&self, kind: OutcomeKind) -> (u32, u32) {
        let count = |wanted: &dyn Fn(&Party) -> bool| -> u32 {
            let parties = self.parties.iter().filter(|party| wanted(party));
            let counts = parties.map(|party| self.plan.request.operations_of(&party.store).count());
            u32::try_from(counts.sum::<usize>()).unwrap_or(u32::MAX)
        };
        match kind {
            OutcomeKind::Committed if self.state == State::Ended => (count(&|_| true), 0),
            OutcomeKind::Committed => (count(&|party| party.delivery == Delivery::Done), 0),
            OutcomeKind::Aborted => (0, count(&|_| true)),
            OutcomeKind::Heuristic => (
                count(&|party| party.delivery == Delivery::Done),
                count(&|party| party.delivery == Delivery::Refused),
            ),
            OutcomeKind::Unknown | OutcomeKind::Refused => (0, 0),
        }
    }

    /// Tells the caller how it stands, once.
    pub(super) fn answer(&mut self, effects: &mut Vec<Effect>) {
        if self.answer_at.take().is_some() {
            effects.push(Effect::Answer(self.outcome()));
        }
    }

    /// Nothing is left to do: record that, tell everybody.
    pub(super) fn end(
        &mut self,
        now: Timestamp,
        durability: Durability,
        effects: &mut Vec<Effect>,
    ) {
        self.answer_at = None;
        let outcome = self.outcome();
        let stores = self.parties.iter().map(Party::summary).collect();
        let record = Record::End { outcome: outcome.clone(), stores, steps: Vec::new() };
        effects.push(Effect::Record { record, durability });
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
    pub(super) fn finish_heuristic(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        self.answer_at = None;
        let outcome = self.outcome();
        effects.push(Effect::Publish(CoordinationEvent::Failed {
            id: self.plan.request.id.clone(),
            message: outcome.message.clone().unwrap_or_default(),
            at: now,
        }));
        effects.push(Effect::Finish(outcome));
    }

    /// An operator answers for every store that has not.
    pub(super) fn answer_for_silent(
        &mut self,
        standing: Decision,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        for party in self.parties.iter_mut().filter(|party| !party.is_settled()) {
            let message = format!("an operator answered for it: {reason}");
            party.note = Some(message.clone());
            effects.push(Effect::Record {
                record: Record::Heuristic {
                    store: party.store.clone(),
                    expected: standing,
                    message,
                },
                durability: Durability::Lazy,
            });
        }
    }

    pub(super) fn has_delivered(&self) -> bool {
        self.parties.iter().any(|party| party.delivery != Delivery::Undecided)
    }
}
