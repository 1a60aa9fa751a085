//! A node as the rest of the house sees it: `cluster::ReplicatedLog` and `consensus::Consensus`.
//!
//! Not the work: calls are put into queues that the node's tasks empty.

use std::sync::Arc;
use std::time::Duration;

use super::{Ask, RaftNode, State};
use crate::cluster::{ClusterError, Look, ReplicaEar, ReplicatedLog};
use crate::consensus::raft::state_machine::Asked;
use crate::consensus::{Consensus, Proposal, Standing};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use crate::model::outcome::Decision;
use crate::model::value::Value;
use crate::protocol::replica::{Answer, Command, Replica};
use crate::reply::Reply;

const FULL: &str = "too much waits to be proposed; nothing of this was";

fn full() -> ClusterError {
    ClusterError::NoQuorum { message: FULL.to_owned() }
}

impl ReplicatedLog for RaftNode {
    fn cluster(&self) -> &ClusterId {
        &self.inner.options.cluster
    }

    fn instance(&self) -> &InstanceId {
        &self.inner.instance
    }

    fn lease(&self) -> Duration {
        self.inner.options.lease()
    }

    fn location(&self) -> String {
        let options = &self.inner.options;
        let place = match &options.data_dir {
            Some(data_dir) => data_dir.display().to_string(),
            None => "memory".to_owned(),
        };
        format!("node {} of the cluster {}, in {place}", options.node_id, options.cluster)
    }

    fn listen(&self, ear: Arc<dyn ReplicaEar>) {
        self.inner.applied.listen(Arc::clone(&ear));
        let lost = || match &*self.inner.state.borrow() {
            State::NoQuorum(lost) => Some(lost.clone()),
            _ => None,
        };
        if let Some(lost) = lost() {
            ear.quorum_changed(Some(&lost));
        } else {
            return;
        }
        // Its end may have been told before its beginning was, here.
        if lost().is_none() {
            ear.quorum_changed(None);
        }
    }

    fn propose(&self, commands: Vec<Command>, reply: Reply<Result<Vec<Answer>, ClusterError>>) {
        let ask = Ask { asked: Asked { count: commands.len(), reply }, commands };
        let pushed = self.inner.asks.push(ask, || self.inner.state.borrow().error());
        if let Err((ask, error)) = pushed {
            ask.asked.reply.send(Err(error.unwrap_or_else(full)));
        }
    }

    fn read(&self, look: Look) {
        let pushed = self.inner.reads.push(look, || self.inner.state.borrow().error());
        if let Err((look, error)) = pushed {
            look(Err(error.unwrap_or_else(full)));
        }
    }

    fn glance(&self, look: &mut dyn FnMut(&Replica)) {
        look(&self.inner.applied.replica());
    }
}

impl Consensus for RaftNode {
    fn propose(
        &self,
        id: &CoordinationId,
        decision: Decision,
        evidence: Value,
        reply: Reply<Proposal>,
    ) {
        let command = Command::Decide { id: id.clone(), decision, evidence };
        let reply = Reply::new(move |answers: Result<Vec<Answer>, ClusterError>| {
            let is_taken = answers.is_ok_and(|answers| {
                matches!(answers.first(), Some(Answer::Standing(made)) if made.decision == decision)
            });
            reply.send(if is_taken { Proposal::Taken } else { Proposal::NotTaken });
        });
        ReplicatedLog::propose(self, vec![command], reply);
    }

    fn read(&self, id: &CoordinationId, reply: Reply<Standing>) {
        let id = id.clone();
        let look = move |replica: Result<&Replica, ClusterError>| {
            reply.send(match replica.map(|replica| replica.decision(&id)) {
                Err(_) => Standing::Unknown,
                Ok(None) => Standing::Open,
                Ok(Some(made)) => Standing::Decided {
                    decision: made.decision,
                    read_only: read_only_in(&made.evidence),
                },
            });
        };
        ReplicatedLog::read(self, Box::new(look));
    }
}

/// The stores that had nothing to commit, by the votes of the evidence.
fn read_only_in(evidence: &Value) -> Vec<StoreName> {
    let Some(Value::Map(votes)) = evidence.get("votes") else { return Vec::new() };
    let read_only = votes.iter().filter(|(_, vote)| vote.as_text() == Some("READ_ONLY"));
    read_only.filter_map(|(store, _)| StoreName::new(store).ok()).collect()
}
