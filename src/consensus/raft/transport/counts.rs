//! What happened at the door of a node, counted, and said in the log, but of each kind once a
//! second at most: a stranger must not fill the disk of whoever refuses it.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two warnings of a kind.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// What happened between a node and others since it started.
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
    /// Tries of this node to reach another one that ended in a refusal, by either of them.
    pub calls_refused: u64,
}

/// The counters, and the tongue.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) refused: Dropped,
    pub(super) garbage: Dropped,
    pub(super) crowded: Dropped,
    pub(super) unfinished: Dropped,
    pub(super) calls_refused: Dropped,
}

/// One kind of connections that were dropped.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    count: AtomicU64,
    warned: Mutex<Warned>,
}

#[derive(Debug, Default)]
struct Warned {
    at: Option<Instant>,
    unsaid: u64,
}

impl Counts {
    pub(super) fn read(&self) -> TransportCounts {
        let read = |dropped: &Dropped| dropped.count.load(Ordering::Relaxed);
        TransportCounts {
            connections: self.connections.load(Ordering::Relaxed),
            refused: read(&self.refused),
            garbage: read(&self.garbage),
            crowded: read(&self.crowded),
            unfinished: read(&self.unfinished),
            calls_refused: read(&self.calls_refused),
        }
    }
}

impl Dropped {
    /// Counts one, and says why.
    pub(super) fn note(&self, peer: &dyn Display, reason: &dyn Display) {
        self.count.fetch_add(1, Ordering::Relaxed);
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
