//! Which machine a request gets, and what it is built from: the stores' abilities and the bounds.
//!
//! Not the request's own check (model) and not the rules. Invariant: a request that gets a machine
//! names only stores that are here and can do what its type needs.

use std::sync::Arc;

use crate::journal::OpenCoordination;
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::operation::Operation;
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::value::Value;
use crate::protocol::Coordination;
use crate::protocol::choreography::{self, Choreography, Route};
use crate::protocol::event_sourcing::{self, EventSourcing};
use crate::protocol::eventual::{self, Eventual};
use crate::protocol::retry::Backoff;
use crate::protocol::saga::{self, Saga};
use crate::protocol::two_phase::{self, PartyPlan, TwoPhase};

use super::core::Core;

/// The longest id of a choreographed saga: with the marks of its stops it is an id too.
const SAGA_ID_MAX: usize = 110;

/// Why a request gets no machine.
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
}

fn is_no_pivot(operation: &Operation) -> bool {
    operation.body.get("pivot") != Some(&Value::Bool(true))
}

impl Core {
    /// A machine for a request that is accepted now.
    pub(super) fn machine_for(
        &self,
        request: &Arc<CoordinationRequest>,
    ) -> Result<Coordination, Refusal> {
        let owner = self.ports.journal.instance().clone();
        self.check_stores(request)?;
        let now = self.clock.now();
        Ok(match request.kind {
            CoordinationType::TwoPhaseCommit => {
                Coordination::TwoPhase(TwoPhase::new(self.two_phase_plan(request, owner, 1), now))
            }
            CoordinationType::SagaOrchestration => {
                let plan = self.saga_plan(request, owner, 1, |_| false)?;
                Coordination::Saga(Box::new(Saga::new(plan, now)))
            }
            CoordinationType::EventualConsistency => {
                let plan = self.eventual_plan(request, owner, 1)?;
                Coordination::Eventual(Box::new(Eventual::new(plan, now)))
            }
            CoordinationType::SagaChoreography => {
                self.check_route(request)?;
                let plan = self.choreography_plan(request, owner, 1);
                Coordination::Choreography(Box::new(Choreography::new(plan, now)))
            }
            CoordinationType::EventSourcing => {
                if self.ports.journal.streams().is_none() {
                    return Err(no_streams());
                }
                let plan = self.event_sourcing_plan(request, owner, 1);
                Coordination::EventSourcing(Box::new(EventSourcing::new(plan, now)))
            }
        })
    }

    /// The machine that a dead process left, as its records tell it. Its stores may be missing.
    pub(super) fn machine_of(
        &self,
        request: &Arc<CoordinationRequest>,
        open: &OpenCoordination,
    ) -> Result<Coordination, Refusal> {
        let (owner, epoch, records) = (open.owner.clone(), open.epoch, &open.records);
        Ok(match request.kind {
            CoordinationType::TwoPhaseCommit => {
                let plan = self.two_phase_plan(request, owner, epoch);
                Coordination::TwoPhase(TwoPhase::from_records(plan, records))
            }
            CoordinationType::SagaOrchestration => {
                // It was checked when it began: a participant that has forgotten since then how to
                // undo says so if it is asked, and the step is parked, where people see it.
                let plan = self.saga_plan(request, owner, epoch, is_no_pivot)?;
                Coordination::Saga(Box::new(Saga::from_records(plan, records)))
            }
            CoordinationType::EventualConsistency => {
                let plan = self.eventual_plan(request, owner, epoch)?;
                Coordination::Eventual(Box::new(Eventual::from_records(plan, records)))
            }
            CoordinationType::SagaChoreography => {
                let plan = self.choreography_plan(request, owner, epoch);
                Coordination::Choreography(Box::new(Choreography::from_records(plan, records)))
            }
            CoordinationType::EventSourcing => {
                let plan = self.event_sourcing_plan(request, owner, epoch);
                Coordination::EventSourcing(Box::new(EventSourcing::from_records(plan, records)))
            }
        })
    }

    fn check_stores(&self, request: &CoordinationRequest) -> Result<(), Refusal> {
        if !request.needs_stores_here() {
            return Ok(());
        }
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

    fn check_route(&self, request: &CoordinationRequest) -> Result<(), Refusal> {
        if !self.ports.event_bus.as_ref().is_some_and(|bus| bus.is_durable()) {
            let message = "a choreographed saga travels over a durable event bus; give the service \
                           one, such as event_bus=JournalEventBus(\"unanimity.db\")";
            return Err(Refusal { code: "request.no_durable_bus", message: message.to_owned() });
        }
        if request.id.as_str().len() > SAGA_ID_MAX {
            let message = format!(
                "coordination_id has {} bytes; that of a choreographed saga has at most \
                 {SAGA_ID_MAX}, because its stops have ids of their own that begin with it",
                request.id.as_str().len()
            );
            return Err(Refusal { code: "request.invalid", message });
        }
        let checked = Route::check(request, |operation| self.can_compensate(operation));
        checked.map(drop).map_err(invalid)
    }

    /// By what the operation says, or by what its store knows, if it is here.
    fn can_compensate(&self, operation: &Operation) -> bool {
        self.ports.store(&operation.store).is_some_and(|store| store.can_compensate(operation))
    }

    fn saga_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
        could_compensate: impl Fn(&Operation) -> bool,
    ) -> Result<saga::Plan, Refusal> {
        let steps = saga::check(request, |it| self.can_compensate(it) || could_compensate(it));
        let options = &self.ports.options;
        Ok(saga::Plan {
            steps: steps.map_err(invalid)?,
            locks: self.locks_of(request),
            request: Arc::clone(request),
            owner,
            epoch,
            consensus: self.ports.consensus.is_some(),
            lock_timeout: options.prepare_timeout,
            step_timeout: options.commit_timeout,
            abort_wait: options.abort_wait,
            backoff: options.backoff(seed_of(&request.id)),
        })
    }

    fn eventual_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> Result<eventual::Plan, Refusal> {
        Ok(eventual::Plan {
            steps: eventual::check(request).map_err(invalid)?,
            request: Arc::clone(request),
            owner,
            epoch,
            step_timeout: self.ports.options.commit_timeout,
            backoff: self.ports.options.backoff(seed_of(&request.id)),
        })
    }

    fn event_sourcing_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> event_sourcing::Plan {
        let (request, no_locks) = (Arc::clone(request), Arc::clone(&self.no_locks));
        event_sourcing::Plan { request, owner, epoch, no_locks }
    }

    fn choreography_plan(
        &self,
        request: &Arc<CoordinationRequest>,
        owner: InstanceId,
        epoch: u32,
    ) -> choreography::Plan {
        let (base, cap) = choreography::WALK_WAIT;
        choreography::Plan {
            request: Arc::clone(request),
            owner,
            epoch,
            backoff: Backoff { base, cap, seed: seed_of(&request.id) },
            no_locks: Arc::clone(&self.no_locks),
        }
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

fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: "request.invalid", message: error.to_string() }
}

fn no_streams() -> Refusal {
    let message = "this journal keeps no events; use one that does, such as a file of SQLite";
    Refusal { code: "request.unsupported_type", message: message.to_owned() }
}

/// FNV-1a: enough to make different ids wait differently.
fn seed_of(id: &CoordinationId) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
