//! The events whose tries are spent, in a stream of their own: one place for each event and group.
//!
//! Invariants: an event is parked before it is acknowledged, and put out again before it is parked
//! no more; so a crash between the two leaves it twice, never nowhere.

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures_util::StreamExt as _;
use std::time::Duration;
use tokio::time::Instant;

use super::super::{BusEvent, EventBusError, ParkedEvent};
use super::link::Link;
use super::names::{Names, decode, encode, entry, message_id};
use super::now;
use super::publish::Outgoing;
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// What was parked, and for which wish of its group.
pub(super) struct Record {
    pub(super) parked: ParkedEvent,
    pub(super) wish: Option<String>,
}

impl Record {
    fn to_value(&self) -> Value {
        let ParkedEvent { event, group, attempts, message, parked_at } = &self.parked;
        let wish = self.wish.as_deref().map_or(Value::Null, Value::from);
        Value::Map(vec![
            entry("event", encode(event)),
            entry("group", group.as_str().into()),
            entry("wish", wish),
            entry("attempts", i64::from(*attempts).into()),
            entry("message", message.as_str().into()),
            entry("parked_at", parked_at.0.into()),
        ])
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let value = Value::from_json(std::str::from_utf8(payload).ok()?).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_text).map(str::to_owned);
        let parked = ParkedEvent {
            event: decode(value.get("event")?)?,
            group: text("group")?,
            attempts: u32::try_from(value.get("attempts")?.as_int()?).ok()?,
            message: text("message")?,
            parked_at: Timestamp(value.get("parked_at")?.as_int()?),
        };
        Some(Self { parked, wish: text("wish") })
    }
}

/// Parks an event, once, or says why that cannot be.
pub(super) async fn park(
    link: &Link,
    names: &Names,
    record: &Record,
    until: Instant,
) -> Result<(), EventBusError> {
    let ParkedEvent { event, group, .. } = &record.parked;
    let message = Outgoing {
        subject: names.parked(group, &event.id),
        // It may be parked again after it was redriven.
        id: format!("{}:{}", message_id(&event.id), record.parked.parked_at.0),
        payload: record.to_value().to_json().into(),
    };
    let sent = message.send(link).await;
    message.acknowledged(link, sent, until).await
}

pub(super) fn record(
    event: &BusEvent,
    group: &str,
    wish: Option<&str>,
    attempts: u32,
    message: String,
) -> Record {
    let (event, group) = (event.clone(), group.to_owned());
    let parked = ParkedEvent { event, group, attempts, message, parked_at: now() };
    Record { parked, wish: wish.map(str::to_owned) }
}

/// The oldest parked events.
pub(super) async fn list(link: &Link, limit: usize) -> Result<Vec<ParkedEvent>, EventBusError> {
    let trouble = |error: &dyn std::fmt::Display| link.trouble("cannot list parked events", error);
    let config = PullConfig {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(30),
        ..PullConfig::default()
    };
    let consumer: PullConsumer =
        link.parked.create_consumer(config).await.map_err(|error| trouble(&error))?;
    let mut found = Vec::new();
    while found.len() < limit {
        let most = (limit - found.len()).min(500);
        let batch = consumer.fetch().max_messages(most).messages().await;
        let mut batch = batch.map_err(|error| trouble(&error))?;
        let before = found.len();
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| trouble(&error))?;
            found.extend(Record::from_payload(&message.payload).map(|record| record.parked));
        }
        if found.len() == before {
            break;
        }
    }
    let _ = link.parked.delete_consumer(&consumer.cached_info().name).await;
    Ok(found)
}

/// Puts a parked event out again, for its group alone. True if it was parked.
pub(super) async fn redrive(
    link: &Link,
    names: &Names,
    (event_id, group): (&str, &str),
    until: Instant,
) -> Result<bool, EventBusError> {
    let place = names.parked(group, event_id);
    let found = match link.parked.get_last_raw_message_by_subject(&place).await {
        Ok(found) => found,
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(false),
        Err(error) => return Err(link.trouble("cannot read the parked event", &error)),
    };
    let Some(record) = Record::from_payload(&found.payload) else {
        return Err(link.trouble("cannot read the parked event", &"it was not written by a bus"));
    };
    let message = Outgoing {
        subject: names.redriven(group, record.wish.as_deref()),
        id: format!("redriven:{}:{}", message_id(event_id), found.sequence),
        payload: encode(&record.parked.event).to_json().into(),
    };
    let sent = message.send(link).await;
    message.acknowledged(link, sent, until).await?;
    let deleted = link.parked.delete_message(found.sequence).await;
    deleted.map_err(|error| link.trouble("the event is redriven, and parked still", &error))
}

/// Forgets what was parked for a group that is gone.
pub(super) async fn forget(link: &Link, names: &Names, group: &str) {
    if let Err(error) = link.parked.purge().filter(names.parked_of(group)).await {
        tracing::debug!("parked events of a subscription that ended are left: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let (id, kind, stream) = ("1".to_owned(), "K".to_owned(), "s".to_owned());
        let event = BusEvent { id, kind, stream, body: Value::Map(Vec::new()) };
        for wish in [None, Some("K")] {
            let record = record(&event, "g", wish, 3, "no".to_owned());
            let back = Record::from_payload(record.to_value().to_json().as_bytes()).unwrap();
            assert_eq!(back.parked, record.parked);
            assert_eq!(back.wish.as_deref(), wish);
        }
        assert!(Record::from_payload(b"{}").is_none());
    }
}
