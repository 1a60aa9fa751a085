//! What the engine itself can answer instead of an outcome. Not what a request or a store did:
//! that is always an outcome.

use crate::journal::JournalError;
use crate::participants::ParticipantError;
use crate::reply::Lost;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The service was closed before it could answer; what was recorded is finished by the next.
    #[error("the service was closed before it could answer; what is recorded is finished later")]
    Closed,
    /// The journal could not be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A store could not be used when the service started.
    #[error("store '{store}': {error}")]
    Store {
        /// Which.
        store: String,
        /// Its words.
        error: ParticipantError,
    },
    /// No such coordination.
    #[error("no coordination '{id}' is known to this journal")]
    NotFound {
        /// The id.
        id: String,
    },
    /// An operator's word that cannot be followed.
    #[error("coordination '{id}' cannot be resolved so: {reason}")]
    CannotResolve {
        /// The id.
        id: String,
        /// Why.
        reason: String,
    },
    /// A step that cannot be tried again so.
    #[error("operation '{operation}' cannot be redriven so: {reason}")]
    CannotRedrive {
        /// The operation's id.
        operation: String,
        /// Why.
        reason: String,
    },
    /// A projection that cannot be run so.
    #[error("the projection of store '{store}': {reason}")]
    CannotProject {
        /// The store.
        store: String,
        /// Why, and what to do.
        reason: String,
    },
    /// A mistake of ours.
    #[error("internal error, please report it: {message}")]
    Internal {
        /// What was seen.
        message: String,
    },
}

impl<T> Lost for Result<T, EngineError> {
    fn lost() -> Self {
        Err(EngineError::Closed)
    }
}
