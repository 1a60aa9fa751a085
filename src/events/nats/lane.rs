//! Pulling from one consumer on the server, for as long as a subscription lasts.
//!
//! Invariant: whatever the server does, pulling goes on: after an error, after a silence, and at
//! once when the connection is back.

use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::{AckKind, Message};
use futures_util::StreamExt as _;
use std::sync::Arc;

use super::super::EventBusError;
use super::link::Link;
use super::member::{Member, Place, Ticket};
use super::names::{Lane, Names, consumer, decode};
use crate::model::value::Value;

/// How long one question for events is open at the server.
const OPEN: Duration = Duration::from_secs(10);
/// How many events are asked for at once, where more than one may be out.
const BATCH: usize = 256;
/// How many of them the server leaves with a subscription of its own before it waits for an answer.
const ALL_PENDING_MAX: i64 = 1_000;
/// How long the server keeps what a subscription of its own has not asked for, if its process died.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A consumer to pull from.
pub(super) struct Pull {
    lane: Lane,
    consumer: PullConsumer,
}

/// Makes the consumer of a lane, or finds it.
pub(super) async fn open(
    link: Arc<Link>,
    names: Names,
    place: Arc<Place>,
    lane: Lane,
    redelivery: Duration,
) -> Result<Pull, EventBusError> {
    let (group, wish) = (place.group.as_str(), place.wish.as_deref());
    let name = consumer(lane, group, wish);
    let config = Config {
        durable_name: Some(name),
        description: Some(format!("{group}: {} ({lane:?})", wish.unwrap_or("*"))),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        ack_wait: redelivery,
        // The bus parks them itself.
        max_deliver: -1,
        filter_subject: names.filter(lane, group, wish),
        max_ack_pending: if lane == Lane::All { ALL_PENDING_MAX } else { 1 },
        inactive_threshold: if place.is_own { FORGOTTEN_AFTER } else { Duration::ZERO },
        ..Config::default()
    };
    let consumer = link.events.create_consumer(config).await;
    let consumer = consumer.map_err(|error| link.trouble("cannot subscribe", &error))?;
    Ok(Pull { lane, consumer })
}

/// Pulls until the subscription stops.
pub(super) async fn run(member: Arc<Member>, pull: Pull) {
    let mut stopped = member.stopped.subscribe();
    let mut connected = member.link.connected.clone();
    let mut pause = PAUSE;
    loop {
        connected.mark_unchanged();
        let taken = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            // What was asked before is forgotten by a server that was gone.
            _ = connected.changed() => continue,
            taken = take_some(&member, &pull) => taken,
        };
        let Err(error) = taken else {
            pause = PAUSE;
            continue;
        };
        tracing::debug!("no events for {:?}: {error}", member.place.group);
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = connected.changed() => {}
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

async fn take_some(member: &Member, pull: &Pull) -> Result<(), async_nats::Error> {
    let wanted = if pull.lane == Lane::All { BATCH } else { 1 };
    let room = loop {
        match member.room().min(wanted) {
            0 => member.room.notified().await,
            room => break room,
        }
    };
    let batch = pull.consumer.batch().max_messages(room).expires(OPEN).messages();
    let mut messages = batch.await?;
    let silence = OPEN + Duration::from_secs(2);
    while let Some(message) = tokio::time::timeout(silence, messages.next()).await? {
        take(member, message?, pull.lane).await;
    }
    Ok(())
}

async fn take(member: &Member, message: Message, lane: Lane) {
    let text = std::str::from_utf8(&message.payload).ok();
    let event = text.and_then(|text| Value::from_json(text).ok()).and_then(|v| decode(&v));
    let place = message.info().map(|info| (info.stream_sequence, info.delivered));
    match (event, place) {
        (Some(event), Ok((sequence, delivered))) => {
            let (_, acker) = message.split();
            let delivered = u32::try_from(delivered).unwrap_or(u32::MAX);
            member.take(event, acker, Ticket { sequence, lane }, delivered);
        }
        _ => {
            tracing::warn!("what {} holds is no event of a bus; it is skipped", message.subject);
            let _ = message.ack_with(AckKind::Term).await;
        }
    }
}
