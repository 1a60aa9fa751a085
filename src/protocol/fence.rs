//! Fencing: what a store remembers of the tokens it was shown, and whom it refuses.
//!
//! Not a lock table and not a store's own bookkeeping. A holder that was deposed without knowing
//! it (its process was stopped, its session ended) comes late with the token of its grant. A token
//! grows with every grant of a resource, and a grant proves that every earlier grant of an
//! incompatible mode was over. So a token is refused when a higher one of an incompatible mode
//! was shown before. Modes are kept apart, because one number for all of them would refuse
//! holders that hold together: of two readers the one that came first would be locked out.
//!
//! Invariants: who holds a resource is never refused on it; who was deposed is refused as soon as
//! one who came after it was seen; what is remembered only grows, so remembering too early, also
//! of somebody who is refused or aborts later, is safe.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use crate::model::lock::{Fence, LockMode, ResourceId};

/// The highest token of each mode that was shown for one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FenceMemory(BTreeMap<LockMode, u64>);

/// A token that comes too late.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lock on '{resource}' was lost: a later holder has the {standing_mode} token {standing}, \
     and this one shows the {mode} token {token}; take the lock again and send a new transaction"
)]
pub struct Refusal {
    /// Of what.
    pub resource: ResourceId,
    /// How it was held.
    pub mode: LockMode,
    /// The token that was shown.
    pub token: u64,
    /// How the later one holds it.
    pub standing_mode: LockMode,
    /// The later one's token.
    pub standing: u64,
}

impl FenceMemory {
    /// Remembers a token; false where one that is as high is remembered already.
    pub fn raise(&mut self, mode: LockMode, token: u64) -> bool {
        match self.0.entry(mode) {
            Entry::Vacant(vacant) => drop(vacant.insert(token)),
            Entry::Occupied(mut highest) if *highest.get() < token => drop(highest.insert(token)),
            Entry::Occupied(_) => return false,
        }
        true
    }

    /// Remembers all that the other does; false where nothing was new.
    pub fn raise_all(&mut self, other: &Self) -> bool {
        other.tokens().fold(false, |is_new, (mode, token)| self.raise(mode, token) || is_new)
    }

    /// The modes and their highest tokens.
    pub fn tokens(&self) -> impl Iterator<Item = (LockMode, u64)> {
        self.0.iter().map(|(mode, token)| (*mode, *token))
    }

    /// That no later holder was seen. Locks that one holder has together do not count against
    /// each other, so all that it shows are known here.
    fn check(&self, fence: &Fence, shown: &[Fence]) -> Result<(), Refusal> {
        for (standing_mode, standing) in self.tokens() {
            if fence.token >= standing || fence.mode.is_compatible_with(standing_mode) {
                continue;
            }
            let is_own = shown.iter().any(|own| {
                own.resource == fence.resource && own.mode == standing_mode && own.token == standing
            });
            if !is_own {
                let (resource, mode, token) = (fence.resource.clone(), fence.mode, fence.token);
                return Err(Refusal { resource, mode, token, standing_mode, standing });
            }
        }
        Ok(())
    }
}

/// Checks all that one transaction shows against what is remembered, and gives what is to be
/// remembered instead, of those resources where that is more.
pub fn check<'a>(
    shown: &[Fence],
    remembered: impl Fn(&ResourceId) -> Option<&'a FenceMemory>,
) -> Result<BTreeMap<ResourceId, FenceMemory>, Refusal> {
    for fence in shown {
        remembered(&fence.resource).map_or(Ok(()), |memory| memory.check(fence, shown))?;
    }
    let mut raised = BTreeMap::new();
    for (resource, highest) in highest(shown) {
        let mut memory = remembered(&resource).cloned().unwrap_or_default();
        if memory.raise_all(&highest) {
            raised.insert(resource, memory);
        }
    }
    Ok(raised)
}

/// What is shown, by resource; of one mode the highest token.
pub fn highest(shown: &[Fence]) -> BTreeMap<ResourceId, FenceMemory> {
    let mut highest: BTreeMap<ResourceId, FenceMemory> = BTreeMap::new();
    for fence in shown {
        highest.entry(fence.resource.clone()).or_default().raise(fence.mode, fence.token);
    }
    highest
}

/// The first lock of a transaction that is prepared and not ended which one who shows these must
/// wait for: it may still be committed, and would then be the lower token's write that comes after
/// the higher one's.
pub fn standing_in_the_way<'a>(shown: &[Fence], prepared: &'a [Fence]) -> Option<&'a Fence> {
    prepared.iter().find(|standing| {
        let is_own = shown.contains(standing);
        let conflicts = |fence: &Fence| {
            fence.resource == standing.resource && !fence.mode.is_compatible_with(standing.mode)
        };
        !is_own && shown.iter().any(conflicts)
    })
}

/// Why a transaction must wait for another one, in words.
pub fn describe_standing(standing: &Fence, holder: &str) -> String {
    format!(
        "the prepared transaction '{holder}' stands on the {} lock of '{}' with the token {}; try \
         again when that has ended",
        standing.mode, standing.resource, standing.token
    )
}
