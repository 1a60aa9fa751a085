//! Where a node keeps the last snapshot: a file, or memory where there is no folder.
//!
//! Not what is in one (`state_machine`). A file is a head of fixed length (a mark, a checksum over
//! everything behind it, the length of the description), the description, the state. Invariants:
//! a snapshot has its name only when it is whole and on the disk; the one before it stays until
//! then; one whose checksum is wrong is damage, because its log may be gone.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::consensus::raft::error::{MEND, RaftError};
use crate::consensus::raft::identity::write_durably;
use crate::consensus::raft::types::{LogId, SnapshotMeta};
use crate::crash;

const MARK: [u8; 8] = *b"unansnp\x01";
const HEAD_BYTES: usize = 16;
const ENDING: &str = ".snapshot";

/// A snapshot.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) meta: SnapshotMeta,
    pub(super) data: Arc<Vec<u8>>,
}

/// The last snapshot, or where it is.
#[derive(Clone, Debug)]
enum Last {
    Memory(Kept),
    File(Option<LogId>, PathBuf),
}

impl Last {
    fn id(&self) -> Option<LogId> {
        match self {
            Self::Memory(kept) => kept.meta.last_log_id,
            Self::File(id, _) => *id,
        }
    }
}

/// Up to where entries are in a snapshot that is kept.
#[derive(Clone, Debug, Default)]
pub(in crate::consensus::raft) struct Covered {
    pub(in crate::consensus::raft) through: Option<LogId>,
    /// Why no snapshot is kept any more.
    pub(in crate::consensus::raft) broken: Option<String>,
}

/// The place of the last snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    folder: Option<PathBuf>,
    /// Held while one is written: two must not overtake each other.
    last: Mutex<Option<Last>>,
    covered: watch::Sender<Covered>,
}

impl Snapshots {
    /// Opens the place, and reads what is there. Blocks.
    pub(super) fn open(data_dir: Option<&Path>) -> Result<Self, RaftError> {
        let folder = data_dir.map(|data_dir| data_dir.join("snapshots"));
        let last = match &folder {
            None => None,
            Some(folder) => {
                fs::create_dir_all(folder).map_err(|error| RaftError::io(folder, error))?;
                find_last(folder)?
            }
        };
        let through = last.as_ref().and_then(Last::id);
        let covered = watch::channel(Covered { through, broken: None }).0;
        Ok(Self { folder, last: Mutex::new(last), covered })
    }

    /// What the snapshots cover, for a log that is to forget it.
    pub(super) fn covered(&self) -> watch::Receiver<Covered> {
        self.covered.subscribe()
    }

    /// The last one. Blocks.
    pub(super) fn last(&self) -> Result<Option<Kept>, RaftError> {
        // Held while it is read: a later one removes the file.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            None => Ok(None),
            Some(Last::Memory(kept)) => Ok(Some(kept.clone())),
            Some(Last::File(_, path)) => read_file(path).map(Some),
        }
    }

    /// Keeps a snapshot, unless a later one is kept. Blocks.
    pub(super) fn keep(&self, kept: Kept) -> io::Result<()> {
        let through = kept.meta.last_log_id;
        let done = self.put(kept);
        self.covered.send_modify(|covered| match &done {
            Ok(()) => covered.through = through.max(covered.through),
            Err(error) => covered.broken = Some(error.to_string()),
        });
        done
    }

    fn put(&self, kept: Kept) -> io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| last.id() > kept.meta.last_log_id) {
            return Ok(());
        }
        *last = match &self.folder {
            None => Some(Last::Memory(kept)),
            Some(folder) => {
                let name = name(&kept.meta);
                write_durably(folder, &name, |file| write(file, &kept))?;
                crash::point("raft_snapshot", "named");
                remove_others(folder, &name);
                Some(Last::File(kept.meta.last_log_id, folder.join(name)))
            }
        };
        Ok(())
    }
}

/// Names sort as their snapshots do.
fn name(meta: &SnapshotMeta) -> String {
    let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.leader_id.term, id.index + 1));
    format!("{index:020}-{term:020}{ENDING}")
}

fn write(file: &mut fs::File, kept: &Kept) -> io::Result<()> {
    let meta = serde_json::to_vec(&kept.meta).map_err(io::Error::other)?;
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut hasher = crc32fast::Hasher::new();
    for part in [length.as_slice(), &meta, &kept.data] {
        hasher.update(part);
    }
    file.write_all(&MARK)?;
    file.write_all(&hasher.finalize().to_le_bytes())?;
    file.write_all(&length)?;
    file.write_all(&meta)?;
    file.write_all(&kept.data)
}

fn find_last(folder: &Path) -> Result<Option<Last>, RaftError> {
    let names = names(folder).map_err(|error| RaftError::io(folder, error))?;
    let Some(name) = names.last() else { return Ok(None) };
    let path = folder.join(name);
    let kept = read_file(&path)?;
    remove_others(folder, name);
    Ok(Some(Last::File(kept.meta.last_log_id, path)))
}

fn read_file(path: &Path) -> Result<Kept, RaftError> {
    let bytes = fs::read(path).map_err(|error| RaftError::io(path, error))?;
    let damaged = || RaftError::data(path, format!("it is not as it was written; {MEND}"));
    read(&bytes).ok_or_else(damaged)
}

fn read(bytes: &[u8]) -> Option<Kept> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    if head[..8] != MARK || number(8) != crc32fast::hash(&bytes[12..]) {
        return None;
    }
    let (meta, data) = rest.split_at_checked(usize::try_from(number(12)).ok()?)?;
    let meta = serde_json::from_slice(meta).ok()?;
    Some(Kept { meta, data: Arc::new(data.to_vec()) })
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(name) = entry?.file_name().into_string()
            && name.ends_with(ENDING)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Also drafts of a process that died. What stays takes room, and nothing else.
fn remove_others(folder: &Path, kept: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != kept) {
        let _ = fs::remove_file(entry.path());
    }
}
