//! What happened at the door of a node, counted, and said in the log, but not more often than once
//! a second: a stranger must not fill the disk of whoever refuses it.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// What happened at the door of a node since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportCounts {
    /// Connections of nodes that are open now, opened by them.
    pub connections: u64,
    /// Strangers that were refused: another cluster, secret, certificate or release.
    pub refused: u64,
    /// Connections that were dropped because of what was sent: none of ours, damaged, too large.
    pub garbage: u64,
    /// Connections that were dropped because too many were open.
    pub crowded: u64,
    /// Connections that ended, or took too long, before both sides knew each other.
    pub unfinished: u64,
}

/// The counters, and the tongue.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) garbage: AtomicU64,
    pub(super) crowded: AtomicU64,
    pub(super) unfinished: AtomicU64,
    warned: Mutex<Warned>,
}

#[derive(Debug, Default)]
struct Warned {
    at: Option<Instant>,
    unsaid: u64,
}

impl Counts {
    pub(super) fn read(&self) -> TransportCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TransportCounts {
            connections: read(&self.connections),
            refused: read(&self.refused),
            garbage: read(&self.garbage),
            crowded: read(&self.crowded),
            unfinished: read(&self.unfinished),
        }
    }

    /// Counts one that was dropped, and says why.
    pub(super) fn dropped(&self, counter: &AtomicU64, peer: &dyn Display, reason: &dyn Display) {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.at.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            warned.unsaid += 1;
            return;
        }
        let unsaid = std::mem::take(&mut warned.unsaid);
        warned.at = Some(Instant::now());
        drop(warned);
        tracing::warn!(%peer, %reason, unsaid, "a connection of the cluster was dropped");
    }
}
