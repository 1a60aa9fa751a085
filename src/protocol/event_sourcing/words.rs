//! What callers are told of appended events. Not the rules.
//!
//! Invariants: a version that was not met is told with the one that was found; every store that is
//! waited for is named.

use crate::model::ids::{StoreName, StreamId};
use crate::model::outcome::{Outcome, OutcomeKind, TransactionState};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;

/// Why nothing was appended.
pub(super) fn version_reason(stream: &StreamId, expected: u64, actual: u64) -> Reason {
    let found = match (expected, actual) {
        (_, 0) => format!("stream '{stream}' does not exist; version {expected} was expected"),
        (0, _) => {
            format!("stream '{stream}' exists already, at version {actual}; version 0 was expected")
        }
        _ => format!("stream '{stream}' is at version {actual}; version {expected} was expected"),
    };
    let message = format!("{found}; nothing was appended: read the stream and decide anew");
    Reason::new("transaction.aborted.version", message)
}

/// An operator does not wait for the stores that are behind.
pub(super) fn resolved_reason(behind: &[&StoreName], words: &str) -> Reason {
    let message = format!("an operator ended the wait for {}: {words}", names(behind));
    Reason::new("transaction.resolved", message)
}

fn names(stores: &[&StoreName]) -> String {
    stores.iter().map(|store| format!("'{store}'")).collect::<Vec<_>>().join(", ")
}

/// What a caller would be told in this state.
pub(super) fn outcome(
    state: TransactionState,
    reason: Option<&Reason>,
    behind: &[&StoreName],
    request: &CoordinationRequest,
) -> Outcome {
    let operations = u32::try_from(request.operations.len()).unwrap_or(u32::MAX);
    let message = reason.map(|reason| reason.message.clone());
    let told = |kind, code: Option<&str>, message| Outcome {
        kind,
        state,
        code: code.map(str::to_owned),
        message,
        operations_completed: if kind == OutcomeKind::Committed { operations } else { 0 },
        operations_failed: if kind == OutcomeKind::Aborted { operations } else { 0 },
    };
    match state {
        TransactionState::Committed => told(OutcomeKind::Committed, None, message),
        TransactionState::Aborted => {
            let code = reason.map_or("transaction.aborted", |reason| &reason.code);
            told(OutcomeKind::Aborted, Some(code), message)
        }
        TransactionState::Committing => {
            let message = format!(
                "the events are appended; these stores have not applied them yet: {}; that goes \
                 on until they have",
                names(behind)
            );
            told(OutcomeKind::Committed, Some("transaction.committing"), Some(message))
        }
        _ => told(OutcomeKind::Unknown, None, None),
    }
}
