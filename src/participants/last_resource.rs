//! The port of a store that can be the last resource: its own commit is the decision.
//!
//! Not the rules (`protocol/two_phase`) and not the choice of one (engine). A store's duties beyond
//! those of a participant:
//!
//! 1. **Decide** commits the operations and a row that says COMMIT under the coordination's id, in
//!    one local transaction. [`Deciding::Committed`] means that both are durable. Where a row says
//!    ABORT it refuses. [`Deciding::Refused`] means that it rolled back, for certain, and nothing
//!    of it is on its way any more. Whatever it does not know is [`Deciding::Unknown`].
//! 2. **Forbid** writes a row that says ABORT, unless one stands, and answers what stands. After
//!    that a decide that is still on its way can only be refused: both write under one primary key.
//! 3. **Read** answers what stands durably; [`Standing::Open`] only where there is no row.
//! 4. A row COMMIT stays until [`super::Participant::forget`]; a row ABORT for [`ABORTS_KEPT`],
//!    because somebody who was stopped may come late.
//!
//! Invariant: for one id the first row stands. The name of the store is no part of the key.

use std::time::Duration;

use super::PrepareAsk;
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::operation::Operation;
use crate::model::value::Value;
use crate::protocol::Standing;
use crate::reply::{LOST, Lost, Reply};

/// How long a row ABORT is kept. That no process is stopped for longer and then goes on is assumed.
pub const ABORTS_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// When a store is to be the last resource of a coordination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastResourceUse {
    /// Never.
    #[default]
    Never,
    /// Where it is the only candidate, and nobody waits for it longer by that.
    Auto,
    /// Always: it is not asked to prepare.
    Always,
}

impl LastResourceUse {
    /// The value of that name, as options have it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "never" => Some(Self::Never),
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// "Commit this, and the decision with it."
#[derive(Clone)]
pub struct DecideAsk {
    /// The operations, the locks and the time, as for a prepare.
    pub work: PrepareAsk,
    /// The stores that had nothing to commit, kept with the row: after a crash nobody else knows.
    pub read_only: Vec<StoreName>,
}

/// A question about the row of a coordination.
#[derive(Clone, Debug)]
pub struct RowAsk {
    /// Whose row.
    pub id: CoordinationId,
    /// How long an answer is of use.
    pub timeout: Duration,
}

/// The answer to [`LastResource::decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deciding {
    /// Operations and row are committed.
    Committed,
    /// It rolled back, and nothing is left.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not known: the row will tell.
    Unknown {
        /// What was seen instead of an answer.
        message: String,
    },
}

impl Lost for Deciding {
    fn lost() -> Self {
        Self::Unknown { message: LOST.to_owned() }
    }
}

/// A store that can be the last resource. The duties are in this file's header.
pub trait LastResource: Send + Sync {
    /// When it is to be one. Recovery asks it whatever this says.
    fn usage(&self) -> LastResourceUse;

    /// Whether this operation writes nothing, as far as can be told beforehand.
    fn only_reads(&self, operation: &Operation) -> bool;

    /// Commits the operations with the row.
    fn decide(&self, ask: DecideAsk, reply: Reply<Deciding>);

    /// Sees to it that no row COMMIT comes any more, and answers what stands.
    fn forbid(&self, ask: RowAsk, reply: Reply<Standing>);

    /// Answers what stands.
    fn read(&self, ask: RowAsk, reply: Reply<Standing>);
}

/// A transaction that is open outside of any store, such as on a user's own connection: it decides
/// once, in the place of the store that has its database, under the same first duty. It writes the
/// row of `cluster`.
pub trait Enlisted: Send + Sync {
    /// Commits what was done in it with the row.
    fn decide(&self, cluster: &ClusterId, ask: DecideAsk, reply: Reply<Deciding>);
}

/// The read-only stores as the row keeps them.
pub fn encode_read_only(stores: &[StoreName]) -> String {
    Value::List(stores.iter().map(|store| store.as_str().into()).collect()).to_json()
}

/// Reads them back; what is no list of names is none of ours.
pub(super) fn decode_read_only(json: &str) -> Vec<StoreName> {
    let list = Value::from_json(json).unwrap_or(Value::Null);
    let names = list.as_list().unwrap_or_default().iter().filter_map(Value::as_text);
    names.filter_map(|name| StoreName::new(name).ok()).collect()
}
