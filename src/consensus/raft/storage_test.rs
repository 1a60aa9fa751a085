//! What a node keeps: openraft's own suite on disk and in memory, restarts, torn and damaged logs.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, log_id};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::error::RaftError;
use super::identity::Identity;
use super::log_store::{LogStore, SIZES};
use super::state_machine::StateMachine;
use super::types::{Entry, Payload, StorageError, Types, Vote};
use crate::db::segments::SegmentSizes;
use crate::model::ids::InstanceId;

const SMALL: SegmentSizes = SegmentSizes { first: 2 << 10, most: 8 << 10, total: None };

fn instance() -> InstanceId {
    InstanceId::new("a-1").unwrap()
}

fn open(folder: &Path) -> Result<LogStore, RaftError> {
    LogStore::open(folder, &Identity::new("cluster", "a"), SMALL)
}

fn entry(term: u64, index: u64) -> Entry {
    let text = format!("\"{}{index}\"", "x".repeat(usize::try_from(index % 90).unwrap()));
    let text: Arc<RawValue> = RawValue::from_string(text).unwrap().into();
    Entry { log_id: log_id(term, 1, index), payload: EntryPayload::Normal(Payload::Entry(text)) }
}

async fn append(log: &mut LogStore, entries: impl IntoIterator<Item = Entry>) {
    log.blocking_append(entries.into_iter().collect::<Vec<_>>()).await.unwrap();
}

/// The terms and indexes of what is in the log, and how long each payload is.
async fn content(log: &mut LogStore) -> Vec<(u64, u64, String)> {
    let entries = log.try_get_log_entries(..).await.unwrap();
    let text = |entry: Entry| match entry.payload {
        EntryPayload::Normal(Payload::Entry(text)) => text.get().to_owned(),
        other => format!("{other:?}"),
    };
    entries.into_iter().map(|e| (e.log_id.leader_id.term, e.log_id.index, text(e))).collect()
}

struct OnDisk;

impl StoreBuilder<Types, LogStore, StateMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let log = LogStore::open(folder.path(), &Identity::new("c", "a"), SIZES).unwrap();
        let state = StateMachine::open(Some(folder.path()), instance()).unwrap();
        Ok((folder, log, state))
    }
}

struct InMemory;

impl StoreBuilder<Types, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError> {
        Ok(((), LogStore::in_memory(), StateMachine::open(None, instance()).unwrap()))
    }
}

#[test]
fn openrafts_suite_passes_on_disk() {
    Suite::test_all(OnDisk).unwrap();
}

#[test]
fn openrafts_suite_passes_in_memory() {
    Suite::test_all(InMemory).unwrap();
}

#[tokio::test]
async fn a_log_comes_back_as_it_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    assert!(log.is_empty());
    log.save_vote(&Vote::new(3, 7)).await.unwrap();
    append(&mut log, (0..40).map(|index| entry(1, index))).await;
    log.truncate(log_id(1, 1, 30)).await.unwrap();
    append(&mut log, (30..50).map(|index| entry(2, index))).await;
    log.save_committed(Some(log_id(2, 1, 44))).await.unwrap();
    log.purge(log_id(1, 1, 9)).await.unwrap();
    log.save_vote(&Vote::new_committed(4, 2)).await.unwrap();
    let before = content(&mut log).await;
    assert_eq!((before.len(), before[0].1, before[39].0), (40, 10, 2));
    log.close();
    drop(log);
    let mut log = open(folder.path()).unwrap();
    assert_eq!(content(&mut log).await, before);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(4, 2)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 1, 44)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 9)));
    assert_eq!(state.last_log_id, Some(log_id(2, 1, 49)));
}

#[tokio::test]
async fn purges_bound_the_disk_and_keep_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.save_vote(&Vote::new(1, 1)).await.unwrap();
    for round in 0..60 {
        append(&mut log, (round * 50..round * 50 + 50).map(|index| entry(1, index))).await;
        if round > 0 {
            log.purge(log_id(1, 1, round * 50 - 1)).await.unwrap();
        }
    }
    let before = content(&mut log).await;
    log.close();
    drop(log);
    let bytes: u64 =
        segments(folder.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes <= 6 * SMALL.most, "{bytes} bytes for 50 entries");
    let mut log = open(folder.path()).unwrap();
    assert_eq!(content(&mut log).await, before);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(1, 1)));
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("log")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    paths.sort();
    paths
}

/// A log of `batches` batches of one entry each, and its last segment.
async fn written(batches: u64) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    for index in 0..batches {
        append(&mut log, [entry(1, index)]).await;
    }
    log.close();
    let last = segments(folder.path()).pop().unwrap();
    (folder, last)
}

/// Where each frame of a segment begins.
fn frames(segment: &Path) -> Vec<u64> {
    let bytes = std::fs::read(segment).unwrap();
    let (mut at, mut found) = (64, Vec::new());
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if length == 0 || length > bytes.len() {
            break;
        }
        found.push(at as u64);
        at = (at + 16 + length).next_multiple_of(8);
    }
    found.push(at as u64);
    found
}

#[tokio::test]
async fn a_torn_tail_is_wiped_at_every_byte_and_the_log_goes_on() {
    let (folder, last) = written(6).await;
    let bounds = frames(&last);
    let [.., begin, end] = bounds[..] else { panic!("frames") };
    let whole = std::fs::read(&last).unwrap();
    for cut in begin + 1..end - 7 {
        std::fs::write(&last, &whole).unwrap();
        let zeros = vec![0; usize::try_from(end - cut).unwrap()];
        let file = OpenOptions::new().write(true).open(&last).unwrap();
        file.write_all_at(&zeros, cut).unwrap();
        let mut log = open(folder.path()).unwrap();
        assert_eq!(content(&mut log).await.len(), 5, "cut at {cut}");
        append(&mut log, [entry(2, 5)]).await;
        log.close();
        drop(log);
        let mut log = open(folder.path()).unwrap();
        assert_eq!(content(&mut log).await[5].0, 2, "cut at {cut}");
        log.close();
    }
}

#[tokio::test]
async fn a_bit_that_flipped_in_front_of_a_later_batch_is_refused_and_never_cut_away() {
    let (folder, last) = written(6).await;
    let bounds = frames(&last);
    let whole = std::fs::read(&last).unwrap();
    let [.., begin, end, _] = bounds[..] else { panic!("frames") };
    for at in begin..end - 8 {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        std::fs::write(&last, &bytes).unwrap();
        let error = open(folder.path()).err().unwrap_or_else(|| panic!("byte {at}")).to_string();
        assert!(error.contains("cannot be read") && error.contains("new id"), "{error}");
        assert_eq!(std::fs::read(&last).unwrap(), bytes, "byte {at}: nothing is overwritten");
    }
}

#[tokio::test]
async fn a_segment_that_is_gone_is_refused() {
    let (folder, _) = written(150).await;
    let paths = segments(folder.path());
    assert!(paths.len() > 2);
    std::fs::remove_file(&paths[0]).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("are missing"), "{error}");
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    append(&mut log, [entry(1, 0)]).await;
    log.fail_disk();
    assert!(log.blocking_append([entry(1, 1)]).await.is_err());
    assert!(log.save_vote(&Vote::new(9, 9)).await.is_err());
    assert!(log.blocking_append([entry(1, 2)]).await.is_err());
    log.close();
    drop(log);
    let mut log = open(folder.path()).unwrap();
    assert_eq!(content(&mut log).await.len(), 1);
    assert_eq!(log.read_vote().await.unwrap(), None);
}

#[tokio::test]
async fn data_of_another_node_cluster_format_or_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let refused = |cluster: &str, node: &str| {
        let error = LogStore::open(folder.path(), &Identity::new(cluster, node), SMALL).err();
        error.expect("refused").to_string()
    };
    assert!(refused("cluster", "a").contains("another process runs this node"));
    log.close();
    drop(log);
    assert!(refused("cluster", "b").contains("of the node a, and this is b"));
    assert!(refused("other", "a").contains("of the cluster cluster, and this node is of other"));
    let newer = r#"{"format":2,"what":"nobody knows"}"#;
    std::fs::write(folder.path().join("node.json"), newer).unwrap();
    assert!(refused("cluster", "a").contains("format 2 is newer"));
    std::fs::write(folder.path().join("node.json"), "{").unwrap();
    assert!(refused("cluster", "a").contains("cannot be read"));
}

#[tokio::test]
async fn a_snapshot_comes_back_after_a_restart_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = StateMachine::open(Some(folder.path()), instance()).unwrap();
    let retired = EntryPayload::Normal(Payload::Retire(77));
    for index in 1..=3 {
        let entry = Entry { log_id: log_id(1, 1, index), payload: retired.clone() };
        state.apply([entry]).await.unwrap();
        state.get_snapshot_builder().await.build_snapshot().await.unwrap();
    }
    let files: Vec<_> = std::fs::read_dir(folder.path().join("snapshots")).unwrap().collect();
    assert_eq!(files.len(), 1, "the last one stands for all");
    let path = files[0].as_ref().unwrap().path();
    std::fs::write(path.with_extension("snapshot.new"), b"of a process that died").unwrap();
    let mut again = StateMachine::open(Some(folder.path()), instance()).unwrap();
    assert_eq!(again.applied_state().await.unwrap().0, Some(log_id(1, 1, 3)));
    assert!(again.applied().is_retired(77));
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = StateMachine::open(Some(folder.path()), instance()).err();
        assert!(error.expect("refused").to_string().contains("new id"), "byte {at}");
    }
}

/// Openraft asks for both at once when a node is sent a snapshot. A crash between a purge that was
/// early and its snapshot left a node that could not start again.
#[tokio::test]
async fn issue_5_a_purge_waits_until_the_snapshot_that_has_it_is_kept() {
    let (from, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut sender = StateMachine::open(Some(from.path()), instance()).unwrap();
    sender.apply([Entry { log_id: log_id(1, 1, 9), payload: EntryPayload::Blank }]).await.unwrap();
    let sent = sender.get_snapshot_builder().await.build_snapshot().await.unwrap();

    let mut state = StateMachine::open(Some(folder.path()), instance()).unwrap();
    let mut log = open(folder.path()).unwrap().behind(state.covered());
    append(&mut log, (0..5).map(|index| entry(1, index))).await;
    let mut purging = log.clone();
    let purge = purging.purge(log_id(1, 1, 9));
    tokio::pin!(purge);
    let mut looking = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(purge.as_mut().poll(&mut looking).is_pending(), "it was purged without a snapshot");
    assert_eq!(content(&mut log).await.len(), 5);
    state.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    purge.await.unwrap();
    assert_eq!(content(&mut log).await, []);
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(log_id(1, 1, 9)));

    drop(state);
    let refused = log.purge(log_id(1, 1, 20)).await.unwrap_err();
    assert!(refused.to_string().contains("were closed"), "{refused}");
}

/// A process died when the snapshot of another leader was kept, and nothing was truncated yet:
/// openraft then purges up to the snapshot, and goes on behind it.
#[tokio::test]
async fn issue_5_entries_of_another_leader_do_not_stay_behind_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    append(&mut log, (0..10).map(|index| entry(1, index))).await;
    log.purge(log_id(2, 1, 5)).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 1, 5)));
    append(&mut log, (6..9).map(|index| entry(2, index))).await;
    let before = content(&mut log).await;
    assert_eq!(
        before.iter().map(|(term, index, _)| (*term, *index)).collect::<Vec<_>>(),
        [(2, 6), (2, 7), (2, 8)]
    );
    log.close();
    drop(log);
    assert_eq!(content(&mut open(folder.path()).unwrap()).await, before);
}
