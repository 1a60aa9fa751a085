//! The replicated journal: records in the state that the nodes of a cluster share.
//!
//! Not the cluster (`crate::cluster` is its port) and not the rules of who may write what
//! (`protocol/replica`). `queue` has the records on their way; this file asks and answers.
//!
//! Invariants: one proposal of the journal is under way, and what comes meanwhile is in the next
//! (group commit); a record whose answer was lost is proposed again, before all that came after it,
//! and is kept once; a question sees what was appended before it. Streams of events are not kept.

#[cfg(test)]
mod duties_test;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::queue::Inner;
use super::{
    AnswerSink, Append, HistoryFilter, Journal, JournalError, JournalStatus, Meter,
    OpenCoordination, StoredCoordination, fold,
};
use crate::cluster::{ClusterError, ReplicatedLog};
use crate::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::protocol::replica::{Answer, Command, Coordination, Replica};
use crate::reply::Reply;

/// The version of what this journal keeps.
const SCHEMA: u32 = 1;
/// How long the session lasts that is opened for an adoption; the node keeps it alive from there.
const SESSION: Duration = Duration::from_secs(2);
/// How many coordinations one proposal forgets.
const FORGET_MAX: u32 = 500;

/// A journal in a cluster.
pub struct ReplicatedJournal {
    inner: Arc<Inner>,
    /// What was adopted and handed over, with its epoch, while it is open.
    handed: Arc<Mutex<HashSet<(CoordinationId, u32)>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ReplicatedJournal {
    /// A journal over a log.
    pub fn open(log: Arc<dyn ReplicatedLog>) -> Result<Self, JournalError> {
        let inner = Inner::new(log);
        #[cfg(test)]
        if crate::simulated::is_on() {
            tokio::spawn(queue::run_simulated(Arc::downgrade(&inner)));
            return Ok(Self { inner, handed: Arc::default(), thread: Mutex::default() });
        }
        let thread = inner.start()?;
        Ok(Self { inner, handed: Arc::default(), thread: Mutex::new(Some(thread)) })
    }

    /// Looks at the state, behind everything that was appended before.
    fn look<T: Send + 'static>(
        &self,
        reply: Reply<Result<T, JournalError>>,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) where
        Result<T, JournalError>: crate::reply::Lost,
    {
        let inner = Arc::clone(&self.inner);
        self.inner.behind_appends(Box::new(move |ready| match ready {
            Err(error) => reply.send(Err(error)),
            Ok(()) => {
                let log = Arc::clone(&inner.log);
                log.read(Box::new(move |replica| {
                    reply.send(replica.map(look).map_err(|error| inner.told(error)));
                }));
            }
        }));
    }
}

/// A coordination as people and the engine ask for it.
fn folded(coordination: &Coordination) -> Option<StoredCoordination> {
    let mut records = coordination.records.iter();
    let (at, first) = records.next()?;
    let mut stored = fold::begun(*at, first)?;
    for (at, record) in records {
        fold::apply(&mut stored, *at, record);
    }
    Some(stored)
}

fn is_asked_for(filter: &HistoryFilter, stored: &StoredCoordination) -> bool {
    let request = &stored.request;
    (filter.states.is_empty() || filter.states.contains(&stored.state))
        && filter.kind.is_none_or(|kind| kind == request.kind)
        && filter.since.is_none_or(|since| stored.created_at >= since)
        && filter.until.is_none_or(|until| stored.created_at <= until)
        && !(filter.open && stored.completed_at.is_some())
        && filter
            .store
            .as_ref()
            .is_none_or(|store| request.stores.iter().any(|name| name.as_str() == store))
}

fn history(replica: &Replica, filter: &HistoryFilter) -> Vec<StoredCoordination> {
    let mut all: Vec<_> = replica.coordinations().collect();
    all.sort_by_key(|it| std::cmp::Reverse((it.records.first().map(|(at, _)| *at), it.order)));
    let stored = all.into_iter().filter_map(|it| folded(it));
    stored.filter(|it| is_asked_for(filter, it)).take(filter.limit).collect()
}

/// What this process adopted and has not handed over yet, also by proposals whose answer was lost.
fn adopted(
    replica: &Replica,
    own: &InstanceId,
    handed: &mut HashSet<(CoordinationId, u32)>,
) -> Vec<OpenCoordination> {
    let mut still_open = HashSet::new();
    let mut found = Vec::new();
    for it in replica.open_coordinations().filter(|it| it.owner == *own) {
        let is_adoption =
            |record: &Record| matches!(record, Record::Adopted { epoch, .. } if *epoch == it.epoch);
        if !it.records.iter().any(|(_, record)| is_adoption(record)) {
            continue;
        }
        let key = (it.request.id.clone(), it.epoch);
        if !handed.contains(&key) {
            found.push(OpenCoordination {
                id: it.request.id.clone(),
                owner: it.owner.clone(),
                epoch: it.epoch,
                records: it.records.clone(),
            });
        }
        still_open.insert(key);
    }
    *handed = still_open;
    found
}

impl Journal for ReplicatedJournal {
    fn cluster(&self) -> &ClusterId {
        self.inner.log.cluster()
    }

    fn instance(&self) -> &InstanceId {
        self.inner.log.instance()
    }

    fn attach(&self, sink: Arc<dyn AnswerSink>) {
        self.inner.attach(sink);
    }

    fn append(&self, batch: &mut Vec<Append>) {
        self.inner.append(batch);
    }

    fn find(
        &self,
        id: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        self.look(reply, move |replica| replica.coordination(&id).and_then(|it| folded(it)));
    }

    fn history(
        &self,
        filter: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        self.look(reply, move |replica| history(replica, &filter));
    }

    fn adopt(
        &self,
        stores: Vec<StoreName>,
        reply: Reply<Result<Vec<OpenCoordination>, JournalError>>,
    ) {
        let (inner, handed) = (Arc::clone(&self.inner), Arc::clone(&self.handed));
        // Without a session what was adopted could be taken away at once.
        let commands = vec![Command::KeepAlive { lease: SESSION }, Command::Adopt { stores }];
        let answered = move |answers: Result<Vec<Answer>, ClusterError>| match answers {
            Err(error) => reply.send(Err(inner.told(error))),
            Ok(_) => {
                let mut found = Vec::new();
                inner.log.glance(&mut |replica| {
                    let mut handed = handed.lock().unwrap_or_else(PoisonError::into_inner);
                    found = adopted(replica, inner.log.instance(), &mut handed);
                });
                reply.send(Ok(found));
            }
        };
        self.inner.log.propose(commands, Reply::new(answered));
    }

    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        self.look(reply, move |replica| {
            ids.into_iter().filter(|id| replica.coordination(id).is_none()).collect()
        });
    }

    /// Never: another process may join the cluster between the answer and its use.
    fn is_alone(&self) -> bool {
        false
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.inner.meter)
    }

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        let location = self.inner.log.location();
        self.look(reply, move |replica| {
            let engine = "cluster".to_owned();
            let mut status =
                JournalStatus { location, engine, schema: SCHEMA, ..JournalStatus::default() };
            for stored in replica.coordinations().filter_map(|it| folded(it)) {
                *status.states.entry(stored.state).or_default() += 1;
            }
            status.instances_alive = replica.instances().cloned().collect();
            status
        });
    }

    fn retain_some(&self, age: Duration, at_most: u64, reply: Reply<Result<u64, JournalError>>) {
        forget(&self.inner, ago(age), at_most, 0, reply);
    }

    fn count_ended(&self, age: Duration, reply: Reply<Result<u64, JournalError>>) {
        let before = ago(age);
        self.look(reply, move |replica| {
            let ended = replica.coordinations().filter_map(|it| folded(it)?.completed_at);
            ended.filter(|at| *at < before).count() as u64
        });
    }

    fn close(&self) {
        self.inner.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|it| it.thread().id() != std::thread::current().id()) {
            // It only ends; if it panicked, that was told when it did.
            drop(thread.join());
        }
    }
}

impl Drop for ReplicatedJournal {
    fn drop(&mut self) {
        self.close();
    }
}

fn ago(age: Duration) -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Timestamp(0) + since_epoch) - age
}

/// Forgets one portion, and the next, until one is not full or `left` have gone.
fn forget(
    inner: &Arc<Inner>,
    before: Timestamp,
    left: u64,
    count: u64,
    reply: Reply<Result<u64, JournalError>>,
) {
    let again = Arc::clone(inner);
    let portion = u32::try_from(left).unwrap_or(u32::MAX).min(FORGET_MAX);
    let answered = move |answers: Result<Vec<Answer>, ClusterError>| match answers {
        Err(error) => reply.send(Err(again.told(error))),
        Ok(answers) => match answers.first() {
            Some(Answer::Count(more)) if *more == u64::from(portion) && left > *more => {
                forget(&again, before, left - more, count + more, reply);
            }
            Some(Answer::Count(more)) => reply.send(Ok(count + more)),
            _ => reply.send(Ok(count)),
        },
    };
    let commands = vec![Command::Forget { before, at_most: portion }];
    inner.log.propose(commands, Reply::new(answered));
}
