//! Waiting for the server's disk where it syncs by itself once a second: all who wait, together.
//!
//! WAITAOF waits for what its own connection wrote last, and holds that connection up meanwhile.
//! So there is one connection for it, on which something small is written first: what is behind
//! that in the append-only file is everything that was answered before. Invariants: who comes
//! while a round is under way is in the next one; a connection that failed is not used again,
//! nor one that was opened before the link's.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::sync::{Mutex, oneshot};

use super::link::{Link, describe};
use super::scope::SYNCED_KEY;

const SOURCE: &str = include_str!("scripts/sync.lua");
/// How long the disk may take before a round is given up.
const ROUND_MAX: Duration = Duration::from_secs(10);
/// How long a new connection's try may take; the server syncs once a second.
const PROBE_MAX: Duration = Duration::from_secs(5);

type Told = Result<(), String>;

#[derive(Default)]
struct Waiting {
    tellers: Vec<oneshot::Sender<Told>>,
    is_running: bool,
}

/// Those who wait, and their connection.
#[derive(Default)]
pub(super) struct Syncer {
    waiting: std::sync::Mutex<Waiting>,
    /// With the number of the link's connection beside which it was opened.
    connection: Mutex<Option<(u64, MultiplexedConnection)>>,
}

impl Syncer {
    /// Waits until all that was answered so far is on the disk.
    pub(super) async fn sync(&self, link: &Arc<Link>) -> Told {
        let (teller, told) = oneshot::channel();
        if self.enter(teller) {
            let link = Arc::clone(link);
            // It ends when nobody waits any more.
            tokio::spawn(async move { link.syncer.run(&link).await });
        }
        told.await.unwrap_or_else(|_| Err("the wait for the server's disk was broken off".into()))
    }

    /// Whether nobody runs the rounds yet.
    fn enter(&self, teller: oneshot::Sender<Told>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.tellers.push(teller);
        !std::mem::replace(&mut waiting.is_running, true)
    }

    async fn run(&self, link: &Link) {
        while let Some(tellers) = self.take() {
            let told = self.round(link).await;
            for teller in tellers {
                // Who does not wait any more is not told.
                let _ = teller.send(told.clone());
            }
        }
    }

    fn take(&self) -> Option<Vec<oneshot::Sender<Told>>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.tellers.is_empty() {
            waiting.is_running = false;
            return None;
        }
        Some(std::mem::take(&mut waiting.tellers))
    }

    async fn round(&self, link: &Link) -> Told {
        let mut slot = self.connection.lock().await;
        // After the link went elsewhere the old one may lead to another server.
        let latest = link.latest();
        let mut connection = match slot.take() {
            Some((beside, connection)) if beside == latest => connection,
            _ => link.connect().await.map_err(|what| format!("{}: {what}", link.label))?,
        };
        wait_for_disk(&mut connection, ROUND_MAX).await?;
        *slot = Some((latest, connection));
        Ok(())
    }

    pub(super) async fn close(&self) {
        *self.connection.lock().await = None;
    }
}

/// Looks whether waiting works here at all.
pub(super) async fn probe(connection: &mut MultiplexedConnection) -> Told {
    wait_for_disk(connection, PROBE_MAX).await
}

async fn wait_for_disk(connection: &mut MultiplexedConnection, at_most: Duration) -> Told {
    let mut flight = Pipeline::new();
    flight.cmd("EVAL").arg(SOURCE).arg(1).arg(SYNCED_KEY);
    flight.cmd("WAITAOF").arg(1).arg(0).arg(at_most.as_millis().to_string());
    let answers = connection.send_packed_commands(&flight, 0, flight.len()).await;
    let answers = answers.map_err(|error| describe(&error))?;
    let mut last = Value::Nil;
    for answer in answers {
        last = answer.extract_error().map_err(|error| describe(&error))?;
    }
    match last.as_sequence() {
        Some([Value::Int(1..), ..]) => Ok(()),
        _ => Err(format!("the server's disk was not reached within {} s", at_most.as_secs())),
    }
}
