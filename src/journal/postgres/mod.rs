//! The shared journal: tables in a PostgreSQL database, of as many processes as have it open.
//!
//! Not a store for users' data, and not the lock manager, whose tables stand beside it. Where to
//! look: `queue` (what waits), `writer` (group commit and what happens when it fails), `judge` (who
//! may write what), `batch` (one round trip for many records), `adopt` (what the dead left),
//! `alive` and `session` (who lives), `reader` and `table` (questions), `link` (one connection).
//!
//! Invariants: a coordination's row counts its records, and whoever adds some says how many it
//! knows, so that owner, epoch, first begin and first decision are judged on what stands, or not at
//! all; every commit waits for the server's disk; no error shows the password. Abort decisions wait
//! for the commit as all records do: a deposed owner must not roll back what another commits.

mod adopt;
mod alive;
mod batch;
mod judge;
mod link;
mod links;
mod options;
mod queue;
mod reader;
mod session;
mod shared;
mod table;
mod values;
mod writer;

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::Statement;

pub use self::options::{ConnectionPool, PostgresJournalOptions};

use self::link::{Link, Outcome, Trouble};
use self::links::Links;
use self::queue::{Ask, Removed};
use self::reader::Reader;
use self::shared::Inner;
use self::writer::Writer;
use super::{
    AnswerSink, Append, HistoryFilter, Journal, JournalError, JournalStatus, Meter,
    OpenCoordination, StoredCoordination,
};
use crate::db::instance;
use crate::db::postgres::Server;
use crate::db::postgres_migration::{has_journal, migrate_journal};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use crate::reply::Reply;

const WHOSE: &str = "the PostgreSQL journal";

/// Whether a journal's location names a database and not a file.
pub fn is_postgres(location: &str) -> bool {
    location.starts_with("postgresql://") || location.starts_with("postgres://")
}

/// A journal in a PostgreSQL database.
pub struct PostgresJournal {
    cluster: ClusterId,
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The process that opened it. A forked child has a copy without the threads.
    process: u32,
}

/// What a journal begins with.
struct Opened {
    cluster: ClusterId,
    writer: (Link, Statement),
    session: Link,
}

impl PostgresJournal {
    /// Opens the journal in the database that `dsn` names, and makes its tables where there are
    /// none. Blocks.
    pub fn open(dsn: &str, options: PostgresJournalOptions) -> Result<Self, JournalError> {
        let cannot = |reason: String| JournalError::Open { path: WHOSE.to_owned(), reason };
        let server = Server::parse(dsn, WHOSE).map_err(|error| cannot(error.to_string()))?;
        let own = instance::mint_instance_id().map_err(|error| cannot(error.to_string()))?;
        let inner = Arc::new(Inner::new(server, own, options));
        let (sender, opened) = mpsc::channel();
        let working = Arc::clone(&inner);
        let thread = thread::Builder::new()
            .name("unanimity-journal".to_owned())
            .spawn(move || work(&working, sender))
            .map_err(|error| cannot(no_thread(&error)))?;
        let lost = || Err(JournalError::Closed);
        let cluster = opened.recv().unwrap_or_else(|_| lost())?;
        let process = std::process::id();
        Ok(Self { cluster, inner, thread: Mutex::new(Some(thread)), process })
    }
}

fn no_thread(error: &std::io::Error) -> String {
    format!("{error}; this process must be able to start threads")
}

/// The journal's thread: opens, says how that went, and works until the end.
fn work(inner: &Inner, told: mpsc::Sender<Result<ClusterId, JournalError>>) {
    let path = || inner.label().to_owned();
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = told.send(Err(JournalError::Open { path: path(), reason: no_thread(&error) }));
            return;
        }
    };
    let opened = match runtime.block_on(open(inner)) {
        Ok(opened) => opened,
        Err(error) => {
            let _ = told.send(Err(error));
            return;
        }
    };
    // Who opens waits for this; nothing is queued before.
    let _ = told.send(Ok(opened.cluster.clone()));
    let (writer, session) = (opened.writer, opened.session);
    if panic::catch_unwind(AssertUnwindSafe(|| run(&runtime, inner, writer, session))).is_ok() {
        return;
    }
    let reason = "its writer failed by a defect of unanimity; restart the process".to_owned();
    let error = JournalError::Unavailable { path: path(), reason };
    inner.queue.shut(error.clone());
    // The sink itself may be what panicked, so each call to it stands alone.
    let told = [
        panic::catch_unwind(AssertUnwindSafe(|| inner.queue.health_changed(Some(error.clone())))),
        panic::catch_unwind(AssertUnwindSafe(|| inner.queue.drain(&error))),
    ];
    if told.iter().any(Result::is_err) {
        tracing::error!(%error, "the journal's listener failed too");
    }
}

/// Writer, reader and session, side by side, until the queue is shut and empty.
fn run(runtime: &Runtime, inner: &Inner, writer: (Link, Statement), session: Link) {
    let (asks, asked) = tokio::sync::mpsc::unbounded_channel();
    let reader = Reader { inner, links: Links::new(inner), again: asks.clone() };
    let writer = Writer::new(inner, writer, asks);
    let writing = async {
        writer.run().await;
        inner.is_over.send_replace(true);
    };
    runtime.block_on(async {
        tokio::join!(writing, reader.run(asked), session::run(inner, session));
    });
    inner.queue.drain(&JournalError::Closed);
}

async fn open(inner: &Inner) -> Result<Opened, JournalError> {
    let label = inner.label();
    let cannot = |trouble: Trouble| match trouble {
        Trouble::Broken(words) | Trouble::Refused(words) | Trouble::Data(words) => {
            let reason = format!(
                "{words}; check that the server runs there, and the dsn's user, password, \
                 database and rights"
            );
            JournalError::Open { path: label.to_owned(), reason }
        }
        other => other.at(label),
    };
    let link = Link::open_by_keys(&inner.server).await.map_err(cannot)?;
    if inner.options.must_exist && !has_journal(&link.client, label).await? {
        let reason = "there is none in this database; a service that uses it makes it";
        return Err(JournalError::Open { path: label.to_owned(), reason: reason.to_owned() });
    }
    migrate_journal(&link.client, label).await?;
    let opened = async {
        if link.is_unsafe().await? {
            tracing::warn!(
                server = label,
                "the server runs with fsync=off: what it acknowledges is lost when its machine \
                 stops; set fsync=on"
            );
        }
        let cluster = cluster(&link).await?;
        let statement = batch::prepare(&link).await?;
        let session = session::join(inner).await?;
        Ok(Opened { cluster, writer: (link, statement), session })
    };
    opened.await.map_err(cannot)
}

/// The id that the journal was born with, minted by whoever opens it first.
async fn cluster(link: &Link) -> Outcome<ClusterId> {
    let minted = instance::mint_cluster_id()
        .map_err(|error| Trouble::Row(format!("no random bytes from the system: {error}")))?;
    let sql = "INSERT INTO journal_meta (key, value) VALUES ('cluster', $1) ON CONFLICT DO NOTHING";
    link.ask(sql, &[&minted.as_str()]).await?;
    let rows = link.ask("SELECT value FROM journal_meta WHERE key = 'cluster'", &[]).await?;
    let text: &str = rows.first().map_or(Ok(""), |row| table::get(row, 0))?;
    ClusterId::new(text).map_err(|error| Trouble::Row(format!("the cluster id {text:?}: {error}")))
}

impl Journal for PostgresJournal {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn instance(&self) -> &InstanceId {
        &self.inner.own
    }

    fn attach(&self, sink: Arc<dyn AnswerSink>) {
        self.inner.queue.attach(sink);
    }

    fn append(&self, batch: &mut Vec<Append>) {
        self.inner.queue.append(batch);
    }

    fn find(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        self.inner.queue.ask(Ask::Find(id, reply));
    }

    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        self.inner.queue.ask(Ask::History(filter, reply));
    }

    fn adopt(
        &self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    ) {
        self.inner.queue.ask(Ask::Adopt(stores, reply));
    }

    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        self.inner.queue.ask(Ask::UnknownOf(ids, reply));
    }

    /// Never: another process may open it from anywhere, between the answer and its use.
    fn is_alone(&self) -> bool {
        false
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.inner.queue.meter)
    }

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        self.inner.queue.ask(Ask::Status(reply));
    }

    fn server_facts(&self, reply: Reply<Result<Vec<(String, String)>, JournalError>>) {
        self.inner.queue.ask(Ask::ServerFacts(reply));
    }

    fn retain_some(&self, age: Duration, at_most: u64, reply: Reply<Result<u64, JournalError>>) {
        self.inner.queue.ask(Ask::Retain(age, Removed { before: 0, at_most }, reply));
    }

    fn count_ended(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        self.inner.queue.ask(Ask::CountEnded(age, reply));
    }

    fn close(&self) {
        // In a forked child there is no thread to wait for, and a mutex may be held for ever by
        // one that was not copied.
        if std::process::id() != self.process {
            return;
        }
        self.inner.queue.shut(JournalError::Closed);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Called from an answer, on the journal's own thread, it must not wait for itself.
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic was told to the sink when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for PostgresJournal {
    fn drop(&mut self) {
        self.close();
    }
}
