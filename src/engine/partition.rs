//! Tells the service's bus when a cluster's majority is out of reach of this process, and when it
//! is back.
//!
//! Not the finding out: the node does that, after two election timeouts. Never on the commit path:
//! it is told by the node's own thread, and a bus takes an event at once. Invariant: one event for
//! one partition and one for its end, however often the node says it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::cluster::{QuorumLost, ReplicaEar, ReplicatedLog};
use crate::model::event::CoordinationEvent;
use crate::model::time::Timestamp;
use crate::protocol::replica::{Effect, Replica};

use super::Coordinator;
use super::core::Core;

/// The engine's ear at the cluster; not the engine itself, which may hold the node.
struct Ear {
    core: Weak<Core>,
    /// The partition that was told of and is not over: whose, and since when.
    told: Mutex<Option<(String, Timestamp)>>,
}

impl Coordinator {
    /// Tells events of this cluster to the bus from now on.
    pub fn hear(&self, cluster: &dyn ReplicatedLog) {
        let core = Arc::downgrade(&self.core);
        cluster.listen(Arc::new(Ear { core, told: Mutex::new(None) }));
    }
}

impl ReplicaEar for Ear {
    fn happened(&self, _effects: &[Effect]) {}

    fn replaced(&self, _replica: &Replica) {}

    fn quorum_changed(&self, lost: Option<&QuorumLost>) {
        let Some(core) = self.core.upgrade() else { return };
        let Some(bus) = &core.ports.bus else { return };
        if core.closed.load(Ordering::SeqCst) {
            return;
        }
        // Held while it is told, so that an end is never told before its beginning.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = next_event(&mut told, lost, core.clock.now()) {
            bus.tell(event);
        }
    }
}

/// What is to be told of what the node says now, if it is news.
fn next_event(
    told: &mut Option<(String, Timestamp)>,
    lost: Option<&QuorumLost>,
    now: Timestamp,
) -> Option<CoordinationEvent> {
    match (lost, told.take()) {
        (Some(lost), None) => {
            *told = Some((lost.node.clone(), now));
            let (node, unreachable) = (lost.node.clone(), lost.unreachable.clone());
            Some(CoordinationEvent::Partition { node, unreachable, at: now })
        }
        (None, Some((node, detected_at))) => {
            Some(CoordinationEvent::PartitionHealed { node, detected_at, at: now })
        }
        (_, old) => {
            *told = old;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_told_once_and_its_end_once() {
        let lost = QuorumLost {
            node: "a".to_owned(),
            unreachable: vec!["b".to_owned(), "c".to_owned()],
            message: "it hears no majority".to_owned(),
        };
        let mut told = None;
        let mut say = |lost: Option<&QuorumLost>, at| {
            next_event(&mut told, lost, Timestamp(at)).map(|event| event.name())
        };
        assert_eq!(say(None, 0), None, "nothing was wrong");
        assert_eq!(say(Some(&lost), 1), Some("PARTITION_DETECTED"));
        assert_eq!(say(Some(&lost), 2), None);
        assert_eq!(say(None, 3), Some("PARTITION_HEALED"));
        assert_eq!(say(None, 4), None);
        assert_eq!(say(Some(&lost), 5), Some("PARTITION_DETECTED"), "a second one");
    }
}
