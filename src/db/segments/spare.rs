//! The next segment, written ahead: bringing bytes of a file that was written before to the disk
//! costs half of what it costs while the file grows, because no metadata change.
//!
//! Not part of the log before it gets its name. Invariant: a spare that is handed out is zeros,
//! whole, and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Brought to the disk one after the other: a sync of the log that comes meanwhile then waits for
/// one of them, not for all.
const CHUNK_BYTES: usize = 256 << 10;
/// How a spare's name begins; no segment's does.
pub(super) const PREFIX: &str = "spare-";

/// A file of zeros under a name that nobody else uses.
pub(super) struct Blank {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// Work that may be done on any thread.
pub type SpareJob = Box<dyn FnOnce() + Send>;

/// Makes spares, one ahead, on whatever thread the log's owner has for it.
pub(super) struct Spares {
    folder: PathBuf,
    // Held only to put one in or take it out.
    ready: Arc<Mutex<Option<Blank>>>,
}

impl Spares {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ready: Arc::default() }
    }

    /// The work that makes the next one ready.
    pub(super) fn job(&self, bytes: u64) -> SpareJob {
        let (folder, ready) = (self.folder.clone(), Arc::downgrade(&self.ready));
        Box::new(move || {
            // A disk that is full now is told of when the segment is needed.
            if let Ok(blank) = make(&folder, bytes) {
                match ready.upgrade() {
                    Some(ready) => drop(open(&ready).replace(blank)),
                    None => drop(fs::remove_file(&blank.path)),
                }
            }
        })
    }

    /// Gives one of at least so many bytes; makes it where none is ready.
    pub(super) fn take(&self, bytes: u64) -> io::Result<Blank> {
        match open(&self.ready).take() {
            Some(blank) if blank.bytes >= bytes => Ok(blank),
            small => {
                if let Some(small) = small {
                    // One that stays behind is removed when the log is opened next.
                    let _ = fs::remove_file(&small.path);
                }
                make(&self.folder, bytes)
            }
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        if let Some(blank) = open(&self.ready).take() {
            let _ = fs::remove_file(&blank.path);
        }
    }
}

fn open(ready: &Mutex<Option<Blank>>) -> MutexGuard<'_, Option<Blank>> {
    // A slot is whole at every moment, also after a panic elsewhere.
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}

fn make(folder: &Path, bytes: u64) -> io::Result<Blank> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
    let made = fill(&path, bytes);
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    Ok(Blank { file: made?, path, bytes })
}

fn fill(path: &Path, bytes: u64) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; CHUNK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        file.write_all(&zeros[..part])?;
        file.sync_data()?;
        left -= part as u64;
    }
    file.sync_all()?;
    Ok(file)
}
