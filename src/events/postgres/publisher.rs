//! Sends events: as many as wait in one statement, the next ones when that is answered.
//!
//! Invariants: an event is answered when its transaction is on the server's disk; of a batch whose
//! answer was lost nothing is known, so it is sent again, which counts once by the ids.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::link::{Link, Trouble};
use super::shared::{Inner, Publish};
use crate::events::BusEvent;

const BATCH_MAX: usize = 1_000;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

const PUBLISH: &str = "SELECT unanimity_bus_publish($1, $2, $3, $4)";

/// Sends what comes until the bus closes and nothing is left.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut link: Option<(Link, Statement)> = None;
    let mut backoff = BACKOFF_MIN;
    loop {
        if !inner.has_publishes() {
            tokio::select! {
                () = inner.to_publish.notified() => continue,
                () = inner.closing() => {}
            }
            if !inner.has_publishes() {
                return;
            }
        }
        let done = match &link {
            Some((link, statement)) => send(&inner, link, statement).await,
            None => open(&inner).await.map(|opened| link = Some(opened)),
        };
        let Err(trouble) = done else {
            backoff = BACKOFF_MIN;
            continue;
        };
        link = None;
        inner.in_trouble(trouble);
        if *inner.is_closing.borrow() {
            return;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn open(inner: &Arc<Inner>) -> Result<(Link, Statement), Trouble> {
    let link = Link::open(inner).await?;
    let statement = link.prepare(PUBLISH).await?;
    inner.out_of_trouble();
    Ok((link, statement))
}

async fn send(inner: &Arc<Inner>, link: &Link, statement: &Statement) -> Result<(), Trouble> {
    let (mut events, mut waiting) = (Vec::new(), Vec::new());
    for Publish { event, reply, began } in inner.take_publishes(BATCH_MAX) {
        events.push(event);
        waiting.push((reply, began));
    }
    match link.ask(statement, &Columns::of(&events).parameters()).await {
        Ok(_) => {
            crate::crash::point("bus", "committed");
            for (reply, _) in waiting {
                reply.send(Ok(()));
            }
            Ok(())
        }
        Err(Trouble::Refused(words)) => {
            for (reply, _) in waiting {
                reply.send(Err(inner.unavailable(&words)));
            }
            Ok(())
        }
        Err(trouble) => {
            let again = events.into_iter().zip(waiting);
            let again = again.map(|(event, (reply, began))| Publish { event, reply, began });
            inner.put_back(again.collect());
            Err(trouble)
        }
    }
}

/// Events as the arrays of one statement.
struct Columns<'a> {
    ids: Vec<&'a str>,
    streams: Vec<&'a str>,
    kinds: Vec<&'a str>,
    bodies: Vec<String>,
}

impl<'a> Columns<'a> {
    fn of(events: &'a [BusEvent]) -> Self {
        Self {
            ids: events.iter().map(|event| event.id.as_str()).collect(),
            streams: events.iter().map(|event| event.stream.as_str()).collect(),
            kinds: events.iter().map(|event| event.kind.as_str()).collect(),
            bodies: events.iter().map(|event| event.body.to_json()).collect(),
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.ids, &self.streams, &self.kinds, &self.bodies]
    }
}
