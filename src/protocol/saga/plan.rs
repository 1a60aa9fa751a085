//! What a saga's machine is built from. Plain data, no rules.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::InstanceId;
use crate::model::request::CoordinationRequest;

use crate::protocol::lock_plan::LockWish;
use crate::protocol::retry::Backoff;

/// How a step that was done, or may have been, is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// Its participant is asked, by the operation's `compensation` or its own knowledge.
    Asked,
    /// There is nothing to undo: the operation says `"compensation": None`.
    Nothing,
    /// Nobody knows how. Only the pivot, and what comes after it, may be like that.
    Impossible,
}

/// One operation of a saga, as `check` read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The steps that have to be done before it, by their index in the request.
    pub depends_on: Vec<usize>,
    /// Once it is done the saga only goes forward.
    pub is_pivot: bool,
    /// How it is undone.
    pub undo: Undo,
    /// How often it is tried again after the first try.
    pub max_retries: u32,
    /// How long one try may take; `None` for [`Plan::step_timeout`].
    pub timeout: Option<Duration>,
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
    /// The request's operations, in its order, as [`super::check`] gave them.
    pub steps: Vec<Step>,
    /// The locks to be held from before the first step to the end; none: nothing is locked.
    pub locks: Arc<[LockWish]>,
    /// Whether decisions are proposed to a consensus service.
    pub consensus: bool,
    /// The longest that locks are waited for.
    pub lock_timeout: Duration,
    /// How long one try may take, where the operation does not say it.
    pub step_timeout: Duration,
    /// The longest that a caller waits for compensations beyond his own time.
    pub abort_wait: Duration,
    /// How tries are repeated.
    pub backoff: Backoff,
}
