//! The connection to the server, and the two streams of a bus there.
//!
//! Invariants: no question waits longer than its time; a stream that is there with another number
//! of partitions is refused, because events of one stream would be in two; a password is in no
//! message.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use super::super::EventBusError;
use super::NatsOptions;
use super::names::Names;

/// How long the server may take for one answer.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// An open connection; it comes back by itself when the server does.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) events: Stream,
    pub(super) parked: Stream,
    /// Changes when the connection is back.
    pub(super) connected: watch::Receiver<u64>,
    /// For messages: where the server is.
    place: String,
}

impl Link {
    pub(super) async fn open(options: &NatsOptions, names: &Names) -> Result<Self, EventBusError> {
        let addresses = addresses(&options.url)?;
        let place = place(&addresses);
        let trouble = |words: &str, error: &dyn std::fmt::Display| EventBusError::Unavailable {
            bus: place.clone(),
            reason: format!("{words}: {error}"),
        };
        let (back, connected) = watch::channel(0);
        let connecting = ConnectOptions::new()
            .event_callback(move |event| {
                if matches!(event, Event::Connected) {
                    back.send_modify(|times| *times += 1);
                }
                std::future::ready(())
            })
            .name("unanimity")
            .connection_timeout(ANSWER_WAIT)
            .request_timeout(Some(ANSWER_WAIT))
            .connect(addresses);
        let client = tokio::time::timeout(ANSWER_WAIT, connecting)
            .await
            .map_err(|_| trouble("no answer", &"is a NATS server running there?"))?
            .map_err(|error| trouble("cannot connect; is a NATS server running there?", &error))?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(ANSWER_WAIT)
            .ack_timeout(ANSWER_WAIT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let asking = "cannot make its streams; was the server started with JetStream (-js)?";
        let streams = async {
            let events = context.get_or_create_stream(events_config(options, names)).await?;
            let parked = context.get_or_create_stream(parked_config(options, names)).await?;
            Ok::<_, jetstream::context::CreateStreamError>((events, parked))
        };
        let (events, parked) = streams.await.map_err(|error| trouble(asking, &error))?;
        check_partitions(&events, names, &place)?;
        Ok(Self { client, context, events, parked, connected, place })
    }

    /// The server did not do what it was asked.
    pub(super) fn trouble(&self, what: &str, error: &dyn std::fmt::Display) -> EventBusError {
        EventBusError::Unavailable { bus: self.place.clone(), reason: format!("{what}: {error}") }
    }

    pub(super) fn refused(&self, reason: String) -> EventBusError {
        EventBusError::Refused { bus: self.place.clone(), reason }
    }
}

/// The addresses in a list of URLs, separated by commas.
pub(super) fn addresses(url: &str) -> Result<Vec<ServerAddr>, EventBusError> {
    let refused = || EventBusError::Refused {
        bus: "NATS".to_owned(),
        // Not shown: it may hold a password.
        reason: "the url is none of a NATS server; give \"nats://host:port\" or \
                 \"tls://host:port\", several separated by commas"
            .to_owned(),
    };
    let one = |part: &str| {
        let address: ServerAddr = part.trim().parse().map_err(|_| refused())?;
        let known = matches!(address.scheme(), "nats" | "tls") && !address.host().is_empty();
        if known { Ok(address) } else { Err(refused()) }
    };
    url.split(',').map(one).collect()
}

fn place(addresses: &[ServerAddr]) -> String {
    let places = addresses.iter().map(|one| format!("{}:{}", one.host(), one.port()));
    format!("at NATS {}", places.collect::<Vec<_>>().join(","))
}

fn partitions_words(names: &Names) -> String {
    format!("events of unanimity in {} partitions", names.partitions)
}

fn events_config(options: &NatsOptions, names: &Names) -> Config {
    Config {
        name: names.stream.clone(),
        description: Some(partitions_words(names)),
        subjects: names.subjects(),
        max_age: options.retention,
        duplicate_window: options.duplicate_window,
        num_replicas: options.replicas,
        allow_direct: true,
        ..Config::default()
    }
}

fn parked_config(options: &NatsOptions, names: &Names) -> Config {
    Config {
        name: names.parked_stream(),
        description: Some("events whose tries are spent".to_owned()),
        subjects: names.parked_subjects(),
        max_messages_per_subject: 1,
        num_replicas: options.replicas,
        allow_direct: true,
        ..Config::default()
    }
}

fn check_partitions(events: &Stream, names: &Names, place: &str) -> Result<(), EventBusError> {
    let standing = events.cached_info().config.description.clone().unwrap_or_default();
    if standing == partitions_words(names) {
        return Ok(());
    }
    let (name, wanted) = (&names.stream, partitions_words(names));
    Err(EventBusError::Refused {
        bus: place.to_owned(),
        reason: format!(
            "the stream {name} there holds \"{standing}\", and this bus is for \"{wanted}\"; give \
             the bus the same number of partitions, or another stream"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_their_passwords_never_shown() {
        let good = addresses("nats://user:secret@one:4222, tls://two").unwrap();
        assert_eq!(place(&good), "at NATS one:4222,two:4222");
        for bad in ["", "http://one", "nats://", "secret://one", "nats://one:port", "ws://one"] {
            let error = addresses(bad).unwrap_err().to_string();
            assert!(error.contains("give \"nats://host:port\""), "{bad}: {error}");
            assert!(!error.contains("secret"));
        }
    }
}
