//! The native stores of one process behind one face, for the tests of steps. For tests only.
//!
//! Invariant: a change is told in each store's own vocabulary and means the same in all of them.

use tempfile::TempDir;

use super::files::FileStore;
use super::memory::MemoryStore;
use super::redis::RedisStore;
use super::redis_server_test::RedisServer;
use super::sqlite::SqliteStore;
use super::test_kit::{answer, attach, check_exists, commit, delete, map, prepare, put, runtime};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Sqlite,
    Files,
    Redis,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Memory, Self::Sqlite, Self::Files, Self::Redis];

    pub(super) fn is_durable(self) -> bool {
        self != Self::Memory
    }
}

/// What an operation of the tests does with a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Put(i64),
    Delete,
    /// Fails unless the key has a value.
    Expect,
}

enum Store {
    Memory(MemoryStore),
    Sqlite(SqliteStore),
    Files(FileStore),
    Redis(RedisStore),
}

/// A store, and where it keeps what it keeps.
pub(super) struct Subject {
    kind: Kind,
    folder: TempDir,
    /// Of the Redis store.
    url: String,
    store: Option<Store>,
}

impl Subject {
    pub(super) fn new(kind: Kind) -> Self {
        // Not what a disk keeps is tested here, so a folder in memory serves where there is one.
        let memory = std::path::Path::new("/dev/shm");
        let folder = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        let folder = folder.unwrap();
        let url = match kind {
            Kind::Redis => RedisServer::shared().fresh_url(),
            _ => String::new(),
        };
        let mut subject = Self { kind, folder, url, store: None };
        subject.reopen();
        if kind == Kind::Sqlite {
            let text = "CREATE TABLE t (k TEXT PRIMARY KEY, v INT)";
            prepare(subject.participant(), "create", vec![statement(text, vec![])]);
            assert_eq!(commit(subject.participant(), "create"), Acknowledgement::Done);
        }
        subject
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// A number as the store's values have it.
    pub(super) fn stored(&self, number: i64) -> Value {
        match self.kind {
            Kind::Memory | Kind::Sqlite => number.into(),
            Kind::Files | Kind::Redis => Value::Text(number.to_string()),
        }
    }

    /// Closes the store and opens it again, as the next process would.
    pub(super) fn reopen(&mut self) {
        self.store = None;
        let path = self.folder.path();
        self.store = Some(match self.kind {
            Kind::Memory => Store::Memory(MemoryStore::new("memory")),
            Kind::Sqlite => Store::Sqlite(SqliteStore::new(path.join("data.db"), "sqlite")),
            Kind::Files => Store::Files(FileStore::new(path.join("root"), "files")),
            Kind::Redis => {
                let handle = runtime().handle().clone();
                Store::Redis(RedisStore::new(&self.url, "redis", "", true, handle).unwrap())
            }
        });
        attach(self.participant());
    }

    pub(super) fn participant(&self) -> &dyn Participant {
        match self.store.as_ref().expect("it is open") {
            Store::Memory(store) => store,
            Store::Sqlite(store) => store,
            Store::Files(store) => store,
            Store::Redis(store) => store,
        }
    }

    /// An operation, or a compensation, in the store's vocabulary.
    pub(super) fn change(&self, key: &str, change: Change) -> Value {
        match (self.kind, change) {
            (Kind::Sqlite, Change::Put(value)) => {
                let text = "INSERT OR REPLACE INTO t VALUES (?, ?)";
                statement(text, vec![key.into(), value.into()])
            }
            (Kind::Sqlite, Change::Delete) => {
                statement("DELETE FROM t WHERE k = ?", vec![key.into()])
            }
            (Kind::Sqlite, Change::Expect) => {
                let text = "SELECT 1 AS one FROM t WHERE k = ?";
                let Value::Map(mut entries) = statement(text, vec![key.into()]) else {
                    unreachable!("a statement is a map")
                };
                entries.push(("expect_rows".to_owned(), 1.into()));
                Value::Map(entries)
            }
            (_, Change::Put(value)) => put(key, self.stored(value)),
            (_, Change::Delete) => delete(key),
            (_, Change::Expect) => check_exists(key, true),
        }
    }

    /// What such a change gives, done where the key has a value or has none.
    pub(super) fn result(&self, change: Change, existed: bool) -> Value {
        if self.kind != Kind::Sqlite {
            return map(&[("existed", Value::Bool(existed))]);
        }
        let affected = match change {
            Change::Put(_) => 1,
            Change::Delete | Change::Expect => i64::from(existed),
        };
        let mut entries = vec![("rows_affected", affected.into())];
        if change == Change::Expect {
            entries.push(("rows", Value::List(vec![map(&[("one", 1.into())])])));
        }
        map(&entries)
    }

    /// The committed value of a key.
    pub(super) fn get(&self, key: &str) -> Option<i64> {
        match self.store.as_ref().expect("it is open") {
            Store::Memory(store) => {
                let value = answer(|reply| store.get(key.to_owned(), reply)).unwrap();
                value.map(|value| value.as_int().expect("a number was put"))
            }
            Store::Files(store) => {
                number_of(answer(|reply| store.get(key.to_owned(), reply)).unwrap())
            }
            Store::Redis(store) => {
                number_of(answer(|reply| store.get(key.to_owned(), reply)).unwrap())
            }
            Store::Sqlite(store) => {
                let text = "SELECT v FROM t WHERE k = ?".to_owned();
                let rows = answer(|reply| store.fetch(text, vec![key.into()], reply)).unwrap().rows;
                rows.first().map(|row| row[0].as_int().expect("a number was put"))
            }
        }
    }
}

fn number_of(value: Option<Value>) -> Option<i64> {
    let Value::Bytes(bytes) = value? else { panic!("a file or a string of Redis has bytes") };
    Some(String::from_utf8(bytes).unwrap().parse().unwrap())
}

pub(super) fn statement(text: &str, parameters: Vec<Value>) -> Value {
    map(&[
        ("type", "execute".into()),
        ("statement", text.into()),
        ("parameters", Value::List(parameters)),
    ])
}
