//! How a coordination gets in: at once, into the queue, joined to the same one, or refused.
//!
//! Not the request's own check (model) and not its run (drive). Invariants: at most
//! `concurrent_max` run at once, not counting those whose callers are answered; at most
//! `queued_max` wait; nothing was asked of any store for a request that is refused here.

use std::sync::Arc;

use crate::journal::{JournalError, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::{CoordinationResult, Outcome, OutcomeKind, TransactionState};
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;
use crate::participants::Attachment;
use crate::protocol::Input;
use crate::reply::Reply;

use super::Waiter;
use super::core::Core;
use super::drive::State;
use super::error::EngineError;
use super::table::{Entry, SlotKey, unwritten_outcome};

/// An answer for a request that gets no machine.
pub(super) fn refuse(request: &CoordinationRequest, waiter: Waiter, code: &str, message: String) {
    let outcome = Outcome::refused(code, message, request.operations.len());
    waiter.send(Ok(CoordinationResult {
        id: request.id.clone(),
        outcome,
        duration_ms: 0,
        stores: request.stores.clone(),
    }));
}

pub(super) fn conflict(id: &CoordinationId) -> String {
    format!(
        "coordination_id '{id}' was used before with another request; use a new id, or repeat the \
         request exactly"
    )
}

impl State {
    pub(super) fn submit(
        &mut self,
        core: &Core,
        request: Arc<CoordinationRequest>,
        attachment: Option<Attachment>,
        waiter: Waiter,
    ) {
        if self.closing.is_some() {
            return waiter.send(Err(EngineError::Closed));
        }
        if let Some(key) = self.table.find(&request.id) {
            return self.join(core, key, &request, waiter);
        }
        let machine = match core.machine_for(&request) {
            Ok(machine) => machine,
            Err(refusal) => return refuse(&request, waiter, refusal.code, refusal.message),
        };
        let starts = self.admits && self.running < core.ports.options.concurrent_max;
        if !starts && self.queue.len() >= core.ports.options.queued_max {
            let message = format!(
                "{} coordinations run and {} wait already; try again later, or raise \
                 max_concurrent_coordinations",
                self.running,
                self.queue.len()
            );
            return refuse(&request, waiter, "request.overloaded", message);
        }
        let mut entry = Entry::new(machine, attachment);
        entry.locks.working_since = self.first_starts.of(&request.id);
        entry.waiters.push(waiter);
        entry.queued = !starts;
        let deadline = core.clock.now() + request.timeout;
        let key = self.table.insert(entry);
        if starts {
            self.begin(core, key);
        } else {
            self.table.set_timer(key, Some(deadline));
            self.queue.push_back(key);
        }
    }

    fn begin(&mut self, core: &Core, key: SlotKey) {
        if let Some(entry) = self.table.get(key) {
            entry.queued = false;
            entry.counted = true;
            self.running += 1;
            core.observe_begin(entry);
            self.step(core, key, Input::Started);
        }
    }

    /// The same request again joins the one that runs; another one under its id is refused.
    fn join(
        &mut self,
        core: &Core,
        key: SlotKey,
        request: &Arc<CoordinationRequest>,
        waiter: Waiter,
    ) {
        let Some(entry) = self.table.get(key) else { return };
        if !entry.machine.request().is_same_work(request) {
            return refuse(request, waiter, "request.conflict", conflict(&request.id));
        }
        if !entry.machine.awaits_answer() && !entry.awaits_decision() {
            let outcome = entry.machine.view().outcome;
            return entry.tell(core, vec![waiter], &outcome);
        }
        entry.waiters.push(waiter);
    }

    /// One that ran is answered: the next in the queue starts.
    pub(super) fn give_up_place(&mut self, core: &Core, key: SlotKey) {
        let Some(entry) = self.table.get(key) else { return };
        if !std::mem::take(&mut entry.counted) {
            return;
        }
        self.running -= 1;
        self.begin_next(core);
    }

    /// Whoever waited in the queue starts, as far as there are places.
    pub(super) fn begin_next(&mut self, core: &Core) {
        while self.admits && self.running < core.ports.options.concurrent_max {
            let Some(next) = self.queue.pop_front() else { break };
            self.begin(core, next);
        }
    }

    /// Nothing was asked of anybody for it yet, so it is over at once.
    pub(super) fn leave_queue(&mut self, core: &Core, key: SlotKey, code: &str, message: String) {
        let Some(mut entry) = self.remove(core, key) else { return };
        self.queue.retain(|queued| *queued != key);
        let operations = entry.machine.request().operations.len();
        let outcome = Outcome {
            kind: OutcomeKind::Aborted,
            state: TransactionState::Aborted,
            ..Outcome::refused(code, message, operations)
        };
        let mut waiters = std::mem::take(&mut entry.waiters);
        waiters.append(&mut entry.finish_waiters);
        entry.tell(core, waiters, &outcome);
        self.close_when_idle(core);
    }

    pub(super) fn queue_deadline(&mut self, core: &Core, key: SlotKey, now: Timestamp) {
        let Some(entry) = self.table.get(key) else { return };
        let deadline = entry.machine.began_at() + entry.machine.request().timeout;
        if now < deadline {
            return self.table.set_timer(key, Some(deadline));
        }
        let message = "timed out while it waited for its turn; nothing was asked of any store";
        self.leave_queue(core, key, "transaction.aborted.queue", message.to_owned());
    }

    pub(super) fn abort_asked(
        &mut self,
        core: &Core,
        id: &CoordinationId,
        reason: String,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        let Some(key) = self.table.find(id) else {
            return core.abort_elsewhere(id, reason, reply);
        };
        let Some(entry) = self.table.get(key) else { return reply.send(Ok(false)) };
        if entry.queued {
            let message = format!("aborted on request: {reason}");
            self.leave_queue(core, key, "transaction.aborted.requested", message);
            return reply.send(Ok(true));
        }
        self.step(core, key, Input::AbortRequested { reason });
        let aborting = self.table.get(key).is_none_or(|entry| entry.machine.is_to_abort());
        reply.send(Ok(aborting));
    }

    /// The journal knows the id already: from another process, or from before.
    pub(super) fn begin_exists(&mut self, core: &Core, key: SlotKey, stored: &StoredCoordination) {
        self.release(core, key);
        self.give_up_place(core, key);
        let Some(mut entry) = self.remove(core, key) else { return };
        let mut waiters = std::mem::take(&mut entry.waiters);
        waiters.append(&mut entry.finish_waiters);
        let request = entry.machine.request();
        if !stored.request.is_same_work(request) {
            for waiter in waiters {
                refuse(request, waiter, "request.conflict", conflict(&request.id));
            }
        } else if let Some(outcome) = &stored.outcome {
            for waiter in waiters {
                waiter.send(Ok(super::queries::stored_result(stored, outcome.clone())));
            }
        } else {
            // Another process runs it; its end is looked up until it is there.
            self.followers.entry(request.id.clone()).or_default().append(&mut waiters);
        }
        self.close_when_idle(core);
    }

    pub(super) fn begin_failed(&mut self, core: &Core, key: SlotKey, error: &JournalError) {
        self.release(core, key);
        self.give_up_place(core, key);
        let Some(mut entry) = self.remove(core, key) else { return };
        let request = entry.machine.request();
        for waiter in std::mem::take(&mut entry.waiters) {
            let message = format!("not begun: {error}");
            refuse(request, waiter, "request.journal_unavailable", message);
        }
        self.close_when_idle(core);
    }

    /// The journal is broken for good with this one's record on its way: whether it stands is for
    /// the next process to read. Its locks stay, as what it prepared stays.
    pub(super) fn abandoned(&mut self, core: &Core, key: SlotKey, error: &JournalError) {
        self.give_up_place(core, key);
        let Some(mut entry) = self.remove(core, key) else { return };
        self.keep_locks(core, &mut entry);
        if matches!(error, JournalError::Closed) {
            // The service is being closed, and told so; this is what closing it means.
            tracing::debug!(coordination = %entry.id(), "left to the next service");
        } else {
            let code = "journal.unavailable";
            tracing::error!(coordination = %entry.id(), code, %error, "left to recovery");
        }
        let mut waiters = std::mem::take(&mut entry.waiters);
        waiters.append(&mut entry.finish_waiters);
        entry.tell(core, waiters, &unwritten_outcome());
        self.close_when_idle(core);
    }

    /// Another process took it over: this one has no say in it any more.
    pub(super) fn deposed(&mut self, core: &Core, key: SlotKey) {
        self.give_up_place(core, key);
        let Some(mut entry) = self.remove(core, key) else { return };
        self.keep_locks(core, &mut entry);
        let code = "journal.deposed";
        tracing::warn!(coordination = %entry.id(), code, "taken over by another process");
        let mut waiters = std::mem::take(&mut entry.waiters);
        waiters.append(&mut entry.finish_waiters);
        if !waiters.is_empty() {
            self.followers.entry(entry.id().clone()).or_default().append(&mut waiters);
        }
        self.close_when_idle(core);
    }
}
