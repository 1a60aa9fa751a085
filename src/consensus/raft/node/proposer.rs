//! Sends what this process asks for to the leader, one proposal at a time, until it is known.
//!
//! Not the writing of entries (`leader`) and not the answers: those come from this node's own
//! state when it carries the proposal out (`state_machine`). It also keeps the session alive.
//!
//! Invariants:
//! - A proposal is sent again under its number until it is carried out; carrying it out twice is
//!   what the number prevents.
//! - "No majority" is said only of what never left this process; of everything else, that it is
//!   not known.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::leader::Submission;
use super::{Ask, Inner, State};
use crate::cluster::ClusterError;
use crate::consensus::raft::message::{Answer, NotTaken, Request};
use crate::consensus::raft::state_machine::{Asked, fail};
use crate::consensus::raft::transport::{PeerAddress, TransportError};
use crate::consensus::raft::types::Number;
use crate::protocol::replica::{Command, Proposal};
use crate::reply::Reply;

/// How many commands travel together. An entry of so many small ones is about a megabyte; more
/// would make the others wait longer than it saves.
const COMMANDS_MAX: usize = 4_096;
/// After how many election timeouts an answer that did not come is not waited for any more.
const PATIENCE: u32 = 4;

pub(super) async fn run(inner: Arc<Inner>) {
    let mut proposer = Proposer { inner, number: 0, renewal: Instant::now() };
    while proposer.serve().await {}
}

struct Proposer {
    inner: Arc<Inner>,
    /// Of the last proposal.
    number: u64,
    /// When the session is to be renewed.
    renewal: Instant,
}

/// What became of sending a proposal.
enum Sent {
    /// The leader has carried it out; this node will.
    Done,
    /// It may be in a log, or on its way to one.
    Perhaps,
    /// It never arrived anywhere.
    Never,
}

impl Proposer {
    /// One proposal, if there is anything to propose; false when the node has ended.
    async fn serve(&mut self) -> bool {
        let is_leaving = self.inner.is_leaving.load(Ordering::SeqCst);
        tokio::select! {
            biased;
            () = self.inner.over() => return false,
            () = self.inner.asks.ready() => {}
            () = sleep_until(self.renewal), if !is_leaving => {}
        }
        let mut asks = self.take();
        if self.renewal <= Instant::now() {
            self.renew(&mut asks);
        }
        if !asks.is_empty() {
            self.carry(asks).await;
        }
        true
    }

    fn take(&self) -> Vec<Ask> {
        let mut commands = 0;
        self.inner.asks.take_while(|ask| {
            let is_first = commands == 0;
            commands += ask.commands.len();
            is_first || commands <= COMMANDS_MAX
        })
    }

    /// Puts the renewal of the session in front, so that what else is asked has one.
    fn renew(&mut self, asks: &mut Vec<Ask>) {
        let lease = self.inner.options.lease();
        let is_well = *self.inner.state.borrow() == State::Well;
        self.renewal = Instant::now() + if is_well { lease / 3 } else { self.inner.pause() };
        if is_well && !self.inner.is_leaving.load(Ordering::SeqCst) {
            let asked = Asked { count: 1, reply: Reply::new(|_| ()) };
            asks.insert(0, Ask { commands: vec![Command::KeepAlive { lease }], asked });
        }
    }

    async fn carry(&mut self, asks: Vec<Ask>) {
        self.number += 1;
        let (mut commands, mut asked) = (Vec::new(), Vec::with_capacity(asks.len()));
        for ask in asks {
            commands.extend(ask.commands);
            asked.push(ask.asked);
        }
        let (instance, number) = (self.inner.instance.clone(), self.number);
        let proposal = Proposal { instance, number, commands };
        let text = to_raw_value(&proposal).expect("commands can be written as text").into();
        let seen = self.inner.applied.expect(number, asked);
        let patience = self.inner.options.election_timeout * PATIENCE;
        let error = tokio::select! {
            // In front: what is known is never told as unknown.
            biased;
            _ = seen => return,
            error = self.pursue(text, patience) => error,
        };
        fail(self.inner.applied.give_up(), || error.clone());
        if matches!(error, ClusterError::Unknown { .. }) {
            // The session may have ended with it.
            self.renewal = Instant::now();
        }
    }

    /// Sends until the node sees it carried out, which ends this; or until it is to be given up.
    async fn pursue(&self, text: Arc<RawValue>, patience: Duration) -> ClusterError {
        let mut may_be_out = false;
        let until = Instant::now() + patience;
        let mut state = self.inner.state.subscribe();
        loop {
            let (leader, was_out) = (self.inner.leader(), may_be_out);
            // From here on: sending may be cut short at any point.
            may_be_out |= leader.is_some();
            let sent = tokio::select! {
                sent = self.send(&text, leader) => sent,
                () = sleep_until(until) => return not_known("no answer in time", may_be_out),
                over = trouble(&mut state, may_be_out) => return over,
            };
            match sent {
                Sent::Never => may_be_out = was_out,
                Sent::Perhaps => {}
                Sent::Done => {
                    // This node carries it out as soon as it hears of it. Where a snapshot told it,
                    // only a repetition says so.
                    tokio::select! {
                        () = sleep(self.inner.options.election_timeout) => continue,
                        () = sleep_until(until) => {}
                        () = self.inner.over() => {}
                    }
                    return not_known("this node did not carry it out in time", true);
                }
            }
            tokio::select! {
                () = self.pause_for_leader() => {}
                () = sleep_until(until) => return not_known("nobody leads", may_be_out),
                over = trouble(&mut state, may_be_out) => return over,
            }
        }
    }

    /// A moment, or until another node leads.
    async fn pause_for_leader(&self) {
        let mut server = self.inner.raft.server_metrics();
        let leader = server.borrow_and_update().current_leader;
        let changed = server.wait_for(|now| now.current_leader != leader);
        tokio::select! {
            _ = changed => {}
            () = sleep(self.inner.pause()) => {}
        }
    }

    async fn send(&self, text: &Arc<RawValue>, leader: Option<(Number, PeerAddress)>) -> Sent {
        let Some((leader, place)) = leader else { return Sent::Never };
        if leader == self.inner.me {
            let (reply, taken) = oneshot::channel();
            let submission = Submission { proposal: Arc::clone(text), reply };
            if self.inner.submissions.send(submission).await.is_err() {
                return Sent::Never;
            }
            return match taken.await {
                Ok(taken) => sent(taken),
                Err(_) => Sent::Perhaps,
            };
        }
        let timeout = self.inner.options.election_timeout;
        match self.inner.peers.ask(&place, Request::Propose(Arc::clone(text)), timeout).await {
            Ok(Answer::Proposed(taken)) => sent(taken),
            Err(TransportError::Refused(words) | TransportError::TooLarge(words)) => {
                tracing::warn!(leader = %place, reason = %words, "the leader takes no proposals");
                Sent::Never
            }
            Ok(_) | Err(_) => Sent::Perhaps,
        }
    }
}

fn sent(taken: Result<(), NotTaken>) -> Sent {
    match taken {
        Ok(()) => Sent::Done,
        Err(NotTaken::Lost) => Sent::Perhaps,
        Err(NotTaken::NotLeader | NotTaken::NoQuorum(_) | NotTaken::Refused(_)) => Sent::Never,
    }
}

/// Returns when a proposal is to be given up because of the state of the node. One that may be
/// out is not given up because there is no majority just now.
async fn trouble(
    state: &mut tokio::sync::watch::Receiver<State>,
    may_be_out: bool,
) -> ClusterError {
    let ends = |state: &State| state.is_over() || !may_be_out && *state != State::Well;
    let error = match state.wait_for(ends).await {
        Ok(state) => state.error().unwrap_or(ClusterError::Closed),
        Err(_) => ClusterError::Closed,
    };
    if may_be_out { not_known(&error.to_string(), true) } else { error }
}

fn not_known(words: &str, may_be_out: bool) -> ClusterError {
    let message = words.to_owned();
    if may_be_out { ClusterError::Unknown { message } } else { ClusterError::NoQuorum { message } }
}
