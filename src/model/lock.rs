//! The words of locks: modes, resources, requesters, grants, refusals. Plain data.
//!
//! Not the rules of who waits for whom (`protocol/lock_table`) and not a manager (`locks`).
//! Invariants: a [`ResourceId`] is 1 to 256 characters without NUL, a [`RequesterId`] 1 to 128; a
//! fencing token of a resource grows with every grant.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::IdError;
use super::time::Timestamp;

/// The longest name of a resource, in characters.
pub const RESOURCE_CHARACTERS_MAX: usize = 256;

/// How a resource is held.
///
/// The matrix is that of Gray, Lorie, Putzolu, Traiger, "Granularity of Locks and Degrees of
/// Consistency in a Shared Data Base" (1976); SIX is held by holding S and IX together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Shared locks may be taken further down.
    IntentShared,
    /// Exclusive locks may be taken further down.
    IntentExclusive,
    /// Read.
    Shared,
    /// Write.
    Exclusive,
}

impl LockMode {
    /// Every mode, the weakest first.
    pub const ALL: [Self; 4] =
        [Self::IntentShared, Self::IntentExclusive, Self::Shared, Self::Exclusive];

    /// The word in tables, ids and the public API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IntentShared => "intent_shared",
            Self::IntentExclusive => "intent_exclusive",
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }

    /// The mode of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }

    /// Whether two requesters may hold these at once.
    pub fn is_compatible_with(self, other: Self) -> bool {
        use LockMode::{Exclusive, IntentExclusive, IntentShared, Shared};
        match self {
            IntentShared => other != Exclusive,
            IntentExclusive => matches!(other, IntentShared | IntentExclusive),
            Shared => matches!(other, IntentShared | Shared),
            Exclusive => false,
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

macro_rules! name_type {
    ($(#[$docs:meta])* $name:ident, $characters:expr) => {
        $(#[$docs])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and keeps the string.
            pub fn new(text: &str) -> Result<Self, IdError> {
                super::ids::check(text, $characters)?;
                Ok(Self(text.into()))
            }

            /// The string itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// A string that is known to be right.
            pub(super) fn from_checked(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type! {
    /// What is locked. A convention, not a rule: `store` and `store/key`.
    ResourceId, RESOURCE_CHARACTERS_MAX
}
name_type! {
    /// Who asks. Locks of one requester never conflict with each other. A coordination asks under
    /// its own id.
    RequesterId, super::ids::ID_CHARACTERS_MAX
}

/// One grant: `<resource>:<mode>:<sequence>`. The sequence is never used again for a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LockId(Arc<str>);

impl LockId {
    /// The id of a grant.
    pub fn new(resource: &ResourceId, mode: LockMode, sequence: u64) -> Self {
        // Every grant makes one, and formatting would cost more than the rest of the grant.
        let mut digits = [0_u8; 20];
        let mut first = digits.len();
        let mut rest = sequence;
        loop {
            first -= 1;
            digits[first] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        let digits = std::str::from_utf8(&digits[first..]).unwrap_or_default();
        Self([resource.as_str(), ":", mode.as_str(), ":", digits].concat().into())
    }

    /// An id that was given out before, as its parts; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<(ResourceId, LockMode, u64)> {
        let (resource, mode, sequence) = parts(text)?;
        Some((ResourceId::new(resource).ok()?, mode, sequence))
    }

    /// Its parts: the name of the resource, the mode, the sequence; `None` when it cannot be one
    /// that was given out.
    pub fn parts(&self) -> Option<(&str, LockMode, u64)> {
        parts(&self.0)
    }

    /// Any text, for asking a manager about it.
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The string itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn parts(text: &str) -> Option<(&str, LockMode, u64)> {
    let (rest, sequence) = text.rsplit_once(':')?;
    let (resource, mode) = rest.rsplit_once(':')?;
    Some((resource, LockMode::parse(mode)?, sequence.parse().ok()?))
}

impl fmt::Display for LockId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A wait that can be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WaitId(pub u64);

/// What a holder is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which grant.
    pub lock_id: LockId,
    /// What is held.
    pub resource: ResourceId,
    /// How.
    pub mode: LockMode,
    /// When it was granted, by the manager's clock.
    pub acquired_at: Timestamp,
    /// Higher than that of every earlier grant of the resource.
    pub fencing_token: u64,
    /// The ZooKeeper node, where there is one.
    pub zk_path: Option<String>,
}

/// What a holder shows to a store, so that a store can refuse one who was deposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// What is held.
    pub resource: ResourceId,
    /// How.
    pub mode: LockMode,
    /// The grant's token.
    pub token: u64,
}

/// One holder of a resource, or one who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockInfo {
    /// What.
    pub resource: ResourceId,
    /// How it is held or asked for.
    pub mode: LockMode,
    /// By whom.
    pub requester: RequesterId,
    /// The grant; `None` for one who waits.
    pub lock_id: Option<LockId>,
    /// Among the holders, or among those who wait, from 0.
    pub position: usize,
    /// Held or waiting since then.
    pub since: Timestamp,
    /// When the lease, or the wait, ends; `None` for one without an end.
    pub expires_at: Option<Timestamp>,
    /// The grant's token.
    pub fencing_token: Option<u64>,
}

impl LockInfo {
    /// "held" or "waiting".
    pub fn state(&self) -> &'static str {
        if self.lock_id.is_some() { "held" } else { "waiting" }
    }
}

/// A circle of waits that was found, and who had to give way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlock {
    /// Who gave way.
    pub victim: RequesterId,
    /// The circle: each waits for the next, the last for the first. The victim comes first.
    pub cycle: Vec<RequesterId>,
    /// What the victim waited for.
    pub resource: ResourceId,
    /// When it was found.
    pub detected_at: Timestamp,
}

/// Why no lock was granted, or a question about locks has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The time was up.
    #[error("no {mode} lock on '{resource}' within {waited_ms} ms; {blockers} in the way")]
    Timeout {
        /// What was asked for.
        resource: ResourceId,
        /// How.
        mode: LockMode,
        /// How long it waited.
        waited_ms: u64,
        /// Who stood in the way, for people.
        blockers: String,
    },
    /// It was the victim of a deadlock.
    #[error("{}", told(.0))]
    Deadlock(Box<Deadlock>),
    /// A lock that was held is held no more: its lease or session ended.
    #[error("lock {lock_id} was lost: {reason}")]
    Lost {
        /// Which.
        lock_id: LockId,
        /// Why.
        reason: String,
    },
    /// The caller gave the wait up.
    #[error("the wait was given up")]
    Cancelled,
    /// A name, a bound or a lease that cannot be.
    #[error("{message}")]
    Invalid {
        /// What, and how to mend it.
        message: String,
    },
    /// The manager's server does not answer, or refuses.
    #[error("{server}: {message}")]
    Unavailable {
        /// Which.
        server: String,
        /// Why, and how to mend it.
        message: String,
    },
    /// The manager was closed.
    #[error("the lock manager is closed")]
    Closed,
}

fn told(deadlock: &Deadlock) -> String {
    let Deadlock { victim, cycle, resource, .. } = deadlock;
    let quoted: Vec<String> = cycle.iter().map(|name| format!("'{name}'")).collect();
    format!(
        "deadlock over '{resource}': {} wait for each other, and '{victim}' gives way; let go of \
         everything and try again",
        quoted.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compatibility_is_grays_matrix_and_symmetric() {
        let row = |mode: LockMode| {
            LockMode::ALL.map(|other| if mode.is_compatible_with(other) { '+' } else { '-' })
        };
        let matrix: Vec<String> =
            LockMode::ALL.iter().map(|mode| row(*mode).iter().collect()).collect();
        assert_eq!(matrix, ["+++-", "++--", "+-+-", "----"]);
    }

    #[test]
    fn a_lock_id_comes_apart_also_where_the_resource_holds_colons() {
        let resource = ResourceId::new("a:b/c:shared:1").unwrap();
        let id = LockId::new(&resource, LockMode::IntentExclusive, 7);
        assert_eq!(LockId::parse(id.as_str()), Some((resource, LockMode::IntentExclusive, 7)));
        assert_eq!(LockId::parse("a:shared"), None);
        for (sequence, end) in [(0, ":0"), (10, ":10"), (u64::MAX, ":18446744073709551615")] {
            let id = LockId::new(&ResourceId::new("r").unwrap(), LockMode::Shared, sequence);
            assert_eq!(id.as_str(), format!("r:shared{end}"));
        }
    }
}
