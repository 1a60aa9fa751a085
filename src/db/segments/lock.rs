//! The lock of a log's folder: one process writes at a time.
//!
//! Not who lives (that is the journal's). A lock of the kernel, so it ends with its process.
//! Invariants: it is waited for within a bound; a forked child can let go of its copy, which would
//! otherwise keep the lock after its parent's death.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A batch is written in less than this; longer waits need no short looks.
const SPIN: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_millis(1);

type Shared = Mutex<Option<File>>;

/// The locks of this process, for a forked child.
static HELD: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());

/// Lets go of what a forked child inherited. To be called in the child; never blocks. False when
/// another thread of the parent was just at it.
pub fn forget_locks_in_child() -> bool {
    let Ok(held) = HELD.try_lock() else { return false };
    let mut all = true;
    for lock in held.iter().filter_map(Weak::upgrade) {
        match lock.try_lock() {
            Ok(mut file) => drop(file.take()),
            Err(_) => all = false,
        }
    }
    all
}

/// The lock of one opened log.
pub(super) struct FolderLock(Arc<Shared>);

impl FolderLock {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let shared = Arc::new(Mutex::new(Some(file)));
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|lock| lock.strong_count() > 0);
        held.push(Arc::downgrade(&shared));
        Ok(Self(shared))
    }

    /// Takes it; false when another holds it for longer than `patience`.
    pub(super) fn take(&self, patience: Duration) -> io::Result<bool> {
        let mut began = None;
        loop {
            match self.with(File::try_lock)? {
                Ok(()) => return Ok(true),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => {}
            }
            let waited = began.get_or_insert_with(Instant::now).elapsed();
            if waited >= patience {
                return Ok(false);
            }
            if waited < SPIN {
                std::thread::yield_now();
            } else {
                std::thread::sleep(PAUSE.min(patience.saturating_sub(waited)));
            }
        }
    }

    /// Lets go of it.
    pub(super) fn give_back(&self) {
        // It cannot fail on a descriptor that is locked, and closing it would free it as well.
        let _ = self.with(File::unlock);
    }

    fn with<T>(&self, work: impl FnOnce(&File) -> T) -> io::Result<T> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let words = "this process was forked; the log is its parent's";
        file.as_ref().map(work).ok_or_else(|| io::Error::other(words))
    }
}
