//! Looks for deadlocks while something of this process waits, and refuses its own victims.
//!
//! Not the choice of a victim (`protocol/deadlock`). Every process sees the same nodes and chooses
//! alike, and only the victim's own process acts, so nobody deletes what is another's. It looks
//! when a wait begins that may close a circle, and on a timer; a look takes two censuses if the
//! first finds a victim here.
//!
//! Invariants: nobody is refused by a circle that did not stand at one moment; looking takes at
//! most a part of the time, however many resources there are.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use zookeeper_client::Error;

use crate::model::lock::{Deadlock, LockError};

use super::census::{self, Edge, Line};
use super::options::wall_now;
use super::session::Session;
use super::shared::Shared;

/// Waits that begin together are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// A look that took some time is followed by a pause of so many times as much.
const PAUSE_FACTOR: u32 = 4;

/// Runs as long as the manager is there.
pub(super) async fn run(weak: Weak<Shared>, interval: Duration) {
    loop {
        let Some(began) = weak.upgrade().map(|shared| shared.wait_began.clone()) else { return };
        if timeout(interval, began.notified()).await.is_ok() {
            sleep(GATHER).await;
        }
        let Some(shared) = weak.upgrade() else { return };
        if shared.table.is_closed() {
            return;
        }
        if !shared.table.has_waits() {
            continue;
        }
        let started = Instant::now();
        if let Some(session) = shared.keeper.live() {
            tokio::select! {
                looked = look(&shared, &session) => {
                    if let Err(error) = looked {
                        tracing::debug!(%error, "deadlocks cannot be looked for now");
                    }
                }
                _ = session.ended() => {}
            }
        }
        drop(shared);
        sleep(started.elapsed() * PAUSE_FACTOR).await;
    }
}

async fn look(shared: &Arc<Shared>, session: &Session) -> Result<(), Error> {
    let server = &shared.keeper.server;
    let lines = census::take(session, server, None, true).await?;
    if victims(shared, &lines, None).is_empty() {
        return Ok(());
    }
    let before = census::edges(&lines);
    let lines = census::take(session, server, None, true).await?;
    for deadlock in victims(shared, &lines, Some(&before)) {
        refuse(shared, &lines, deadlock);
    }
    Ok(())
}

/// The deadlocks whose victim waits here.
fn victims(shared: &Shared, lines: &[Line], believed: Option<&BTreeSet<Edge>>) -> Vec<Deadlock> {
    let now = wall_now();
    let circles = census::graph(lines, believed).resolve().into_iter();
    let is_here = |deadlock: &Deadlock| {
        !shared.table.waits_of(&deadlock.victim, &deadlock.resource).is_empty()
    };
    circles.filter_map(|circle| circle.deadlock(now)).filter(is_here).collect()
}

fn refuse(shared: &Shared, lines: &[Line], deadlock: Deadlock) {
    let waits = shared.table.waits_of(&deadlock.victim, &deadlock.resource);
    let mut is_refused = false;
    for (wait, tag) in waits {
        // One that began after the census was taken is not of this circle.
        if census::has_waiter(lines, &deadlock.victim, &tag) {
            let reason = LockError::Deadlock(Box::new(deadlock.clone()));
            is_refused |= shared.table.end(wait, reason);
        }
    }
    if is_refused {
        shared.found(deadlock);
    }
}
