//! What the machine is built from. Plain data, no rules.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::{InstanceId, StoreName};
use crate::model::request::CoordinationRequest;

use crate::protocol::lock_plan::LockWish;
use crate::protocol::retry::Backoff;

/// What is known of a store before it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyPlan {
    /// Its name.
    pub store: StoreName,
    /// It can list what it has prepared.
    pub lists_prepared: bool,
    /// It holds one prepared transaction at a time.
    pub single_writer: bool,
}

/// What a machine is built from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Arc<CoordinationRequest>,
    /// Who drives it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// The request's stores, in its order.
    pub parties: Vec<PartyPlan>,
    /// The locks to be held from before the first prepare to the end.
    pub locks: Arc<[LockWish]>,
    /// Whether decisions are proposed to a consensus service.
    pub consensus: bool,
    /// The longest that prepare may take.
    pub prepare_timeout: Duration,
    /// The longest that a caller waits for deliveries, and one delivery for its answer.
    pub commit_timeout: Duration,
    /// The longest that a caller waits for stores to roll back: the outcome is certain by then.
    pub abort_wait: Duration,
    /// How deliveries are repeated.
    pub backoff: Backoff,
}
