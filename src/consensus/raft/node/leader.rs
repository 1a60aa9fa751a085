//! Writes entries where this node leads: proposals of all processes, and the passing of time.
//!
//! Not the sending (`proposer`). Invariants:
//! - One entry is under way at a time; what comes meanwhile rides in the next. That is what makes
//!   many proposals cheap: an entry costs two syncs, whatever is in it.
//! - Proposals stand in an entry as their process wrote them. What cannot be read is refused here:
//!   in an entry it would stop every node.
//! - Time passes by the leader's monotonic clock, and only in its entries.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openraft::error::{ClientWriteError, RaftError as OpenraftError};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{Inner, State};
use crate::consensus::raft::message::NotTaken;
use crate::consensus::raft::types::Payload;
use crate::model::time::Timestamp;
use crate::protocol::replica::{Proposal, STEP_MAX};

/// How many bytes of proposals an entry has, unless one proposal has more.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Entries that are there only because time passes are not closer together.
const TICK_MIN: Duration = Duration::from_millis(10);

/// A proposal that asks to be written.
pub(in crate::consensus::raft) struct Submission {
    pub(in crate::consensus::raft) proposal: Arc<RawValue>,
    pub(in crate::consensus::raft) reply: oneshot::Sender<Result<(), NotTaken>>,
}

/// Whether this is a proposal that every node of this version can carry out.
pub(in crate::consensus::raft) fn check(proposal: &RawValue) -> Result<(), NotTaken> {
    let read = serde_json::from_str::<Proposal>(proposal.get());
    read.map(drop).map_err(|error| NotTaken::Refused(format!("no proposal: {error}")))
}

/// `protocol::replica::Entry`, with proposals that stay text.
#[derive(Serialize)]
struct Entry<'a> {
    elapsed: Duration,
    at: Timestamp,
    proposals: Vec<&'a RawValue>,
}

pub(super) async fn run(inner: Arc<Inner>, submissions: mpsc::Receiver<Submission>) {
    let mut leader = Leader { inner, submissions, last: None };
    while leader.serve().await {}
}

struct Leader {
    inner: Arc<Inner>,
    submissions: mpsc::Receiver<Submission>,
    /// The term of this node's last entry, and when it was written.
    last: Option<(u64, Instant)>,
}

impl Leader {
    /// One entry, if there is reason for one; false when the node has ended.
    async fn serve(&mut self) -> bool {
        let (due, is_needed) = self.due();
        let first = tokio::select! {
            () = self.inner.over() => return false,
            first = self.submissions.recv() => first,
            () = sleep_until(due) => None,
        };
        match first {
            Some(first) => {
                let batch = self.collect(first);
                self.write(batch).await;
            }
            None if is_needed && self.is_writing() => self.write(Vec::new()).await,
            None => {}
        }
        true
    }

    /// When to look again at the latest, and whether an entry is needed then because something
    /// ends by the cluster's time.
    fn due(&self) -> (Instant, bool) {
        let now = Instant::now();
        if !self.is_writing() {
            return (now + self.inner.pause(), false);
        }
        let deadline = {
            let replica = self.inner.applied.replica();
            replica.deadline().map(|deadline| deadline.since(replica.now()))
        };
        match (deadline, self.last) {
            (None, _) => (now + STEP_MAX, false),
            // An entry moves the time by no more than a step.
            (Some(left), Some((term, last))) if term == self.term() => {
                (last + left.clamp(TICK_MIN, STEP_MAX), true)
            }
            // The first entry of a term only starts its clock.
            (Some(_), _) => (now, true),
        }
    }

    fn is_writing(&self) -> bool {
        let is_handing_over = self.inner.is_handing_over.load(Ordering::SeqCst);
        !is_handing_over && self.inner.is_leader() && *self.inner.state.borrow() == State::Well
    }

    fn term(&self) -> u64 {
        self.inner.raft.server_metrics().borrow().vote.leader_id().term
    }

    /// Takes what waits along.
    fn collect(&mut self, first: Submission) -> Vec<Submission> {
        let mut bytes = first.proposal.get().len();
        let mut batch = vec![first];
        while bytes < ENTRY_BYTES_MAX
            && let Ok(next) = self.submissions.try_recv()
        {
            bytes += next.proposal.get().len();
            batch.push(next);
        }
        batch
    }

    async fn write(&mut self, batch: Vec<Submission>) {
        let written = match self.refusal() {
            Some(refusal) => Err(refusal),
            None => self.write_entry(&batch).await,
        };
        for submission in batch {
            // Whoever asked may have given up.
            let _ = submission.reply.send(written.clone());
        }
    }

    fn refusal(&self) -> Option<NotTaken> {
        if !self.inner.is_leader() || self.inner.is_handing_over.load(Ordering::SeqCst) {
            return Some(NotTaken::NotLeader);
        }
        match &*self.inner.state.borrow() {
            State::Well => None,
            State::NoQuorum(lost) => Some(NotTaken::NoQuorum(lost.message.clone())),
            State::Stopped(words) => Some(NotTaken::Refused(words.clone())),
            State::Closed => Some(NotTaken::Refused("the node is closed".to_owned())),
        }
    }

    async fn write_entry(&mut self, batch: &[Submission]) -> Result<(), NotTaken> {
        let (now, term) = (Instant::now(), self.term());
        let elapsed = match self.last {
            Some((last_term, last)) if last_term == term => now - last,
            _ => Duration::ZERO,
        };
        let proposals = batch.iter().map(|submission| &*submission.proposal).collect();
        let entry = Entry { elapsed, at: wall_clock(), proposals };
        let text = to_raw_value(&entry).expect("an entry can be written as text");
        self.last = Some((term, now));
        let write = self.inner.raft.client_write(Payload::Entry(text.into()));
        let Some(written) = self.inner.while_leading(write).await else {
            return Err(NotTaken::Lost);
        };
        match written {
            Ok(_) => Ok(()),
            // Told also of entries that were written before leadership was lost.
            Err(OpenraftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(NotTaken::Lost)
            }
            Err(error) => {
                // That a node which is closed writes nothing more is nothing to say.
                if !self.inner.state.borrow().is_over() {
                    tracing::warn!(%error, "whether an entry was written is not known");
                }
                Err(NotTaken::Lost)
            }
        }
    }
}

fn wall_clock() -> Timestamp {
    #[cfg(test)]
    if let Some(simulated) = crate::simulated::wall_clock() {
        return simulated;
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
