//! The durable event buses, on real files and real servers. Two buses over one store stand for two
//! processes: they share nothing else. What needs real processes has them.
//!
//! Here are the tools; `duties` holds the claims that every durable bus makes, `deaths` those about
//! killed processes, `journal` and `postgres` what only one of them makes, `rate` the measurement.

mod deaths;
mod duties;
mod journal;
mod postgres;
mod rate;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::events::journal::JournalEventBus;
use unanimity::events::postgres::{PostgresBusOptions, PostgresEventBus};
use unanimity::events::{
    BusEvent, Delivery, EventBus, EventBusError, EventHandler, Handled, ParkedEvent, SubscribeAsk,
    SubscriptionId,
};
use unanimity::model::value::Value;
use unanimity::reply::{Lost, Reply};

use crate::support::postgres::PostgresCluster;

/// How long anything may take that is not a claim of its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for what would come at once to have come.
const A_WHILE: Duration = Duration::from_millis(150);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// A store for buses: a file, or a database.
enum House {
    Journal(tempfile::TempDir),
    Postgres(String),
}

impl House {
    fn journal() -> Self {
        Self::Journal(tempfile::tempdir().unwrap())
    }

    /// A fresh database on the server that tests share.
    fn postgres() -> Self {
        let cluster = PostgresCluster::shared();
        Self::Postgres(cluster.dsn(&cluster.create_database()))
    }

    /// Where it is, as a child process is told.
    fn place(&self) -> String {
        match self {
            Self::Journal(folder) => folder.path().join("j.db-bus").display().to_string(),
            Self::Postgres(dsn) => dsn.clone(),
        }
    }

    /// How many rows there are of these.
    fn count(&self, from: &str) -> i64 {
        let text = format!("SELECT count(*) FROM {from}");
        match self {
            Self::Journal(_) => {
                let connection = rusqlite::Connection::open(self.place()).unwrap();
                connection.busy_timeout(PATIENCE).unwrap();
                connection.query_row(&text, [], |row| row.get(0)).unwrap()
            }
            Self::Postgres(dsn) => {
                let database = dsn.rsplit_once('/').unwrap().1;
                let rows = PostgresCluster::shared().run(database, &text);
                rows[0][0].as_ref().unwrap().parse().unwrap()
            }
        }
    }

    /// A bus, as a process has one.
    fn process(&self) -> Process {
        Process::at(&self.place())
    }
}

/// A bus, and the questions of it with their answers awaited.
struct Process {
    bus: Arc<dyn EventBus>,
}

impl Process {
    fn at(place: &str) -> Self {
        let handle = runtime().handle().clone();
        let bus: Arc<dyn EventBus> = if place.starts_with("postgresql:") {
            let options = PostgresBusOptions::default();
            Arc::new(PostgresEventBus::open(place, options, handle).unwrap())
        } else {
            Arc::new(JournalEventBus::open(Path::new(place), handle).unwrap())
        };
        Self { bus }
    }

    fn publish(&self, event: BusEvent) -> Result<(), EventBusError> {
        asked(|reply| self.bus.publish(event, reply))
    }

    /// Publishes in order, waits for the answers at the end.
    fn publish_all(&self, events: impl IntoIterator<Item = BusEvent>) {
        let (sender, answers) = channel();
        let mut count = 0;
        for event in events {
            count += 1;
            let sender = sender.clone();
            let reply = Reply::new(move |answer| sender.send(answer).unwrap());
            self.bus.publish(event, reply);
        }
        for _ in 0..count {
            answers.recv_timeout(PATIENCE).expect("an answer comes").unwrap();
        }
    }

    fn subscribe(&self, ask: SubscribeAsk) -> SubscriptionId {
        asked(|reply| self.bus.subscribe(ask, reply)).unwrap()
    }

    fn unsubscribe(&self, id: SubscriptionId) -> bool {
        asked(|reply| self.bus.unsubscribe(id, reply)).unwrap()
    }

    fn parked(&self) -> Vec<ParkedEvent> {
        asked(|reply| self.bus.parked(1_000, reply)).unwrap()
    }

    /// The one parked event, awaited.
    fn wait_for_parked(&self) -> ParkedEvent {
        eventually("an event is parked", || self.parked().pop())
    }

    fn redrive(&self, id: &str, group: &str) -> bool {
        let (id, group) = (id.to_owned(), group.to_owned());
        asked(|reply| self.bus.redrive(id, group, reply)).unwrap()
    }
}

fn asked<T: Lost + Send + 'static>(ask: impl FnOnce(Reply<T>)) -> T {
    let (sender, answers) = channel();
    ask(Reply::new(move |answer| {
        let _ = sender.send(answer);
    }));
    answers.recv_timeout(PATIENCE).expect("every question is answered")
}

fn eventually<T>(claim: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < until, "never: {claim}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The `number`-th event of a stream; its id is `<stream>/<number>`.
fn event(stream: &str, number: usize) -> BusEvent {
    event_of("happened", stream, number)
}

fn event_of(kind: &str, stream: &str, number: usize) -> BusEvent {
    let body = Value::Map(vec![
        ("type".to_owned(), kind.into()),
        ("number".to_owned(), Value::Int(i64::try_from(number).unwrap())),
        ("bytes".to_owned(), Value::Bytes(vec![0, 255])),
    ]);
    let (id, kind) = (format!("{stream}/{number}"), kind.to_owned());
    BusEvent { id, kind, stream: stream.to_owned(), body }
}

fn subscription(group: Option<&str>, handler: Arc<dyn EventHandler>) -> SubscribeAsk {
    SubscribeAsk {
        kind: None,
        group: group.map(str::to_owned),
        handler,
        attempts_max: 3,
        in_flight_max: 8,
        timeout: PATIENCE,
    }
}

type Rule = Box<dyn Fn(&Delivery) -> Handled + Send + Sync>;

/// A handler that answers at once by a rule and passes on what it was handed.
struct Told {
    rule: Rule,
    sender: Mutex<Sender<Delivery>>,
}

impl EventHandler for Told {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        // A test that ended hears no more.
        let _ = self.sender.lock().unwrap().send(delivery.clone());
        reply.send((self.rule)(&delivery));
    }
}

/// What a handler was handed, in order.
struct Heard(Receiver<Delivery>);

impl Heard {
    fn next(&self) -> Delivery {
        self.0.recv_timeout(PATIENCE).expect("an event comes")
    }

    fn ids(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next().event.id.clone()).collect()
    }

    fn is_quiet(&self) -> bool {
        self.0.recv_timeout(A_WHILE).is_err()
    }
}

fn listener() -> (Arc<Told>, Heard) {
    ruled(|_| Handled::Done)
}

fn ruled(rule: impl Fn(&Delivery) -> Handled + Send + Sync + 'static) -> (Arc<Told>, Heard) {
    let (sender, receiver) = channel();
    (Arc::new(Told { rule: Box::new(rule), sender: Mutex::new(sender) }), Heard(receiver))
}

type Held = (Delivery, Reply<Handled>);

/// A handler that keeps its answers until the test gives them.
struct Holder(Mutex<Sender<Held>>);

impl EventHandler for Holder {
    fn handle(&self, delivery: Delivery, reply: Reply<Handled>) {
        if let Err(unsent) = self.0.lock().unwrap().send((delivery, reply)) {
            unsent.0.1.send(Handled::Failed { message: "the test is over".to_owned() });
        }
    }
}

fn holder() -> (Arc<Holder>, Receiver<Held>) {
    let (sender, receiver) = channel();
    (Arc::new(Holder(Mutex::new(sender))), receiver)
}

fn held(out: &Receiver<Held>) -> Held {
    out.recv_timeout(PATIENCE).expect("an event is handed over")
}

fn failed(message: &str) -> Handled {
    Handled::Failed { message: message.to_owned() }
}

/// Ids by stream, in the order in which they came.
fn by_stream(ids: impl IntoIterator<Item = String>) -> HashMap<String, Vec<usize>> {
    let mut streams: HashMap<String, Vec<usize>> = HashMap::new();
    for id in ids {
        let (stream, number) = id.split_once('/').unwrap();
        streams.entry(stream.to_owned()).or_default().push(number.parse().unwrap());
    }
    streams
}
