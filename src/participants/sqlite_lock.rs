//! Two lock files beside a SQLite file: who has the writer's place, and who wants it.
//!
//! Not SQLite's own locks: those are POSIX locks, which vanish when another copy of SQLite in this
//! process closes the file; these belong to an open file and do not. Invariant: both vanish with
//! their process, so nothing is left behind by a crash.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::sqlite_guard::Guard;

/// The writer's place of one SQLite file, as seen by one store.
pub(super) struct PlaceLock {
    place: File,
    want: File,
    shared_memory: Guard,
    is_held: bool,
}

impl PlaceLock {
    /// Opens the lock files of this SQLite file.
    pub(super) fn open(database: &Path, shared_memory: Guard) -> io::Result<Self> {
        let place = open(&beside(database, "-unanimity.lock"))?;
        let want = open(&beside(database, "-unanimity.want"))?;
        Ok(Self { place, want, shared_memory, is_held: false })
    }

    /// Takes the place if it is free or ours.
    pub(super) fn try_take(&mut self) -> io::Result<bool> {
        if !self.is_held {
            match self.place.try_lock() {
                Ok(()) => self.is_held = true,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(self.is_held)
    }

    /// Gives the place back. An unlock of an open file that fails leaves it to the file's closing.
    pub(super) fn release(&mut self) {
        self.is_held = false;
        let _ = self.place.unlock();
    }

    /// Whether a writer that is none of ours is at work, also one that SQLite would not see because
    /// it is another copy of SQLite in this process.
    pub(super) fn is_overrun(&self) -> bool {
        self.shared_memory.is_written()
    }

    /// Says, or no longer says, that what was prepared by a process that died must be ended here.
    pub(super) fn set_wanted(&self, is_wanted: bool) {
        // Whoever holds the place tries this lock for a moment only; the next round says it again.
        let _ = if is_wanted {
            self.want.try_lock_shared().is_ok()
        } else {
            self.want.unlock().is_ok()
        };
    }

    /// Whether another store says so.
    pub(super) fn is_wanted(&self) -> bool {
        match self.want.try_lock() {
            Ok(()) => {
                let _ = self.want.unlock();
                false
            }
            Err(error) => matches!(error, TryLockError::WouldBlock),
        }
    }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}
