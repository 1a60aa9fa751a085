//! What the machine of eventual consistency is built from, and what can be wrong with it.
//!
//! Plain data, no rules. Invariant: a step's turn is the line of its operation's key, and the
//! turns stand in the order in which the operations name them first.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::InstanceId;
use crate::model::request::CoordinationRequest;
use crate::model::value::Value;

use crate::protocol::key_order::TurnKey;
use crate::protocol::retry::Backoff;
use crate::protocol::saga;

/// One operation, as `check` read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is kept in order on.
    pub key: TurnKey,
    /// How often it is tried again after the first try.
    pub max_retries: u32,
    /// How long one try may take; `None` for [`Plan::step_timeout`].
    pub timeout: Option<Duration>,
}

/// What a machine is built from. There are no locks: the order on each key stands in their place.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request.
    pub request: Arc<CoordinationRequest>,
    /// Who drives it.
    pub owner: InstanceId,
    /// Under which epoch.
    pub epoch: u32,
    /// The request's operations, in its order, as [`check`] gave them.
    pub steps: Vec<Step>,
    /// How long one try may take, where the operation does not say it.
    pub step_timeout: Duration,
    /// How tries are repeated.
    pub backoff: Backoff,
}

/// A key that only sagas have: whoever gave it expects what will not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "operation '{operation}' has '{key}', which eventual consistency does not have: each operation \
     is delivered by itself, in order on its key; take '{key}' out, or use \
     CoordinationType.SAGA_ORCHESTRATION"
)]
pub struct CheckError {
    /// The operation's id.
    pub operation: String,
    /// The key.
    pub key: &'static str,
}

/// Reads the operations of a request as steps, or says what is wrong with them.
pub fn check(request: &CoordinationRequest) -> Result<Vec<Step>, CheckError> {
    let step = |operation: &crate::model::operation::Operation| {
        for key in ["depends_on", "pivot", "compensation"] {
            // A stop of a choreographed saga that goes back has what it undoes in its operation.
            let is_given = !matches!(operation.body.get(key), None | Some(Value::Null));
            if is_given && request.root.is_none() {
                return Err(CheckError { operation: operation.id.clone(), key });
            }
        }
        Ok(Step {
            key: TurnKey::of(operation),
            max_retries: saga::max_retries(operation),
            timeout: saga::timeout(operation),
        })
    };
    request.operations.iter().map(step).collect()
}
