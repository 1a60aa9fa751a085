//! The locks that a journal's open coordinations hold, for whoever has only the journal.
//!
//! Not a lock manager, and not who waits: a coordination is in the journal only once it holds its
//! locks. The rows of `distributed_locks` say the same a little later. Invariant: what is told
//! follows from the begin record alone, by the same plan by which the locks were taken.

use std::sync::Arc;

use crate::journal::{HistoryFilter, Journal, StoredCoordination};
use crate::model::lock::{LockId, LockInfo, RequesterId};
use crate::protocol::lock_plan::locks_of;

use super::error::EngineError;
use super::operator::{ask, find};

/// More open coordinations than anybody looks at.
const OPEN_MAX: usize = 100_000;

/// All of them, by resource and mode. Blocks.
pub fn held_locks(journal: &Arc<dyn Journal>) -> Result<Vec<LockInfo>, EngineError> {
    let filter = HistoryFilter { open: true, limit: OPEN_MAX, ..HistoryFilter::default() };
    let known: Vec<StoredCoordination> = ask(|reply| journal.history(filter, reply))?;
    let mut infos = Vec::new();
    for open in &known {
        // The list is made of tables, which have no tokens; one by one they come from the log.
        infos.extend(locks_held_by(&find(journal, &open.request.id)?));
    }
    infos.sort_by(|a, b| (&a.resource, a.mode, a.since).cmp(&(&b.resource, b.mode, b.since)));
    for index in 1..infos.len() {
        let is_same = infos[index].resource == infos[index - 1].resource;
        infos[index].position = if is_same { infos[index - 1].position + 1 } else { 0 };
    }
    Ok(infos)
}

fn locks_held_by(stored: &StoredCoordination) -> Vec<LockInfo> {
    // It may have ended since it was listed.
    if stored.completed_at.is_some() {
        return Vec::new();
    }
    let wishes = locks_of(&stored.request);
    let held = wishes.into_iter().zip(&stored.locks);
    held.map(|(wish, token)| LockInfo {
        lock_id: Some(LockId::new(&wish.resource, wish.mode, *token)),
        resource: wish.resource,
        mode: wish.mode,
        requester: RequesterId::from(&stored.request.id),
        position: 0,
        since: stored.created_at,
        expires_at: None,
        fencing_token: Some(*token),
    })
    .collect()
}
