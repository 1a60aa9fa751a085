//! A request to coordinate, checked. Not its progress: that is a machine's state.
//!
//! Invariants: every operation names a participating store; no store is named twice; no operation
//! id is used twice; the timeout is at least one microsecond.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ids::{CoordinationId, IdError, StoreName};
use super::last_resource::{LAST_RESOURCE_KEY, is_added_key};
use super::operation::{Operation, OperationError, StoredOperation};
use super::stream::EventDraft;
use super::trace::is_same_but_for;
use super::value::Value;

/// How the stores are to be brought to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoordinationType {
    /// All or none, by prepare and commit.
    TwoPhaseCommit,
    /// Steps and compensations, driven centrally.
    SagaOrchestration,
    /// Steps and compensations, driven by events.
    SagaChoreography,
    /// Events appended with version checks, then projected.
    EventSourcing,
    /// Accepted durably, delivered later.
    EventualConsistency,
}

impl CoordinationType {
    /// Every type, in the order of the public enum.
    pub const ALL: [Self; 5] = [
        Self::TwoPhaseCommit,
        Self::SagaOrchestration,
        Self::SagaChoreography,
        Self::EventSourcing,
        Self::EventualConsistency,
    ];

    /// The public name, as in the journal's columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TwoPhaseCommit => "two_phase_commit",
            Self::SagaOrchestration => "saga_orchestration",
            Self::SagaChoreography => "saga_choreography",
            Self::EventSourcing => "event_sourcing",
            Self::EventualConsistency => "eventual_consistency",
        }
    }

    /// The type of that public name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What is locked and what is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyLevel {
    /// Locks the resources it touches, waits for every effect.
    Strong,
    /// No locks, waits for every effect.
    Session,
    /// No locks, returns once the outcome is durable and certain to be delivered.
    Eventual,
}

impl ConsistencyLevel {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Session => "session",
            Self::Eventual => "eventual",
        }
    }

    /// The level of that public name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Strong, Self::Session, Self::Eventual].into_iter().find(|l| l.as_str() == name)
    }
}

/// A checked request.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinationRequest {
    /// The id of the whole unit; the same id with the same request is the same coordination.
    pub id: CoordinationId,
    /// How the stores are brought to agree.
    pub kind: CoordinationType,
    /// The stores that take part, in the caller's order.
    pub stores: Vec<StoreName>,
    /// What they shall do, in the caller's order.
    pub operations: Vec<Operation>,
    /// How long the caller gives the whole.
    pub timeout: Duration,
    /// What is locked and waited for.
    pub consistency: ConsistencyLevel,
    /// The caller's own notes: a map.
    pub metadata: Value,
    /// The choreographed saga of which this is one stop; such requests are made by the engine.
    pub root: Option<CoordinationId>,
}

/// The key of `metadata` under which the engine notes what a stop of a choreographed saga needs.
pub const STOP_KEY: &str = "unanimity.stop";

/// The saga of which a request with these notes is a stop.
pub(crate) fn root_of(metadata: &Value) -> Option<CoordinationId> {
    let root = metadata.get(STOP_KEY)?.get("coordination_id")?.as_text()?;
    CoordinationId::new(root).ok()
}

/// A request as it comes from outside, not yet checked.
#[derive(Clone, Debug)]
pub struct RequestParts {
    /// See [`CoordinationRequest::id`].
    pub id: String,
    /// The public name of the type.
    pub kind: String,
    /// Names of stores.
    pub stores: Vec<String>,
    /// Operations as maps.
    pub operations: Vec<Value>,
    /// Seconds.
    pub timeout_seconds: f64,
    /// The public name of the level.
    pub consistency: String,
    /// The caller's notes.
    pub metadata: Value,
}

/// What is wrong with a request. The message says where, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The id cannot be used.
    #[error("coordination_id cannot be used: {0}")]
    Id(IdError),
    /// No such type.
    #[error("coordination_type {given:?} is unknown; use a member of CoordinationType")]
    UnknownType {
        /// What was given.
        given: String,
    },
    /// No such level.
    #[error("consistency_level {given:?} is unknown; use \"strong\", \"session\" or \"eventual\"")]
    UnknownConsistency {
        /// What was given.
        given: String,
    },
    /// The timeout is no positive, finite number.
    #[error("timeout_seconds is {given}; give a number greater than 0")]
    Timeout {
        /// What was given.
        given: String,
    },
    /// There are no stores.
    #[error("participating_stores is empty; name at least one store")]
    NoStores,
    /// A store's name cannot be used.
    #[error("participating_stores[{index}] cannot be used: {reason}")]
    StoreName {
        /// Where.
        index: usize,
        /// Why.
        reason: IdError,
    },
    /// A store is named twice.
    #[error("participating_stores names '{store}' twice; name each store once")]
    StoreTwice {
        /// The store.
        store: StoreName,
    },
    /// An operation is malformed.
    #[error("operations[{index}] {reason}")]
    Operation {
        /// Where.
        index: usize,
        /// Why.
        reason: OperationError,
    },
    /// An operation's store does not take part.
    #[error(
        "operations[{index}] is for the store '{store}', which is not in participating_stores; \
         add it there or mend the operation's 'store'"
    )]
    NotParticipating {
        /// Where.
        index: usize,
        /// The store.
        store: StoreName,
    },
    /// Two operations have one id.
    #[error("operations[{index}] has the operation_id '{id}' of an earlier one; give each its own")]
    OperationTwice {
        /// Where.
        index: usize,
        /// The id.
        id: String,
    },
    /// The metadata have a key that is the engine's.
    #[error("metadata has '{key}', which unanimity keeps for itself; use another key")]
    ReservedKey {
        /// The key.
        key: &'static str,
    },
    /// The metadata are no map.
    #[error("metadata is a {kind}; give a dict")]
    Metadata {
        /// What it is instead.
        kind: &'static str,
    },
}

impl CoordinationRequest {
    /// Checks everything that can be checked without knowing the service's stores.
    pub fn check(parts: RequestParts) -> Result<Self, RequestError> {
        let id = CoordinationId::new(&parts.id).map_err(RequestError::Id)?;
        let kind = CoordinationType::parse(&parts.kind)
            .ok_or(RequestError::UnknownType { given: parts.kind })?;
        let consistency = ConsistencyLevel::parse(&parts.consistency)
            .ok_or(RequestError::UnknownConsistency { given: parts.consistency })?;
        let timeout = check_timeout(parts.timeout_seconds)?;
        let stores = check_stores(&parts.stores)?;
        let operations = check_operations(&id, &stores, parts.operations)?;
        if kind == CoordinationType::EventSourcing {
            for (index, operation) in operations.iter().enumerate() {
                EventDraft::of(operation)
                    .map_err(|reason| RequestError::Operation { index, reason })?;
            }
        }
        if !matches!(parts.metadata, Value::Map(_)) {
            return Err(RequestError::Metadata { kind: parts.metadata.kind() });
        }
        for key in [STOP_KEY, LAST_RESOURCE_KEY] {
            if parts.metadata.get(key).is_some() {
                return Err(RequestError::ReservedKey { key });
            }
        }
        let (metadata, root) = (parts.metadata, None);
        Ok(Self { id, kind, stores, operations, timeout, consistency, metadata, root })
    }

    /// How many operations a store has.
    pub fn operations_of<'a>(
        &'a self,
        store: &'a StoreName,
    ) -> impl Iterator<Item = &'a Operation> + 'a {
        self.operations.iter().filter(move |operation| operation.store == *store)
    }

    /// The id under which participants know it: that of the saga of which it is a stop, or its own.
    pub fn transaction_id(&self) -> &CoordinationId {
        self.root.as_ref().unwrap_or(&self.id)
    }

    /// Whether whoever answers for it must have its stores: a choreographed saga goes to them.
    pub fn needs_stores_here(&self) -> bool {
        self.kind != CoordinationType::SagaChoreography
    }

    /// Whether a repeated id means the same work; timeout and trace do not count.
    pub fn is_same_work(&self, other: &Self) -> bool {
        self.id == other.id
            && self.kind == other.kind
            && self.stores == other.stores
            && self.operations == other.operations
            && self.consistency == other.consistency
            && is_same_but_for(&self.metadata, &other.metadata, is_added_key)
    }
}

fn check_timeout(seconds: f64) -> Result<Duration, RequestError> {
    let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    // Three hundred years are for ever, and keep every sum of times inside 64 bits.
    let timeout = timeout.min(Duration::from_secs(86_400 * 365 * 300));
    if timeout.as_micros() == 0 {
        return Err(RequestError::Timeout { given: seconds.to_string() });
    }
    Ok(timeout)
}

fn check_stores(names: &[String]) -> Result<Vec<StoreName>, RequestError> {
    if names.is_empty() {
        return Err(RequestError::NoStores);
    }
    let mut stores: Vec<StoreName> = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let store =
            StoreName::new(name).map_err(|reason| RequestError::StoreName { index, reason })?;
        if stores.contains(&store) {
            return Err(RequestError::StoreTwice { store });
        }
        stores.push(store);
    }
    Ok(stores)
}

fn check_operations(
    id: &CoordinationId,
    stores: &[StoreName],
    bodies: Vec<Value>,
) -> Result<Vec<Operation>, RequestError> {
    let mut operations = Vec::with_capacity(bodies.len());
    for (index, body) in bodies.into_iter().enumerate() {
        let operation = Operation::from_value(id, index, body)
            .map_err(|reason| RequestError::Operation { index, reason })?;
        if !stores.contains(&operation.store) {
            return Err(RequestError::NotParticipating { index, store: operation.store });
        }
        operations.push(operation);
    }
    // Generated ids cannot clash with each other, so the common request needs no set.
    if operations.iter().any(|operation| operation.body.get("operation_id").is_some()) {
        let mut seen = HashSet::new();
        for (index, operation) in operations.iter().enumerate() {
            if !seen.insert(operation.id.as_str()) {
                return Err(RequestError::OperationTwice { index, id: operation.id.clone() });
            }
        }
    }
    Ok(operations)
}

/// The form in the journal.
#[derive(Serialize, Deserialize)]
struct StoredRequest {
    id: CoordinationId,
    kind: CoordinationType,
    stores: Vec<StoreName>,
    operations: Vec<StoredOperation>,
    timeout_us: u64,
    consistency: ConsistencyLevel,
    metadata: Value,
}

#[derive(Serialize)]
struct BorrowedOperation<'a> {
    id: &'a str,
    body: &'a Value,
}

#[derive(Serialize)]
struct BorrowedRequest<'a> {
    id: &'a CoordinationId,
    kind: CoordinationType,
    stores: &'a [StoreName],
    operations: Vec<BorrowedOperation<'a>>,
    timeout_us: u64,
    consistency: ConsistencyLevel,
    metadata: &'a Value,
}

impl Serialize for CoordinationRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BorrowedRequest {
            id: &self.id,
            kind: self.kind,
            stores: &self.stores,
            operations: self
                .operations
                .iter()
                .map(|operation| BorrowedOperation { id: &operation.id, body: &operation.body })
                .collect(),
            timeout_us: u64::try_from(self.timeout.as_micros()).unwrap_or(u64::MAX),
            consistency: self.consistency,
            metadata: &self.metadata,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CoordinationRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = StoredRequest::deserialize(deserializer)?;
        let mut operations = Vec::with_capacity(stored.operations.len());
        for (index, StoredOperation { id, body }) in stored.operations.into_iter().enumerate() {
            let operation =
                Operation::from_value(&stored.id, index, body).map_err(serde::de::Error::custom)?;
            operations.push(Operation { id, ..operation });
        }
        Ok(Self {
            id: stored.id,
            kind: stored.kind,
            stores: stored.stores,
            operations,
            timeout: Duration::from_micros(stored.timeout_us),
            consistency: stored.consistency,
            root: root_of(&stored.metadata),
            metadata: stored.metadata,
        })
    }
}
