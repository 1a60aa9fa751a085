//! How fast the PostgreSQL participant is: two databases, prepared and committed together, beside
//! the bare driver with one text per phase and no marker, on the same server in the same run.
//!
//! Not a benchmark with a goal and not run by default:
//! `cargo test --test engine rate -- --ignored --nocapture`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::value::Value;
use unanimity::participants::postgres::PostgresStore;
use unanimity::participants::{DeliveryAsk, Participant, PrepareAsk};
use unanimity::reply::Reply;

use crate::support::postgres::PostgresCluster;

const RUN: Duration = Duration::from_secs(3);
const UPDATE: &str = "UPDATE account SET balance = balance + $1 WHERE id = $2";
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `one(worker, count)` again and again on `width` tasks; how many per second.
async fn rate<F: Future<Output = ()> + Send>(
    width: u32,
    one: impl Fn(u32, u32) -> F + Send + Sync + 'static,
) -> f64 {
    let one = Arc::new(one);
    let done = Arc::new(AtomicU32::new(0));
    let began = Instant::now();
    let mut workers = Vec::new();
    for worker in 0..width {
        let (one, done) = (one.clone(), done.clone());
        workers.push(tokio::spawn(async move {
            let mut count = 0;
            while began.elapsed() < RUN {
                one(worker, count).await;
                count += 1;
            }
            done.fetch_add(count, Ordering::Relaxed);
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    f64::from(done.load(Ordering::Relaxed)) / began.elapsed().as_secs_f64()
}

fn ask(store: &str, id: &str, account: u32) -> PrepareAsk {
    let entry = |key: &str, value: Value| (key.to_owned(), value);
    let operation = Value::Map(vec![
        entry("store", store.into()),
        entry("type", "execute".into()),
        entry("statement", UPDATE.into()),
        entry("parameters", Value::List(vec![1.into(), i64::from(account).into()])),
        entry("expect_rows", 1.into()),
    ]);
    let parts = RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![store.to_owned()],
        operations: vec![operation],
        timeout_seconds: 30.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(vec![]),
    };
    let request = Arc::new(CoordinationRequest::check(parts).unwrap());
    PrepareAsk {
        request,
        store: StoreName::new(store).unwrap(),
        timeout: PATIENCE,
        attachment: None,
        fences: Arc::default(),
        keeps_receipt: false,
    }
}

async fn coordinate(stores: &[(&'static str, PostgresStore); 2], id: String, account: u32) {
    let votes = stores.each_ref().map(|(name, store)| {
        let (sender, vote) = oneshot::channel();
        store.prepare(ask(name, &id, account), Reply::new(move |vote| sender.send(vote).unwrap()));
        vote
    });
    for vote in votes {
        assert_eq!(vote.await.unwrap(), Vote::Commit);
    }
    let id = CoordinationId::new(&id).unwrap();
    let answers = stores.each_ref().map(|(_, store)| {
        let (sender, answer) = oneshot::channel();
        let ask =
            DeliveryAsk { id: id.clone(), timeout: PATIENCE, attachment: None, receipt: None };
        store.commit(ask, Reply::new(move |answer| sender.send(answer).unwrap()));
        answer
    });
    for answer in answers {
        assert_eq!(answer.await.unwrap(), Acknowledgement::Done);
    }
    for (_, store) in stores {
        store.forget(vec![id.clone()]);
    }
}

async fn bare(clients: &[Client; 2], id: &str, account: u32) {
    let prepare = async |client: usize| {
        let text = format!(
            "BEGIN;UPDATE account SET balance = balance + 1 WHERE id = {account};\
             PREPARE TRANSACTION '{id}:{client}'"
        );
        clients[client].batch_execute(&text).await
    };
    let (one, two) = tokio::join!(prepare(0), prepare(1));
    one.and(two).unwrap();
    let (one, two) = (format!("COMMIT PREPARED '{id}:0'"), format!("COMMIT PREPARED '{id}:1'"));
    let (one, two) = tokio::join!(clients[0].batch_execute(&one), clients[1].batch_execute(&two));
    one.and(two).unwrap();
}

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[test]
#[ignore = "a measurement of half a minute"]
fn rate_of_two_databases_beside_the_bare_driver() {
    let cluster = PostgresCluster::start(256);
    let databases = [cluster.create_database(), cluster.create_database()];
    for database in &databases {
        cluster.run(
            database,
            "CREATE TABLE account (id int8 PRIMARY KEY, balance int8 NOT NULL); \
             INSERT INTO account SELECT n, 0 FROM generate_series(0, 200) n",
        );
    }
    let dsns = databases.each_ref().map(|database| cluster.dsn(database));
    let runtime = Runtime::new().unwrap();
    let journal = ClusterId::new("journal").unwrap();
    let mut index = 0;
    let stores = Arc::new(["one", "two"].map(|name| {
        let dsn = &dsns[index];
        index += 1;
        let store = PostgresStore::new(dsn, name, 1, 20, runtime.handle().clone()).unwrap();
        store.attach(&journal, &StoreName::new(name).unwrap()).unwrap();
        (name, store)
    }));
    for width in [1, 16, 64] {
        let stores = stores.clone();
        let ours = runtime.block_on(rate(width, move |worker, count| {
            let stores = stores.clone();
            let id = format!("c{width}-{count:08}-{worker}");
            async move { coordinate(&stores, id, worker).await }
        }));
        let floor = runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..width.min(32) {
                let pair = [connect(&dsns[0]).await, connect(&dsns[1]).await];
                clients.push(tokio::sync::Mutex::new(pair));
            }
            let clients = Arc::new(clients);
            rate(width, move |worker, count| {
                let clients = clients.clone();
                async move {
                    let pair = clients[worker as usize % clients.len()].lock().await;
                    bare(&pair, &format!("b{width}-{count}-{worker}"), worker).await;
                }
            })
            .await
        });
        println!(
            "c={width}: participant {ours:.0}/s, bare driver {floor:.0}/s, {:.2}",
            ours / floor
        );
    }
}
