//! How things stand and how they end: states, decisions, votes, acknowledgements, outcomes.
//!
//! Not the rules that lead there. Invariants: a [`Decision`] is made once; an outcome that is
//! unknown says so and is never folded into failed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::{CoordinationId, StoreName};
use super::time::Timestamp;

/// The public state of a coordination, as in the journal's `state` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransactionState {
    /// Accepted, nothing asked yet.
    Initiated,
    /// Stores are being asked to prepare.
    Preparing,
    /// All answered; whether the decision stands is not known yet.
    Prepared,
    /// Decided commit; being delivered.
    Committing,
    /// Every store has committed.
    Committed,
    /// Decided abort; being delivered.
    Aborting,
    /// Every store has rolled back.
    Aborted,
    /// A store went its own way, or the request was refused.
    Failed,
}

impl TransactionState {
    /// Every state, in the order of the public enum.
    pub const ALL: [Self; 8] = [
        Self::Initiated,
        Self::Preparing,
        Self::Prepared,
        Self::Committing,
        Self::Committed,
        Self::Aborting,
        Self::Aborted,
        Self::Failed,
    ];

    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Preparing => "preparing",
            Self::Prepared => "prepared",
            Self::Committing => "committing",
            Self::Committed => "committed",
            Self::Aborting => "aborting",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }

    /// The state of that public name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// Commit or abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Decision {
    /// Every store makes its change.
    Commit,
    /// No store makes its change.
    Abort,
}

impl Decision {
    /// The public name, as consensus services are told it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "COMMIT",
            Self::Abort => "ABORT",
        }
    }

    /// The decision of that public name, in either case.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Commit, Self::Abort].into_iter().find(|d| d.as_str().eq_ignore_ascii_case(name))
    }
}

/// What a participant knows its own prepared work by, in its own words; read by nobody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receipt(Arc<str>);

impl Receipt {
    /// A receipt of these words.
    pub fn new(words: &str) -> Self {
        Self(words.into())
    }

    /// Its words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A participant's answer to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// It can commit, and will when told, whatever happens to it in between.
    Commit,
    /// The same, with a receipt that it wants to be shown when it is told the decision, also after
    /// a crash. Given only where [`crate::participants::PrepareAsk::keeps_receipt`] promised it.
    Prepared {
        /// What it will know it by.
        receipt: Receipt,
    },
    /// It has nothing to commit; it needs no second phase.
    ReadOnly,
    /// It cannot, and has kept nothing.
    Abort {
        /// Why.
        reason: String,
    },
    /// What it did is not known: it raised, was cut off, or did not answer.
    Unknown {
        /// What was seen instead of an answer.
        reason: String,
    },
}

/// A participant's answer to commit or abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// It is done (or was done before).
    Done,
    /// The store's final word: it cannot and will not.
    Failed {
        /// Its own words.
        message: String,
    },
    /// Not known: ask again.
    Unknown {
        /// What was seen instead of an answer.
        message: String,
    },
    /// Asked to commit, it knows for certain that it never prepared this.
    NeverPrepared,
}

/// What the caller is told, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Decided commit, durably.
    Committed,
    /// Decided abort.
    Aborted,
    /// Whether it is decided is not known yet.
    Unknown,
    /// A store gave its own contrary final word.
    Heuristic,
    /// It never began.
    Refused,
}

/// The answer to a caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// In one word.
    pub kind: OutcomeKind,
    /// The public state.
    pub state: TransactionState,
    /// A stable code for programs, with a page in the docs; `None` for plain success.
    pub code: Option<String>,
    /// For people: what, where, and what to do.
    pub message: Option<String>,
    /// Operations whose effect is certain.
    pub operations_completed: u32,
    /// Operations that will have no effect, or a contrary one.
    pub operations_failed: u32,
}

impl Outcome {
    /// An outcome of something that never began.
    pub fn refused(code: &str, message: String, operations: usize) -> Self {
        Self {
            kind: OutcomeKind::Refused,
            state: TransactionState::Failed,
            code: Some(code.to_owned()),
            message: Some(message),
            operations_completed: 0,
            operations_failed: u32::try_from(operations).unwrap_or(u32::MAX),
        }
    }

    /// Whether the decision to commit stands and no store contradicts it.
    pub fn is_success(&self) -> bool {
        self.kind == OutcomeKind::Committed
    }
}

/// An outcome with what belongs to it, as a result object needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinationResult {
    /// Whose result.
    pub id: CoordinationId,
    /// The answer.
    pub outcome: Outcome,
    /// From acceptance to this answer.
    pub duration_ms: u64,
    /// The stores of the request, in its order.
    pub stores: Vec<StoreName>,
}

/// What one store did within a coordination, for histories and timelines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSummary {
    /// Which store.
    pub store: StoreName,
    /// `COMMIT`, `READ_ONLY`, `ABORT`, `UNKNOWN`, or `None` if it was never asked.
    pub vote: Option<String>,
    /// The reason with the vote, or the last trouble with it.
    pub note: Option<String>,
    /// When prepare was asked.
    pub prepare_asked_at: Option<Timestamp>,
    /// When its vote came.
    pub voted_at: Option<Timestamp>,
    /// When commit or abort was first asked.
    pub delivery_asked_at: Option<Timestamp>,
    /// When it acknowledged.
    pub acknowledged_at: Option<Timestamp>,
    /// How often commit or abort was asked.
    pub attempts: u32,
}
