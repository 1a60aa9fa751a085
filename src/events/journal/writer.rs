//! The one thread that writes: it takes everything that waits, commits it once, brings it to the
//! disk where somebody was promised that, then answers and hands over what its members claimed.
//!
//! Not the tables (`store`) and not one transaction's content (`batch`). It also looks for what
//! other processes did: SQLite's counter of their commits is read every few milliseconds while a
//! member has room. Invariants: nobody is answered before the commit and its sync; what members
//! reported comes back to them when a commit fails; what another process holds is taken over only
//! when its lock file says that it is dead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::runtime::Handle;

use super::JournalBusOptions;
use super::batch::{Batch, Done, Written};
use super::queue::{Ask, Queue, Work};
use super::store;
use super::trouble::Trouble;
use super::upkeep::{self, Keeping};
use crate::db::DbError;
use crate::db::instance::{Instances, Life};
use crate::db::migration::BUS;
use crate::db::sqlite::{OpenOptions, Place, open_writer_of};
use crate::db::wal::WriteAheadLog;
use crate::events::member::{Member, Wake, now};
use crate::events::{EventBusError, SubscriptionId};
use crate::model::ids::InstanceId;

/// The most events of one commit: a few milliseconds.
const BATCH_MAX: usize = 1_024;
/// How often others' commits are looked for, within a second of the last work and later.
const LOOK_SOON: Duration = Duration::from_millis(5);
const LOOK_LATER: Duration = Duration::from_millis(20);
/// How often it is looked whether other processes died, and whether old events may go.
const SWEEP: Duration = Duration::from_millis(250);
/// How many events retention looks at in one portion.
const RETAIN_PORTION: i64 = 512;
/// How long one transaction may be kept from its turn by other processes.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// SQLite's own waits for others grow to 100 ms, and a commit is one.
const BUSY_NAP: Duration = Duration::from_micros(500);
/// The log is moved into the file when it has so many pages.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Files up to this size are read through for damage when they are opened.
const CHECK_BYTES_MAX: u64 = 64 << 20;

/// The thread's own.
pub(super) struct Writer {
    queue: Arc<Queue>,
    file: PathBuf,
    options: JournalBusOptions,
    instances: Arc<Instances>,
    runtime: Handle,
    connection: Option<Connection>,
    wal: WriteAheadLog,
    /// SQLite's counter of what others committed.
    version: i64,
    last_id: u64,
    swept_at: Instant,
    worked_at: Instant,
    /// Where retention goes on, and how many events came since.
    cursor: i64,
    unswept: i64,
    is_in_trouble: bool,
}

/// Opens the bus' file with what durability needs.
pub(super) fn open(file: &Path, options: &JournalBusOptions) -> Result<Connection, DbError> {
    let opening = OpenOptions {
        busy_timeout: BUSY_MAX,
        pages_max: options.pages_max,
        check_bytes_max: CHECK_BYTES_MAX,
    };
    let connection = open_writer_of(&BUS, &Place::File(file.to_owned()), &opening)?;
    let failed = |error| crate::db::sqlite::open_error(&file.display().to_string(), &error);
    connection.busy_handler(Some(wait_for_turn)).map_err(failed)?;
    connection
        .execute_batch(&format!("PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}"))
        .map_err(failed)?;
    Ok(connection)
}

fn wait_for_turn(times: i32) -> bool {
    std::thread::sleep(BUSY_NAP);
    BUSY_NAP * times.unsigned_abs() < BUSY_MAX
}

/// However the thread ends, also by a panic, nobody waits for it for ever.
struct LastWord(Arc<Queue>);

impl Drop for LastWord {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Writer {
    /// Over an open connection.
    pub(super) fn new(
        queue: Arc<Queue>,
        (file, connection): (&Path, Connection),
        options: JournalBusOptions,
        instances: Arc<Instances>,
        runtime: Handle,
    ) -> Self {
        Self {
            queue,
            wal: WriteAheadLog::of(file),
            file: file.to_owned(),
            options,
            instances,
            runtime,
            connection: Some(connection),
            version: 0,
            last_id: 0,
            swept_at: Instant::now(),
            worked_at: Instant::now(),
            cursor: 0,
            unswept: 0,
            is_in_trouble: false,
        }
    }

    /// Until the queue is finished.
    pub(super) fn run(mut self) {
        let _last_word = LastWord(self.queue.clone());
        let mut patience = LOOK_SOON;
        loop {
            let work = self.queue.take(BATCH_MAX, patience);
            let (is_last, is_sweep) = (work.is_last, self.swept_at.elapsed() >= SWEEP);
            let has_room = work.members.iter().any(|member| member.claims().room() > 0);
            let is_news = has_room && self.sees_others();
            if work.has_work() || is_news || is_sweep {
                self.work(work, is_sweep);
            }
            if is_last {
                return;
            }
            let is_soon = self.worked_at.elapsed() < Duration::from_secs(1);
            patience = match has_room {
                true if is_soon => LOOK_SOON,
                true => LOOK_LATER,
                false => SWEEP,
            };
        }
    }

    /// Whether another process committed since the last look.
    fn sees_others(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let found = connection.query_row("PRAGMA data_version", [], |row| row.get(0));
        let before = self.version;
        self.version = found.unwrap_or(before);
        self.version != before
    }

    fn work(&mut self, work: Work, is_sweep: bool) {
        let Work { publishes, asks, members, .. } = work;
        let dead = if is_sweep { self.dead() } else { Vec::new() };
        let mut batch = Batch::new(publishes, asks, members, now());
        batch.dead = dead.iter().map(|(id, _)| id.as_str().to_owned()).collect();
        match self.write(&mut batch, is_sweep) {
            Ok(Some(written)) => {
                self.is_in_trouble = false;
                self.worked_at = Instant::now();
                self.settled(batch, written);
                for (id, _) in &dead {
                    self.instances.bury(id);
                }
            }
            Ok(None) => {}
            Err(trouble) => {
                let error = trouble.at(&self.file);
                if !std::mem::replace(&mut self.is_in_trouble, true) {
                    tracing::warn!(%error, "the event bus cannot write; it is tried again");
                }
                if trouble.breaks_connection() {
                    self.connection = None;
                }
                batch.fail(&error);
            }
        }
    }

    /// Commits the batch; nothing where there is nothing to write.
    fn write(&mut self, batch: &mut Batch, is_sweep: bool) -> Result<Option<Written>, Trouble> {
        let retained = self.retained(is_sweep)?;
        let owner = self.instances.own().clone();
        let connection = self.connected(batch)?;
        if retained.is_none() && !batch.has_something(connection)? {
            return Ok(None);
        }
        let begun = TransactionBehavior::Immediate;
        let transaction = connection.transaction_with_behavior(begun)?;
        let written = batch.write(&transaction, owner.as_str())?;
        if let Some((after, until)) = retained {
            upkeep::remove_handled(&transaction, after, until)?;
        }
        transaction.commit()?;
        self.unswept += written.published;
        Ok(Some(written))
    }

    /// Brings it to the disk, answers, and hands over.
    fn settled(&mut self, batch: Batch, written: Written) {
        crate::crash::point("bus", "committed");
        let synced = if batch.is_promised() { self.wal.sync() } else { Ok(()) };
        let trouble = synced.err().map(|error| Trouble::Sync(error.to_string()).at(&self.file));
        crate::crash::point("bus", "synced");
        for (_, reply) in batch.publishes {
            reply.send(trouble.clone().map_or(Ok(()), Err));
        }
        for (ask, done) in batch.asks.into_iter().zip(written.dones) {
            match &trouble {
                Some(error) => ask.fail(error.clone()),
                None => self.answer(ask, done),
            }
        }
        // Also when the sync failed: these are ours now.
        for (member, portions) in written.claims {
            member.hand_over(portions);
        }
    }

    fn answer(&mut self, ask: Ask, done: Done) {
        match (ask, done) {
            (Ask::Subscribe(ask, reply), Done::Joined(group)) => {
                self.last_id += 1;
                let id = SubscriptionId(self.last_id);
                let queue = self.queue.clone();
                let wake: Wake = Arc::new(move || queue.stir());
                let member = Member::begin(id, group, &ask, wake, &self.runtime);
                if self.queue.add_member(member.clone()) {
                    // What waited for its group is claimed now.
                    self.queue.stir();
                    return reply.send(Ok(id));
                }
                member.end(|| ());
                reply.send(Err(EventBusError::Closed));
            }
            (Ask::Leave(member, reply), _) => {
                self.queue.remove_member(member.id);
                reply.send(Ok(true));
            }
            (Ask::Parked(_, reply), Done::Parked(found)) => reply.send(Ok(found)),
            (Ask::Redrive { reply, .. }, Done::Redriven(found)) => reply.send(Ok(found)),
            // A question without its answer answers by itself that it was lost.
            _ => {}
        }
    }

    /// The processes that died and left something, with the locks that prove it.
    fn dead(&mut self) -> Vec<(InstanceId, Life)> {
        self.swept_at = Instant::now();
        let is_dead = |id: InstanceId| match self.instances.probe(&id) {
            Life::Alive => None,
            dead @ Life::Dead(_) => Some((id, dead)),
        };
        let mut ids = self.instances.others();
        let owners = self.connection.as_ref().and_then(|found| upkeep::owners(found).ok());
        for owner in owners.unwrap_or_default() {
            let Ok(id) = InstanceId::new(&owner) else { continue };
            if id != *self.instances.own() && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids.into_iter().filter_map(is_dead).collect()
    }

    /// Between which positions old events may go now.
    fn retained(&mut self, is_sweep: bool) -> Result<Option<(i64, i64)>, Trouble> {
        if !is_sweep && self.unswept < RETAIN_PORTION {
            return Ok(None);
        }
        let Some(connection) = &self.connection else { return Ok(None) };
        self.unswept = (self.unswept - RETAIN_PORTION).max(0);
        let keeping = Keeping {
            until: now() - self.options.kept_for,
            events: i64::try_from(self.options.kept_max).unwrap_or(i64::MAX),
            portion: RETAIN_PORTION,
        };
        let after = self.cursor;
        let Some((until, is_more)) = upkeep::old_events(connection, &keeping, after)? else {
            self.cursor = 0;
            return Ok(None);
        };
        self.cursor = if is_more { until } else { 0 };
        Ok(Some((after, until)))
    }

    /// The connection; one that broke is opened again, and what it may have committed without our
    /// knowing is given back.
    fn connected(&mut self, batch: &Batch) -> Result<&mut Connection, Trouble> {
        if self.connection.is_none() {
            let mut opened = open(&self.file, &self.options).map_err(Trouble::Reopen)?;
            self.wal.reopen();
            let transaction = opened.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let owner = self.instances.own().as_str();
            for (group, stream) in upkeep::owned(&transaction, owner)? {
                if !batch.holds(group, &stream) {
                    store::give_back(&transaction, group, &stream)?;
                }
            }
            transaction.commit()?;
            self.connection = Some(opened);
        }
        Ok(self.connection.as_mut().expect("it was opened above"))
    }
}
