//! The embedded bus: durable, in one SQLite file beside the journal, for the processes of one
//! machine that open the same file.
//!
//! Read it from here down: `queue` is what waits, `writer` the one thread that commits it, `batch`
//! what one transaction does, `store` and `upkeep` the tables of
//! `db/migrations/bus_sqlite/0001_bus.sql`. Order and competing consumers hold because a stream of
//! a group (a line) is claimed by one process at a time; that a process died is told by its lock
//! file within a quarter of a second. Members of the publishing process are told at once; other
//! processes look every 5 ms while they have work, every 20 ms when they were idle for a second.
//! Ids count once while their events are kept. Not the journal: a coordination never waits for it.
//! Invariant: what is answered is on the disk.

mod batch;
mod queue;
mod store;
mod trouble;
mod upkeep;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use self::queue::{Ask, Queue};
use self::writer::Writer;
use super::check::{check_event, check_subscription};
use super::member::Member;
use super::{BusEvent, EventBus, EventBusError, ParkedEvent, SubscribeAsk, SubscriptionId};
use crate::db::instance::Instances;
use crate::reply::Reply;

/// How the names of groups of one subscription begin.
const OWN_GROUP: &str = super::check::OWN_GROUP;

/// How a bus behaves. Every default is here.
#[derive(Clone, Debug)]
pub struct JournalBusOptions {
    /// How long events stay that every group has handled, and their ids count once. Default 1 h.
    pub kept_for: Duration,
    /// How many of the newest events may stay so. Default `100_000`.
    pub kept_max: usize,
    /// The most pages (of 4 KiB) that the file may have. Default `None`: as the disk allows.
    pub pages_max: Option<u32>,
}

impl Default for JournalBusOptions {
    fn default() -> Self {
        Self { kept_for: Duration::from_secs(3_600), kept_max: 100_000, pages_max: None }
    }
}

/// A bus in one SQLite file.
pub struct JournalEventBus {
    label: String,
    queue: Arc<Queue>,
    instances: Arc<Instances>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl JournalEventBus {
    /// Opens the bus in the file `path`, which is made if it is missing; timers of handlers run on
    /// `runtime`.
    pub fn open(path: &Path, runtime: Handle) -> Result<Self, EventBusError> {
        Self::open_with(path, JournalBusOptions::default(), runtime)
    }

    /// As [`JournalEventBus::open`], with settings.
    pub fn open_with(
        path: &Path,
        options: JournalBusOptions,
        runtime: Handle,
    ) -> Result<Self, EventBusError> {
        let label = path.display().to_string();
        let unavailable =
            |reason: String| EventBusError::Unavailable { bus: label.clone(), reason };
        let connection =
            writer::open(path, &options).map_err(|error| unavailable(error.to_string()))?;
        let instances = Instances::join(Some(path)).map_err(|error| {
            unavailable(format!(
                "{error}; this process must be able to make the folder {label}-instances"
            ))
        })?;
        let (queue, instances) = (Arc::new(Queue::default()), Arc::new(instances));
        let opened = (path, connection);
        let writer = Writer::new(queue.clone(), opened, options, instances.clone(), runtime);
        let thread = std::thread::Builder::new().name("unanimity-bus".to_owned());
        let spawned = thread.spawn(move || writer.run()).map_err(|error| {
            unavailable(format!("{error}; this process must be able to start threads"))
        })?;
        Ok(Self { label, queue, instances, writer: Mutex::new(Some(spawned)) })
    }

    /// The bus' file that stands beside a journal's.
    pub fn beside(journal: &Path) -> PathBuf {
        let mut name = journal.as_os_str().to_owned();
        name.push("-bus");
        name.into()
    }

    fn ask(&self, ask: Ask) {
        if let Some(ask) = self.queue.ask(ask) {
            ask.fail(EventBusError::Closed);
        }
    }

    fn leave(queue: &Arc<Queue>, member: &Arc<Member>, reply: Reply<Result<bool, EventBusError>>) {
        let (queue, leaving) = (queue.clone(), member.clone());
        member.end(move || {
            if let Some(ask) = queue.ask(Ask::Leave(leaving, reply)) {
                ask.fail(EventBusError::Closed);
            }
        });
    }
}

impl EventBus for JournalEventBus {
    fn is_durable(&self) -> bool {
        true
    }

    fn publish(&self, event: BusEvent, reply: Reply<Result<(), EventBusError>>) {
        match check_event(&self.label, &event) {
            Ok(()) => self.queue.publish(&self.label, event, reply),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn subscribe(&self, ask: SubscribeAsk, reply: Reply<Result<SubscriptionId, EventBusError>>) {
        match check_subscription(&self.label, &ask) {
            Ok(()) => self.ask(Ask::Subscribe(ask, reply)),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }

    fn unsubscribe(&self, id: SubscriptionId, reply: Reply<Result<bool, EventBusError>>) {
        match self.queue.member(id) {
            Some(member) => Self::leave(&self.queue, &member, reply),
            None => reply.send(Ok(false)),
        }
    }

    fn parked(&self, limit: usize, reply: Reply<Result<Vec<ParkedEvent>, EventBusError>>) {
        self.ask(Ask::Parked(limit, reply));
    }

    fn redrive(&self, event_id: String, group: String, reply: Reply<Result<bool, EventBusError>>) {
        self.ask(Ask::Redrive { event_id, group, reply });
    }

    fn close(&self) {
        let (sender, ended) = mpsc::channel();
        for member in self.queue.shut() {
            let sender = sender.clone();
            // Nobody listens when the close has given up.
            let reply = Reply::new(move |_| {
                let _ = sender.send(());
            });
            Self::leave(&self.queue, &member, reply);
        }
        drop(sender);
        // Ends when every member has ended, which the timeouts of handlers bound.
        while ended.recv().is_ok() {}
        self.queue.finish();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A panic of the writer was reported when it happened.
            let _ = writer.join();
            self.instances.leave();
        }
    }
}

impl Drop for JournalEventBus {
    fn drop(&mut self) {
        self.close();
    }
}
