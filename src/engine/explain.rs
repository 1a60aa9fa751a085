//! What would be done with a request, and why: told without doing any of it.
//!
//! Not a promise: a store votes when it is asked, and what only reads is known by then. Invariant:
//! it goes by the same functions as a request that is let in, so it says what would happen.

use std::sync::Arc;

use crate::model::ids::StoreName;
use crate::model::request::{CoordinationRequest, CoordinationType, RequestParts};

use super::Coordinator;
use super::core::Core;
use super::plan::Refusal;

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// `one_phase`, `last_resource`, `two_phase`, `read_only`; or the type of the coordination.
    pub plan: &'static str,
    /// Why this plan, in a sentence.
    pub why: String,
    /// Each store of the request, in its order.
    pub stores: Vec<StorePart>,
    /// The locks that would be taken first, such as `exclusive payments/order-7`.
    pub locks: Vec<String>,
}

/// What a store would be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorePart {
    /// Which store.
    pub store: StoreName,
    /// `last resource`, `prepared`, `only reads`, `nothing to do`, or `steps`.
    pub role: &'static str,
    /// How many operations it has.
    pub operations: usize,
}

/// Why a request would be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WouldRefuse {
    /// Stable, with a page in the docs.
    pub code: &'static str,
    /// What, where, and how to mend it.
    pub message: String,
}

impl From<Refusal> for WouldRefuse {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

impl Coordinator {
    /// Says what would be done with a request. Asks no store anything.
    pub fn explain(&self, parts: RequestParts) -> Result<Explanation, WouldRefuse> {
        let request = CoordinationRequest::check(parts)
            .map_err(|error| WouldRefuse { code: "request.invalid", message: error.to_string() })?;
        Ok(self.core.explain(&Arc::new(request))?)
    }
}

impl Core {
    fn explain(&self, request: &Arc<CoordinationRequest>) -> Result<Explanation, Refusal> {
        // Everything that is refused at the door is refused here.
        drop(self.machine_for(request)?);
        let choice = self.last_resource_of(request)?;
        let is_by_votes = request.kind == CoordinationType::TwoPhaseCommit;
        let part = |(party, store): (usize, &StoreName)| {
            let operations = request.operations_of(store).count();
            let role = match () {
                () if !is_by_votes => "steps",
                () if choice.last == Some(party) => "last resource",
                () if operations == 0 => "nothing to do",
                () if self.only_reads(request, store) => "only reads",
                () => "prepared",
            };
            StorePart { store: store.clone(), role, operations }
        };
        let stores: Vec<StorePart> = request.stores.iter().enumerate().map(part).collect();
        let (plan, why) = self.plan_of(request, &stores, choice.why);
        let locks = self.locks_of(request);
        let locks = locks.iter().map(|lock| format!("{} {}", lock.mode, lock.resource)).collect();
        Ok(Explanation { plan, why, stores, locks })
    }

    fn plan_of(
        &self,
        request: &CoordinationRequest,
        stores: &[StorePart],
        why: String,
    ) -> (&'static str, String) {
        let has = |role| stores.iter().any(|part| part.role == role);
        if request.kind != CoordinationType::TwoPhaseCommit {
            return (request.kind.as_str(), "it goes by steps: nobody prepares".to_owned());
        }
        if has("last resource") {
            if has("prepared") || has("only reads") {
                return ("last_resource", format!("{why}: the others prepare, then it decides"));
            }
            return ("one_phase", format!("{why}, and nobody else has anything to prepare"));
        }
        if !has("prepared") {
            return ("read_only", "nothing is written, so nothing is decided".to_owned());
        }
        let decider = match self.ports.consensus {
            Some(_) => "the consensus service decides",
            None => "the journal decides",
        };
        ("two_phase", format!("{decider}; {why}"))
    }

    /// As far as the operations' texts tell.
    fn only_reads(&self, request: &CoordinationRequest, store: &StoreName) -> bool {
        let last = self.ports.store(store).and_then(|found| found.last_resource());
        last.is_some_and(|last| request.operations_of(store).all(|it| last.only_reads(it)))
    }
}
