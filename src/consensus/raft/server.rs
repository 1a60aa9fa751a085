//! Answers the other nodes, and has `client` answer clients.
//!
//! Not the transport, which knows who they are, and not the work: that is openraft's, and the
//! node's tasks'. Invariant: a node that left is not listened to; it would only disturb those that
//! stayed.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::client;
use super::membership;
use super::message::{Answer, NotTaken, Request};
use super::node::leader::{Submission, check};
use super::node::{Inner, read_index};
use super::transport::Handler;
use super::types::number;

/// How many questions of clients may be in work at once.
const CLIENT_WORK_MAX: usize = 64;

pub(super) struct Server {
    inner: Arc<Inner>,
    /// What clients asked for goes on when they go away: a change of members that ends in the
    /// middle would leave the cluster between two memberships. It ends with the transport.
    client_work: Mutex<JoinSet<()>>,
}

impl Server {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, client_work: Mutex::default() }
    }
}

impl Handler for Server {
    fn handle(&self, from: String, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let inner = Arc::clone(&self.inner);
        async move {
            let answer = match Request::decode(&request) {
                // While it is still a member it may have to lead its own removal.
                _ if inner.applied.is_retired(number(&from)) && !inner.has_member(&from) => {
                    Answer::Refused(format!("the node {from} was removed from this cluster"))
                }
                Ok(request) => answer(&inner, request).await,
                Err(words) => Answer::Refused(words),
            };
            answer.encode()
        }
        .boxed()
    }

    fn handle_client(&self, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let mut work = self.client_work.lock().unwrap_or_else(PoisonError::into_inner);
        while work.try_join_next().is_some() {}
        if work.len() >= CLIENT_WORK_MAX {
            return ready(client::refused("too many clients ask at once; ask again")).boxed();
        }
        let (inner, (reply, answered)) = (Arc::clone(&self.inner), oneshot::channel());
        work.spawn(async move {
            let _ = reply.send(client::answer(&inner, &request).await);
        });
        async { answered.await.unwrap_or_else(|_| client::refused("the node has ended")) }.boxed()
    }
}

async fn answer(inner: &Arc<Inner>, request: Request) -> Answer {
    match request {
        Request::Append(rpc) => Answer::Append(inner.raft.append_entries(rpc).await),
        Request::Vote(rpc) => Answer::Vote(inner.raft.vote(rpc).await),
        Request::Snapshot(rpc) => Answer::Snapshot(inner.raft.install_snapshot(rpc).await),
        Request::Propose(proposal) => Answer::Proposed(submit(inner, proposal).await),
        Request::ReadIndex => Answer::ReadIndex(read_index(inner).await),
        Request::Hello => {
            // One that has stopped belongs to a cluster for all that anybody can tell.
            let is_initialized = inner.raft.is_initialized().await.unwrap_or(true);
            Answer::Hello { is_initialized }
        }
        Request::Add(member) => Answer::Changed(membership::add(inner, member).await),
        Request::Remove(id) => Answer::Changed(membership::remove(inner, &id).await),
        Request::Transfer(id) => Answer::Changed(membership::transfer(inner, &id).await),
        Request::Elect => Answer::Changed(membership::elect(inner).await),
    }
}

async fn submit(inner: &Inner, proposal: Arc<RawValue>) -> Result<(), NotTaken> {
    check(&proposal)?;
    let (reply, taken) = oneshot::channel();
    let ended = || NotTaken::Refused("the node has ended".to_owned());
    inner.submissions.send(Submission { proposal, reply }).await.map_err(|_| ended())?;
    // The leader's task ended with it in hand: it may be in the log.
    taken.await.unwrap_or(Err(NotTaken::Lost))
}
