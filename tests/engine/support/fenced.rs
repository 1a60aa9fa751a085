//! A store of every kind under locks, with one way to write, to read and to ask.
//!
//! Real files, real SQLite, a real PostgreSQL server, a real Redis server. Not the engine: tokens
//! are given by hand. Invariant: every wait has a bound, and a bound that passes is a failed test.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::lock::{Fence, LockMode, ResourceId};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::value::Value;
use unanimity::participants::{
    DeliveryAsk, FileStore, MemoryStore, Participant, PostgresStore, PrepareAsk, RedisStore,
    SqliteStore,
};
use unanimity::reply::Reply;

use super::postgres::PostgresCluster;
use super::redis::RedisServer;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const STORE: &str = "bank";

/// The kinds of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    Sqlite,
    Files,
    Postgres,
    Redis,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Memory, Self::Sqlite, Self::Files, Self::Postgres, Self::Redis];
    /// Those of which another process can have the same.
    pub(crate) const DURABLE: [Self; 4] = [Self::Sqlite, Self::Files, Self::Postgres, Self::Redis];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Where a store is: a folder, or a database.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// For [`Store::open`], also in another process.
    pub(crate) address: String,
    _folder: TempDir,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        let folder = TempDir::new().unwrap();
        let address = if kind == Kind::Postgres {
            let cluster = PostgresCluster::shared();
            let database = cluster.create_database();
            cluster.run(&database, "CREATE TABLE t (k text PRIMARY KEY, v int8)");
            cluster.dsn(&database)
        } else if kind == Kind::Redis {
            RedisServer::shared().fresh_url()
        } else {
            folder.path().join("place").to_str().unwrap().to_owned()
        };
        let place = Self { kind, address, _folder: folder };
        if kind == Kind::Sqlite {
            let store = place.open();
            let table = [sql("CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER)", vec![])];
            assert_eq!(store.prepare("table", table.into(), &[]), Vote::Commit);
            store.commit("table");
        }
        place
    }

    pub(crate) fn open(&self) -> Store {
        // Of its own for each database, because PostgreSQL's global ids belong to the server.
        let own = self.address.rsplit('/').next().unwrap_or_default();
        Store::open(self.kind, &self.address, &format!("journal of {own}"))
    }

    /// Closes the store and opens it again; memory has nothing to come back to.
    pub(crate) fn open_again(&self, store: Store) -> Store {
        if self.kind == Kind::Memory {
            return store;
        }
        store.participant().close();
        drop(store);
        self.open()
    }
}

/// A store that was opened.
#[derive(Clone)]
pub(crate) enum Store {
    Memory(Arc<MemoryStore>),
    Sqlite(Arc<SqliteStore>),
    Files(Arc<FileStore>),
    Postgres(Arc<PostgresStore>),
    Redis(Arc<RedisStore>),
}

impl Store {
    pub(crate) fn open(kind: Kind, address: &str, journal: &str) -> Self {
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let handle = || RUNTIME.get_or_init(|| Runtime::new().unwrap()).handle().clone();
        let store = match kind {
            Kind::Memory => Self::Memory(Arc::new(MemoryStore::new(STORE))),
            Kind::Sqlite => Self::Sqlite(Arc::new(SqliteStore::new(address, STORE))),
            Kind::Files => Self::Files(Arc::new(FileStore::new(address, STORE))),
            Kind::Postgres => {
                let store = PostgresStore::new(address, STORE, 1, 24, handle());
                Self::Postgres(Arc::new(store.unwrap()))
            }
            Kind::Redis => {
                let store = RedisStore::new(address, STORE, "", true, handle());
                Self::Redis(Arc::new(store.unwrap()))
            }
        };
        let cluster = ClusterId::new(journal).unwrap();
        store.participant().attach(&cluster, &StoreName::new(STORE).unwrap()).unwrap();
        store
    }

    pub(crate) fn participant(&self) -> &dyn Participant {
        match self {
            Self::Memory(store) => &**store,
            Self::Sqlite(store) => &**store,
            Self::Files(store) => &**store,
            Self::Postgres(store) => &**store,
            Self::Redis(store) => &**store,
        }
    }

    /// Operations that give a key a number.
    pub(crate) fn put(&self, key: &str, value: u64) -> Vec<Value> {
        let values = || vec![Value::from(key), i64::try_from(value).unwrap().into()];
        vec![match self {
            Self::Memory(_) | Self::Files(_) | Self::Redis(_) => map(&[
                ("type", "put".into()),
                ("key", key.into()),
                ("value", value.to_string().as_str().into()),
            ]),
            Self::Sqlite(_) => sql("INSERT OR REPLACE INTO t VALUES (?, ?)", values()),
            Self::Postgres(_) => sql(
                "INSERT INTO t VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v",
                values(),
            ),
        }]
    }

    /// Operations that only read.
    pub(crate) fn look(&self, key: &str) -> Vec<Value> {
        vec![match self {
            Self::Memory(_) | Self::Files(_) | Self::Redis(_) => map(&[
                ("type", "check".into()),
                ("key", key.into()),
                ("exists", Value::Bool(false)),
            ]),
            Self::Sqlite(_) => sql("SELECT v FROM t WHERE k = ?", vec![key.into()]),
            Self::Postgres(_) => sql("SELECT v FROM t WHERE k = $1", vec![key.into()]),
        }]
    }

    /// Reads what [`Store::put`] wrote.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let key = key.to_owned();
        let parameters = vec![Value::from(key.as_str())];
        let found = match self {
            Self::Memory(store) => answer(|reply| store.get(key, reply)).unwrap(),
            Self::Files(store) => answer(|reply| store.get(key, reply)).unwrap(),
            Self::Redis(store) => answer(|reply| store.get(key, reply)).unwrap(),
            Self::Sqlite(store) => {
                let text = "SELECT CAST(v AS TEXT) FROM t WHERE k = ?".to_owned();
                first(answer(|reply| store.fetch(text, parameters, reply)).unwrap().rows)
            }
            Self::Postgres(store) => {
                let text = "SELECT v::text FROM t WHERE k = $1".to_owned();
                first(answer(|reply| store.fetch(text, parameters, reply)).unwrap().rows)
            }
        };
        found.map(|value| match value {
            Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            other => other.as_text().unwrap().to_owned(),
        })
    }

    pub(crate) fn prepare(&self, id: &str, operations: Vec<Value>, fences: &[Fence]) -> Vote {
        self.prepare_within(PATIENCE, id, operations, fences)
    }

    pub(crate) fn prepare_within(
        &self,
        timeout: Duration,
        id: &str,
        operations: Vec<Value>,
        fences: &[Fence],
    ) -> Vote {
        self.ask(timeout, id, operations, fences).recv_timeout(2 * PATIENCE).expect("a vote comes")
    }

    /// Asks, and gives the end at which the vote comes out.
    pub(crate) fn ask(
        &self,
        timeout: Duration,
        id: &str,
        operations: Vec<Value>,
        fences: &[Fence],
    ) -> Receiver<Vote> {
        let (sender, votes) = channel();
        let ask = question(timeout, id, operations, fences);
        self.participant().prepare(ask, Reply::new(move |vote| drop(sender.send(vote))));
        votes
    }

    /// The reason of a refusal; anything else fails the test.
    pub(crate) fn refusal(&self, id: &str, operations: Vec<Value>, fences: &[Fence]) -> String {
        match self.prepare(id, operations, fences) {
            Vote::Abort { reason } => reason,
            other => panic!("{other:?} is no refusal"),
        }
    }

    pub(crate) fn commit(&self, id: &str) {
        let done = answer(|reply| self.participant().commit(delivery(id), reply));
        assert_eq!(done, Acknowledgement::Done);
    }

    pub(crate) fn abort(&self, id: &str) -> Acknowledgement {
        answer(|reply| self.participant().abort(delivery(id), reply))
    }
}

fn first(rows: Vec<Vec<Value>>) -> Option<Value> {
    rows.into_iter().next().and_then(|row| row.into_iter().next())
}

/// Asks and waits.
pub(crate) fn answer<T: unanimity::reply::Lost + Send + 'static>(
    question: impl FnOnce(Reply<T>),
) -> T {
    let (sender, answers) = channel();
    // A test that failed already does not wait for its answers.
    question(Reply::new(move |answer| drop(sender.send(answer))));
    answers.recv_timeout(2 * PATIENCE).expect("an answer comes")
}

pub(crate) fn delivery(id: &str) -> DeliveryAsk {
    DeliveryAsk {
        id: CoordinationId::new(id).unwrap(),
        timeout: PATIENCE,
        attachment: None,
        receipt: None,
    }
}

fn question(timeout: Duration, id: &str, bodies: Vec<Value>, fences: &[Fence]) -> PrepareAsk {
    let with_store = |body| match body {
        Value::Map(mut entries) => {
            entries.push(("store".to_owned(), STORE.into()));
            Value::Map(entries)
        }
        other => other,
    };
    let parts = RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![STORE.to_owned()],
        operations: bodies.into_iter().map(with_store).collect(),
        timeout_seconds: 60.0,
        consistency: "strong".to_owned(),
        metadata: Value::Map(vec![]),
    };
    PrepareAsk {
        request: Arc::new(CoordinationRequest::check(parts).unwrap()),
        store: StoreName::new(STORE).unwrap(),
        timeout,
        attachment: None,
        fences: fences.into(),
        keeps_receipt: false,
    }
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn sql(statement: &str, parameters: Vec<Value>) -> Value {
    map(&[
        ("type", "execute".into()),
        ("statement", statement.into()),
        ("parameters", Value::List(parameters)),
    ])
}

/// A lock that is shown.
pub(crate) fn fence(resource: &str, mode: LockMode, token: u64) -> Fence {
    Fence { resource: ResourceId::new(resource).unwrap(), mode, token }
}
