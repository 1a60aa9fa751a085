//! The PostgreSQL lock manager against real servers. Two managers stand for two processes: they
//! share nothing but the database. What needs a real second process has one.
//!
//! Here are the tools; the claims stand in `rules`, `endings`, `deaths` and `circles`, the
//! measurement in `rate`.

mod circles;
mod deaths;
mod endings;
mod rate;
mod rules;
mod suspensions;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::locks::postgres::{PostgresLockManager, PostgresLockOptions};
use unanimity::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, LockInfo, LockManager, LockMode,
    RequesterId, ResourceId, WaitForGraph, WaitId,
};
use unanimity::model::time::Timestamp;
use unanimity::reply::Reply;

use crate::support::postgres::PostgresCluster;

/// How long anything may take that is not a claim of its own.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for what would come at once to have come.
const A_WHILE: Duration = Duration::from_millis(100);

type Answer = Receiver<Result<Grant, LockError>>;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// A fresh database on the server that tests share.
struct House {
    cluster: &'static PostgresCluster,
    database: String,
}

impl House {
    fn open() -> Self {
        let cluster = PostgresCluster::shared();
        Self { cluster, database: cluster.create_database() }
    }

    fn dsn(&self) -> String {
        self.cluster.dsn(&self.database)
    }

    fn manager(&self) -> Process {
        Process::on(&self.dsn(), PostgresLockOptions::default())
    }

    fn manager_with_timeout(&self, session_timeout: Duration) -> Process {
        let options = PostgresLockOptions { session_timeout, ..PostgresLockOptions::default() };
        Process::on(&self.dsn(), options)
    }

    fn count(&self, from: &str) -> u32 {
        count(self.cluster, &self.database, from)
    }

    fn wait_for(&self, what: &str, from: &str, wanted: u32) {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.count(from);
            if found == wanted {
                return;
            }
            assert!(Instant::now() < until, "{what}: {found} instead of {wanted}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn count(cluster: &PostgresCluster, database: &str, from: &str) -> u32 {
    let rows = cluster.run(database, &format!("SELECT count(*) FROM {from}"));
    rows[0][0].as_ref().unwrap().parse().unwrap()
}

/// A manager, as a process has one, and what its ear heard.
struct Process {
    manager: PostgresLockManager,
    lost: Arc<Mutex<Vec<(LockId, RequesterId, String)>>>,
    deadlocks: Arc<Mutex<Vec<Deadlock>>>,
    suspensions: Suspensions,
}

/// Locks that were suspended until then, or resumed.
type Suspensions = Arc<Mutex<Vec<(LockId, Option<Instant>)>>>;

struct Ear(Arc<Mutex<Vec<(LockId, RequesterId, String)>>>, Arc<Mutex<Vec<Deadlock>>>, Suspensions);

impl LockEar for Ear {
    fn lost(&self, lock_id: &LockId, requester: &RequesterId, reason: &str) {
        self.0.lock().unwrap().push((lock_id.clone(), requester.clone(), reason.to_owned()));
    }

    fn suspended(&self, lock_id: &LockId, _requester: &RequesterId, until: Instant) {
        self.2.lock().unwrap().push((lock_id.clone(), Some(until)));
    }

    fn resumed(&self, lock_id: &LockId, _requester: &RequesterId) {
        self.2.lock().unwrap().push((lock_id.clone(), None));
    }

    fn deadlock(&self, deadlock: &Deadlock) {
        self.1.lock().unwrap().push(deadlock.clone());
    }
}

fn resource(name: &str) -> ResourceId {
    ResourceId::new(name).unwrap()
}

fn requester(name: &str) -> RequesterId {
    RequesterId::new(name).unwrap()
}

fn ask(name: &str, mode: LockMode, by: &str) -> LockAsk {
    LockAsk {
        resource: resource(name),
        mode,
        requester: requester(by),
        timeout: Some(PATIENCE),
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

fn at_once(name: &str, mode: LockMode, by: &str) -> LockAsk {
    LockAsk { timeout: Some(Duration::ZERO), ..ask(name, mode, by) }
}

fn answer<T>(answer: &Receiver<T>) -> T {
    answer.recv_timeout(PATIENCE).expect("an answer comes")
}

/// Asks by `begin` and waits for the answer.
fn asked<T, E>(begin: impl FnOnce(Reply<Result<T, E>>)) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
    Result<T, E>: unanimity::reply::Lost,
{
    let (sender, told) = channel();
    begin(Reply::new(move |it| sender.send(it).unwrap()));
    answer(&told)
}

impl Process {
    fn on(dsn: &str, options: PostgresLockOptions) -> Self {
        let manager = PostgresLockManager::new(dsn, options, runtime().handle().clone()).unwrap();
        let (lost, deadlocks, suspensions) = (Arc::default(), Arc::default(), Arc::default());
        let ear = Ear(Arc::clone(&lost), Arc::clone(&deadlocks), Arc::clone(&suspensions));
        manager.listen(Arc::new(ear));
        Self { manager, lost, deadlocks, suspensions }
    }

    fn begin(&self, ask: LockAsk) -> (WaitId, Answer) {
        let (sender, told) = channel();
        // A test may have ended before the answer to what it left behind.
        let reply = Reply::new(move |it| sender.send(it).unwrap_or_default());
        (self.manager.acquire(ask, reply), told)
    }

    fn acquire(&self, ask: LockAsk) -> Result<Grant, LockError> {
        answer(&self.begin(ask).1)
    }

    /// Begins a wait, and comes back when it stands in the queue.
    fn wait(&self, house: &House, ask: LockAsk) -> (WaitId, Answer) {
        let before = house.count("lock_wait_queue");
        let wait = self.begin(ask);
        house.wait_for("waits", "lock_wait_queue", before + 1);
        wait
    }

    fn many(&self, asks: Vec<LockAsk>) -> Result<Vec<Grant>, LockError> {
        asked(|reply| {
            self.manager.acquire_many(asks, reply);
        })
    }

    fn release(&self, grant: &Grant, by: &str) -> bool {
        asked(|reply| self.manager.release(&grant.lock_id, &requester(by), reply)).unwrap()
    }

    fn release_all(&self, by: &str) -> usize {
        asked(|reply| self.manager.release_all(&requester(by), reply)).unwrap()
    }

    fn renew(&self, grant: &Grant, lease: Duration) -> bool {
        asked(|reply| self.manager.renew(&grant.lock_id, lease, reply)).unwrap()
    }

    fn status(&self, name: Option<&str>) -> Vec<LockInfo> {
        asked(|reply| self.manager.status(name.map(resource), reply)).unwrap()
    }

    fn graph(&self) -> WaitForGraph {
        asked(|reply| self.manager.wait_for_graph(reply)).unwrap()
    }

    fn lost(&self) -> Vec<(LockId, RequesterId, String)> {
        self.lost.lock().unwrap().clone()
    }

    fn wait_until_lost(&self, within: Duration) {
        let until = Instant::now() + within;
        while self.lost().is_empty() {
            assert!(Instant::now() < until, "the holder did not hear that it holds nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn now() -> Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}
