//! Claims of the relay: first of its bookkeeping, where time is a number, then of the whole.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::runtime::Runtime;

use super::super::Delivery;
use super::*;
use crate::model::value::Value;

fn event(stream: &str, id: &str) -> Arc<BusEvent> {
    Arc::new(BusEvent {
        id: id.to_owned(),
        kind: "KIND".to_owned(),
        stream: stream.to_owned(),
        body: Value::Null,
    })
}

fn offer(stream: &str, id: &str) -> Offer<()> {
    Offer { event: event(stream, id), attempts: 0, ticket: () }
}

fn settings() -> RelaySettings {
    let base = Duration::from_millis(2);
    RelaySettings {
        attempts_max: 3,
        in_flight_max: 2,
        held_max: 8,
        timeout: Duration::from_secs(10),
        backoff: Backoff { base, cap: Duration::from_millis(20), seed: 7 },
    }
}

/// Bookkeeping for one taker that is never called.
fn streams() -> Streams<()> {
    let RelaySettings { attempts_max, in_flight_max, held_max, timeout, backoff } = settings();
    let mut streams = Streams::new(held_max, backoff);
    let handler = Arc::new(Handler(|_, _| {}));
    streams.takers.join(Taker { kind: None, handler, attempts_max, in_flight_max, timeout });
    streams
}

fn failed() -> Handled {
    Handled::Failed { message: "no".to_owned() }
}

/// The ids that may go out now.
fn out(streams: &mut Streams<()>, now: Instant) -> Vec<HandOver> {
    std::iter::from_fn(|| streams.next(now)).collect()
}

fn ids(tries: &[HandOver]) -> Vec<&str> {
    tries.iter().map(|one| one.delivery.event.id.as_str()).collect()
}

#[test]
fn one_of_a_stream_is_out_and_no_more_than_allowed_in_all() {
    let mut streams = streams();
    for (stream, id) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("c", "c1")] {
        streams.put(offer(stream, id)).unwrap();
    }
    let now = Instant::now();
    let first = out(&mut streams, now);
    assert_eq!(ids(&first), ["a1", "b1"]);

    let verdict = streams.answered(&first[0].stream, first[0].serial, Handled::Done).unwrap();
    assert!(matches!(verdict.end, End::Done));
    assert!(out(&mut streams, now).is_empty(), "what is being settled counts as out");
    streams.settled(&verdict.stream);
    assert_eq!(ids(&out(&mut streams, now)), ["c1"], "the other stream waited longer");
}

#[test]
fn an_event_is_tried_again_later_and_then_parked_while_others_go_by() {
    let mut streams = streams();
    streams.put(offer("a", "a1")).unwrap();
    streams.put(offer("a", "a2")).unwrap();
    let mut now = Instant::now();
    for attempt in 1..=3 {
        let tries = out(&mut streams, now);
        assert_eq!(ids(&tries), ["a1"]);
        assert_eq!(tries[0].delivery.attempt, attempt);
        let verdict = streams.answered(&tries[0].stream, tries[0].serial, failed()).unwrap();
        let End::Failed { delay, .. } = verdict.end else {
            assert_eq!(attempt, 3);
            streams.settled(&verdict.stream);
            break;
        };
        streams.again(&verdict.stream, verdict.offer, now + delay);
        streams.put(offer("b", "b")).unwrap();
        let other = out(&mut streams, now);
        assert_eq!(ids(&other), ["b"], "another stream does not wait");
        let done = streams.answered(&other[0].stream, other[0].serial, Handled::Done).unwrap();
        streams.settled(&done.stream);
        assert_eq!(streams.deadline(), Some(now + delay));
        now += delay;
        assert!(streams.time_passed(now).is_empty());
    }
    assert_eq!(ids(&out(&mut streams, now)), ["a2"]);
}

#[test]
fn a_handler_that_takes_too_long_has_failed_and_its_late_answer_counts_for_nothing() {
    let mut streams = streams();
    streams.put(offer("a", "a1")).unwrap();
    let begin = Instant::now();
    let first = out(&mut streams, begin);
    assert!(streams.time_passed(begin + Duration::from_secs(9)).is_empty());
    let mut verdicts = streams.time_passed(begin + Duration::from_secs(10));
    let verdict = verdicts.pop().unwrap();
    let End::Failed { message, delay } = verdict.end else { panic!("it failed") };
    assert!(message.contains("no answer within 10 s"), "{message}");
    streams.again(&verdict.stream, verdict.offer, begin + Duration::from_secs(10) + delay);
    streams.time_passed(begin + Duration::from_secs(11));
    let second = out(&mut streams, begin + Duration::from_secs(11));
    assert_eq!(second[0].delivery.attempt, 2);
    assert!(streams.answered(&first[0].stream, first[0].serial, Handled::Done).is_none());
    assert!(streams.answered(&second[0].stream, second[0].serial, Handled::Done).is_some());
}

#[test]
fn there_is_a_bound_on_what_is_held_and_what_is_over_it_comes_back() {
    let mut streams = streams();
    for number in 0..8 {
        streams.put(offer("a", &number.to_string())).unwrap();
    }
    assert_eq!(streams.room(), 0);
    assert_eq!(streams.put(offer("b", "over")).unwrap_err().event.id, "over");
}

#[test]
fn what_is_left_when_it_stops_comes_back_in_its_order() {
    let mut streams = streams();
    for (stream, id) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4"), ("b", "5")] {
        streams.put(offer(stream, id)).unwrap();
    }
    let tries = out(&mut streams, Instant::now());
    streams.stop();
    assert!(!streams.is_quiet());
    for one in &tries {
        let verdict = streams.answered(&one.stream, one.serial, failed()).unwrap();
        streams.again(&verdict.stream, verdict.offer, Instant::now());
    }
    assert!(streams.is_quiet());
    let rest = streams.drain();
    let left: Vec<&str> = rest.iter().map(|offer| offer.event.id.as_str()).collect();
    assert_eq!(left, ["1", "2", "3", "4", "5"]);
    assert_eq!(rest[0].attempts, 1);
}

/// Notes what became of events, by id.
#[derive(Clone)]
struct Notes(mpsc::Sender<(String, &'static str, u32)>);

impl Settle<()> for Notes {
    fn done(&self, offer: Offer<()>, _next: Next<()>) {
        let _ = self.0.send((offer.event.id.clone(), "done", offer.attempts));
    }

    fn park(&self, offer: Offer<()>, _message: String, _next: Next<()>) {
        let _ = self.0.send((offer.event.id.clone(), "parked", offer.attempts));
    }
}

struct Handler<F>(F);

impl<F: Fn(Delivery, Reply<Handled>) + Send + Sync> EventHandler for Handler<F> {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        (self.0)(delivery, reply);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
}

fn relay(
    settings: RelaySettings,
    runtime: &Runtime,
    handle: impl Fn(Delivery, Reply<Handled>) + Send + Sync + 'static,
) -> (Relay<()>, mpsc::Receiver<(String, &'static str, u32)>) {
    let (sender, notes) = mpsc::channel();
    let settle = Arc::new(Notes(sender));
    (Relay::new(settings, Arc::new(Handler(handle)), settle, runtime.handle()), notes)
}

#[test]
fn a_handler_that_answers_at_once_takes_ten_thousand_events_on_one_stack() {
    let runtime = runtime();
    let settings = RelaySettings { held_max: 20_000, ..settings() };
    // The first is held back, so that all the others wait behind it.
    let first: Arc<Mutex<Option<Reply<Handled>>>> = Arc::default();
    let kept = Arc::clone(&first);
    let (relay, notes) = relay(settings, &runtime, move |delivery, reply| {
        if delivery.event.id == "0" {
            *kept.lock().unwrap() = Some(reply);
        } else {
            reply.send(Handled::Done);
        }
    });
    for number in 0..10_000 {
        relay.offer(offer("a", &number.to_string())).unwrap();
    }
    first.lock().unwrap().take().unwrap().send(Handled::Done);
    for number in 0..10_000 {
        assert_eq!(notes.recv().unwrap().0, number.to_string());
    }
    assert_eq!(relay.room(), 20_000);
}

#[test]
fn a_failing_event_is_parked_after_its_tries_and_a_dropped_answer_is_a_failure() {
    let runtime = runtime();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let (relay, notes) = relay(settings(), &runtime, move |delivery, reply| {
        match (delivery.event.id.as_str(), counted.fetch_add(1, Ordering::SeqCst)) {
            ("bad", 0) => drop(reply),
            ("bad", _) => reply.send(failed()),
            _ => reply.send(Handled::Done),
        }
    });
    relay.offer(offer("a", "bad")).unwrap();
    relay.offer(offer("a", "good")).unwrap();
    assert_eq!(notes.recv().unwrap(), ("bad".to_owned(), "parked", 3));
    assert_eq!(notes.recv().unwrap(), ("good".to_owned(), "done", 1));
}

#[test]
fn stopping_waits_for_what_is_out_and_gives_back_the_rest() {
    let runtime = runtime();
    let (sender, out) = mpsc::channel();
    let (relay, notes) = relay(settings(), &runtime, move |_, reply| sender.send(reply).unwrap());
    for id in ["1", "2"] {
        relay.offer(offer("a", id)).unwrap();
    }
    let reply = out.recv().unwrap();
    let (stopped, rest) = mpsc::channel();
    relay.stop(move |rest| stopped.send(rest).unwrap());
    assert!(rest.try_recv().is_err(), "one is out");
    assert!(relay.offer(offer("b", "3")).is_err());
    reply.send(Handled::Done);
    let rest = rest.recv().unwrap();
    assert_eq!(rest.iter().map(|offer| offer.event.id.as_str()).collect::<Vec<_>>(), ["2"]);
    assert_eq!(notes.recv().unwrap().0, "1");
    let (stopped, again) = mpsc::channel();
    relay.stop(move |rest| stopped.send(rest).unwrap());
    assert!(again.recv().unwrap().is_empty());
}

#[test]
fn a_handler_that_never_answers_is_given_up_and_stopping_does_not_wait_for_ever() {
    let runtime = runtime();
    let settings = RelaySettings { timeout: Duration::from_millis(5), ..settings() };
    let kept = Mutex::new(Vec::new());
    let (relay, notes) = relay(settings, &runtime, move |_, reply| {
        kept.lock().unwrap().push(reply);
    });
    relay.offer(offer("a", "slow")).unwrap();
    relay.offer(offer("b", "slow too")).unwrap();
    assert_eq!(notes.recv().unwrap().1, "parked");
    let (stopped, rest) = mpsc::channel();
    relay.stop(move |rest| stopped.send(rest).unwrap());
    rest.recv().unwrap();
}

#[test]
fn streams_keep_their_order_whatever_handlers_do_on_many_threads() {
    let seed: u64 = 20_261_125;
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let handle = runtime.handle().clone();
    let (sender, seen) = mpsc::channel();
    let draws = Arc::new(AtomicUsize::new(0));
    let settings = RelaySettings { held_max: 100_000, in_flight_max: 5, ..settings() };
    let (relay, notes) = relay(settings, &runtime, move |delivery, reply| {
        let (sender, draws) = (sender.clone(), Arc::clone(&draws));
        handle.spawn(async move {
            let draw = draws.fetch_add(1, Ordering::SeqCst) as u64;
            let fails = (seed ^ draw).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0;
            if draw.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
            let id = delivery.event.id.clone();
            sender.send((delivery.event.stream.clone(), id)).unwrap();
            reply.send(if fails { failed() } else { Handled::Done });
        });
    });
    for number in 0..2_000 {
        relay.offer(offer(&format!("s{}", number % 17), &format!("{number:05}"))).unwrap();
    }
    for _ in 0..2_000 {
        notes.recv().unwrap();
    }
    let mut last: HashMap<String, String> = HashMap::new();
    for (stream, id) in seen.try_iter() {
        let before = last.insert(stream, id.clone());
        assert!(before.is_none_or(|before| before <= id), "order, repeats allowed");
    }
}

#[test]
fn takers_share_events_by_their_types_and_who_leaves_is_waited_for() {
    let runtime = runtime();
    let (notes, told) = mpsc::channel();
    let RelaySettings { held_max, backoff, .. } = settings();
    let settle = Arc::new(Notes(notes));
    let relay = Relay::without_takers(held_max, backoff, settle, runtime.handle());
    let taker = |kind: Option<&str>| {
        let (sender, out) = mpsc::channel();
        let handler = Arc::new(Handler(move |delivery: Delivery, reply| {
            sender.send((delivery.event.id.clone(), reply)).unwrap();
        }));
        let kind = kind.map(str::to_owned);
        let timeout = Duration::from_secs(60);
        (Taker { kind, handler, attempts_max: 1, in_flight_max: 1, timeout }, out)
    };
    let (first, of_first) = taker(None);
    let (second, of_second) = taker(Some("KIND"));
    let (third, of_third) = taker(Some("OTHER"));
    let first = relay.join(first);
    relay.join(second);
    relay.join(third);
    for (stream, id) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1")] {
        relay.offer(offer(stream, id)).unwrap();
    }
    let (id, reply) = of_first.recv().unwrap();
    assert_eq!(id, "a1");
    let (id, second_reply) = of_second.recv().unwrap();
    assert_eq!(id, "b1");
    assert!(of_third.try_recv().is_err(), "it wishes for another type");

    let (left, gone) = mpsc::channel();
    relay.leave(first, move || left.send(()).unwrap());
    assert!(gone.try_recv().is_err(), "one of it is out");
    reply.send(Handled::Done);
    gone.recv().unwrap();
    assert_eq!(told.recv().unwrap().0, "a1");
    second_reply.send(Handled::Done);
    let (id, reply) = of_second.recv().unwrap();
    assert_eq!(id, "c1", "it was in line first");
    reply.send(Handled::Done);
    let (id, _reply) = of_second.recv().unwrap();
    assert_eq!(id, "a2", "the one that left took nothing more");
    assert!(of_first.try_recv().is_err());
}

#[test]
fn what_nobody_wishes_for_any_more_is_dropped_and_its_stream_goes_on() {
    let mut streams = Streams::new(settings().held_max, settings().backoff);
    let handler = Arc::new(Handler(|_, _| {}));
    let taker = |kind: &str, in_flight_max| Taker {
        kind: Some(kind.to_owned()),
        handler: Arc::clone(&handler) as Arc<dyn EventHandler>,
        attempts_max: 1,
        in_flight_max,
        timeout: Duration::from_secs(60),
    };
    let leaving = streams.takers.join(taker("KIND", 1));
    streams.takers.join(taker("OTHER", 2));
    for (kind, id) in [("KIND", "1"), ("KIND", "2"), ("OTHER", "3"), ("KIND", "4")] {
        let event = BusEvent { kind: kind.to_owned(), ..(*event("a", id)).clone() };
        streams.put(Offer { event: Arc::new(event), attempts: 0, ticket: () }).unwrap();
    }
    streams.takers.leave(leaving);
    assert_eq!(streams.forget_unwanted(), 3);
    assert_eq!(ids(&out(&mut streams, Instant::now())), ["3"]);
    assert!(streams.takers.is_gone(leaving));
}
