//! How things stand, for callers: from memory where this process drives them, else from the
//! journal. Changes nothing, except that an operator's word is passed on.

use std::sync::Arc;

use crate::journal::{HistoryFilter, JournalError, JournalStatus, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::{CoordinationResult, Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;
use crate::protocol::Input;
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;
use super::table::{Entry, SlotKey, unwritten_outcome};
use super::{Coordinator, Found, Waiter};

/// The result of a coordination as the journal has it.
pub(super) fn stored_result(stored: &StoredCoordination, outcome: Outcome) -> CoordinationResult {
    let until = stored.completed_at.unwrap_or(stored.updated_at);
    let duration = until.since(stored.created_at).as_millis();
    CoordinationResult {
        id: stored.request.id.clone(),
        outcome,
        duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
        stores: stored.request.stores.clone(),
    }
}

/// What is told of a coordination that another process drives.
fn open_outcome(stored: &StoredCoordination) -> Outcome {
    let (kind, code) = match stored.state {
        TransactionState::Committing => (OutcomeKind::Committed, Some("transaction.committing")),
        TransactionState::Aborting => (OutcomeKind::Aborted, Some("transaction.aborted")),
        TransactionState::Failed => (OutcomeKind::Heuristic, Some("transaction.heuristic")),
        _ => (OutcomeKind::Unknown, None),
    };
    Outcome {
        kind,
        state: stored.state,
        code: code.map(str::to_owned),
        message: stored.reason.as_ref().map(|reason| reason.message.clone()),
        operations_completed: 0,
        operations_failed: 0,
    }
}

/// The result that a caller is told of a coordination that was found.
pub(super) fn found_result(stored: &StoredCoordination) -> CoordinationResult {
    let outcome = stored.outcome.clone().unwrap_or_else(|| open_outcome(stored));
    stored_result(stored, outcome)
}

impl Core {
    pub(super) fn result_of(
        &self,
        request: &CoordinationRequest,
        outcome: Outcome,
        began_at: Timestamp,
    ) -> CoordinationResult {
        let duration = self.clock.now().since(began_at).as_millis();
        CoordinationResult {
            id: request.id.clone(),
            outcome,
            duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
            stores: request.stores.clone(),
        }
    }
}

impl Entry {
    /// The coordination as it stands in memory.
    fn found(&self, core: &Core) -> Found {
        let view = self.machine.view();
        let now = core.clock.now();
        let outcome = if self.awaits_decision() { unwritten_outcome() } else { view.outcome };
        let stored = StoredCoordination {
            request: Arc::clone(self.machine.request()),
            owner: core.ports.journal.instance().clone(),
            epoch: self.machine.epoch(),
            state: outcome.state,
            decision: view.decision.filter(|_| !self.awaits_decision()),
            reason: None,
            outcome: Some(outcome),
            stores: view.stores,
            steps: view.steps,
            created_at: self.machine.began_at(),
            updated_at: now,
            completed_at: None,
            locks: Vec::new(),
        };
        Found { stored, active: true }
    }
}

impl State {
    pub(super) fn look_at(
        &mut self,
        core: &Core,
        id: &CoordinationId,
        reply: Reply<Result<Option<Found>, EngineError>>,
    ) {
        let found = self.table.find(id).and_then(|key| self.table.get(key));
        if let Some(entry) = found {
            return reply.send(Ok(Some(entry.found(core))));
        }
        // What just ended may still wait to be handed to the journal: the question comes after it.
        self.flush(core);
        core.find_stored(id, reply);
    }

    pub(super) fn wait_asked(&mut self, core: &Core, id: CoordinationId, waiter: Waiter) {
        if let Some(entry) = self.table.find(&id).and_then(|key| self.table.get(key)) {
            if entry.machine.is_parked() && entry.held.is_empty() {
                let outcome = entry.machine.view().outcome;
                return entry.tell(core, vec![waiter], &outcome);
            }
            return entry.finish_waiters.push(waiter);
        }
        self.flush(core);
        let this = core.this.clone();
        let asked = id.clone();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| match found {
            Ok(Some(found)) if found.stored.outcome.is_some() => {
                waiter.send(Ok(found_result(&found.stored)));
            }
            Ok(Some(_)) => {
                if let Some(core) = this.upgrade() {
                    core.follow(asked, waiter);
                }
            }
            Ok(None) => waiter.send(Err(EngineError::NotFound { id: asked.to_string() })),
            Err(error) => waiter.send(Err(error)),
        });
        core.find_stored(&id, reply);
    }

    pub(super) fn resolve_asked(
        &mut self,
        core: &Core,
        id: CoordinationId,
        decision: Decision,
        reason: String,
        waiter: Waiter,
    ) {
        let Some(key) = self.table.find(&id) else {
            return core.resolve_stored(id, decision, waiter);
        };
        let Some(entry) = self.table.get(key) else { return };
        match entry.machine.step(core.clock.now(), Input::Resolved { decision, reason }) {
            Ok(effects) => {
                entry.settled_waiters.push(waiter);
                self.effects(core, key, effects);
                self.tell_settled(core, key);
            }
            Err(error) => {
                let (id, reason) = (id.to_string(), error.to_string());
                waiter.send(Err(EngineError::CannotResolve { id, reason }));
            }
        }
    }

    /// A coordination that ended under an operator's word leaves the table with its waiters.
    fn tell_settled(&mut self, core: &Core, key: SlotKey) {
        if let Some(entry) = self.table.get(key)
            && entry.held.is_empty()
            && entry.awaited.is_none()
        {
            let waiters = std::mem::take(&mut entry.settled_waiters);
            let outcome = entry.machine.view().outcome;
            entry.tell(core, waiters, &outcome);
        }
    }

    /// The journal was asked again about what another process drives.
    pub(super) fn followed(
        &mut self,
        core: &Core,
        id: &CoordinationId,
        found: Result<Option<Found>, EngineError>,
    ) {
        let ended = match found {
            Ok(Some(found)) if found.stored.outcome.is_none() => return,
            Ok(Some(found)) => Ok(found_result(&found.stored)),
            Ok(None) => Err(EngineError::NotFound { id: id.to_string() }),
            // The journal is asked again at the next round.
            Err(_) => return,
        };
        self.release_kept(core, id);
        for waiter in self.followers.remove(id).unwrap_or_default() {
            waiter.send(ended.clone());
        }
    }
}

impl Core {
    pub(super) fn find_stored(
        &self,
        id: &CoordinationId,
        reply: Reply<Result<Option<Found>, EngineError>>,
    ) {
        let found = Reply::new(move |stored: Result<Option<StoredCoordination>, JournalError>| {
            let stored = stored.map_err(EngineError::from);
            reply.send(stored.map(|s| s.map(|stored| Found { stored, active: false })));
        });
        self.ports.journal.find(id.clone(), found);
    }

    fn follow(&self, id: CoordinationId, waiter: Waiter) {
        self.post(Fact::WaitElsewhere { id, waiter });
    }

    /// An operator's word on a coordination that this process does not drive.
    fn resolve_stored(&self, id: CoordinationId, decision: Decision, waiter: Waiter) {
        let asked = id.clone();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let id = asked.to_string();
            waiter.send(match found {
                Err(error) => Err(error),
                Ok(None) => Err(EngineError::NotFound { id }),
                Ok(Some(found)) if found.stored.decision == Some(decision) => {
                    Ok(found_result(&found.stored))
                }
                Ok(Some(found)) => Err(EngineError::CannotResolve {
                    id,
                    reason: match found.stored.outcome {
                        Some(outcome) => format!("it ended as {}", outcome.state.as_str()),
                        None => "another live process drives it; resolve it there".to_owned(),
                    },
                }),
            });
        });
        self.find_stored(&id, reply);
    }
}

impl Coordinator {
    /// One coordination, running or finished.
    pub fn look_at(&self, id: CoordinationId, reply: Reply<Result<Option<Found>, EngineError>>) {
        self.core.post(Fact::LookedAt { id, reply });
    }

    /// Its result so far, running or finished.
    pub fn status(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<CoordinationResult>, EngineError>>,
    ) {
        let found = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            reply.send(found.map(|found| found.map(|found| found_result(&found.stored))));
        });
        self.look_at(id, found);
    }

    /// Past and present coordinations, latest first.
    pub fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, EngineError>>,
    ) {
        let found = Reply::new(move |found: Result<Vec<StoredCoordination>, JournalError>| {
            reply.send(found.map_err(EngineError::from));
        });
        self.core.ports.journal.history(filter, found);
    }

    /// Counts and facts of the journal.
    pub fn journal_status(&self, reply: Reply<Result<JournalStatus, EngineError>>) {
        let found = Reply::new(move |found: Result<JournalStatus, JournalError>| {
            reply.send(found.map_err(EngineError::from));
        });
        self.core.ports.journal.status(found);
    }
}
