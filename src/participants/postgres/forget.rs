//! Deletes the markers of coordinations that are over, in the background and in batches.
//!
//! Not on anybody's path: one batch at a time, after a second or when it is large. What cannot
//! be deleted now is tried again; beyond a bound it is dropped, since a marker too many is
//! harmless. Invariant: at most one task runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::crash;
use crate::model::ids::CoordinationId;

use super::decision_row;
use super::gid::{Gid, Scope};
use super::marker;
use super::pool::{Pool, Purpose};

const BATCH: usize = 500;
const LINGER: Duration = Duration::from_secs(1);
const WAITING_MAX: usize = 100_000;

#[derive(Default)]
struct State {
    waiting: Vec<CoordinationId>,
    is_running: bool,
}

/// What waits to be deleted.
#[derive(Default)]
pub(super) struct Forgetter {
    state: Mutex<State>,
    full: Notify,
}

impl Forgetter {
    /// Adds markers; says whether a task must be started with [`Forgetter::run`].
    pub(super) fn add(&self, ids: Vec<CoordinationId>) -> bool {
        let mut state = self.state();
        let room = WAITING_MAX.saturating_sub(state.waiting.len());
        state.waiting.extend(ids.into_iter().take(room));
        if state.waiting.len() >= BATCH {
            self.full.notify_one();
        }
        !std::mem::replace(&mut state.is_running, true)
    }

    /// Deletes until nothing waits; `has_rows` where decisions may stand beside the markers.
    pub(super) async fn run(&self, pool: &Arc<Pool>, scope: &Scope, has_rows: bool) {
        loop {
            // A permit that was left over makes one batch early, which is harmless.
            let _ = tokio::time::timeout(LINGER, self.full.notified()).await;
            loop {
                let Some(batch) = self.take() else { return };
                if let Err(error) = delete(pool, scope, &batch, has_rows).await {
                    tracing::debug!(error, "markers could not be deleted, and will be later");
                    self.give_back(batch);
                    break;
                }
                if self.state().waiting.len() < BATCH {
                    break;
                }
            }
            if pool.is_closed() {
                self.state().is_running = false;
                return;
            }
        }
    }

    fn take(&self) -> Option<Vec<CoordinationId>> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.is_running = false;
            return None;
        }
        let from = state.waiting.len().saturating_sub(BATCH);
        Some(state.waiting.split_off(from))
    }

    fn give_back(&self, batch: Vec<CoordinationId>) {
        self.state().waiting.extend(batch);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn delete(
    pool: &Arc<Pool>,
    scope: &Scope,
    batch: &[CoordinationId],
    has_rows: bool,
) -> Result<(), String> {
    let mut lease = pool.lease(Purpose::Work).await?;
    crash::point("store_forget", scope.store.as_str());
    let gids: Vec<Gid> = batch.iter().map(|id| scope.gid(id)).collect();
    let rows = if has_rows { decision_row::forget(scope, batch) } else { String::new() };
    let answer = marker::delete(&lease.session().client, &gids, &rows).await;
    answer.map_err(|error| crate::db::postgres::describe(&error))?;
    crash::point("store_forgotten", scope.store.as_str());
    lease.clean();
    Ok(())
}
