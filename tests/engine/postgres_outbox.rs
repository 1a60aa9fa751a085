//! The outbox in PostgreSQL: what a user's own transaction wrote is handed over after its commit,
//! until it is accepted. Real servers, and a sink of the tests.
//!
//! Not the carrying out of what was accepted.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::model::request::CoordinationRequest;
use unanimity::participants::outbox::{Acceptance, OutboxSink};
use unanimity::participants::postgres::{Outbox, PostgresStore};
use unanimity::reply::Reply;

use crate::support::postgres::PostgresCluster;

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

type Answer = Box<dyn Fn(&str, u32) -> Acceptance + Send + Sync>;

/// Tells what came, and answers by the id and how often it came.
struct Sink {
    came: Mutex<Sender<CoordinationRequest>>,
    counts: Mutex<BTreeMap<String, u32>>,
    answer: Answer,
}

impl OutboxSink for Sink {
    fn accept(&self, request: CoordinationRequest, reply: Reply<Acceptance>) {
        let id = request.id.as_str().to_owned();
        let count = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(id.clone()).or_default();
            *count += 1;
            *count
        };
        let acceptance = (self.answer)(&id, count);
        // The tests may have seen enough.
        let _ = self.came.lock().unwrap().send(request);
        reply.send(acceptance);
    }
}

struct Place<'c> {
    cluster: &'c PostgresCluster,
    database: String,
}

impl Place<'static> {
    fn new() -> Self {
        let cluster = PostgresCluster::shared();
        Place { cluster, database: cluster.create_database() }
    }
}

impl Place<'_> {
    fn store(&self) -> PostgresStore {
        let dsn = self.cluster.dsn(&self.database);
        PostgresStore::new(&dsn, "bank", 1, 4, runtime().handle().clone()).unwrap()
    }

    /// Serves, and waits until the table is there.
    fn serve(&self, answer: Answer) -> (Outbox, Receiver<CoordinationRequest>, Arc<Sink>) {
        let (sender, came) = channel();
        let sink = Arc::new(Sink { came: Mutex::new(sender), counts: Mutex::default(), answer });
        let outbox = self.store().serve_outbox(sink.clone());
        self.wait_for("SELECT count(*) FROM pg_tables WHERE tablename = 'unanimity_outbox'", 1);
        (outbox, came, sink)
    }

    fn run(&self, text: &str) -> Vec<Vec<Option<String>>> {
        self.cluster.run(&self.database, text)
    }

    fn wait_for(&self, count: &str, wanted: i64) {
        let until = Instant::now() + PATIENCE;
        while self.run(count)[0][0] != Some(wanted.to_string()) {
            assert!(Instant::now() < until, "{count} did not come to {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const ROWS: &str = "SELECT count(*) FROM unanimity_outbox";

fn insert(id: &str) -> String {
    format!(
        "INSERT INTO unanimity_outbox (id, participating_stores, operations) VALUES ('{id}', \
         '[\"index\"]', '[{{\"store\": \"index\", \"type\": \"put\", \"key\": \"{id}\"}}]');"
    )
}

fn accepting() -> Answer {
    Box::new(|_, _| Acceptance::Accepted)
}

fn close(outbox: Outbox) {
    runtime().block_on(outbox.close());
}

#[test]
fn what_a_transaction_wrote_is_handed_over_when_it_is_committed_and_not_before() {
    let place = Place::new();
    let (outbox, came, _) = place.serve(accepting());
    place.run("CREATE TABLE t (a int8)");
    place.run(&format!("BEGIN; {} ROLLBACK", insert("undone")));
    place.run(&format!("BEGIN; INSERT INTO t VALUES (1); {} COMMIT", insert("done")));
    let request = came.recv_timeout(PATIENCE).unwrap();
    assert_eq!((request.id.as_str(), request.kind.as_str()), ("done", "eventual_consistency"));
    assert_eq!(request.operations[0].body.get("key"), Some(&"done".into()));
    assert_eq!(request.consistency.as_str(), "eventual");
    place.wait_for(ROWS, 0);
    close(outbox);
    assert!(came.try_recv().is_err());
}

#[test]
fn more_than_a_portion_is_handed_over_in_order_and_once() {
    let place = Place::new();
    let (outbox, came, sink) = place.serve(accepting());
    let all: Vec<String> = (0..250).map(|number| format!("r{number}")).collect();
    place.run(&all.iter().map(|id| insert(id)).collect::<String>());
    let got: Vec<String> =
        all.iter().map(|_| came.recv_timeout(PATIENCE).unwrap().id.as_str().to_owned()).collect();
    assert_eq!(got, all);
    place.wait_for(ROWS, 0);
    close(outbox);
    assert!(sink.counts.lock().unwrap().values().all(|count| *count == 1));
}

#[test]
fn what_is_not_wanted_yet_comes_again_and_what_is_refused_stays_with_its_reason() {
    let place = Place::new();
    let answer = |id: &str, count: u32| match (id, count) {
        ("late", 1) => Acceptance::Later("not yet".to_owned()),
        ("bad", _) => Acceptance::Refused("no such store".to_owned()),
        _ => Acceptance::Accepted,
    };
    let (outbox, _came, sink) = place.serve(Box::new(answer));
    let unreadable = "INSERT INTO unanimity_outbox (id, participating_stores, operations) \
                      VALUES ('odd', '{}', '[]');";
    place.run(&format!("{}{}{}{unreadable}", insert("late"), insert("bad"), insert("good")));
    place.wait_for(ROWS, 2);
    let kept = place.run("SELECT id, refused FROM unanimity_outbox ORDER BY id");
    let row = |id: &str, why: &str| vec![Some(id.to_owned()), Some(why.to_owned())];
    let odd = "participating_stores is a dict; give a JSON array";
    assert_eq!(kept, [row("bad", "no such store"), row("odd", odd)]);
    let counts = sink.counts.lock().unwrap().clone();
    assert_eq!((counts["late"], counts["bad"], counts["good"]), (2, 1, 1));
    close(outbox);
    // Somebody mends it, and it is handed over again.
    let (outbox, _came, _) = place.serve(accepting());
    place.run("UPDATE unanimity_outbox SET refused = NULL WHERE id = 'bad'");
    place.wait_for(ROWS, 1);
    close(outbox);
}

#[test]
fn what_is_not_wanted_yet_is_not_overtaken_by_what_was_written_after_it_on_its_key() {
    let place = Place::new();
    let answer = |id: &str, count: u32| match (id, count) {
        ("a1" | "none1", 1..=2) => Acceptance::Later("not yet".to_owned()),
        ("a3", _) => Acceptance::Refused("never".to_owned()),
        _ => Acceptance::Accepted,
    };
    let row = |id: &str, key: &str| {
        format!(
            "INSERT INTO unanimity_outbox (id, participating_stores, operations) VALUES ('{id}', \
             '[\"index\"]', '[{{\"store\": \"index\", \"type\": \"put\"{key}}}]');"
        )
    };
    let [a, b, ab] = ["a", "b", "a\"}, {\"store\": \"index\", \"type\": \"put\", \"key\": \"b"]
        .map(|key| format!(", \"key\": \"{key}\""));
    let rows = [
        ("a1", &*a),
        ("b1", &*b),
        ("a2", &*a),
        ("none1", ""),
        ("ab", &*ab),
        ("b2", &*b),
        ("a3", &*a),
        ("a4", &*a),
        ("none2", ""),
    ];
    let (outbox, came, _) = place.serve(Box::new(answer));
    place.run(&rows.iter().map(|(id, key)| row(id, key)).collect::<String>());
    place.wait_for(ROWS, 1);
    close(outbox);
    let came: Vec<String> = came.try_iter().map(|request| request.id.to_string()).collect();
    assert_eq!(came.len(), rows.len() + 4, "{came:?}");
    let at = |id: &str| came.iter().rposition(|other| other == id).unwrap();
    let once = |id: &str| came.iter().filter(|other| *other == id).count() == 1;
    assert!(["b1", "a2", "ab", "b2", "a4", "none2"].into_iter().all(once), "{came:?}");
    let on_a = ["a1", "a2", "ab", "a3", "a4"].map(at);
    let on_b = ["b1", "ab", "b2"].map(at);
    assert!(on_a.is_sorted() && on_b.is_sorted() && at("none1") < at("none2"), "{came:?}");
    assert!(at("b1") < at("a1"), "other keys do not wait: {came:?}");
}

#[test]
fn two_that_serve_one_outbox_hand_each_request_over_once() {
    let place = Place::new();
    let (one, came_to_one, _) = place.serve(accepting());
    let (other, came_to_other, _) = place.serve(accepting());
    for number in 0..200 {
        place.run(&insert(&format!("r{number}")));
    }
    place.wait_for(ROWS, 0);
    close(one);
    close(other);
    let mut got: Vec<String> =
        came_to_one.try_iter().chain(came_to_other.try_iter()).map(|r| r.id.to_string()).collect();
    got.sort();
    let mut all: Vec<String> = (0..200).map(|number| format!("r{number}")).collect();
    all.sort();
    assert_eq!(got, all);
}

#[test]
fn a_server_that_dies_loses_nothing_and_what_was_not_deleted_comes_again() {
    let mut cluster = PostgresCluster::start(8);
    let database = cluster.create_database();
    let (outbox, _came, sink) =
        Place { cluster: &cluster, database: database.clone() }.serve(accepting());
    for round in 0..3 {
        for number in 0..20 {
            cluster.run(&database, &insert(&format!("r{round}-{number}")));
        }
        cluster.crash();
        cluster.resume();
    }
    Place { cluster: &cluster, database }.wait_for(ROWS, 0);
    close(outbox);
    assert_eq!(sink.counts.lock().unwrap().len(), 60);
}
