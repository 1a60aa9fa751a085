//! The engine's tasks: the timer, the round that is made again and again, and the removal of old
//! history.
//!
//! They bring facts and decide nothing. Invariant: all end when the engine is closed or dropped.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::journal::JournalError;
use crate::model::time::Timestamp;
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::recovery::Collector;

/// How often followers are looked up and markers are dropped.
const PATROL_INTERVAL: Duration = Duration::from_millis(100);

/// Every so many rounds stores are asked what they hold prepared.
const SWEEP_EVERY: u32 = 5;

pub(super) fn start(core: &Arc<Core>) {
    core.ports.runtime.spawn(keep_time(Arc::downgrade(core)));
    core.ports.runtime.spawn(make_rounds(Arc::downgrade(core)));
    if let Some(age) = core.ports.options.retention {
        core.ports.runtime.spawn(keep_history_short(Arc::downgrade(core), age));
    }
}

/// Has the journal remove what ended longer ago than `age`; what is open is never removed by age.
async fn keep_history_short(core: Weak<Core>, age: Duration) {
    let Some(interval) = core.upgrade().map(|core| core.ports.options.retention_interval) else {
        return;
    };
    loop {
        // Not at the start: that is busy enough.
        tokio::time::sleep(interval).await;
        let Some(core) = core.upgrade().filter(|core| !core.closed.load(Ordering::SeqCst)) else {
            return;
        };
        core.ports.journal.retain(
            age,
            Reply::new(|removed: Result<u64, JournalError>| match removed {
                Ok(removed) => tracing::debug!(removed, "old coordinations were removed"),
                Err(error) => tracing::warn!(%error, "old coordinations cannot be removed"),
            }),
        );
    }
}

async fn keep_time(core: Weak<Core>) {
    while let Some(core) = core.upgrade().filter(|core| !core.closed.load(Ordering::SeqCst)) {
        let armed = core.armed.load(Ordering::SeqCst);
        let wait = match armed {
            i64::MAX => Duration::from_secs(3_600),
            at => core.clock.until(Timestamp(at)),
        };
        if wait.is_zero() {
            core.armed.store(i64::MAX, Ordering::SeqCst);
            core.post(Fact::TimeReached);
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.timer.notified() => {}
        }
    }
}

async fn make_rounds(core: Weak<Core>) {
    let mut patrol = tokio::time::interval(PATROL_INTERVAL);
    let mut rounds = 0_u32;
    let mut recovered_at = tokio::time::Instant::now();
    loop {
        patrol.tick().await;
        let Some(core) = core.upgrade().filter(|core| !core.closed.load(Ordering::SeqCst)) else {
            return;
        };
        core.post(Fact::Patrol);
        if recovered_at.elapsed() >= core.ports.options.recovery_interval {
            recovered_at = tokio::time::Instant::now();
            rounds = rounds.wrapping_add(1);
            core.recover(Collector::new(None));
            if rounds.is_multiple_of(SWEEP_EVERY) {
                core.sweep();
            }
        }
    }
}
