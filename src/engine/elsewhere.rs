//! An abort of what another process drives, over the journal that both have open.
//!
//! Not the abort itself: the driver finds the decision standing when it wants to record its own,
//! and follows it. Invariants: only a two-phase commit is aborted so, whose driver tells nobody
//! anything before its decision stands; a decision that stands is never contradicted.

use crate::journal::{Append, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::Decision;
use crate::model::record::{Durability, Reason, Record};
use crate::model::request::CoordinationType;
use crate::reply::Reply;

use super::Found;
use super::core::Core;
use super::error::EngineError;

/// The mark of a record that no machine waits for: the last slot there could be.
const NOBODY: u64 = u64::MAX;

impl Core {
    /// Asks for an abort; the answer says whether that is the decision now.
    pub(super) fn abort_elsewhere(
        &self,
        id: &CoordinationId,
        reason: String,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        let this = self.this.clone();
        let found = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let stored = match found {
                Ok(Some(found)) => found.stored,
                Ok(None) => return reply.send(Ok(false)),
                Err(error) => return reply.send(Err(error)),
            };
            match this.upgrade() {
                Some(core) if core.may_abort(&stored) => core.decide_abort(&stored, reason, reply),
                _ => reply.send(Ok(is_aborting(&stored))),
            }
        });
        self.find_stored(id, found);
    }

    /// Where a consensus service or a last resource decides, the journal is not the place to do so
    /// first.
    fn may_abort(&self, stored: &StoredCoordination) -> bool {
        self.ports.consensus.is_none()
            && stored.request.kind == CoordinationType::TwoPhaseCommit
            && stored.request.last_resource().is_none()
            && stored.decision.is_none()
            && stored.completed_at.is_none()
    }

    /// What stands behind the record is read back: another one may have been first.
    fn decide_abort(
        &self,
        stored: &StoredCoordination,
        words: String,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        let message = format!("aborted on request: {words}");
        let reason = Some(Reason::new("transaction.aborted.requested", message));
        let append = Append {
            token: NOBODY,
            id: stored.request.id.clone(),
            epoch: stored.epoch,
            at: self.clock.now(),
            record: Record::Decision {
                decision: Decision::Abort,
                reason,
                read_only: Vec::new(),
                receipts: Vec::new(),
            },
            durability: Durability::Forced,
        };
        self.ports.journal.append(&mut vec![append]);
        let found = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            reply.send(found.map(|found| {
                found.is_some_and(|found| found.stored.decision == Some(Decision::Abort))
            }));
        });
        self.find_stored(&stored.request.id, found);
    }
}

fn is_aborting(stored: &StoredCoordination) -> bool {
    stored.decision == Some(Decision::Abort) && stored.completed_at.is_none()
}
