//! Which machine a request gets, and what it is built from: the stores' abilities and the bounds.
//!
//! Not the request's own check (model) and not the rules. Invariant: a request that gets a machine
//! names only stores that are here and can do what its type needs.

use std::sync::Arc;

use crate::journal::OpenCoordination;
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::protocol::Coordination;
use crate::protocol::two_phase::{self, PartyPlan, TwoPhase};

use super::core::Core;

/// Why a request gets no machine.
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Core {
    /// A machine for a request that is accepted now.
    pub(super) fn machine_for(
        &self,
        request: &Arc<CoordinationRequest>,
    ) -> Result<Coordination, Refusal> {
        if request.kind != CoordinationType::TwoPhaseCommit {
            let message = format!(
                "coordination_type {:?} is not built yet; use \"two_phase_commit\"",
                request.kind.as_str()
            );
            return Err(Refusal { code: "request.unsupported_type", message });
        }
        self.check_stores(request)?;
        let owner = self.ports.journal.instance().clone();
        let plan = self.two_phase_plan(request, owner, 1);
        Ok(Coordination::TwoPhase(TwoPhase::new(plan, self.clock.now())))
    }

    /// The machine that a dead process left, as its records tell it. Its stores may be missing.
    pub(super) fn machine_of(
        &self,
        request: &Arc<CoordinationRequest>,
        open: &OpenCoordination,
    ) -> Coordination {
        let plan = self.two_phase_plan(request, open.owner.clone(), open.epoch);
        Coordination::TwoPhase(TwoPhase::from_records(plan, &open.records))
    }

    fn check_stores(&self, request: &CoordinationRequest) -> Result<(), Refusal> {
        for store in &request.stores {
            let Some(found) = self.ports.store(store) else {
                let known = self.ports.store_names();
                let message = format!("store '{store}' is unknown; this service has {known}");
                return Err(Refusal { code: "request.unknown_store", message });
            };
            if let Some(method) = found.missing_for(request.kind) {
                let message = format!(
                    "store '{store}' has no method {method}(), which {} needs",
                    request.kind.as_str()
                );
                return Err(Refusal { code: "request.missing_method", message });
            }
        }
        Ok(())
    }

    fn two_phase_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> two_phase::Plan {
        let parties = request.stores.iter().map(|store| {
            let found = self.ports.stores.iter().find(|(known, ..)| known == store);
            let abilities = found.map(|(_, found, _)| found.abilities()).unwrap_or_default();
            PartyPlan {
                store: store.clone(),
                // A list with other journals' work in it cannot be swept at once: of what is on it
                // the journal must know beforehand.
                lists_prepared: abilities.lists_prepared && found.is_some_and(|(.., own)| *own),
                single_writer: abilities.single_writer,
            }
        });
        let options = &self.ports.options;
        two_phase::Plan {
            locks: self.locks_of(request),
            parties: parties.collect(),
            request: Arc::clone(request),
            owner,
            epoch,
            consensus: self.ports.consensus.is_some(),
            prepare_timeout: options.prepare_timeout,
            commit_timeout: options.commit_timeout,
            abort_wait: options.abort_wait,
            backoff: options.backoff(seed_of(&request.id)),
        }
    }
}

/// FNV-1a: enough to make different ids wait differently.
fn seed_of(id: &CoordinationId) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
