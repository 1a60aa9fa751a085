//! Publishing: one task takes events in their order, and waits for many acknowledgements at once.
//!
//! Invariants: who is told "kept" is told after the server's acknowledgement; an event is sent
//! again under its id until its time is over, and the server counts it once; over [`QUEUE_MAX`]
//! events that wait, publishing is refused.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::{BusEvent, EventBusError};
use super::Inner;
use super::link::Link;
use super::names::{encode, message_id};
use crate::reply::Reply;

/// How many events may wait to be sent.
pub(super) const QUEUE_MAX: usize = 65_536;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) type Publication = (BusEvent, Reply<Result<(), EventBusError>>);

/// Sends what comes until no more can come, and then waits for what is under way.
pub(super) async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<Publication>) {
    let mut waiting = JoinSet::new();
    while let Some((event, reply)) = queue.recv().await {
        while waiting.try_join_next().is_some() {}
        let begun = Instant::now();
        let link = match inner.link().await {
            Ok(link) => link,
            Err(error) => {
                reply.send(Err(error));
                continue;
            }
        };
        let message = Outgoing {
            subject: inner.names.subject(&event),
            id: message_id(&event.id),
            payload: encode(&event).to_json().into(),
        };
        // Sent here, so that events leave in their order; acknowledged whenever.
        let sent = message.send(&link).await;
        let until = begun + inner.options.publish_timeout;
        waiting.spawn(async move { reply.send(message.acknowledged(&link, sent, until).await) });
    }
    while waiting.join_next().await.is_some() {}
}

/// A message to a stream, under an id by which it counts once.
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) id: String,
    pub(super) payload: Bytes,
}

type Sent = Result<async_nats::jetstream::context::PublishAckFuture, EventBusError>;

impl Outgoing {
    pub(super) async fn send(&self, link: &Link) -> Sent {
        let most = link.client.server_info().max_payload;
        if self.payload.len() + 1024 > most {
            let length = self.payload.len();
            return Err(link.refused(format!(
                "the event has {length} bytes, and the server takes {most} for a message with its \
                 headers; publish where the data is instead of the data"
            )));
        }
        let message = PublishMessage::build().message_id(&self.id).payload(self.payload.clone());
        let sent = link.context.send_publish(self.subject.clone(), message).await;
        sent.map_err(|error| link.trouble("cannot publish", &error))
    }

    /// Waits for the acknowledgement, and sends again where none comes.
    pub(super) async fn acknowledged(
        &self,
        link: &Link,
        sent: Sent,
        until: Instant,
    ) -> Result<(), EventBusError> {
        let mut sent = sent;
        loop {
            let error = match sent {
                Err(error @ EventBusError::Refused { .. }) => return Err(error),
                Err(error) => error,
                Ok(acknowledgement) => {
                    match tokio::time::timeout_at(until, acknowledgement).await {
                        Ok(Ok(_)) => return Ok(()),
                        Ok(Err(error)) => link.trouble("the event was not acknowledged", &error),
                        Err(_) => link.trouble("the event was not acknowledged", &"time is over"),
                    }
                }
            };
            if Instant::now() + PAUSE >= until {
                return Err(unknown(error));
            }
            tokio::time::sleep(PAUSE).await;
            sent = self.send(link).await;
        }
    }
}

/// Without an acknowledgement nobody knows whether the server has it.
fn unknown(error: EventBusError) -> EventBusError {
    match error {
        EventBusError::Unavailable { bus, reason } => EventBusError::Unavailable {
            bus,
            reason: format!(
                "{reason}; whether the event is kept is not known: publish it again under the same \
                 id, and it counts once"
            ),
        },
        other => other,
    }
}
