//! Steps whose tries are spent: told to operators, and tried again at their word.
//!
//! Not the rules of parking (machines). Invariant: a dead letter is what an open coordination's
//! records say; nothing is kept beside them.

use crate::journal::{HistoryFilter, Journal, JournalError, StoredCoordination};
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::TransactionState;
use crate::model::step::{StepState, StepSummary, Work};
use crate::model::time::Timestamp;
use crate::protocol::Input;
use crate::reply::Reply;

use super::Coordinator;
use super::core::Core;
use super::drive::State;
use super::error::EngineError;
use super::projections::with_projections;
use super::table::SlotKey;

/// How many coordinations with parked steps are looked through.
const LETTERS_MAX: usize = 10_000;

/// One step that waits for an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Whose step.
    pub coordination: CoordinationId,
    /// The operation.
    pub operation_id: String,
    /// The store that was asked.
    pub store: StoreName,
    /// The operation's type.
    pub kind: String,
    /// What was asked.
    pub work: Work,
    /// How often.
    pub attempts: u32,
    /// The last trouble.
    pub message: String,
    /// Since when.
    pub parked_at: Timestamp,
}

/// Where a parked step was found.
enum Place {
    /// In this process, with the index of the operation.
    Here(SlotKey, usize),
    /// Several coordinations have parked operations of that id.
    Ambiguous(Vec<CoordinationId>),
    /// Not among those that this process drives.
    Nowhere,
}

fn work_of(step: &StepSummary) -> Work {
    if step.compensation_started_at.is_some() { Work::Compensate } else { Work::Execute }
}

/// The parked steps of one coordination.
fn letters_of(stored: &StoredCoordination) -> impl Iterator<Item = DeadLetter> {
    let steps = stored.steps.iter().zip(&stored.request.operations);
    let parked = steps.filter(|(step, _)| step.state == StepState::Parked);
    parked.map(|(step, operation)| {
        let work = work_of(step);
        DeadLetter {
            coordination: stored.request.id.clone(),
            operation_id: operation.id.clone(),
            store: operation.store.clone(),
            kind: operation.kind.clone(),
            work,
            attempts: match work {
                Work::Execute => step.attempts,
                Work::Compensate => step.compensation_attempts,
            },
            message: step.note.clone().unwrap_or_default(),
            parked_at: stored.updated_at,
        }
    })
}

/// Everything that a journal knows to be parked, the latest coordination first.
pub fn dead_letters(journal: &dyn Journal, reply: Reply<Result<Vec<DeadLetter>, EngineError>>) {
    let reply = with_projections(journal, reply);
    let filter = HistoryFilter {
        states: vec![TransactionState::Failed],
        open: true,
        limit: LETTERS_MAX,
        ..HistoryFilter::default()
    };
    let found = Reply::new(move |found: Result<Vec<StoredCoordination>, JournalError>| {
        let letters = found.map(|found| found.iter().flat_map(letters_of).collect());
        reply.send(letters.map_err(EngineError::from));
    });
    journal.history(filter, found);
}

/// The one letter of that operation; the error says which there are.
pub(super) fn choose(
    letters: Vec<DeadLetter>,
    operation_id: &str,
    coordination: Option<&CoordinationId>,
) -> Result<Option<DeadLetter>, EngineError> {
    let mut fitting: Vec<DeadLetter> = letters
        .into_iter()
        .filter(|letter| letter.operation_id == operation_id)
        .filter(|letter| coordination.is_none_or(|id| *id == letter.coordination))
        .collect();
    if fitting.len() > 1 {
        let ids: Vec<_> = fitting.into_iter().map(|letter| letter.coordination).collect();
        return Err(ambiguous(operation_id, &ids));
    }
    Ok(fitting.pop())
}

fn ambiguous(operation_id: &str, ids: &[CoordinationId]) -> EngineError {
    let names: Vec<String> = ids.iter().take(10).map(|id| format!("'{id}'")).collect();
    let reason = format!(
        "{} coordinations have a parked operation of that id: {}; say which",
        ids.len(),
        names.join(", ")
    );
    EngineError::CannotRedrive { operation: operation_id.to_owned(), reason }
}

impl State {
    fn parked_step(&self, operation_id: &str, coordination: Option<&CoordinationId>) -> Place {
        let mut found = Vec::new();
        for entry in self.table.entries().filter(|entry| entry.machine.is_parked()) {
            if coordination.is_some_and(|id| id != entry.id()) {
                continue;
            }
            let is_it = |step: &StepSummary| {
                step.state == StepState::Parked && step.operation_id == operation_id
            };
            if let Some(step) = entry.machine.view().steps.iter().position(is_it) {
                found.push((entry.id().clone(), step));
            }
        }
        match found.as_slice() {
            [] => Place::Nowhere,
            [(id, step)] => match self.table.find(id) {
                Some(key) => Place::Here(key, *step),
                None => Place::Nowhere,
            },
            several => Place::Ambiguous(several.iter().map(|(id, _)| id.clone()).collect()),
        }
    }

    pub(super) fn redrive_asked(
        &mut self,
        core: &Core,
        operation_id: &str,
        coordination: Option<&CoordinationId>,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        match self.parked_step(operation_id, coordination) {
            Place::Here(key, step) => {
                self.step(core, key, Input::Redriven { step });
                reply.send(Ok(true));
            }
            Place::Ambiguous(ids) => reply.send(Err(ambiguous(operation_id, &ids))),
            Place::Nowhere => core.redrive_elsewhere(operation_id, coordination, reply),
        }
    }
}

impl Core {
    /// What another process drives is redriven there.
    fn redrive_elsewhere(
        &self,
        operation_id: &str,
        coordination: Option<&CoordinationId>,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        let (operation, coordination) = (operation_id.to_owned(), coordination.cloned());
        let found = Reply::new(move |letters: Result<Vec<DeadLetter>, EngineError>| {
            let chosen =
                letters.and_then(|letters| choose(letters, &operation, coordination.as_ref()));
            reply.send(match chosen {
                Ok(None) => Ok(false),
                Ok(Some(letter)) => Err(EngineError::CannotRedrive {
                    operation,
                    reason: format!(
                        "another process drives coordination '{}'; redrive it there, or, when that \
                         process is dead, once this one has taken over",
                        letter.coordination
                    ),
                }),
                Err(error) => Err(error),
            });
        });
        dead_letters(&*self.ports.journal, found);
    }
}

impl Coordinator {
    /// The steps that wait for an operator.
    pub fn dead_letters(&self, reply: Reply<Result<Vec<DeadLetter>, EngineError>>) {
        dead_letters(&*self.core.ports.journal, reply);
    }
}
