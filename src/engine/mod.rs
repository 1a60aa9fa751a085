//! The engine: steps machines and carries out their effects on the ports.
//!
//! Layer 3, the only part that spawns tasks. It decides nothing itself. [`Coordinator`] is the
//! handle; `core` is the inbox that whoever brings a fact works off; `drive` steps machines and
//! carries out effects; `locking` takes locks and gives them back; `admission` lets requests in;
//! `explain` says what would be done; `last_resource` chooses the store that decides by a row of
//! its own, and asks it; `recovery` resumes and sweeps; `dead_letters` has what is parked;
//! `projections` hand events to stores; `outbox` lets in what users wrote into stores; `partition`
//! tells of a cluster; `observing` tells those who measure; `queries`, `gauges` and `open_work`
//! answer; `forget` drops markers; `background` has the two tasks.
//!
//! Invariant: every waiter is told exactly once.

mod admission;
mod asks;
mod background;
mod choreography;
mod clock;
mod core;
pub mod dead_letters;
mod drive;
mod elsewhere;
mod error;
pub mod explain;
mod forget;
mod gauges;
pub mod held_locks;
mod last_resource;
mod locking;
mod observing;
pub mod open_work;
pub mod operator;
mod options;
mod outbox;
mod partition;
mod plan;
mod projections;
mod queries;
mod recovery;
mod shutdown;
mod table;
mod turns;

pub use error::EngineError;
pub use options::Options;

use std::sync::Arc;

use crate::consensus::Consensus;
use crate::events::{EventBus, EventSink};
use crate::journal::{Journal, StoredCoordination};
use crate::locks::LockManager;
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::{CoordinationResult, Decision, Outcome};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::observe::{Alerting, Observer};
use crate::participants::last_resource::Enlisted;
use crate::participants::{Attachment, Participant};
use crate::reply::Reply;

use self::core::{Core, Ear, Fact};
use recovery::Collector;

/// Somebody who waits for a result.
pub type Waiter = Reply<Result<CoordinationResult, EngineError>>;

/// A store under its name, and whether it tells the prepared work of this journal from that of
/// others.
pub type NamedStore = (StoreName, Arc<dyn Participant>, bool);

/// What an engine is built on.
pub struct Ports {
    /// Where records become durable.
    pub journal: Arc<dyn Journal>,
    /// The stores.
    pub stores: Vec<NamedStore>,
    /// Who agrees on decisions, if not the journal alone.
    pub consensus: Option<Arc<dyn Consensus>>,
    /// Who is told events.
    pub bus: Option<Arc<dyn EventSink>>,
    /// Who carries choreographed sagas from store to store; without one that is durable they are
    /// refused. It stays open when the engine is closed: whoever built it closes it.
    pub event_bus: Option<Arc<dyn EventBus>>,
    /// Who is told alerts.
    pub alerting: Option<Arc<dyn Alerting>>,
    /// Who measures and traces: see [`crate::observe::Observation`]. Nobody costs nothing.
    pub observers: Vec<Arc<dyn Observer>>,
    /// Who keeps strong coordinations apart; without one they run without locks. It stays open when
    /// the engine is closed: whoever built it closes it.
    pub locks: Option<Arc<dyn LockManager>>,
    /// Bounds and waits.
    pub options: Options,
    /// Where the tasks run.
    pub runtime: tokio::runtime::Handle,
}

impl Ports {
    fn store(&self, name: &StoreName) -> Option<&Arc<dyn Participant>> {
        // A handful of stores: looking through them is faster than hashing a name.
        self.stores.iter().find(|(known, ..)| known == name).map(|(_, store, _)| store)
    }

    fn store_names(&self) -> String {
        let names: Vec<String> = self.stores.iter().map(|(name, ..)| format!("'{name}'")).collect();
        if names.is_empty() { "no stores".to_owned() } else { names.join(", ") }
    }
}

/// A coordination that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the journal would tell it.
    pub stored: StoredCoordination,
    /// Whether this process drives it now.
    pub active: bool,
}

/// What one round of recovery did, by ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Brought to the end as committed.
    pub committed: Vec<String>,
    /// Brought to the end as aborted.
    pub aborted: Vec<String>,
    /// Decided; some store does not answer yet, and is asked again until it does.
    pub resumed: Vec<String>,
    /// Undone by compensations.
    pub compensated: Vec<String>,
    /// Not decided yet, or waiting for an operator.
    pub in_doubt: Vec<String>,
}

/// The handle of an engine. Dropping it is not closing it: see [`Coordinator::close`].
#[derive(Clone)]
pub struct Coordinator {
    core: Arc<Core>,
}

impl Coordinator {
    /// Attaches the stores, adopts what dead processes left, and starts the tasks. Blocks while
    /// stores open; not to be called on a task of the runtime. `reply` hears what the first round
    /// of recovery did.
    pub fn start(
        ports: Ports,
        reply: Reply<Result<RecoveryReport, EngineError>>,
    ) -> Result<Self, EngineError> {
        for (name, store, _) in &ports.stores {
            let attached = store.attach(ports.journal.cluster(), name);
            attached.map_err(|error| EngineError::Store { store: name.to_string(), error })?;
        }
        let core = Core::new(ports);
        core.ports.journal.attach(Arc::new(Ear(Arc::downgrade(&core))));
        if let Some(locks) = &core.ports.locks {
            locks.listen(Arc::new(locking::Ear(Arc::downgrade(&core))));
        }
        let coordinator = Self { core };
        coordinator.recover(reply);
        coordinator.core.open_admission_later();
        background::start(&coordinator.core);
        choreography::listen(&coordinator.core);
        projections::start(&coordinator.core);
        outbox::open(&coordinator.core);
        Ok(coordinator)
    }

    /// Checks a request and coordinates it. `waiter` is told the first answer.
    pub fn coordinate(&self, parts: RequestParts, attachment: Option<Attachment>, waiter: Waiter) {
        let (id, stores, count) = (parts.id.clone(), parts.stores.clone(), parts.operations.len());
        match CoordinationRequest::check(parts) {
            Ok(request) => {
                let request = Arc::new(request);
                self.core.post(Fact::Submitted { request, attachment, enlisted: None, waiter });
            }
            Err(error) => {
                let outcome = Outcome::refused("request.invalid", error.to_string(), count);
                waiter.send(Ok(refused_result(&id, &stores, outcome)));
            }
        }
    }

    /// The same with a transaction that is open outside of any store: it decides in the place of
    /// `store`, which has its database and reads the row afterwards.
    pub fn coordinate_enlisted(
        &self,
        parts: RequestParts,
        (store, enlisted): (&StoreName, Arc<dyn Enlisted>),
        attachment: Option<Attachment>,
        waiter: Waiter,
    ) {
        let (id, stores, count) = (parts.id.clone(), parts.stores.clone(), parts.operations.len());
        match CoordinationRequest::check(parts) {
            Ok(mut request) => {
                request.set_last_resource(store);
                let (request, enlisted) = (Arc::new(request), Some(enlisted));
                self.core.post(Fact::Submitted { request, attachment, enlisted, waiter });
            }
            Err(error) => {
                let outcome = Outcome::refused("request.invalid", error.to_string(), count);
                waiter.send(Ok(refused_result(&id, &stores, outcome)));
            }
        }
    }

    /// Tells the waiter when the coordination has ended, or waits for an operator.
    pub fn wait_for(&self, id: CoordinationId, waiter: Waiter) {
        self.core.post(Fact::WaitAsked { id, waiter });
    }

    /// Asks for an abort; the answer says whether the outcome is (to be) abort.
    pub fn abort(
        &self,
        id: CoordinationId,
        reason: String,
        reply: Reply<Result<bool, EngineError>>,
    ) {
        self.core.post(Fact::AbortAsked { id, reason, reply });
    }

    /// An operator's decision.
    pub fn resolve(&self, id: CoordinationId, decision: Decision, reason: String, waiter: Waiter) {
        self.core.post(Fact::ResolveAsked { id, decision, reason, waiter });
    }

    /// Adopts what dead processes left, sweeps orphans, and reports.
    pub fn recover(&self, reply: Reply<Result<RecoveryReport, EngineError>>) {
        let report = Collector::new(Some(reply));
        self.core.recover(report.clone());
        self.core.sweep();
        let wait = self.core.ports.options.recovery_wait;
        self.core.ports.runtime.spawn(async move {
            tokio::time::sleep(wait).await;
            report.tell_if_complete(true);
        });
    }

    /// The ids of what this process drives.
    pub fn active(&self, reply: Reply<Result<Vec<CoordinationId>, EngineError>>) {
        self.core.post(Fact::ActiveAsked(reply));
    }
}

/// A result for parts that may not even have a usable id.
fn refused_result(id: &str, stores: &[String], outcome: Outcome) -> CoordinationResult {
    let shown: String = id.chars().filter(|c| *c != '\0').take(128).collect();
    let placeholder = || CoordinationId::new("(no id)").expect("the placeholder is an id");
    CoordinationResult {
        id: CoordinationId::new(&shown).unwrap_or_else(|_| placeholder()),
        outcome,
        duration_ms: 0,
        stores: stores.iter().filter_map(|name| StoreName::new(name).ok()).collect(),
    }
}
