//! The outbox in PostgreSQL: rows of `unanimity_outbox`, handed over once they are committed.
//!
//! Theory of operation. One connection of its own listens, and takes a portion of rows, oldest
//! first, with their locks; who else serves the table passes them over. Every row is handed to the
//! sink (`outbox_portion`, in which order); what it accepted is deleted, what it refused is
//! marked, in the transaction that holds the locks. A trigger of the table wakes listeners at each
//! commit; a look every second finds what
//! was missed, and what the sink did not want yet. Not the port (`participants/outbox.rs`).
//!
//! Invariants: a row is deleted only after the sink's word; when the connection ends in between,
//! the row stays and is handed over again; the task ends when its handle is dropped or stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{AsyncMessage, Client, Row};

use crate::db::postgres::{Carried, describe};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::value::Value;
use crate::participants::outbox::{Acceptance, OutboxSink};
use crate::reply::Reply;

use super::PostgresStore;
use super::outbox_portion::{Portion, keys_of};
use super::pool::Pool;

const PORTION: i64 = 100;
const POLL: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The identity gives the order; a request's id may stand there once.
const CREATE: &str = r"
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('unanimity_prepared'));
CREATE TABLE IF NOT EXISTS unanimity_outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
    coordination_type text NOT NULL DEFAULT 'eventual_consistency',
    participating_stores jsonb NOT NULL,
    operations jsonb NOT NULL,
    timeout_seconds double precision NOT NULL DEFAULT 300,
    consistency_level text NOT NULL DEFAULT 'eventual',
    metadata jsonb NOT NULL DEFAULT '{}',
    written_at timestamptz NOT NULL DEFAULT now(),
    refused text
);
CREATE OR REPLACE FUNCTION unanimity_outbox_wake() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('unanimity_outbox', ''); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER unanimity_outbox_wake AFTER INSERT OR UPDATE ON unanimity_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION unanimity_outbox_wake();
COMMIT";

const TAKE: &str = "SELECT position, id, coordination_type, participating_stores::text, \
     operations::text, timeout_seconds, consistency_level, metadata::text FROM unanimity_outbox \
     WHERE refused IS NULL ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED";

/// An outbox that is served until this is dropped.
pub struct Outbox {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Outbox {
    /// Ends it after the portion at hand, and waits for that.
    pub async fn close(self) {
        // Without a receiver the task has ended already.
        let _ = self.stop.send(true);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the task of an outbox ended by itself");
        }
    }
}

impl PostgresStore {
    /// Hands the rows of this database's table `unanimity_outbox`, which is made where it is
    /// missing, to the sink. Takes one connection beyond those of the pool.
    pub fn serve_outbox(&self, sink: Arc<dyn OutboxSink>) -> Outbox {
        let (stop, stopped) = watch::channel(false);
        let (pool, name) = (Arc::clone(&self.inner.pool), self.inner.name.clone());
        let server = Server { pool, name, sink, stopped };
        Outbox { stop, task: self.handle.spawn(server.serve()) }
    }
}

struct Server {
    pool: Arc<Pool>,
    name: String,
    sink: Arc<dyn OutboxSink>,
    stopped: watch::Receiver<bool>,
}

impl Server {
    async fn serve(mut self) {
        let mut pause = PAUSE_MIN;
        while !self.is_stopped() {
            let mut has_worked = false;
            let Err(reason) = self.session(&mut has_worked).await else { return };
            let (store, place) = (&self.name, &self.pool.server.label);
            tracing::warn!(store, place, reason, "the outbox is not served; trying again");
            pause = if has_worked { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.stopped.changed() => {}
            }
        }
    }

    /// Whether it is to end; a handle that was dropped says so too.
    fn is_stopped(&self) -> bool {
        *self.stopped.borrow() || self.stopped.has_changed().is_err()
    }

    /// Serves over one connection; `Ok` when it was stopped.
    async fn session(&mut self, has_worked: &mut bool) -> Result<(), String> {
        let connected = self.pool.server.connect().await;
        let (client, connection) =
            connected.map_err(|error| self.pool.server.unreachable(&self.name, &error))?;
        let woken = Arc::new(Notify::new());
        let carried = tokio::spawn(listen(connection, Arc::clone(&woken)));
        let served = self.portions(&client, &woken, has_worked).await;
        drop(client);
        // Nothing of it is of use any more, also where the server does not answer.
        carried.abort();
        served
    }

    async fn portions(
        &mut self,
        client: &Client,
        woken: &Notify,
        has_worked: &mut bool,
    ) -> Result<(), String> {
        set_up(client).await.map_err(|error| describe(&error))?;
        let listening = client.batch_execute("LISTEN unanimity_outbox").await;
        listening.map_err(|error| describe(&error))?;
        loop {
            if self.is_stopped() {
                return Ok(());
            }
            let is_full = self.portion(client).await.map_err(|error| describe(&error))?;
            *has_worked = true;
            if is_full {
                continue;
            }
            tokio::select! {
                () = woken.notified() => {}
                () = sleep(POLL) => {}
                _ = self.stopped.changed() => {}
            }
            if client.is_closed() {
                return Err("the connection ended".to_owned());
            }
        }
    }

    /// Hands a portion over; true when there may be more that is wanted now.
    async fn portion(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let rows = client.query(TAKE, &[&PORTION]).await?;
        let mut portion = Portion::default();
        for row in &rows {
            let request = request_of(row);
            let keys = request.as_ref().map(keys_of).unwrap_or_default();
            if portion.has_room(&keys).await {
                portion.add(row.get(0), keys, self.hand_over(request));
            }
        }
        let (accepted, refused) = portion.settled().await;
        for (position, reason) in refused {
            tracing::warn!(store = self.name, position, reason, "an outbox row is refused");
            let text = "UPDATE unanimity_outbox SET refused = $2 WHERE position = $1";
            client.execute(text, &[&position, &reason]).await?;
        }
        if !accepted.is_empty() {
            let text = "DELETE FROM unanimity_outbox WHERE position = ANY ($1)";
            client.execute(text, &[&accepted]).await?;
        }
        client.batch_execute("COMMIT").await?;
        // What stays is handed over at the next look.
        Ok(rows.len() == usize_of(PORTION) && !portion.has_left)
    }

    fn hand_over(
        &self,
        request: Result<CoordinationRequest, String>,
    ) -> oneshot::Receiver<Acceptance> {
        let (sender, answer) = oneshot::channel();
        // Nobody waits any more when the patience is over.
        let reply = Reply::new(move |acceptance| drop(sender.send(acceptance)));
        match request {
            Ok(request) => self.sink.accept(request, reply),
            Err(reason) => reply.send(Acceptance::Refused(reason)),
        }
        answer
    }
}

fn usize_of(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Makes the table where it is missing. Asks first: to make it needs rights that a later start may
/// not have.
pub(super) async fn set_up(client: &Client) -> Result<(), tokio_postgres::Error> {
    let text = "SELECT to_regclass('unanimity_outbox') IS NOT NULL";
    if client.query_one(text, &[]).await?.get::<_, bool>(0) {
        return Ok(());
    }
    client.batch_execute(CREATE).await
}

/// Carries the connection, and wakes whoever waits for rows; at its end too.
async fn listen(mut connection: Carried, woken: Arc<Notify>) {
    loop {
        let message = std::future::poll_fn(|context| connection.poll_message(context)).await;
        match message {
            Some(Ok(AsyncMessage::Notification(_))) => woken.notify_one(),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return woken.notify_one(),
        }
    }
}

fn request_of(row: &Row) -> Result<CoordinationRequest, String> {
    let json = |index: usize, name: &str| {
        let value = Value::from_json(row.get::<_, &str>(index));
        value.map_err(|error| format!("{name} cannot be read: {error}"))
    };
    let list = |index: usize, name: &str| match json(index, name)? {
        Value::List(values) => Ok(values),
        other => Err(format!("{name} is a {}; give a JSON array", other.kind())),
    };
    let stores = list(3, "participating_stores")?.into_iter().map(|store| match store {
        Value::Text(name) => Ok(name),
        other => Err(format!("participating_stores has a {}; give names", other.kind())),
    });
    let parts = RequestParts {
        id: row.get(1),
        kind: row.get(2),
        stores: stores.collect::<Result<_, _>>()?,
        operations: list(4, "operations")?,
        timeout_seconds: row.get(5),
        consistency: row.get(6),
        metadata: json(7, "metadata")?,
    };
    CoordinationRequest::check(parts).map_err(|error| error.to_string())
}
