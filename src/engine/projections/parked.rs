//! Parked projections among the dead letters, and their redriving.
//!
//! Not the parking (`run`). Invariant: whoever asks for letters hears of both kinds, or of the
//! trouble with either, once.

use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::streams::Projection;
use crate::journal::{Journal, JournalError};
use crate::model::step::Work;
use crate::reply::{Reply, asked};

use super::super::Coordinator;
use super::super::core::{Core, Fact};
use super::super::dead_letters::DeadLetter;
use super::super::error::EngineError;
use super::handle::Answered;

/// Under this and the store's name a parked projection stands among the dead letters.
pub(super) const PREFIX: &str = "projection:";

type Letters = Result<Vec<DeadLetter>, EngineError>;

/// The letter of a parked projection.
fn letter_of(projection: Projection) -> Option<DeadLetter> {
    let parked = projection.parked?;
    Some(DeadLetter {
        coordination: parked.coordination,
        operation_id: format!("{PREFIX}{}", projection.store),
        store: projection.store,
        kind: parked.kind,
        work: Work::Execute,
        attempts: parked.attempts,
        message: format!("event {}: {}", parked.position, parked.message),
        parked_at: parked.at,
    })
}

/// Whether a letter is that of a projection, and of no operation.
pub(in crate::engine) fn is_projection(letter: &DeadLetter) -> bool {
    letter.operation_id.strip_prefix(PREFIX) == Some(letter.store.as_str())
}

/// Gives a reply for the letters of steps, which adds those of parked projections.
pub(in crate::engine) fn with_projections(
    journal: &dyn Journal,
    reply: Reply<Letters>,
) -> Reply<Letters> {
    let Some(streams) = journal.streams() else { return reply };
    // Two questions are out at once; whichever is answered last tells both.
    let both = Arc::new(Both { other: Mutex::new(None), reply: Mutex::new(Some(reply)) });
    let of_steps = Arc::clone(&both);
    streams.projections(Reply::new(move |rows: Result<Vec<Projection>, JournalError>| {
        let letters = rows.map(|rows| rows.into_iter().filter_map(letter_of).collect());
        both.meet(letters.map_err(EngineError::from));
    }));
    Reply::new(move |letters: Letters| of_steps.meet(letters))
}

/// Two answers that are told as one.
struct Both {
    /// The one that came first.
    other: Mutex<Option<Letters>>,
    reply: Mutex<Option<Reply<Letters>>>,
}

impl Both {
    fn meet(&self, mine: Letters) {
        // Both are whole at every step, so a poisoned lock is as good.
        let mut held = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(other) = held.take() else {
            *held = Some(mine);
            return;
        };
        drop(held);
        let reply = self.reply.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reply) = reply {
            reply.send(mine.and_then(|mut letters| {
                letters.append(&mut other?);
                Ok(letters)
            }));
        }
    }
}

impl Coordinator {
    /// Tries what is parked again: an operation of a coordination, or, by `projection:<store>`, the
    /// projection of a store. False where nothing of that id is parked. `coordination` says which
    /// one is meant where several have a parked operation of that id.
    pub fn redrive(
        &self,
        operation_id: String,
        coordination: Option<crate::model::ids::CoordinationId>,
        reply: Answered<bool>,
    ) {
        if !operation_id.starts_with(PREFIX) {
            return self.core.post(Fact::RedriveAsked { operation_id, coordination, reply });
        }
        let core = Arc::clone(&self.core);
        self.core.ports.runtime.spawn(async move {
            match core.redrive_projection(&operation_id).await {
                // Nobody forbids an operation such an id.
                Ok(false) => core.post(Fact::RedriveAsked { operation_id, coordination, reply }),
                told => reply.send(told),
            }
        });
    }
}

impl Core {
    async fn redrive_projection(&self, operation_id: &str) -> Result<bool, EngineError> {
        let Ok(streams) = self.streams() else { return Ok(false) };
        let rows = asked(|reply| streams.projections(reply)).await?;
        let is_it = |row: &Projection| {
            row.parked.is_some() && operation_id.strip_prefix(PREFIX) == Some(row.store.as_str())
        };
        let Some(row) = rows.into_iter().find(is_it) else { return Ok(false) };
        let restarted = asked(|reply| streams.restart_projection(row.store, None, reply)).await?;
        self.signals.appended.notify_waiters();
        Ok(restarted.is_some())
    }
}
