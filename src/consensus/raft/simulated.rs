//! What a simulated run sees of a node, and does to it, that nobody else may.
//!
//! Not the run (`simulated_cluster`, which is for tests alone, as this is). Invariant: without an
//! auditor on this thread nothing here changes anything.

use std::cell::RefCell;
use std::rc::Rc;

use openraft::ServerState;

use super::RaftNode;
use super::message::{Answer, Request};
use super::node::State;
use super::state_machine::fail;
use super::types::Vote;
use crate::cluster::ClusterError;
use crate::model::ids::InstanceId;
use crate::protocol::replica::{Answered, Effect, Entry, Position, Replica};

/// What came of an entry on one node.
pub(crate) struct Came<'a> {
    pub(crate) position: Position,
    pub(crate) replica: &'a mut Replica,
    pub(crate) answered: Vec<Answered>,
    pub(crate) effects: &'a mut Vec<Effect>,
}

/// Sees every entry on every node, and may plant a mistake around it.
pub(crate) trait Auditor {
    /// The entry that this node is to carry out.
    fn before(&self, who: &InstanceId, at: Position, entry: &Entry) -> Entry;
    /// What came of it; the answers are given on.
    fn after(&self, who: &InstanceId, came: Came<'_>) -> Vec<Answered>;
}

thread_local! {
    static AUDITOR: RefCell<Option<Rc<dyn Auditor>>> = const { RefCell::new(None) };
}

pub(crate) fn audit_by(auditor: Rc<dyn Auditor>) {
    AUDITOR.with(|place| *place.borrow_mut() = Some(auditor));
}

fn auditor() -> Option<Rc<dyn Auditor>> {
    AUDITOR.with(|auditor| auditor.borrow().clone())
}

pub(super) fn before(who: &InstanceId, at: Position, entry: &Entry) -> Entry {
    auditor().map_or_else(|| entry.clone(), |auditor| auditor.before(who, at, entry))
}

pub(super) fn after(who: &InstanceId, came: Came<'_>) -> Vec<Answered> {
    match auditor() {
        Some(auditor) => auditor.after(who, came),
        None => came.answered,
    }
}

impl RaftNode {
    /// The process is gone: what waits is told so, and the caller drops the runtime.
    pub(crate) fn die(&self) {
        self.inner.become_(State::Closed);
        fail(self.inner.applied.give_up(), || ClusterError::Closed);
    }

    /// The vote under which it leads.
    pub(crate) fn leads_by(&self) -> Option<(u64, u64)> {
        let metrics = self.inner.metrics();
        (metrics.state == ServerState::Leader).then(|| order(&metrics.vote))
    }

    /// Why it stopped by itself.
    pub(crate) fn why_stopped(&self) -> Option<String> {
        match &*self.inner.state.borrow() {
            State::Stopped(words) => Some(words.clone()),
            _ => None,
        }
    }
}

/// A vote as it is ordered: the term, then the number of the node it is for.
fn order(vote: &Vote) -> (u64, u64) {
    (vote.leader_id.term, vote.leader_id.node_id)
}

/// The vote that whoever answers this request so has promised itself to.
pub(crate) fn promise(request: &[u8], answer: &[u8]) -> Option<(u64, u64)> {
    use openraft::raft::AppendEntriesResponse;
    match (Request::decode(request).ok()?, Answer::decode(answer).ok()?) {
        (Request::Vote(asked), Answer::Vote(Ok(told))) if told.vote_granted => {
            Some(order(&asked.vote))
        }
        (Request::Append(asked), Answer::Append(Ok(told))) => {
            let is_taken = !matches!(told, AppendEntriesResponse::HigherVote(_));
            is_taken.then(|| order(&asked.vote))
        }
        _ => None,
    }
}
