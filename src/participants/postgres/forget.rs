//! Deletes the markers of coordinations that are over, in the background and in batches.
//!
//! Not on anybody's path: one batch at a time, after a second or when it is large. What cannot
//! be deleted now is tried again; beyond a bound it is dropped, since a marker too many is
//! harmless. Invariant: at most one task runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::crash;
use crate::model::ids::StoreName;

use super::gid::Gid;
use super::marker;
use super::pool::{Pool, Purpose};

const BATCH: usize = 500;
const LINGER: Duration = Duration::from_secs(1);
const WAITING_MAX: usize = 100_000;

#[derive(Default)]
struct State {
    waiting: Vec<Gid>,
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
    pub(super) fn add(&self, gids: impl Iterator<Item = Gid>) -> bool {
        let mut state = self.state();
        let room = WAITING_MAX.saturating_sub(state.waiting.len());
        state.waiting.extend(gids.take(room));
        if state.waiting.len() >= BATCH {
            self.full.notify_one();
        }
        !std::mem::replace(&mut state.is_running, true)
    }

    /// Deletes until nothing waits.
    pub(super) async fn run(&self, pool: &Arc<Pool>, store: &StoreName) {
        loop {
            // A permit that was left over makes one batch early, which is harmless.
            let _ = tokio::time::timeout(LINGER, self.full.notified()).await;
            loop {
                let Some(batch) = self.take() else { return };
                if let Err(error) = delete(pool, store, &batch).await {
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

    fn take(&self) -> Option<Vec<Gid>> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            state.is_running = false;
            return None;
        }
        let from = state.waiting.len().saturating_sub(BATCH);
        Some(state.waiting.split_off(from))
    }

    fn give_back(&self, batch: Vec<Gid>) {
        self.state().waiting.extend(batch);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn delete(pool: &Arc<Pool>, store: &StoreName, batch: &[Gid]) -> Result<(), String> {
    let mut lease = pool.lease(Purpose::Work).await?;
    crash::point("store_forget", store.as_str());
    let answer = marker::delete(&lease.session().client, batch).await;
    answer.map_err(|error| crate::db::postgres::describe(&error))?;
    crash::point("store_forgotten", store.as_str());
    lease.clean();
    Ok(())
}
