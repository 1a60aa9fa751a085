//! This instance's life: a connection of its own with the instance's lock, and the heartbeat.
//!
//! Not ownership of coordinations, which outlasts a connection: when it breaks, the same instance
//! takes its lock again, and what others adopted meanwhile is refused to it row by row.
//! Invariant: nobody counts it as dead while it beats and its connection holds the lock.

use std::time::Duration;

use tokio::time::timeout;

use super::alive;
use super::link::{Link, Outcome, Trouble};
use super::shared::Inner;

const RETRY_WAIT: Duration = Duration::from_millis(100);
/// How long the goodbye may take; without it the row is seen to be dead a little later.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// Makes this instance known.
pub(super) async fn join(inner: &Inner) -> Outcome<Link> {
    let link = Link::open_by_keys(&inner.server).await?;
    // The lock first: who sees the row sees the lock too.
    alive::lock(&link, &inner.own).await?;
    alive::beat(&link, &inner.own).await?;
    Ok(link)
}

/// Beats until the journal is over.
pub(super) async fn run(inner: &Inner, first: Link) {
    let mut link = Some(first);
    let mut over = inner.is_over.subscribe();
    let mut is_locked = true;
    loop {
        let wait = if link.is_some() { inner.options.heartbeat } else { RETRY_WAIT };
        // An answer in time says that it is over; the sender lives as long as `inner`.
        if timeout(wait, over.wait_for(|over| *over)).await.is_ok() {
            break;
        }
        let beaten = match &link {
            Some(link) => keep(inner, link, &mut is_locked).await,
            None => {
                is_locked = false;
                match join(inner).await {
                    Ok(again) => {
                        inner.set_regained();
                        link = Some(again);
                        Ok(())
                    }
                    Err(trouble) => Err(trouble),
                }
            }
        };
        if let Err(trouble) = beaten {
            tracing::debug!(error = %trouble.at(inner.label()), "no heartbeat");
            link = None;
        }
    }
    if let Some(link) = link {
        // What this leaves is seen to be dead by the lock that goes with the connection.
        let _ = timeout(GOODBYE_MAX, alive::leave(&link, &inner.own)).await;
    }
}

async fn keep(inner: &Inner, link: &Link, is_locked: &mut bool) -> Outcome<()> {
    if link.client.is_closed() {
        return Err(Trouble::Broken("the connection ended".to_owned()));
    }
    if !*is_locked {
        // The server may not have seen yet that the connection before is gone.
        *is_locked = alive::lock(link, &inner.own).await?;
    }
    alive::beat(link, &inner.own).await
}
