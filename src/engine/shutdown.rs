//! The end of an engine: no more requests, those that run are answered, the journal is closed.
//!
//! Invariants: what is not answered within the caller's patience stays in the journal and is
//! adopted by the next process; stores are closed after the last question to them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::model::request::CoordinationType;
use crate::reply::Reply;

use super::Coordinator;
use super::core::{Core, Fact};
use super::drive::State;
use super::error::EngineError;

impl State {
    pub(super) fn close(&mut self, core: &Core, reply: Reply<Result<(), EngineError>>) {
        while let Some(key) = self.queue.front().copied() {
            let message = "the service was closed before its turn came".to_owned();
            self.leave_queue(core, key, "transaction.aborted.closed", message);
            self.queue.retain(|queued| *queued != key);
        }
        self.give_up_waits(core);
        self.closing = Some(reply);
        self.close_when_idle(core);
    }

    /// Tells whoever closes that everything that runs has been answered and delivered.
    pub(super) fn close_when_idle(&mut self, _core: &Core) {
        if self.closing.is_none() {
            return;
        }
        let busy = self.table.entries().any(|entry| {
            let request = entry.machine.request();
            // Events that stand reach their stores also without whoever appended them.
            let is_left = request.kind == CoordinationType::EventSourcing
                && !entry.machine.awaits_answer()
                && entry.awaited.is_none();
            // A choreographed saga goes on without whoever answers for it.
            !entry.machine.is_parked() && request.needs_stores_here() && !is_left
        });
        if !busy && let Some(reply) = self.closing.take() {
            reply.send(Ok(()));
        }
    }
}

impl Coordinator {
    /// Takes no more requests; answers once nothing runs any more. Bounded by the caller:
    /// [`Coordinator::shut_down`] ends it in any case.
    pub fn close(&self, reply: Reply<Result<(), EngineError>>) {
        self.core.post(Fact::Closing(reply));
    }

    /// Ends everything: the journal writes what waits, waiters hear [`EngineError::Closed`],
    /// stores let go. Blocks.
    pub fn shut_down(&self) {
        self.core.closed.store(true, Ordering::SeqCst);
        self.core.timer.notify_waiters();
        self.core.stop_listening();
        self.core.ports.journal.close();
        self.core.post(Fact::Dropped);
        for (_, store, _) in &self.core.ports.stores {
            store.close();
        }
    }

    /// How long a close may wait when its caller says nothing.
    pub const CLOSE_WAIT: Duration = Duration::from_secs(30);
}
