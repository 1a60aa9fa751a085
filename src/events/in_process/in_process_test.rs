//! Each duty of the port, on the bus of one process.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::super::{Delivery, EventHandler, Handled};
use super::*;
use crate::model::value::Value;
use crate::reply::Lost;

type Seen = (String, u32, Reply<Handled>);

/// Hands what it gets to the test, which answers.
struct Asks(Sender<Seen>);

impl EventHandler for Asks {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        let _ = self.0.send((delivery.event.id.clone(), delivery.attempt, reply));
    }
}

struct Fixture {
    bus: Arc<InProcessEventBus>,
    _runtime: Runtime,
}

fn fixture(queue_max: usize) -> Fixture {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_time().build().unwrap();
    let bus = Arc::new(InProcessEventBus::new(queue_max, runtime.handle().clone()));
    Fixture { bus, _runtime: runtime }
}

fn event(stream: &str, id: &str) -> BusEvent {
    let (id, stream) = (id.to_owned(), stream.to_owned());
    BusEvent { id, kind: "KIND".to_owned(), stream, body: Value::Null }
}

fn answer<T>(ask: impl FnOnce(Reply<Result<T, EventBusError>>)) -> Result<T, EventBusError>
where
    T: Send + 'static,
    Result<T, EventBusError>: Lost,
{
    let (sender, answers) = channel();
    ask(Reply::new(move |answer| sender.send(answer).unwrap()));
    answers.recv().unwrap()
}

impl Fixture {
    fn publish(&self, stream: &str, id: &str) -> Result<(), EventBusError> {
        answer(|reply| self.bus.publish(event(stream, id), reply))
    }

    fn subscribe(
        &self,
        kind: Option<&str>,
        group: Option<&str>,
    ) -> (SubscriptionId, Receiver<Seen>) {
        let (sender, seen) = channel();
        let ask = SubscribeAsk {
            kind: kind.map(str::to_owned),
            group: group.map(str::to_owned),
            handler: Arc::new(Asks(sender)),
            attempts_max: 2,
            in_flight_max: 2,
            timeout: Duration::from_secs(60),
        };
        (answer(|reply| self.bus.subscribe(ask, reply)).unwrap(), seen)
    }

    fn parked(&self) -> Vec<ParkedEvent> {
        answer(|reply| self.bus.parked(100, reply)).unwrap()
    }
}

fn done(seen: &Receiver<Seen>) -> String {
    let (id, _, reply) = seen.recv().unwrap();
    reply.send(Handled::Done);
    id
}

fn fail(seen: &Receiver<Seen>) -> (String, u32) {
    let (id, attempt, reply) = seen.recv().unwrap();
    reply.send(Handled::Failed { message: "no".to_owned() });
    (id, attempt)
}

#[test]
fn every_group_gets_an_event_once_and_only_of_the_type_it_wishes_for() {
    let fixture = fixture(100);
    let (_, all) = fixture.subscribe(None, None);
    let (_, one) = fixture.subscribe(Some("KIND"), Some("g"));
    let (_, other) = fixture.subscribe(Some("KIND"), Some("g"));
    let (_, foreign) = fixture.subscribe(Some("FOREIGN"), Some("g"));
    for (stream, id) in [("a", "1"), ("b", "2")] {
        fixture.publish(stream, id).unwrap();
    }
    assert_eq!([done(&all), done(&all)], ["1", "2"]);
    let mut of_group = [done(&one), done(&other)];
    of_group.sort();
    assert_eq!(of_group, ["1", "2"]);
    for seen in [&all, &one, &other, &foreign] {
        assert!(seen.try_recv().is_err());
    }
}

#[test]
fn the_next_of_a_stream_waits_until_the_one_before_is_handled_or_parked() {
    let fixture = fixture(100);
    let (_, seen) = fixture.subscribe(None, Some("g"));
    for (stream, id) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        fixture.publish(stream, id).unwrap();
    }
    let (id, attempt, reply) = seen.recv().unwrap();
    assert_eq!((id.as_str(), attempt), ("a1", 1));
    assert_eq!(done(&seen), "b1");
    assert!(seen.try_recv().is_err());
    reply.send(Handled::Failed { message: "not yet".to_owned() });
    assert_eq!(fail(&seen), ("a1".to_owned(), 2));
    assert_eq!(done(&seen), "a2");

    let parked = fixture.parked();
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].event.id.as_str(), parked[0].group.as_str()), ("a1", "g"));
    assert_eq!((parked[0].attempts, parked[0].message.as_str()), (2, "no"));
    let redrive = |id: &str| {
        answer(|reply| fixture.bus.redrive(id.to_owned(), "g".to_owned(), reply)).unwrap()
    };
    assert!(!redrive("a2"));
    assert!(redrive("a1"));
    let (id, attempt, reply) = seen.recv().unwrap();
    assert_eq!((id.as_str(), attempt), ("a1", 1));
    reply.send(Handled::Done);
    assert!(fixture.parked().is_empty());
}

#[test]
fn a_full_queue_is_refused_by_its_name_and_nobody_gets_the_event() {
    let fixture = fixture(2);
    let (_, quick) = fixture.subscribe(None, None);
    let (_, slow) = fixture.subscribe(None, Some("slow"));
    for id in ["1", "2"] {
        fixture.publish("a", id).unwrap();
        assert_eq!(done(&quick), id);
    }
    let error = fixture.publish("a", "3").unwrap_err().to_string();
    assert!(error.contains("the queue of group \"slow\" is full (2 events"), "{error}");
    assert!(quick.try_recv().is_err());
    assert_eq!(done(&slow), "1");
    fixture.publish("a", "3").unwrap();
    assert_eq!(done(&quick), "3");
}

#[test]
fn unsubscribing_waits_for_what_is_out_and_leaves_the_rest_to_the_group() {
    let fixture = fixture(100);
    let (first, of_first) = fixture.subscribe(None, Some("g"));
    fixture.publish("a", "1").unwrap();
    fixture.publish("a", "2").unwrap();
    let (_, _, reply) = of_first.recv().unwrap();
    let (second, of_second) = fixture.subscribe(None, Some("g"));
    let (sender, left) = channel();
    fixture.bus.unsubscribe(first, Reply::new(move |left| sender.send(left).unwrap()));
    assert!(left.try_recv().is_err());
    reply.send(Handled::Done);
    assert_eq!(left.recv().unwrap(), Ok(true));
    assert_eq!(done(&of_second), "2");
    assert!(answer(|reply| fixture.bus.unsubscribe(second, reply)).unwrap());
    assert!(!answer(|reply| fixture.bus.unsubscribe(second, reply)).unwrap());
    fixture.publish("a", "3").unwrap();
    assert!(of_first.try_recv().is_err() && of_second.try_recv().is_err());
}

#[test]
fn closing_lets_what_is_out_end_and_then_refuses_everything() {
    let fixture = fixture(100);
    let (_, seen) = fixture.subscribe(None, None);
    fixture.publish("a", "1").unwrap();
    fixture.publish("a", "2").unwrap();
    let (_, _, reply) = seen.recv().unwrap();
    let bus = Arc::clone(&fixture.bus);
    let closing = std::thread::spawn(move || bus.close());
    // It refuses at once, and ends when the handler has answered.
    while answer(|reply| fixture.bus.parked(1, reply)) != Err(EventBusError::Closed) {
        std::thread::yield_now();
    }
    assert_eq!(fixture.publish("b", "x"), Err(EventBusError::Closed));
    assert!(!closing.is_finished());
    reply.send(Handled::Done);
    closing.join().unwrap();
    assert!(seen.try_recv().is_err());
    fixture.bus.close();
}

#[test]
fn a_handler_may_publish_and_subscribe_on_the_bus_that_calls_it() {
    struct Echo(Arc<InProcessEventBus>, Sender<()>);
    impl EventHandler for Echo {
        fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
            if delivery.event.id == "1" {
                let told = answer(|reply| self.0.publish(event("a", "2"), reply));
                assert_eq!(told, Ok(()));
            } else {
                self.1.send(()).unwrap();
            }
            reply.send(Handled::Done);
        }
    }
    let fixture = fixture(100);
    let (sender, heard) = channel();
    let handler = Arc::new(Echo(Arc::clone(&fixture.bus), sender));
    let ask = SubscribeAsk {
        kind: None,
        group: None,
        handler,
        attempts_max: 1,
        in_flight_max: 1,
        timeout: Duration::from_secs(60),
    };
    answer(|reply| fixture.bus.subscribe(ask, reply)).unwrap();
    fixture.publish("a", "1").unwrap();
    heard.recv().unwrap();
    fixture.bus.close();
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let fixture = fixture(100);
    let error = fixture.publish("", "1").unwrap_err().to_string();
    assert!(error.contains("the event's stream is empty"), "{error}");
    let redriven = answer(|reply| fixture.bus.redrive("1".to_owned(), "g".to_owned(), reply));
    assert_eq!(redriven, Ok(false));
}
