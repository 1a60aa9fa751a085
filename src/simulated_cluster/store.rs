//! A simulated store that can prepare: key-value, far away, fenced as `protocol/fence` says.
//!
//! What it has prepared or committed survives everything; questions to it and answers of it may be
//! late or lost. Invariant: what it has prepared it changes only when it is told.

use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::lock::{Fence, LockMode, ResourceId};
use crate::model::outcome::{Acknowledgement, Vote};
use crate::protocol::fence::{self, FenceMemory};

/// What it keeps of a coordination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Prepared(Vec<Fence>),
    Committed,
    Aborted,
}

/// The store.
pub(super) struct Store {
    pub(super) name: StoreName,
    pub(super) kept: BTreeMap<CoordinationId, Kept>,
    /// What it ever promised to commit.
    pub(super) promised: BTreeSet<CoordinationId>,
    fences: BTreeMap<ResourceId, FenceMemory>,
    /// For each key, the tokens under which it was written, in order.
    pub(super) written: BTreeMap<ResourceId, Vec<(u64, CoordinationId)>>,
}

impl Store {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: StoreName::new(name).expect("it is short"),
            kept: BTreeMap::new(),
            promised: BTreeSet::new(),
            fences: BTreeMap::new(),
            written: BTreeMap::new(),
        }
    }

    pub(super) fn prepare(
        &mut self,
        id: &CoordinationId,
        shown: &[Fence],
        random: &mut Random,
        is_calm: bool,
    ) -> Vote {
        let refuse = |reason: String| Vote::Abort { reason };
        match self.kept.get(id) {
            Some(Kept::Aborted) => return refuse("it was aborted before".to_owned()),
            Some(_) => return Vote::Commit,
            None => {}
        }
        let raised = match fence::check(shown, |resource| self.fences.get(resource)) {
            Ok(raised) => raised,
            Err(refusal) => return refuse(refusal.to_string()),
        };
        let mut prepared = self.kept.values().filter_map(|kept| match kept {
            Kept::Prepared(fences) => Some(fences),
            _ => None,
        });
        if prepared.any(|fences| fence::standing_in_the_way(shown, fences).is_some()) {
            return refuse("another one is prepared".to_owned());
        }
        self.fences.extend(raised);
        let drawn = if is_calm { 99 } else { random.below(100) };
        if drawn < 5 {
            return refuse("it cannot".to_owned());
        }
        let reads = |fence: &Fence| matches!(fence.mode, LockMode::Shared | LockMode::IntentShared);
        if !shown.is_empty() && shown.iter().all(reads) {
            return Vote::ReadOnly;
        }
        self.kept.insert(id.clone(), Kept::Prepared(shown.to_vec()));
        self.promised.insert(id.clone());
        if drawn < 8 {
            Vote::Unknown { reason: "its answer is lost".to_owned() }
        } else {
            Vote::Commit
        }
    }

    /// Commits; the error says how a write came after that of a later holder.
    pub(super) fn commit(&mut self, id: &CoordinationId) -> Result<Acknowledgement, String> {
        match self.kept.get(id).cloned() {
            Some(Kept::Prepared(fences)) => {
                self.kept.insert(id.clone(), Kept::Committed);
                self.write(id, &fences)?;
                Ok(Acknowledgement::Done)
            }
            Some(Kept::Committed) => Ok(Acknowledgement::Done),
            Some(Kept::Aborted) => {
                Ok(Acknowledgement::Failed { message: "it was aborted".to_owned() })
            }
            None => Ok(Acknowledgement::NeverPrepared),
        }
    }

    fn write(&mut self, id: &CoordinationId, fences: &[Fence]) -> Result<(), String> {
        for fence in fences.iter().filter(|fence| fence.mode == LockMode::Exclusive) {
            let writes = self.written.entry(fence.resource.clone()).or_default();
            if let Some((token, other)) = writes.last().filter(|(token, _)| *token >= fence.token) {
                let (resource, own) = (&fence.resource, fence.token);
                return Err(format!(
                    "locks do not exclude: {id} writes {resource} under the token {own} after \
                     {other} under {token}"
                ));
            }
            writes.push((fence.token, id.clone()));
        }
        Ok(())
    }

    pub(super) fn abort(&mut self, id: &CoordinationId) -> Acknowledgement {
        if self.kept.get(id) == Some(&Kept::Committed) {
            return Acknowledgement::Failed { message: "it has committed".to_owned() };
        }
        self.kept.insert(id.clone(), Kept::Aborted);
        Acknowledgement::Done
    }
}
