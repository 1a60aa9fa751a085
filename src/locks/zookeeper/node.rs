//! What stands in a child's data: who asked, since when, how long.
//!
//! Not its place in the queue, which is in its name. Invariant: everything that another process
//! needs for status and for the choice of a deadlock's victim is here or in the node's stat.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zookeeper_client::Stat;

use crate::locks::LockAsk;
use crate::model::ids::CoordinationId;
use crate::model::lock::{RequesterId, ResourceId};
use crate::model::time::Timestamp;

/// The data of a child, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Details {
    pub(super) resource: ResourceId,
    pub(super) requester: RequesterId,
    pub(super) working_since: Timestamp,
    pub(super) is_protected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) coordination: Option<CoordinationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lease_ms: Option<u64>,
    /// Once the data was written after the grant; before that the node's last change is it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<u64>,
}

impl Details {
    pub(super) fn of(ask: &LockAsk, now: Timestamp) -> Self {
        Self {
            resource: ask.resource.clone(),
            requester: ask.requester.clone(),
            working_since: ask.working_since.unwrap_or(now),
            is_protected: ask.is_protected,
            coordination: ask.coordination.clone(),
            timeout_ms: ask.timeout.map(whole_ms),
            lease_ms: ask.lease.map(whole_ms),
            token: None,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON text; an empty one would read as nobody's.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A server's transaction number as a fencing token: the leader's epoch above, its count below.
pub(super) fn token_of(zxid: i64) -> u64 {
    zxid.cast_unsigned()
}

/// When a node was made, and last changed, by the server's clock.
pub(super) fn times(stat: &Stat) -> (Timestamp, Timestamp) {
    let at = |ms: i64| Timestamp(ms.saturating_mul(1_000));
    (at(stat.ctime), at(stat.mtime))
}
