//! Carries entries out: openraft's state machine around `protocol::replica::Replica`.
//!
//! Not the rules of the state, and not the log. `applied` is the state as the rest of the node
//! sees it, `snapshots` the place of the last snapshot. Invariants:
//! - The state is durable as a snapshot and the log behind it; nothing is written when an entry is
//!   carried out.
//! - A snapshot is made of a copy, in a thread of its own: entries go on being carried out.
//! - An entry that cannot be read stops the node: leaving it out would make it another state than
//!   that of the others.

mod applied;
mod snapshots;

use std::collections::BTreeSet;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::applied::Beside;
use self::snapshots::{Kept, Snapshots};
use super::error::{MEND, RaftError};
use super::types::{
    Entry, LogId, Member, Number, Payload, Snapshot, SnapshotMeta, StorageError, StoredMembership,
    Types,
};
use crate::model::ids::InstanceId;
use crate::protocol::replica::{self, Replica};

pub(super) use self::applied::{Applied, Asked, fail};
pub(super) use self::snapshots::Covered;

/// Openraft's view of the state.
pub(super) struct StateMachine {
    applied: Arc<Applied>,
    snapshots: Arc<Snapshots>,
}

impl StateMachine {
    /// The state of the last snapshot; openraft then has the log carried out from there. Blocks.
    pub(super) fn open(data_dir: Option<&Path>, instance: InstanceId) -> Result<Self, RaftError> {
        let snapshots = Snapshots::open(data_dir)?;
        let (replica, beside) = match snapshots.last()? {
            None => (Replica::new(), Beside::default()),
            Some(kept) => unpack(&kept.meta, &kept.data).map_err(|error| {
                let path = data_dir.unwrap_or(Path::new("")).join("snapshots");
                RaftError::data(&path, format!("{error}; {MEND}"))
            })?,
        };
        let applied = Arc::new(Applied::new(instance, replica, beside));
        Ok(Self { applied, snapshots: Arc::new(snapshots) })
    }

    /// What the log may forget.
    pub(super) fn covered(&self) -> watch::Receiver<Covered> {
        self.snapshots.covered()
    }

    pub(super) fn applied(&self) -> &Arc<Applied> {
        &self.applied
    }
}

/// What stands in front of the state in a snapshot.
#[derive(Serialize, Deserialize)]
struct Head {
    retired: BTreeSet<Number>,
}

/// A head, a line feed, the state.
fn pack(replica: &Replica, beside: &Beside) -> Vec<u8> {
    let head = Head { retired: beside.retired.clone() };
    let mut data = serde_json::to_vec(&head).expect("numbers are text");
    data.push(b'\n');
    data.extend(replica.snapshot());
    data
}

fn unpack(meta: &SnapshotMeta, data: &[u8]) -> Result<(Replica, Beside), String> {
    let end = data.iter().position(|byte| *byte == b'\n').ok_or("the snapshot has no head")?;
    let head: Head = serde_json::from_slice(&data[..end]).map_err(|error| error.to_string())?;
    let replica = Replica::restore(&data[end + 1..]).map_err(|error| error.to_string())?;
    let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
    Ok((replica, Beside { last, membership, retired: head.retired }))
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let beside = self.applied.beside();
        Ok((beside.last, beside.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut count = 0;
        for entry in entries {
            self.apply_one(entry)?;
            count += 1;
        }
        Ok(vec![(); count])
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            replica: Some(self.applied.replica().clone()),
            beside: self.applied.beside().clone(),
            snapshots: Arc::clone(&self.snapshots),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let (meta, data) = (meta.clone(), Arc::new(snapshot.into_inner()));
        let snapshots = Arc::clone(&self.snapshots);
        let work = move || -> Result<_, String> {
            let state = unpack(&meta, &data)?;
            snapshots.keep(Kept { meta, data }).map_err(|error| error.to_string())?;
            Ok(state)
        };
        let (replica, beside) = beside_the_loop(work)
            .await
            .map_err(|words| StorageIOError::write_snapshot(None, AnyError::error(words)))?;
        self.applied.replace(replica, beside);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let snapshots = Arc::clone(&self.snapshots);
        let last = beside_the_loop(move || snapshots.last().map_err(|error| error.to_string()));
        let last = last
            .await
            .map_err(|words| StorageIOError::read_snapshot(None, AnyError::error(words)))?;
        Ok(last.map(|kept| handed_out(kept.meta, kept.data)))
    }
}

impl StateMachine {
    #[expect(clippy::result_large_err, reason = "openraft's traits ask for this error")]
    fn apply_one(&self, entry: Entry) -> Result<(), StorageError> {
        let id = entry.log_id;
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(Payload::Entry(text)) => {
                let entry: replica::Entry = serde_json::from_str(text.get()).map_err(|error| {
                    let words = "an entry of the log cannot be read; is another node newer?";
                    StorageIOError::apply(id, AnyError::error(format!("{words} {error}")))
                })?;
                self.applied.carry_out(id, &entry);
            }
            EntryPayload::Normal(Payload::Retire(node)) => {
                self.applied.beside().retired.insert(node);
            }
            EntryPayload::Membership(membership) => {
                self.applied.beside().membership = StoredMembership::new(Some(id), membership);
            }
        }
        self.applied.beside().last = Some(id);
        self.applied.advance(id.index);
        Ok(())
    }
}

/// Makes one snapshot.
pub(super) struct Builder {
    /// The copy, until it is written down.
    replica: Option<Replica>,
    beside: Beside,
    snapshots: Arc<Snapshots>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (replica, beside) = (self.replica.take().unwrap_or_default(), self.beside.clone());
        let snapshots = Arc::clone(&self.snapshots);
        let work = move || -> Result<_, String> {
            let meta = meta_of(&beside);
            let data = Arc::new(pack(&replica, &beside));
            let kept = Kept { meta: meta.clone(), data: Arc::clone(&data) };
            snapshots.keep(kept).map_err(|error| error.to_string())?;
            Ok(handed_out(meta, data))
        };
        let built = beside_the_loop(work).await;
        built.map_err(|words| StorageIOError::write_snapshot(None, AnyError::error(words)).into())
    }
}

fn meta_of(beside: &Beside) -> SnapshotMeta {
    /// Two snapshots of one process never have the same id.
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let (term, index) = beside.last.map_or((0, 0), |id| (id.leader_id.term, id.index));
    openraft::SnapshotMeta::<Number, Member> {
        last_log_id: beside.last,
        last_membership: beside.membership.clone(),
        snapshot_id: format!("{term}-{index}-{}-{count}", process()),
    }
}

fn process() -> u32 {
    #[cfg(test)]
    if crate::simulated::is_on() {
        return 0;
    }
    std::process::id()
}

fn handed_out(meta: SnapshotMeta, data: Arc<Vec<u8>>) -> Snapshot {
    // No copy where it is on the disk alone.
    let data = Arc::try_unwrap(data).unwrap_or_else(|shared| shared.as_ref().clone());
    Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }
}

/// Work that takes long, on a thread where it holds nobody up.
async fn beside_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    #[cfg(test)]
    if crate::simulated::is_on() {
        // No other thread, whose end would come at any time; the disk takes its time all the same.
        tokio::time::sleep(crate::simulated::sync_time()).await;
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(format!("the work on a snapshot ended: {error}")))
}
