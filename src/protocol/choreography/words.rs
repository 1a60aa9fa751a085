//! What callers are told of a choreographed saga. Not the rules.

use crate::model::outcome::{Outcome, OutcomeKind, TransactionState};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;

/// What a caller would be told in this state.
pub(super) fn outcome(
    state: TransactionState,
    reason: Option<&Reason>,
    request: &CoordinationRequest,
) -> Outcome {
    let operations = u32::try_from(request.operations.len()).unwrap_or(u32::MAX);
    match state {
        TransactionState::Committed => Outcome {
            kind: OutcomeKind::Committed,
            state,
            code: None,
            message: None,
            operations_completed: operations,
            operations_failed: 0,
        },
        TransactionState::Aborted => Outcome {
            kind: OutcomeKind::Aborted,
            state,
            code: Some(reason.map_or("transaction.aborted", |reason| &reason.code).to_owned()),
            message: reason.map(|reason| reason.message.clone()),
            operations_completed: 0,
            operations_failed: operations,
        },
        _ => Outcome {
            kind: OutcomeKind::Unknown,
            state,
            code: Some("transaction.under_way".to_owned()),
            message: Some(
                "the saga is on its way from store to store; wait_for() waits for its end"
                    .to_owned(),
            ),
            operations_completed: 0,
            operations_failed: 0,
        },
    }
}
