//! The Redis store, measured: transactions a second, beside the same two puts by MULTI and EXEC.
//!
//! Not a test. One JSON line for each subject and number of callers. A transaction of the store is
//! a prepare and a commit of two puts, asked at the port, so without a journal; the peer is one
//! MULTI, SET, SET, EXEC on one connection that all callers share, as the store does. Each caller
//! has keys of its own and waits for its answers. The server is Debian's, started here, with its
//! data on the disk and `appendfsync always`: `cargo bench --bench redis -- everysec` takes another
//! word for it, and a number of seconds may follow.

#[path = "../tests/engine/support/redis.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod redis_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis_server::RedisServer;
use tokio::task::JoinSet;
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::value::Value;
use unanimity::participants::{DeliveryAsk, Participant, PrepareAsk, RedisStore};
use unanimity::reply::asked;

const CALLERS: [usize; 3] = [1, 16, 64];
const STORE: &str = "redis";
const TIMEOUT: Duration = Duration::from_secs(30);
/// What every put puts.
const CONTENT: &str = "0123456789abcdef0123456789abcdef";

fn main() {
    // Cargo gives words of its own, which begin with dashes.
    let words: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let fsync = words.first().map_or("always", String::as_str);
    let seconds = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(2.0);
    let run = Duration::from_secs_f64(seconds);
    let server = RedisServer::start(&["--appendfsync", fsync]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    for callers in CALLERS {
        let rate = runtime.block_on(bare(&server.url(0), callers, run));
        report("MULTI and EXEC", fsync, callers, rate);
        let handle = runtime.handle().clone();
        let store = RedisStore::new(&server.url(1), STORE, "", true, handle).expect("a good url");
        let cluster = ClusterId::new("bench").expect("is short");
        store.attach(&cluster, &name()).expect("the server is good");
        let rate = runtime.block_on(ours(Arc::new(store), callers, run));
        report("RedisStore, prepare and commit", fsync, callers, rate);
    }
}

fn report(subject: &str, fsync: &str, callers: usize, rate: f64) {
    println!(
        "{{\"redis\": \"{subject}\", \"appendfsync\": \"{fsync}\", \"callers\": {callers}, \
         \"transactions_per_second\": {rate:.0}}}"
    );
}

fn name() -> StoreName {
    StoreName::new(STORE).expect("is short")
}

/// Transactions a second of callers who do one after the other, until the time is over.
async fn rate<F>(callers: usize, run: Duration, caller: impl Fn(usize, Instant) -> F) -> f64
where
    F: Future<Output = u32> + Send + 'static,
{
    let began = Instant::now();
    let mut all: JoinSet<u32> = (0..callers).map(|number| caller(number, began + run)).collect();
    let mut done = 0;
    while let Some(count) = all.join_next().await {
        done += count.expect("a caller does not panic");
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

async fn bare(url: &str, callers: usize, run: Duration) -> f64 {
    let client = redis::Client::open(url).expect("a good url");
    let connection = client.get_multiplexed_async_connection().await.expect("it connects");
    rate(callers, run, |caller, until| {
        let mut connection = connection.clone();
        async move {
            let mut done = 0;
            while Instant::now() < until {
                let [one, other] = keys(caller);
                let mut pipe = redis::pipe();
                pipe.atomic().set(one, CONTENT).ignore().set(other, CONTENT).ignore();
                let () = pipe.query_async(&mut connection).await.expect("it is done");
                done += 1;
            }
            done
        }
    })
    .await
}

async fn ours(store: Arc<RedisStore>, callers: usize, run: Duration) -> f64 {
    rate(callers, run, |caller, until| {
        let store = Arc::clone(&store);
        async move {
            let mut done = 0;
            while Instant::now() < until {
                transaction(&store, &format!("{callers}-{caller}-{done}"), caller).await;
                done += 1;
            }
            done
        }
    })
    .await
}

async fn transaction(store: &RedisStore, id: &str, caller: usize) {
    let ask = PrepareAsk {
        request: request(id, caller),
        store: name(),
        timeout: TIMEOUT,
        attachment: None,
        fences: Arc::default(),
        keeps_receipt: true,
    };
    let id = ask.id().clone();
    assert_eq!(asked(|reply| store.prepare(ask, reply)).await, Vote::Commit);
    let ask = delivery(id.clone());
    assert_eq!(asked(|reply| store.commit(ask, reply)).await, Acknowledgement::Done);
    store.forget(vec![id]);
}

fn delivery(id: CoordinationId) -> DeliveryAsk {
    DeliveryAsk { id, timeout: TIMEOUT, attachment: None, receipt: None }
}

fn keys(caller: usize) -> [String; 2] {
    ["a", "b"].map(|which| format!("{which}:{caller}"))
}

fn request(id: &str, caller: usize) -> Arc<CoordinationRequest> {
    let put = |key: String| {
        let entries =
            [("store", STORE), ("type", "put"), ("key", key.as_str()), ("value", CONTENT)];
        Value::Map(entries.map(|(name, value)| (name.to_owned(), value.into())).to_vec())
    };
    let parts = RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![STORE.to_owned()],
        operations: keys(caller).map(put).to_vec(),
        timeout_seconds: 30.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(Vec::new()),
    };
    Arc::new(CoordinationRequest::check(parts).expect("a good request"))
}
