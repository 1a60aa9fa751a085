//! The port of a consensus service: somebody else who keeps the first decision of a coordination.
//!
//! Not the journal: with a consensus service a decision is agreed there first, then recorded.
//! Duties of an adapter: the first decision proposed for an id wins, for ever; `taken` is said only
//! when exactly that decision stands durably; an answer that is lost counts as "not taken" for a
//! proposal and as [`Standing::Unknown`] for a read, and the engine reads again. Every method
//! returns at once.

pub mod raft;

use crate::model::ids::CoordinationId;
use crate::model::outcome::Decision;
use crate::model::value::Value;
pub use crate::protocol::Standing;
use crate::reply::{Lost, Reply};

/// The answer to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposal {
    /// This decision stands, durably and for ever.
    Taken,
    /// It does not, or nobody knows.
    NotTaken,
}

impl Lost for Proposal {
    fn lost() -> Self {
        Self::NotTaken
    }
}

impl Lost for Standing {
    fn lost() -> Self {
        Self::Unknown
    }
}

/// Something that keeps first decisions.
pub trait Consensus: Send + Sync {
    /// Proposes a decision, with what led to it.
    fn propose(
        &self,
        id: &CoordinationId,
        decision: Decision,
        evidence: Value,
        reply: Reply<Proposal>,
    );

    /// Asks which decision stands.
    fn read(&self, id: &CoordinationId, reply: Reply<Standing>);
}
