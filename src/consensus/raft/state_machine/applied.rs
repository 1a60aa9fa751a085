//! What this node has carried out, for everybody on the node who looks at it or waits for it.
//!
//! Not the order of entries (openraft gives it) and not their meaning (`protocol/replica`).
//! Invariants: nobody is called back while the state is locked for writing; effects are told in
//! the order of the log, those of an entry before the answers to its proposals; an answer leaves
//! once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{oneshot, watch};

use crate::cluster::{ClusterError, ReplicaEar};
use crate::consensus::raft::types::{LogId, Number, StoredMembership};
use crate::model::ids::{CoordinationId, InstanceId};
use crate::protocol::replica::{
    Answer, Answered, Command, Effect, Entry, Position, Replica, StandingDecision,
};
use crate::reply::Reply;

#[cfg(test)]
use crate::consensus::raft::simulated::Came;

/// How many decisions are kept for people to see.
const RECENT_MAX: usize = 1_000;

/// The way back for the commands of one call.
pub(in crate::consensus::raft) struct Asked {
    pub(in crate::consensus::raft) count: usize,
    pub(in crate::consensus::raft) reply: Reply<Result<Vec<Answer>, ClusterError>>,
}

/// The proposal of this process that is under way.
struct UnderWay {
    number: u64,
    asked: Vec<Asked>,
    seen: oneshot::Sender<()>,
}

/// What openraft has to know of the state beside it.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) retired: BTreeSet<Number>,
}

/// The state of this node, and who hears of it.
pub(in crate::consensus::raft) struct Applied {
    instance: InstanceId,
    replica: RwLock<Replica>,
    pub(super) beside: Mutex<Beside>,
    ears: RwLock<Vec<Arc<dyn ReplicaEar>>>,
    under_way: Mutex<Option<UnderWay>>,
    recent: Mutex<VecDeque<(CoordinationId, Arc<StandingDecision>)>>,
    /// The index of the last entry that was carried out, and told of.
    index: watch::Sender<u64>,
}

impl Applied {
    pub(super) fn new(instance: InstanceId, replica: Replica, beside: Beside) -> Self {
        let index = beside.last.map_or(0, |id| id.index);
        Self {
            instance,
            replica: RwLock::new(replica),
            beside: Mutex::new(beside),
            ears: RwLock::default(),
            under_way: Mutex::default(),
            recent: Mutex::default(),
            index: watch::channel(index).0,
        }
    }

    /// The state; not to be held across a callback that may look at it for writing, of which there
    /// is none outside of this file.
    pub(in crate::consensus::raft) fn replica(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beside(&self) -> MutexGuard<'_, Beside> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::consensus::raft) fn is_retired(&self, node: Number) -> bool {
        self.beside().retired.contains(&node)
    }

    pub(in crate::consensus::raft) fn listen(&self, ear: Arc<dyn ReplicaEar>) {
        self.ears.write().unwrap_or_else(PoisonError::into_inner).push(ear);
    }

    /// A copy, so that an ear may name another one.
    pub(in crate::consensus::raft) fn ears(&self) -> Vec<Arc<dyn ReplicaEar>> {
        self.ears.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::consensus::raft) fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// The last decisions that were made, the oldest first.
    pub(in crate::consensus::raft) fn recent(
        &self,
    ) -> Vec<(CoordinationId, Arc<StandingDecision>)> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().cloned().collect()
    }

    fn under_way(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `asked` when the proposal with this number is carried out; told by the receiver.
    pub(in crate::consensus::raft) fn expect(
        &self,
        number: u64,
        asked: Vec<Asked>,
    ) -> oneshot::Receiver<()> {
        let (seen, told) = oneshot::channel();
        *self.under_way() = Some(UnderWay { number, asked, seen });
        told
    }

    /// Waits no longer; empty when it was answered meanwhile.
    pub(in crate::consensus::raft) fn give_up(&self) -> Vec<Asked> {
        self.under_way().take().map(|under_way| under_way.asked).unwrap_or_default()
    }

    /// Carries one entry out.
    pub(super) fn carry_out(&self, id: LogId, entry: &Entry) {
        let position = Position { term: id.leader_id.term, index: id.index };
        let mut effects = Vec::new();
        #[cfg(test)]
        let entry = &crate::consensus::raft::simulated::before(&self.instance, position, entry);
        let answered = {
            let mut replica = self.replica.write().unwrap_or_else(PoisonError::into_inner);
            replica.apply(position, entry, &mut effects)
        };
        #[cfg(test)]
        let answered = {
            let mut replica = self.replica.write().unwrap_or_else(PoisonError::into_inner);
            let came = Came { position, replica: &mut replica, answered, effects: &mut effects };
            crate::consensus::raft::simulated::after(&self.instance, came)
        };
        self.remember(position, entry, &answered);
        self.tell(&effects);
        for answered in answered {
            if answered.instance == self.instance {
                self.answer(answered);
            }
        }
    }

    pub(super) fn advance(&self, index: u64) {
        self.index.send_if_modified(|last| {
            let grows = *last < index;
            *last = index.max(*last);
            grows
        });
    }

    fn tell(&self, effects: &[Effect]) {
        if !effects.is_empty() {
            for ear in self.ears() {
                ear.happened(effects);
            }
        }
    }

    fn answer(&self, answered: Answered) {
        let mut slot = self.under_way();
        if slot.as_ref().is_none_or(|under_way| under_way.number != answered.number) {
            return;
        }
        let Some(UnderWay { asked, seen, .. }) = slot.take() else { return };
        drop(slot);
        match answered.answers {
            Some(answers) => hand_out(answers, asked),
            // A snapshot that came meanwhile has it.
            None => fail(asked, || {
                let message = "it was carried out, and its answer is in no entry that is left";
                ClusterError::Unknown { message: message.to_owned() }
            }),
        }
        // Nobody waits any more when the node is being closed.
        let _ = seen.send(());
    }

    fn remember(&self, position: Position, entry: &Entry, answered: &[Answered]) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for (proposal, answered) in entry.proposals.iter().zip(answered) {
            let answers = answered.answers.iter().flatten();
            for (command, answer) in proposal.commands.iter().zip(answers) {
                if let (Command::Decide { id, .. }, Answer::Standing(made)) = (command, answer)
                    && (made.term, made.index) == (position.term, position.index)
                    && !recent
                        .iter()
                        .rev()
                        .take_while(|(_, other)| other.index == made.index)
                        .any(|(other, _)| other == id)
                {
                    recent.push_back((id.clone(), Arc::clone(made)));
                }
            }
        }
        let surplus = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..surplus);
    }

    /// Puts another state in the place of this one.
    pub(super) fn replace(&self, replica: Replica, beside: Beside) {
        let index = beside.last.map_or(0, |id| id.index);
        *self.replica.write().unwrap_or_else(PoisonError::into_inner) = replica;
        *self.beside() = beside;
        for ear in self.ears() {
            ear.replaced(&self.replica());
        }
        self.advance(index);
    }
}

fn hand_out(answers: Vec<Answer>, asked: Vec<Asked>) {
    let mut answers = answers.into_iter();
    for Asked { count, reply } in asked {
        let own: Vec<Answer> = answers.by_ref().take(count).collect();
        reply.send(Ok(own));
    }
}

/// Answers all with the same error.
pub(in crate::consensus::raft) fn fail(asked: Vec<Asked>, error: impl Fn() -> ClusterError) {
    for Asked { reply, .. } in asked {
        reply.send(Err(error()));
    }
}
