//! The port of a replicated log: one state on several nodes, changed by proposals in one order.
//!
//! Not a protocol of agreement (`consensus/raft` has one) and not the state (`protocol/replica`).
//! The journal and the lock manager that live in a cluster are written against this, and so never
//! meet the adapter.
//!
//! Duties of an adapter:
//! 1. Proposals of one process are carried out in the order of the calls, each once.
//! 2. `Ok` is answered when the proposal is durable on a majority and carried out on this node.
//!    [`ClusterError::Unknown`] says that it may be carried out yet, or may have been.
//! 3. Effects are told in the order of the log, and an effect of a proposal before its answer.
//! 4. A read sees everything that was answered before it was asked, by any node.
//! 5. **Never block**: every method returns at once. What is called back runs on the adapter's
//!    thread, and must not block either.
//! 6. While the process lives, the adapter keeps its session alive, and opens it anew when it was
//!    away for too long.

#[cfg(test)]
pub(crate) mod memory;

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::{ClusterId, InstanceId};
use crate::protocol::replica::{Answer, Command, Effect, Replica};
use crate::reply::{Lost, Reply};

/// Why the cluster gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// No majority of the nodes answers. Nothing was proposed.
    #[error("no majority of the cluster answers: {message}")]
    NoQuorum {
        /// Who is missing, and what to do.
        message: String,
    },
    /// Whether it was carried out is not known.
    #[error("the answer of the cluster was lost: {message}")]
    Unknown {
        /// What happened.
        message: String,
    },
    /// This node cannot go on: its disk failed, or its data is damaged.
    #[error("this node has stopped: {message}")]
    Stopped {
        /// Why, and what to do.
        message: String,
    },
    /// The node was closed.
    #[error("the node is closed")]
    Closed,
}

impl<T> Lost for Result<T, ClusterError> {
    fn lost() -> Self {
        Err(ClusterError::Unknown { message: crate::reply::LOST.to_owned() })
    }
}

/// Looks at the state. Must not block.
pub type Look = Box<dyn FnOnce(Result<&Replica, ClusterError>) + Send>;

/// No majority of the nodes is in reach of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumLost {
    /// This node, by its id.
    pub node: String,
    /// The members whose last call failed, by their ids, as far as this node has called them.
    pub unreachable: Vec<String>,
    /// For people: who is missing, and why.
    pub message: String,
}

/// Hears what no proposal asked for. Must not block.
pub trait ReplicaEar: Send + Sync {
    /// What an entry meant, for any process; in the order of the log.
    fn happened(&self, effects: &[Effect]);

    /// The state was replaced by a snapshot: effects were missed, and are to be read from it.
    fn replaced(&self, replica: &Replica);

    /// A majority is (`None`) or is not in reach of this node. One that begins to listen while
    /// none is, is told so; what was said already may be said again.
    fn quorum_changed(&self, _lost: Option<&QuorumLost>) {}
}

/// A replicated log as its users see it.
pub trait ReplicatedLog: Send + Sync {
    /// The id of the cluster.
    fn cluster(&self) -> &ClusterId;

    /// The id of this process in the cluster: it names its session, locks and coordinations.
    fn instance(&self) -> &InstanceId;

    /// How long the session of a process lasts that does not say that it lives.
    fn lease(&self) -> Duration;

    /// Where it is, for people.
    fn location(&self) -> String;

    /// Names one more who hears.
    fn listen(&self, ear: Arc<dyn ReplicaEar>);

    /// Has commands carried out, in this order, each with an answer.
    fn propose(&self, commands: Vec<Command>, reply: Reply<Result<Vec<Answer>, ClusterError>>);

    /// Looks at a state in which everything is that was answered before.
    fn read(&self, look: Look);

    /// Looks at the state of this node as it is, which may lag behind.
    fn glance(&self, look: &mut dyn FnMut(&Replica));
}
