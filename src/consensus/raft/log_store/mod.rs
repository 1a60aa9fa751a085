//! What a node may not forget: its vote, and the entries that are not in a snapshot yet.
//!
//! Openraft's storage of logs on `db::segments`, or in memory alone. Not the state that the
//! entries lead to (`state_machine`). Entries since the last purge are in memory too, which the
//! compaction threshold bounds; replication reads them from there. `writer` has the thread that
//! brings them to the disk, `frame` what stands there.
//!
//! Invariants:
//! - A vote is on the disk when it is given, an entry when it is acknowledged.
//! - A log of which something is missing that was acknowledged is refused, not shortened: what
//!   cannot be read and is followed by a later batch was on the disk once, because a batch is
//!   written when the one before it is synced.
//! - Nothing is purged before the snapshot that has it is kept: openraft 0.9 asks for both at once
//!   when a node is sent a snapshot, and a crash in between would leave neither.

mod frame;
mod writer;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{oneshot, watch};

use self::frame::{Frame, Known};
use self::writer::{Job, Writer};
use super::error::{MEND, RaftError};
use super::identity::Identity;
use super::state_machine::Covered;
use super::types::{Entry, LogId, Number, Payload, StorageError, Types, Vote};
use crate::db::segments::{LogError, SegmentLog, SegmentSizes};

/// How long another process's hold is waited for: one that is just ending.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most bytes of proposals that are replicated at once, unless one entry has more.
const REPLICATED_BYTES_MAX: usize = 2 << 20;
/// Most clusters of small services never fill the first; at 64 callers one lasts for seconds.
pub(super) const SIZES: SegmentSizes = SegmentSizes { first: 4 << 20, most: 64 << 20, total: None };

/// The log of one node. Clones are one log.
#[derive(Clone)]
pub(super) struct LogStore {
    known: Arc<Mutex<Known>>,
    /// `None` where everything is in memory alone.
    writer: Option<Arc<Writer>>,
    /// What may be forgotten; everything where nobody says so.
    covered: Option<watch::Receiver<Covered>>,
}

impl LogStore {
    /// A log that ends with the process.
    pub(super) fn in_memory() -> Self {
        Self { known: Arc::default(), writer: None, covered: None }
    }

    /// Opens the log in `data_dir`, or begins it. Blocks.
    pub(super) fn open(
        data_dir: &Path,
        identity: &Identity,
        sizes: SegmentSizes,
    ) -> Result<Self, RaftError> {
        let folder = data_dir.join("log");
        #[cfg(test)]
        let sizes = crate::simulated::segment_sizes().map_or(sizes, |(first, most)| SegmentSizes {
            first,
            most,
            total: None,
        });
        let broken = |error| RaftError::log(&folder, error);
        // A new log begins with 1; a purge takes segments away, and never the last.
        let first = if folder.is_dir() { SegmentLog::first_in(&folder) } else { Ok(None) };
        let first = first.map_err(|error| broken(LogError::Io(error)))?;
        let opened = SegmentLog::open_locked(&folder, identity.tag(), sizes, PATIENCE, || {
            identity.check(data_dir).map_err(Refusal::Raft)?;
            Ok(first.map_or(0, |first| first - 1))
        });
        let mut log = opened.map_err(|refusal: Refusal| refusal.told(&broken))?;
        let mut known = read_whole(&mut log, &folder)?;
        let indexes = known.entries.iter().map(|entry| entry.log_id.index);
        let places = indexes.zip(std::mem::take(&mut known.positions)).collect::<VecDeque<_>>();
        // The lock is kept for as long as the log is open: one process runs a node.
        let writer = Writer::start(log, places).map_err(|error| broken(LogError::Io(error)))?;
        Ok(Self {
            known: Arc::new(Mutex::new(known)),
            writer: Some(Arc::new(writer)),
            covered: None,
        })
    }

    /// Forgets only what is in a snapshot.
    pub(super) fn behind(self, covered: watch::Receiver<Covered>) -> Self {
        Self { covered: Some(covered), ..self }
    }

    /// Returns when a snapshot that is kept has everything up to here.
    async fn is_covered(&self, id: LogId) -> Result<(), StorageError> {
        let Some(mut covered) = self.covered.clone() else { return Ok(()) };
        let ended = || "the snapshots of this node were closed".to_owned();
        let waited = covered.wait_for(|it| it.broken.is_some() || it.through >= Some(id)).await;
        let broken = waited.map_or_else(|_| Some(ended()), |covered| covered.broken.clone());
        match broken {
            None => Ok(()),
            Some(words) => Err(StorageIOError::write_logs(AnyError::error(words)).into()),
        }
    }

    /// Whether nothing was ever promised here.
    pub(super) fn is_empty(&self) -> bool {
        let known = self.lock();
        known.vote.is_none() && known.last().is_none()
    }

    /// The vote by which the node `me` leads, if it does, and the last entry of its log.
    pub(super) fn led_until(&self, me: Number) -> Option<(Vote, u64)> {
        let known = self.lock();
        let vote = known.vote.filter(|it| it.is_committed() && it.leader_id.node_id == me)?;
        Some((vote, known.last()?.index))
    }

    /// How many bytes of proposals are in memory, and would be read after a restart.
    pub(super) fn bytes(&self) -> usize {
        self.lock().entries.iter().map(payload_bytes).sum()
    }

    /// Writes what waits and lets go of the folder. Blocks.
    pub(super) fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    /// From here on every sync fails.
    #[cfg(test)]
    pub(super) fn fail_disk(&self) {
        self.writer.as_ref().expect("a log on disk").fail_disk();
    }

    /// The mark of the last commit does not reach the disk, as when the process is killed.
    #[cfg(test)]
    pub(super) fn lose_mark(&self) {
        self.writer.as_ref().expect("a log on disk").lose_mark();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // What is known is whole at every moment, also after a panic elsewhere.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a log did not open: its own trouble, or that of the folder around it.
enum Refusal {
    Log(LogError),
    Raft(RaftError),
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Refusal {
    fn told(self, broken: &impl Fn(LogError) -> RaftError) -> RaftError {
        match self {
            Self::Log(error) => broken(error),
            Self::Raft(error) => error,
        }
    }
}

fn read_whole(log: &mut SegmentLog, folder: &Path) -> Result<Known, RaftError> {
    let mut known = Known::default();
    let damaged = |words: String| RaftError::data(folder, format!("{words}; {MEND}"));
    log.catch_up(|position, payload| {
        let added = Frame::read(payload).and_then(|frame| known.add(position, frame));
        added
            .map_err(|words| Refusal::Log(LogError::Damaged(format!("record {position}: {words}"))))
    })
    .map_err(|refusal: Refusal| refusal.told(&|error| RaftError::log(folder, error)))?;
    let torn = log.tail() + 1;
    let stranded = log.stranded().map_err(|error| RaftError::log(folder, error))?;
    if stranded.iter().any(|(_, payload)| Frame::began(payload).is_some_and(|at| at > torn)) {
        let words = "cannot be read, and stands before records that were written after it";
        return Err(damaged(format!("record {torn} {words}")));
    }
    log.settle().map_err(|error| RaftError::log(folder, error))?;
    known.is_whole().map_err(damaged)?;
    Ok(known)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let known = self.lock();
        let Some(first) = known.entries.front().map(|entry| entry.log_id.index) else {
            return Ok(Vec::new());
        };
        let place = |index: u64| usize::try_from(index.saturating_sub(first)).unwrap_or(usize::MAX);
        let from = match range.start_bound() {
            Bound::Included(index) => place(*index),
            Bound::Excluded(index) => place(index + 1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => place(index + 1),
            Bound::Excluded(index) => place(*index),
            Bound::Unbounded => usize::MAX,
        };
        let to = to.min(known.entries.len());
        Ok(if from < to { known.entries.range(from..to).cloned().collect() } else { Vec::new() })
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let mut entries = self.try_get_log_entries(start..end).await?;
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            let fits = bytes <= REPLICATED_BYTES_MAX;
            bytes += payload_bytes(entry);
            fits && bytes <= REPLICATED_BYTES_MAX
        });
        let count = fitting.count().max(1);
        entries.truncate(count);
        Ok(entries)
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(Payload::Entry(text)) => text.get().len(),
        _ => 0,
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        let known = self.lock();
        Ok(LogState { last_purged_log_id: known.purged, last_log_id: known.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        if let Some(writer) = &self.writer {
            let (reply, written) = oneshot::channel();
            writer.push(Job::Vote(*vote, reply));
            let lost = |_| Err(io::Error::other("the log of this node was closed"));
            let written = written.await.unwrap_or_else(lost);
            written.map_err(|error| StorageIOError::write_vote(&error))?;
        }
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.lock().committed = committed;
        if let (Some(writer), Some(id)) = (&self.writer, committed) {
            writer.mark_committed(id);
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        flushed: LogFlushed<Types>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.lock().entries.extend(entries.iter().cloned());
        match &self.writer {
            Some(writer) => writer.push(Job::Entries(entries, flushed)),
            None => flushed.log_io_completed(Ok(())),
        }
        Ok(())
    }

    async fn truncate(&mut self, id: LogId) -> Result<(), StorageError> {
        self.lock().truncate(id.index);
        if let Some(writer) = &self.writer {
            // Nobody was told of what goes, so it may come back after a crash. The entries that
            // take its place stand behind it in the same stream.
            writer.push(Job::Truncate(id.index));
        }
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> Result<(), StorageError> {
        // Openraft has what a snapshot covers forgotten while that is still being installed. After
        // a crash in between neither would have what this node acknowledged.
        self.is_covered(id).await?;
        let (vote, committed) = {
            let mut known = self.lock();
            known.purge(id);
            (known.vote, known.committed)
        };
        if let Some(writer) = &self.writer {
            writer.push(Job::Purge { purged: id, vote, committed });
        }
        Ok(())
    }
}
