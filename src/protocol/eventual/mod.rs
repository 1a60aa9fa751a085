//! Eventual consistency.

mod plan;

pub use plan::{CheckError, Plan, Step, check};

use std::sync::Arc;

use crate::model::outcome::{Outcome, OutcomeKind, TransactionState};
use crate::model::record::Record;
use crate::model::request::CoordinationRequest;
use crate::model::time::Timestamp;

use super::lock_plan::LockWish;
use super::{Effect, Input, Machine, ProtocolError, View};

/// The machine.
#[derive(Clone, Debug)]
pub struct Eventual {
    plan: Plan,
    began_at: Timestamp,
    no_locks: Arc<[LockWish]>,
}

impl Eventual {
    /// A machine for a request that is accepted now.
    pub fn new(plan: Plan, now: Timestamp) -> Self {
        Self { plan, began_at: now, no_locks: Arc::default() }
    }

    /// A machine as its records tell it. `plan` holds the request and the (new) owner and epoch.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        Self::new(plan, records.first().map_or(Timestamp(0), |(at, _)| *at))
    }
}

impl Machine for Eventual {
    fn step(&mut self, _now: Timestamp, input: Input) -> Result<Vec<Effect>, ProtocolError> {
        Err(ProtocolError::Impossible { input: input.name(), state: "New" })
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }

    fn view(&self) -> View {
        let outcome = Outcome {
            kind: OutcomeKind::Unknown,
            state: TransactionState::Initiated,
            code: None,
            message: None,
            operations_completed: 0,
            operations_failed: 0,
        };
        let state = outcome.state;
        View { state, decision: None, outcome, stores: Vec::new(), steps: Vec::new() }
    }

    fn epoch(&self) -> u32 {
        self.plan.epoch
    }

    fn request(&self) -> &Arc<CoordinationRequest> {
        &self.plan.request
    }

    fn began_at(&self) -> Timestamp {
        self.began_at
    }

    fn locks(&self) -> &Arc<[LockWish]> {
        &self.no_locks
    }

    fn awaits_answer(&self) -> bool {
        false
    }

    fn is_to_abort(&self) -> bool {
        false
    }

    fn is_unbegun(&self) -> bool {
        false
    }

    fn is_parked(&self) -> bool {
        false
    }

    fn is_quiet(&self) -> bool {
        true
    }
}
