//! What is told to event buses. Never an input of a machine, never on the commit path.
//!
//! The wire names stand here once. Invariant: an event of a coordination says only what a durable
//! record (or, for a start, an accepted request) already says.

use super::ids::{CoordinationId, StoreName};
use super::lock::Deadlock;
use super::request::CoordinationType;
use super::time::Timestamp;
use super::value::Value;

/// An event about a coordination, about those that wait for each other, or about the cluster.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CoordinationEvent {
    /// `COORDINATION_STARTED`.
    Started {
        /// Which.
        id: CoordinationId,
        /// How it is coordinated.
        kind: CoordinationType,
        /// Who takes part.
        stores: Vec<StoreName>,
        /// When.
        at: Timestamp,
    },
    /// `COORDINATION_COMPLETED`.
    Completed {
        /// Which.
        id: CoordinationId,
        /// Whether it committed.
        success: bool,
        /// The public state at the end.
        state: &'static str,
        /// From acceptance to the end.
        duration_ms: u64,
    },
    /// `COORDINATION_FAILED`.
    Failed {
        /// Which.
        id: CoordinationId,
        /// What went wrong.
        message: String,
        /// When.
        at: Timestamp,
    },
    /// `DEADLOCK_DETECTED`.
    Deadlock(Box<Deadlock>),
    /// `PARTITION_DETECTED`: a node of a cluster has no majority in reach.
    Partition {
        /// Which node, by its id.
        node: String,
        /// The members that it does not reach, by their ids, as far as it knows.
        unreachable: Vec<String>,
        /// When.
        at: Timestamp,
    },
    /// `PARTITION_HEALED`: it has one again.
    PartitionHealed {
        /// Which node, by its id.
        node: String,
        /// When it was detected.
        detected_at: Timestamp,
        /// When it was over.
        at: Timestamp,
    },
}

impl CoordinationEvent {
    /// The wire name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "COORDINATION_STARTED",
            Self::Completed { .. } => "COORDINATION_COMPLETED",
            Self::Failed { .. } => "COORDINATION_FAILED",
            Self::Deadlock(_) => "DEADLOCK_DETECTED",
            Self::Partition { .. } => "PARTITION_DETECTED",
            Self::PartitionHealed { .. } => "PARTITION_HEALED",
        }
    }

    /// The map that buses carry.
    pub fn to_value(&self) -> Value {
        let mut entries = vec![("type".to_owned(), Value::from(self.name()))];
        let mut add = |key: &str, value: Value| entries.push((key.to_owned(), value));
        match self {
            Self::Started { id, kind, stores, at } => {
                add("coordination_id", id.as_str().into());
                add("coordination_type", kind.as_str().into());
                let names = stores.iter().map(|store| store.as_str().into()).collect();
                add("participating_stores", Value::List(names));
                add("started_at", Value::Text(at.to_rfc3339()));
            }
            Self::Completed { id, success, state, duration_ms } => {
                add("coordination_id", id.as_str().into());
                add("success", Value::Bool(*success));
                add("final_state", (*state).into());
                let duration = i64::try_from(*duration_ms).unwrap_or(i64::MAX);
                add("execution_duration_ms", duration.into());
            }
            Self::Failed { id, message, at } => {
                add("coordination_id", id.as_str().into());
                add("error_message", message.as_str().into());
                add("failed_at", Value::Text(at.to_rfc3339()));
            }
            Self::Deadlock(deadlock) => {
                add("victim_transaction", deadlock.victim.as_str().into());
                let cycle = deadlock.cycle.iter().map(|name| name.as_str().into()).collect();
                add("deadlock_cycle", Value::List(cycle));
                add("resource_id", deadlock.resource.as_str().into());
                add("detected_at", Value::Text(deadlock.detected_at.to_rfc3339()));
            }
            Self::Partition { node, unreachable, at } => {
                add("node_id", node.as_str().into());
                let ids = unreachable.iter().map(|id| id.as_str().into()).collect();
                add("unreachable", Value::List(ids));
                add("detected_at", Value::Text(at.to_rfc3339()));
            }
            Self::PartitionHealed { node, detected_at, at } => {
                add("node_id", node.as_str().into());
                add("detected_at", Value::Text(detected_at.to_rfc3339()));
                add("healed_at", Value::Text(at.to_rfc3339()));
            }
        }
        Value::Map(entries)
    }
}
