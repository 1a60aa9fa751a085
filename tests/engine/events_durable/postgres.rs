//! What only the bus in PostgreSQL claims: a server that ends, crashes, refuses, and comes back.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const OTHERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

fn bus(dsn: &str, patience: Duration) -> Process {
    let options = PostgresBusOptions { patience, ..PostgresBusOptions::default() };
    let bus = PostgresEventBus::open(dsn, options, runtime().handle().clone()).unwrap();
    Process { bus: Arc::new(bus) }
}

/// Publishes one event after the other in a thread until told to end; the ids that were answered.
struct Publishing {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<usize>>,
}

impl Publishing {
    fn by(process: Process) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = std::thread::spawn(move || {
            let mut answered = Vec::new();
            for number in 0.. {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                if process.publish(event("s", number)).is_ok() {
                    answered.push(number);
                }
            }
            answered
        });
        Self { is_over, thread }
    }

    fn end(self) -> Vec<usize> {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_server_that_crashes_and_comes_back_loses_nothing_and_subscriptions_go_on() {
    let mut cluster = PostgresCluster::start(0);
    let dsn = cluster.dsn("postgres");
    let (one, other) = (bus(&dsn, PATIENCE), bus(&dsn, PATIENCE));
    let (sender, heard) = channel();
    for process in [&one, &other] {
        let sender = Mutex::new(sender.clone());
        let (handler, _) = ruled(move |delivery| {
            let _ = sender.lock().unwrap().send(delivery.event.id.clone());
            Handled::Done
        });
        process.subscribe(subscription(Some("g"), handler));
    }
    let publishing = Publishing::by(bus(&dsn, PATIENCE));
    let mut ids = Vec::new();
    for is_crash in [true, false] {
        ids.extend((0..50).map(|_| heard.recv_timeout(PATIENCE).expect("an event comes")));
        if is_crash {
            cluster.crash();
        } else {
            cluster.stop();
        }
        cluster.resume();
    }
    ids.extend((0..50).map(|_| heard.recv_timeout(PATIENCE).expect("an event comes")));
    let answered = publishing.end();
    assert!(!answered.is_empty());
    let last = format!("s/{}", answered.last().unwrap());
    while !ids.contains(&last) {
        ids.push(heard.recv_timeout(PATIENCE).expect("an event comes"));
    }
    let numbers = &by_stream(ids)["s"];
    let mut next = 0;
    for number in numbers {
        assert!(*number <= next, "{number} before {next}");
        next = next.max(number + 1);
    }
    assert!(next > *answered.last().unwrap());
}

#[test]
fn publishers_are_told_that_the_server_is_away_and_it_goes_on_when_it_is_back() {
    let mut cluster = PostgresCluster::start(0);
    let dsn = cluster.dsn("postgres");
    let process = bus(&dsn, Duration::from_secs(1));
    let (handler, heard) = listener();
    process.subscribe(subscription(Some("g"), handler.clone()));
    let (own, own_heard) = listener();
    process.subscribe(subscription(None, own));
    process.publish(event("s", 0)).unwrap();
    assert_eq!((heard.ids(1), own_heard.ids(1)), (vec!["s/0".into()], vec!["s/0".into()]));
    cluster.crash();
    let error = process.publish(event("s", 1)).unwrap_err().to_string();
    assert!(error.contains(&cluster.port().to_string()), "{error}");
    assert!(error.contains("check that the server runs") || error.contains("closed"), "{error}");
    let refused = asked(|reply| process.bus.subscribe(subscription(None, handler), reply));
    assert!(matches!(refused, Err(EventBusError::Unavailable { .. })), "{refused:?}");
    cluster.resume();
    eventually("it works again", || process.publish(event("s", 1)).ok());
    for heard in [heard, own_heard] {
        // That the one before was handled may have been lost with the server: then it comes again.
        while heard.ids(1) != ["s/1"] {}
    }
}

#[test]
fn connections_that_the_server_ends_cost_nothing() {
    let house = House::postgres();
    let cluster = PostgresCluster::shared();
    let database = house.place().rsplit_once('/').unwrap().1.to_owned();
    let (one, other) = (house.process(), house.process());
    let (handler, heard) = listener();
    one.subscribe(subscription(Some("g"), handler));
    let mut next = 0;
    for _ in 0..5 {
        cluster.run(&database, OTHERS);
        let events: Vec<BusEvent> = (next..next + 20).map(|number| event("s", number)).collect();
        next += 20;
        other.publish_all(events);
    }
    let mut ids = HashSet::new();
    let mut order = Vec::new();
    while ids.len() < next {
        let id = heard.next().event.id.clone();
        if ids.insert(id.clone()) {
            order.push(id);
        }
    }
    assert_eq!(by_stream(order)["s"], (0..next).collect::<Vec<_>>());
}

#[test]
fn a_session_that_others_ended_begins_anew() {
    let house = House::postgres();
    let cluster = PostgresCluster::shared();
    let database = house.place().rsplit_once('/').unwrap().1.to_owned();
    let process = house.process();
    let ((handler, heard), (own, own_heard)) = (listener(), listener());
    process.subscribe(subscription(Some("g"), handler));
    process.subscribe(subscription(None, own));
    let before = cluster.run(&database, "SELECT max(session_id) FROM bus_sessions");
    cluster.run(&database, "SELECT unanimity_bus_end(session_id, true) FROM bus_sessions");
    eventually("a new session", || {
        let now = cluster.run(&database, "SELECT max(session_id) FROM bus_sessions");
        let groups = cluster.run(&database, "SELECT FROM bus_groups WHERE owner IS NOT NULL");
        (now[0][0].is_some() && now != before && groups.len() == 1).then_some(())
    });
    process.publish(event("s", 0)).unwrap();
    assert_eq!((heard.ids(1), own_heard.ids(1)), (vec!["s/0".into()], vec!["s/0".into()]));
}

#[test]
fn what_every_group_has_handled_goes_away_and_what_somebody_has_not_stays() {
    let house = House::postgres();
    let options = PostgresBusOptions {
        kept_for: Duration::from_secs(3_600),
        kept_max: 10,
        ..PostgresBusOptions::default()
    };
    let bus = PostgresEventBus::open(&house.place(), options, runtime().handle().clone()).unwrap();
    let process = Process { bus: Arc::new(bus) };
    let (handler, _heard) = listener();
    process.subscribe(subscription(Some("g"), handler.clone()));
    let waiting = process.subscribe(SubscribeAsk {
        kind: Some("kept".to_owned()),
        ..subscription(Some("absent"), handler)
    });
    process.unsubscribe(waiting);
    process.publish(event_of("kept", "k", 0)).unwrap();
    process.publish_all((0..500).map(|number| event(&format!("s{}", number % 7), number)));
    eventually("old events go", || (house.count("bus_events") <= 11).then_some(()));
    assert_eq!(house.count("bus_events WHERE kind = 'kept'"), 1);
}

#[test]
fn a_dsn_that_cannot_be_used_is_refused_with_what_to_do() {
    let handle = runtime().handle().clone();
    let options = PostgresBusOptions::default();
    let refused = PostgresEventBus::open("postgresql://db/x?sslmode=require", options, handle);
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("sslmode=disable"), "{error}");
    let dsn = PostgresCluster::shared().dsn("there_is_none");
    let error = bus(&dsn, PATIENCE).publish(event("s", 0)).unwrap_err().to_string();
    assert!(error.contains("there_is_none") && error.contains("does not exist"), "{error}");
}
