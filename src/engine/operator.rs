//! An operator's word on a coordination that no live process drives, given from outside a service.
//!
//! Not a second machine: it writes the one record that the machine would have written, and the
//! process that adopts the coordination follows it. Invariant: what a live process drives is left
//! to it; a decision that stands is never contradicted, except where a store did that already.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::journal::{
    Answer, AnswerSink, Append, Journal, JournalError, JournalStatus, StoredCoordination,
};
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::record::{Durability, Reason, Record};
use crate::model::step::StepSummary;
use crate::model::time::Timestamp;
use crate::reply::{Lost, Reply};

use super::dead_letters::{choose, dead_letters};
use super::error::EngineError;
use super::projections::is_projection;

/// How long the journal may take to write an operator's record.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// Resolves it, and gives it back as it stands then. Blocks. The journal must be the caller's own,
/// with nobody else attached to it.
pub fn resolve(
    journal: &Arc<dyn Journal>,
    id: &CoordinationId,
    decision: Decision,
    reason: &str,
) -> Result<StoredCoordination, EngineError> {
    let stored = find(journal, id)?;
    let refuse = |reason: String| Err(EngineError::CannotResolve { id: id.to_string(), reason });
    if let Some(outcome) = stored.outcome.as_ref().filter(|_| stored.completed_at.is_some()) {
        if stored.decision == Some(decision) {
            return Ok(stored);
        }
        return refuse(format!("it ended as {}", outcome.state.as_str()));
    }
    let status: JournalStatus = ask(|reply| journal.status(reply))?;
    if status.instances_alive.contains(&stored.owner) {
        return refuse("a live process drives it; resolve it there, with service.resolve()".into());
    }
    let contradicts = stored.decision.is_some_and(|standing| standing != decision);
    if contradicts && stored.state != TransactionState::Failed {
        return refuse("the contrary decision stands; it will be delivered".into());
    }
    if let (None, Some(last)) = (stored.decision, stored.request.last_resource()) {
        return refuse(format!(
            "its last resource '{}' decides, by a row of its own in unanimity_decisions; the next \
             service that opens the journal with this store reads it, and service.resolve() there \
             is for a store that is lost",
            stored.request.stores[last]
        ));
    }
    if stored.decision.is_none() && decision == Decision::Commit {
        return refuse(
            "it has no decision, so somebody may have been told already that it is \
                       aborted; the next service that opens the journal rolls it back"
                .into(),
        );
    }
    append(journal, &stored, operators_record(&stored, decision, reason))?;
    find(journal, id)
}

/// Has a parked step tried again by whoever adopts its coordination. False where none of that id is
/// parked. Blocks. The journal must be the caller's own, with nobody else attached to it.
pub fn redrive(
    journal: &Arc<dyn Journal>,
    operation_id: &str,
    coordination: Option<&CoordinationId>,
) -> Result<bool, EngineError> {
    let (sender, letters) = mpsc::channel();
    dead_letters(&**journal, Reply::new(move |found| drop(sender.send(found))));
    let letters = letters.recv().unwrap_or(Err(EngineError::Closed))?;
    let Some(letter) = choose(letters, operation_id, coordination)? else { return Ok(false) };
    if let Some(streams) = journal.streams().filter(|_| is_projection(&letter)) {
        // Whoever runs it notices, also a live process.
        let restarted = ask(|reply| streams.restart_projection(letter.store, None, reply))?;
        return Ok(restarted.is_some());
    }
    let stored = find(journal, &letter.coordination)?;
    let status: JournalStatus = ask(|reply| journal.status(reply))?;
    if status.instances_alive.contains(&stored.owner) {
        return Err(EngineError::CannotRedrive {
            operation: operation_id.to_owned(),
            reason: "a live process drives it; redrive it there, with service.redrive()".into(),
        });
    }
    let is_it = |step: &StepSummary| step.operation_id == operation_id;
    let step = stored.steps.iter().position(is_it).unwrap_or_default();
    let record = Record::Redriven { step: u32::try_from(step).unwrap_or(u32::MAX) };
    append(journal, &stored, record)?;
    Ok(true)
}

/// Undecided: the decision. Decided: the end, for which the operator answers.
fn operators_record(stored: &StoredCoordination, decision: Decision, reason: &str) -> Record {
    let message = format!("resolved by an operator: {reason}");
    let words = Reason::new("transaction.resolved", message.clone());
    if stored.decision.is_none() {
        return Record::Decision {
            decision,
            reason: Some(words),
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
    }
    let committed = decision == Decision::Commit;
    let operations = u32::try_from(stored.request.operations.len()).unwrap_or(u32::MAX);
    let outcome = Outcome {
        kind: if committed { OutcomeKind::Committed } else { OutcomeKind::Aborted },
        state: if committed { TransactionState::Committed } else { TransactionState::Aborted },
        code: Some(words.code),
        message: Some(message),
        operations_completed: if committed { operations } else { 0 },
        operations_failed: if committed { 0 } else { operations },
    };
    Record::End { outcome, stores: stored.stores.clone(), steps: stored.steps.clone() }
}

pub(super) fn find(
    journal: &Arc<dyn Journal>,
    id: &CoordinationId,
) -> Result<StoredCoordination, EngineError> {
    let found: Option<StoredCoordination> = ask(|reply| journal.find(id.clone(), reply))?;
    found.ok_or_else(|| EngineError::NotFound { id: id.to_string() })
}

pub(super) fn ask<T>(
    question: impl FnOnce(Reply<Result<T, JournalError>>),
) -> Result<T, EngineError>
where
    T: Send + 'static,
    Result<T, JournalError>: Lost,
{
    let (sender, receiver) = mpsc::channel();
    question(Reply::new(move |answer| {
        let _ = sender.send(answer);
    }));
    Ok(receiver.recv().unwrap_or(Err(JournalError::Closed))?)
}

/// Passes the one answer on to whoever waits for it.
struct Listener(Mutex<mpsc::Sender<Answer>>);

impl AnswerSink for Listener {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, answer) in answers {
            let _ = sender.send(answer);
        }
    }

    fn health_changed(&self, _trouble: Option<JournalError>) {}
}

fn append(
    journal: &Arc<dyn Journal>,
    stored: &StoredCoordination,
    record: Record,
) -> Result<(), EngineError> {
    let (sender, answers) = mpsc::channel();
    journal.attach(Arc::new(Listener(Mutex::new(sender))));
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = stored.request.id.clone();
    journal.append(&mut vec![Append {
        token: 0,
        id: id.clone(),
        epoch: stored.epoch,
        at: Timestamp(0) + since_epoch,
        record,
        durability: Durability::Forced,
    }]);
    match answers.recv_timeout(WRITE_WAIT) {
        Ok(Answer::Recorded) => Ok(()),
        Ok(Answer::Failed(error)) => Err(error.into()),
        Ok(_) => Err(EngineError::CannotResolve {
            id: id.to_string(),
            reason: "somebody else decided it, or took it over, at the same moment".to_owned(),
        }),
        Err(_) => Err(EngineError::Journal(JournalError::Unavailable {
            path: String::new(),
            reason: format!("the record was not written within {WRITE_WAIT:?}; look again"),
        })),
    }
}
