//! How many events a second are published and delivered, printed and not asserted.
//!
//! Not a benchmark with a goal and not run by default:
//! `cargo test --release --test engine events_durable::rate -- --ignored --nocapture`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const EVENTS: usize = 20_000;
const STREAMS: usize = 100;

#[test]
#[ignore = "a measurement"]
fn rates_on_a_file() {
    measure("file", &House::journal);
}

#[test]
#[ignore = "a measurement"]
fn rates_in_postgres() {
    measure("postgres", &House::postgres);
}

/// Publishes with at most `width` unanswered at once; the time of each from call to answer.
fn publish(process: &Process, count: usize, width: usize) -> Duration {
    let (sender, answers) = channel();
    let began = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < width {
            let sender = sender.clone();
            let reply = Reply::new(move |answer: Result<(), EventBusError>| {
                answer.unwrap();
                let _ = sender.send(());
            });
            let stream = format!("s{}", sent % STREAMS);
            process.bus.publish(event(&stream, sent), reply);
            sent += 1;
        }
        answers.recv_timeout(PATIENCE).unwrap();
        answered += 1;
    }
    began.elapsed()
}

/// A handler that is done at once and counts.
fn counter(process: &Process, group: &str, in_flight_max: usize) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let (handler, _heard) = ruled(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Handled::Done
    });
    process.subscribe(SubscribeAsk { in_flight_max, ..subscription(Some(group), handler) });
    count
}

fn wait_for(count: &AtomicUsize, wanted: usize) {
    while count.load(Ordering::SeqCst) < wanted {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts below a million")]
fn say(what: &str, count: usize, took: Duration) {
    println!("{what}: {:.0} a second", count as f64 / took.as_secs_f64());
}

fn measure(name: &str, house: &dyn Fn() -> House) {
    for (width, count) in [(1, EVENTS / 20), (16, EVENTS / 4), (64, EVENTS), (1_024, EVENTS)] {
        let house = house();
        let process = house.process();
        let took = publish(&process, count, width);
        say(&format!("{name}: published, no group, {width} unanswered"), count, took);
    }
    let waiting = house();
    let maker = waiting.process();
    counter(&maker, "backlog", 64);
    maker.bus.close();
    let publisher = waiting.process();
    publish(&publisher, EVENTS, 1_024);
    let consumer = waiting.process();
    let began = Instant::now();
    let count = counter(&consumer, "backlog", 64);
    wait_for(&count, EVENTS);
    say(&format!("{name}: delivered from a backlog, 64 in flight"), EVENTS, began.elapsed());
    for width in [64, 1_024] {
        let house = house();
        let (publisher, consumer) = (house.process(), house.process());
        let count = counter(&consumer, "g", 64);
        let began = Instant::now();
        let published = publish(&publisher, EVENTS, width);
        wait_for(&count, EVENTS);
        let both = began.elapsed();
        say(&format!("{name}: published beside a consumer, {width} unanswered"), EVENTS, published);
        say(&format!("{name}: published and delivered, {width} unanswered"), EVENTS, both);
    }
    latency(name, &house());
}

/// From the call to publish to the handler of another process, one event after the other.
fn latency(name: &str, house: &House) {
    let (publisher, consumer) = (house.process(), house.process());
    let (handler, heard) = listener();
    consumer.subscribe(subscription(Some("g"), handler));
    let mut times: Vec<Duration> = (0..200)
        .map(|number| {
            let began = Instant::now();
            publisher.bus.publish(event("s", number), Reply::new(|_| ()));
            heard.next();
            began.elapsed()
        })
        .collect();
    times.sort();
    println!("{name}: heard by another process after {:?}, at most {:?}", times[100], times[199]);
}
