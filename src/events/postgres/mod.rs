//! The bus in a PostgreSQL database, for all processes that use it.
//!
//! Read it from here down: `shared` is what its two tasks share; `publisher` sends events;
//! `session` claims, reports and beats, by `turn`s and `question`s; `link` is one connection, which
//! must reach the server itself or a pool by session, not by transaction. The rules run in the
//! database, beside the rows (`db/migrations/postgres_bus/0001_bus.sql`). Order and competing
//! consumers hold because a stream of a group (a line) is claimed by one session at a time,
//! skipping what others lock; a session whose process died is ended by others after two seconds.
//! Publications go one after the other in the whole database, as many events in each as wait.
//! Ids count once while their events are kept. Invariants: what is answered is on the server's
//! disk; while the server is away publishers wait no longer than the patience, and are told then.

mod link;
mod publisher;
mod question;
mod session;
mod shared;
mod turn;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use self::shared::{Ask, Inner};
use super::check::{check_event, check_subscription};
use super::member::Member;
use super::{BusEvent, EventBus, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::db::postgres::Server;
use crate::reply::Reply;

const WHOSE: &str = "the PostgreSQL event bus";
/// How long a close waits for the server, once no handler is out any more.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// How a bus behaves. Every default is here.
#[derive(Clone, Copy, Debug)]
pub struct PostgresBusOptions {
    /// How long publishers and questions wait for a server that is not there. Default 10 s.
    pub patience: Duration,
    /// How long events stay that every group has handled, and their ids count once. Default 1 h.
    pub kept_for: Duration,
    /// How many of the newest events may stay so. Default `100_000`.
    pub kept_max: usize,
}

impl Default for PostgresBusOptions {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(10),
            kept_for: Duration::from_secs(3_600),
            kept_max: 100_000,
        }
    }
}

/// A bus in a PostgreSQL database.
pub struct PostgresEventBus {
    inner: Arc<Inner>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl PostgresEventBus {
    /// A bus over the database that `dsn` names; its tasks run on `runtime`. It connects by itself;
    /// a server that is not there is told to those who ask.
    pub fn open(
        dsn: &str,
        options: PostgresBusOptions,
        runtime: Handle,
    ) -> Result<Self, EventBusError> {
        let server = Server::parse(dsn, WHOSE).map_err(|error| EventBusError::Refused {
            bus: "in PostgreSQL".to_owned(),
            reason: error.to_string(),
        })?;
        let inner = Arc::new(Inner::new(server, options, runtime.clone()));
        let running = vec![
            runtime.spawn(publisher::run(inner.clone())),
            runtime.spawn(session::run(inner.clone())),
        ];
        Ok(Self { inner, running: Mutex::new(running) })
    }

    fn leave(inner: &Arc<Inner>, member: &Arc<Member>, reply: Reply<Result<bool, EventBusError>>) {
        let (inner, leaving) = (inner.clone(), member.clone());
        member.end(move || inner.ask(Ask::Leave(leaving, reply)));
    }
}

impl EventBus for PostgresEventBus {
    fn is_durable(&self) -> bool {
        true
    }

    fn publish(&self, event: BusEvent, reply: Reply<Result<(), EventBusError>>) {
        match check_event(&self.inner.server.label, &event) {
            Ok(()) => self.inner.publish(event, reply),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn subscribe(&self, ask: SubscribeAsk, reply: Reply<Result<SubscriptionId, EventBusError>>) {
        match check_subscription(&self.inner.server.label, &ask) {
            Ok(()) => self.inner.ask(Ask::Subscribe(ask, reply)),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn unsubscribe(&self, id: SubscriptionId, reply: Reply<Result<bool, EventBusError>>) {
        match self.inner.member(id) {
            Some(member) => Self::leave(&self.inner, &member, reply),
            None => reply.send(Ok(false)),
        }
    }

    fn parked(&self, limit: usize, reply: Reply<Result<Vec<ParkedEvent>, EventBusError>>) {
        self.inner.ask(Ask::Parked(limit, reply));
    }

    fn redrive(&self, event_id: String, group: String, reply: Reply<Result<bool, EventBusError>>) {
        self.inner.ask(Ask::Redrive { event_id, group, reply });
    }

    fn close(&self) {
        let inner = &self.inner;
        let running: Vec<JoinHandle<()>> = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.drain(..).collect()
        };
        if running.is_empty() {
            return;
        }
        let (sender, ended) = mpsc::channel();
        let (quiet, handlers) = mpsc::channel();
        for member in inner.shut() {
            let (sender, quiet, inner, leaving) =
                (sender.clone(), quiet.clone(), inner.clone(), member.clone());
            member.end(move || {
                // Nobody listens when the close has given up.
                let reply = Reply::new(move |_| {
                    let _ = sender.send(());
                });
                inner.ask(Ask::Leave(leaving, reply));
                let _ = quiet.send(());
            });
        }
        drop((sender, quiet));
        // Ends when no handler is out any more, which their timeouts bound.
        while handlers.recv().is_ok() {}
        let until = Instant::now() + CLOSE_MAX;
        let left = || until.saturating_duration_since(Instant::now());
        while ended.recv_timeout(left()).is_ok() {}
        inner.is_closing.send_replace(true);
        let (sender, gone) = mpsc::channel();
        for task in running {
            let sender = sender.clone();
            inner.runtime.spawn(async move {
                let _ = task.await;
                let _ = sender.send(());
            });
        }
        drop(sender);
        // Where it takes longer, the rest goes on by itself.
        while gone.recv_timeout(left()).is_ok() {}
        inner.refuse(true, &EventBusError::Closed);
    }
}

impl Drop for PostgresEventBus {
    fn drop(&mut self) {
        self.close();
    }
}
