//! The port of an outbox: requests that a user wrote into a store, inside a transaction of his own,
//! are handed to somebody who accepts them.
//!
//! Not a bus and not a store's part in a coordination. An adapter's duties:
//!
//! 1. A request is handed over only when the transaction that wrote it was committed.
//! 2. It is handed over until it is accepted or refused: after a crash, or a lost answer, again. A
//!    sink therefore takes a request that it accepted before as accepted.
//! 3. One that is refused stays where it is, with the reason, and is not handed over again.
//! 4. Of several that serve one outbox, one at a time hands a request over.
//!
//! A sink's duty: [`Acceptance::Accepted`] is said when the request is certain to be carried out,
//! whatever crashes. Invariant: a request leaves the outbox only after that word.

use crate::model::request::CoordinationRequest;
use crate::reply::{LOST, Lost, Reply};

/// Who accepts requests. Must not block.
pub trait OutboxSink: Send + Sync {
    /// Takes a request.
    fn accept(&self, request: CoordinationRequest, reply: Reply<Acceptance>);
}

/// A sink's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is certain to be carried out, or was before.
    Accepted,
    /// It never will be, for this reason.
    Refused(String),
    /// Perhaps another time; the reason is for people.
    Later(String),
}

impl Lost for Acceptance {
    fn lost() -> Self {
        Self::Later(LOST.to_owned())
    }
}
