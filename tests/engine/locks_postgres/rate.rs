//! How fast locks are taken and released, beside bare advisory locks of the same driver on the same
//! server in the same run.
//!
//! Not a benchmark with a goal and not run by default:
//! `cargo test --release --test engine locks_postgres_rate -- --ignored --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls, Statement};
use unanimity::locks::LockMode::Exclusive;
use unanimity::locks::postgres::PostgresLockOptions;
use unanimity::locks::{LockAsk, LockManager};
use unanimity::reply::Reply;

use super::{House, Process, ask, runtime};

const RUN: Duration = Duration::from_secs(3);

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

async fn take_and_release(process: &Process, name: &str, by: &str) {
    let (sender, told) = oneshot::channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    process.manager.acquire(ask(name, Exclusive, by), reply);
    let grant = told.await.unwrap().unwrap();
    let (sender, told) = oneshot::channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    process.manager.release(&grant.lock_id, &super::requester(by), reply);
    assert_eq!(told.await.unwrap(), Ok(true));
}

async fn take_many(process: &Process, asks: Vec<LockAsk>, by: &str) {
    let (sender, told) = oneshot::channel();
    let count = asks.len();
    process.manager.acquire_many(asks, Reply::new(move |it| sender.send(it).unwrap()));
    assert_eq!(told.await.unwrap().unwrap().len(), count);
    let (sender, told) = oneshot::channel();
    let reply = Reply::new(move |it| sender.send(it).unwrap());
    process.manager.release_all(&super::requester(by), reply);
    assert_eq!(told.await.unwrap(), Ok(count));
}

/// A connection with its two statements.
struct Bare {
    client: Client,
    lock: Statement,
    unlock: Statement,
}

async fn bare(dsn: &str) -> Bare {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = client.prepare("SELECT pg_advisory_lock($1)").await.unwrap();
    let unlock = client.prepare("SELECT pg_advisory_unlock($1)").await.unwrap();
    Bare { client, lock, unlock }
}

#[test]
#[ignore = "a measurement of half a minute"]
fn locks_postgres_rate_beside_bare_advisory_locks() {
    let house = House::open();
    let dsn = house.dsn();
    // Other numbers of connections by a variable, to see what they are good for.
    let connections = std::env::var("UNANIMITY_TEST_LOCK_CONNECTIONS");
    let connections = connections.ok().and_then(|text| text.parse().ok());
    let default = PostgresLockOptions::default();
    let connections = connections.unwrap_or(default.connections);
    let process = Arc::new(Process::on(&dsn, PostgresLockOptions { connections, ..default }));
    for width in [1, 16, 64] {
        let shared = process.clone();
        let ours = runtime().block_on(rate(width, move |worker, count| {
            let process = shared.clone();
            async move {
                let name = format!("w{width}/{worker}/{}", count % 1_000);
                take_and_release(&process, &name, &format!("by {worker}")).await;
            }
        }));
        let bare = runtime().block_on(async {
            let mut clients = Vec::new();
            for _ in 0..width {
                clients.push(bare(&dsn).await);
            }
            let clients = Arc::new(clients);
            rate(width, move |worker, _| {
                let clients = clients.clone();
                async move {
                    let Bare { client, lock, unlock } = &clients[worker as usize];
                    client.query_one(lock, &[&i64::from(worker)]).await.unwrap();
                    client.query_one(unlock, &[&i64::from(worker)]).await.unwrap();
                }
            })
            .await
        });
        println!("c={width}: manager {ours:.0}/s, advisory locks {bare:.0}/s");
    }
    let shared = process.clone();
    let hot = runtime().block_on(rate(16, move |worker, _| {
        let process = shared.clone();
        async move { take_and_release(&process, "hot", &format!("by {worker}")).await }
    }));
    println!("one hot key, 16 waiters: {hot:.0}/s");
    let shared = process.clone();
    let four = runtime().block_on(rate(16, move |worker, _| {
        let process = shared.clone();
        async move {
            let names = (0..4).map(|at| format!("{worker}/{at}"));
            let by = format!("by {worker}");
            take_many(&process, names.map(|name| ask(&name, Exclusive, &by)).collect(), &by).await;
        }
    }));
    println!("c=16, four locks at once, release_all: {four:.0}/s");
    assert_eq!(house.count("distributed_locks") + house.count("lock_wait_queue"), 0);
}
