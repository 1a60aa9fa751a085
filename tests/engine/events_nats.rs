//! The bus on a real NATS server: order in a group of several buses, a failing event, and a server
//! that is killed in the middle. What Python users see is in `tests/python`.

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use unanimity::events::nats::{NatsEventBus, NatsOptions};
use unanimity::events::{
    BusEvent, Delivery, EventBus, EventBusError, EventHandler, Handled, SubscribeAsk,
    SubscriptionId,
};
use unanimity::model::value::Value;
use unanimity::reply::{Lost, Reply};

use crate::support::nats::NatsServer;

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn bus(server: &NatsServer, runtime: &Runtime) -> NatsEventBus {
    let options = NatsOptions {
        url: server.url(),
        stream: "TEST".to_owned(),
        partitions: 4,
        replicas: 1,
        publish_timeout: PATIENCE,
        redelivery: Duration::from_secs(1),
        retention: Duration::from_secs(3_600),
        duplicate_window: Duration::from_secs(60),
    };
    NatsEventBus::new(options, runtime.handle().clone()).unwrap()
}

fn event(stream: usize, number: usize) -> BusEvent {
    let stream = format!("s{stream}");
    let id = format!("{stream}-{number:04}");
    BusEvent { id, kind: "TOLD".to_owned(), stream, body: Value::Null }
}

fn answer<T>(ask: impl FnOnce(Reply<Result<T, EventBusError>>)) -> Result<T, EventBusError>
where
    T: Send + 'static,
    Result<T, EventBusError>: Lost,
{
    let (sender, answers) = channel();
    ask(Reply::new(move |answer| drop(sender.send(answer))));
    answers.recv_timeout(PATIENCE).expect("the bus answers in time")
}

/// Notes each event, and fails those in `bad`.
struct Notes {
    seen: Mutex<Sender<(String, String, u32)>>,
    bad: Option<String>,
}

impl EventHandler for Notes {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        let BusEvent { id, stream, .. } = &*delivery.event;
        let _ = self.seen.lock().unwrap().send((stream.clone(), id.clone(), delivery.attempt));
        reply.send(match &self.bad {
            Some(bad) if bad == id => Handled::Failed { message: "bad".to_owned() },
            _ => Handled::Done,
        });
    }
}

type Seen = Receiver<(String, String, u32)>;

fn subscribe(bus: &NatsEventBus, group: Option<&str>, bad: Option<&str>) -> (SubscriptionId, Seen) {
    let (sender, seen) = channel();
    let handler = Notes { seen: Mutex::new(sender), bad: bad.map(str::to_owned) };
    let ask = SubscribeAsk {
        kind: None,
        group: group.map(str::to_owned),
        handler: Arc::new(handler),
        attempts_max: 2,
        in_flight_max: 8,
        timeout: PATIENCE,
    };
    (answer(|reply| bus.subscribe(ask, reply)).unwrap(), seen)
}

/// Every event was seen, and each for the first time in the order of its stream.
fn check(seen: &[(String, String, u32)], count: usize) {
    let mut known = BTreeSet::new();
    let mut last: HashMap<&str, &str> = HashMap::new();
    for (stream, id, _) in seen {
        if known.insert(id) {
            let before = last.insert(stream, id);
            assert!(before.is_none_or(|before| before < id.as_str()), "{before:?}, then {id}");
        }
    }
    assert_eq!(known.len(), count);
}

fn collect(seen: &Seen, count: usize) -> Vec<(String, String, u32)> {
    let (mut all, mut known) = (Vec::new(), BTreeSet::new());
    while known.len() < count {
        let one = seen.recv_timeout(PATIENCE).expect("every event comes");
        known.insert(one.1.clone());
        all.push(one);
    }
    all
}

#[test]
fn nats_keeps_streams_in_order_and_parks_what_fails() {
    let Some(server) = NatsServer::start() else { return };
    let runtime = runtime();
    let (one, other) = (bus(&server, &runtime), bus(&server, &runtime));
    let (_, alone) = subscribe(&one, None, Some("s1-0003"));
    let (_, first) = subscribe(&one, Some("group"), Some("s2-0005"));
    let (_, second) = subscribe(&other, Some("group"), Some("s2-0005"));
    for number in 0..20 {
        for stream in 0..5 {
            answer(|reply| one.publish(event(stream, number), reply)).unwrap();
            // Again under its id: it counts once.
            answer(|reply| other.publish(event(stream, number), reply)).unwrap();
        }
    }
    let of_alone = collect(&alone, 100);
    check(&of_alone, 100);
    let tries = of_alone.iter().filter(|(_, id, _)| id == "s1-0003");
    assert_eq!(tries.map(|(_, _, attempt)| *attempt).collect::<Vec<_>>(), [1, 2]);

    let (mut of_group, mut known) = (Vec::new(), BTreeSet::new());
    while known.len() < 100 {
        for seen in [&first, &second] {
            while let Ok(one) = seen.recv_timeout(Duration::from_millis(10)) {
                known.insert(one.1.clone());
                of_group.push(one);
            }
        }
    }
    assert_eq!(of_group.len(), 101, "each once, the failing one twice");
    let parked = loop {
        let parked = answer(|reply| other.parked(10, reply)).unwrap();
        if parked.len() == 2 {
            break parked;
        }
    };
    let found = parked.iter().find(|parked| parked.group == "group").expect("it is parked");
    assert_eq!((found.event.id.as_str(), found.attempts), ("s2-0005", 2));
    assert_eq!(found.message, "bad");
    let redriven = |bus: &NatsEventBus, id: &str| {
        answer(|reply| bus.redrive(id.to_owned(), "group".to_owned(), reply)).unwrap()
    };
    assert!(redriven(&one, "s2-0005"));
    assert!(!redriven(&one, "s2-0006"));
    one.close();
    other.close();
    assert_eq!(answer(|reply| one.publish(event(0, 0), reply)), Err(EventBusError::Closed));
}

#[test]
fn nats_killed_and_started_again_loses_nothing_that_was_acknowledged() {
    let Some(mut server) = NatsServer::start() else { return };
    let runtime = runtime();
    let bus = Arc::new(bus(&server, &runtime));
    let (id, of_group) = subscribe(&bus, Some("group"), None);
    let (_, alone) = subscribe(&bus, None, None);
    let publisher = {
        let bus = Arc::clone(&bus);
        std::thread::spawn(move || {
            for number in 0..100 {
                for stream in 0..3 {
                    answer(|reply| bus.publish(event(stream, number), reply)).unwrap();
                }
            }
        })
    };
    let mut seen = collect(&of_group, 50);
    server.kill();
    server.resume();
    publisher.join().unwrap();
    let missing = 300 - seen.iter().map(|(_, id, _)| id).collect::<BTreeSet<_>>().len();
    let known: BTreeSet<String> = seen.iter().map(|(_, id, _)| id.clone()).collect();
    let mut left = missing;
    while left > 0 {
        let one = of_group.recv_timeout(PATIENCE).expect("every event comes");
        if !known.contains(&one.1) && !seen.iter().any(|(_, id, _)| *id == one.1) {
            left -= 1;
        }
        seen.push(one);
    }
    check(&seen, 300);
    check(&collect(&alone, 300), 300);
    assert!(answer(|reply| bus.unsubscribe(id, reply)).unwrap());
    bus.close();
}
