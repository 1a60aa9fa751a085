//! A cluster for tests: several processes share one log and one state in memory.
//!
//! Not a protocol: nothing is lost here but what a test asks for. Every node is carried along at
//! once. Faults are switches: a node that is cut off, answers that get lost, a restart from a
//! snapshot.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{ClusterError, Look, QuorumLost, ReplicaEar, ReplicatedLog};
use crate::model::ids::{ClusterId, InstanceId};
use crate::model::time::Timestamp;
use crate::protocol::replica::{Answer, Command, Entry, Position, Proposal, Replica, STEP_MAX};
use crate::reply::Reply;

/// How long a session lasts; by the clock of whoever keeps it alive, so tests do not wait for it
/// without need.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    replica: Replica,
    index: u64,
    numbers: u64,
    cut_off: BTreeSet<InstanceId>,
    answers_to_lose: usize,
    /// What the next entry says has passed since the one before.
    elapsed: Duration,
}

struct Shared {
    cluster: ClusterId,
    state: Mutex<State>,
    ears: Mutex<Vec<(InstanceId, Arc<dyn ReplicaEar>)>>,
}

/// The cluster.
#[derive(Clone)]
pub(crate) struct MemoryCluster(Arc<Shared>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryCluster {
    pub(crate) fn new() -> Self {
        let cluster = ClusterId::new("memory").expect("a name that is right");
        Self(Arc::new(Shared { cluster, state: Mutex::default(), ears: Mutex::default() }))
    }

    /// A process with a session.
    pub(crate) fn node(&self, name: &str) -> Arc<MemoryNode> {
        let instance = InstanceId::new(name).expect("a name that is right");
        let node = Arc::new(MemoryNode { cluster: self.clone(), instance });
        let lease = LEASE;
        node.propose(vec![Command::KeepAlive { lease }], Reply::new(|_| ()));
        node
    }

    /// Lets a node reach nobody, or everybody again, and tells it.
    pub(crate) fn cut_off(&self, name: &str, is_cut_off: bool) {
        let instance = InstanceId::new(name).expect("a name that is right");
        let mut state = locked(&self.0.state);
        if is_cut_off {
            state.cut_off.insert(instance.clone());
        } else {
            state.cut_off.remove(&instance);
        }
        drop(state);
        let lost = is_cut_off.then(|| QuorumLost {
            node: name.to_owned(),
            unreachable: Vec::new(),
            message: "it was cut off".to_owned(),
        });
        self.each_ear(|owner, ear| {
            if *owner == instance {
                ear.quorum_changed(lost.as_ref());
            }
        });
    }

    /// Loses the answers of the next proposals, which are carried out.
    pub(crate) fn lose_answers(&self, count: usize) {
        locked(&self.0.state).answers_to_lose = count;
    }

    /// Starts everybody's state from a snapshot of it.
    pub(crate) fn restart(&self) {
        let mut state = locked(&self.0.state);
        state.replica = Replica::restore(&state.replica.snapshot()).expect("a snapshot is read");
        let replica = state.replica.clone();
        drop(state);
        self.each_ear(|_, ear| ear.replaced(&replica));
    }

    /// Lets the time of the cluster go on, in the steps in which it can.
    pub(crate) fn time_passes(&self, time: Duration) {
        let nobody = InstanceId::new("the clock").expect("a name that is right");
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(STEP_MAX);
            left -= step;
            locked(&self.0.state).elapsed = step;
            self.carry_out(&nobody, Vec::new());
        }
    }

    /// The process of a node is gone, and its session over.
    pub(crate) fn kill(&self, node: &MemoryNode) {
        locked(&self.0.ears).retain(|(owner, _)| *owner != node.instance);
        self.carry_out(&node.instance, vec![Command::Leave]);
        locked(&self.0.state).cut_off.insert(node.instance.clone());
    }

    fn each_ear(&self, tell: impl Fn(&InstanceId, &dyn ReplicaEar)) {
        let ears = locked(&self.0.ears).clone();
        for (owner, ear) in ears {
            tell(&owner, &*ear);
        }
    }

    fn carry_out(&self, instance: &InstanceId, commands: Vec<Command>) -> Vec<Answer> {
        let mut effects = Vec::new();
        let mut state = locked(&self.0.state);
        state.index += 1;
        state.numbers += 1;
        let number = state.numbers;
        let proposals = vec![Proposal { instance: instance.clone(), number, commands }];
        let elapsed = std::mem::take(&mut state.elapsed);
        let entry = Entry { elapsed, at: Timestamp(1), proposals };
        let position = Position { term: 1, index: state.index };
        let answered = state.replica.apply(position, &entry, &mut effects);
        drop(state);
        self.each_ear(|_, ear| ear.happened(&effects));
        answered.into_iter().find_map(|it| it.answers).unwrap_or_default()
    }
}

/// One process in it.
pub(crate) struct MemoryNode {
    cluster: MemoryCluster,
    instance: InstanceId,
}

impl MemoryNode {
    fn error(&self) -> Option<ClusterError> {
        let is_cut_off = locked(&self.cluster.0.state).cut_off.contains(&self.instance);
        is_cut_off.then(|| ClusterError::NoQuorum { message: "it was cut off".to_owned() })
    }
}

impl ReplicatedLog for MemoryNode {
    fn cluster(&self) -> &ClusterId {
        &self.cluster.0.cluster
    }

    fn instance(&self) -> &InstanceId {
        &self.instance
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn location(&self) -> String {
        format!("node {} in memory", self.instance)
    }

    fn listen(&self, ear: Arc<dyn ReplicaEar>) {
        locked(&self.cluster.0.ears).push((self.instance.clone(), ear));
    }

    fn propose(&self, commands: Vec<Command>, reply: Reply<Result<Vec<Answer>, ClusterError>>) {
        if let Some(error) = self.error() {
            return reply.send(Err(error));
        }
        let answers = self.cluster.carry_out(&self.instance, commands);
        let mut state = locked(&self.cluster.0.state);
        let is_lost = state.answers_to_lose > 0;
        state.answers_to_lose = state.answers_to_lose.saturating_sub(1);
        drop(state);
        let lost = || ClusterError::Unknown { message: "a test lost it".to_owned() };
        reply.send(if is_lost { Err(lost()) } else { Ok(answers) });
    }

    fn read(&self, look: Look) {
        match self.error() {
            Some(error) => look(Err(error)),
            None => look(Ok(&locked(&self.cluster.0.state).replica.clone())),
        }
    }

    fn glance(&self, look: &mut dyn FnMut(&Replica)) {
        look(&locked(&self.cluster.0.state).replica.clone());
    }
}
