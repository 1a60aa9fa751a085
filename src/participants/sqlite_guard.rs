//! Locks against other copies of SQLite in this very process, such as Python's own `sqlite3`.
//!
//! Not for other processes: SQLite's locks part those well. But its locks belong to the process,
//! so a second copy neither sees ours nor keeps them: when it closes the file it believes to be
//! the last, and deletes the write-ahead log under our connection, and what we commit afterwards is
//! lost. A lock of an open file description (Linux) is seen by every copy and dropped by none.
//!
//! Invariants: the guard reads-locks the bytes that the last one to close wants alone, from opening
//! to the end of the process; the files opened here are never closed, because closing one would
//! drop the locks of every copy. A copy that writes while a transaction is prepared is beyond this.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The files that stay open, by device and inode: one each, however often a store is opened.
static OPEN: Mutex<BTreeMap<(u64, u64), Arc<File>>> = Mutex::new(BTreeMap::new());

/// Where SQLite's shared locks are in the file: every reader's, and the whole of it the last one's.
const SHARED_FIRST: i64 = 0x4000_0002;
const SHARED_SIZE: i64 = 510;
/// Where the lock of the one who writes is in the `-shm` file.
const WRITE_LOCK: i64 = 120;

/// A file of SQLite's, kept open.
pub(super) struct Guard(Arc<File>);

impl Guard {
    /// Opens the file, or finds it open.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(metadata) = path.metadata()
            && let Some(file) = open.get(&(metadata.dev(), metadata.ino()))
        {
            return Ok(Self(Arc::clone(file)));
        }
        let file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let metadata = file.metadata()?;
        let file = Arc::new(file);
        // The path may have come to lead to a file that is open already; that one stays open too.
        std::mem::forget(open.insert((metadata.dev(), metadata.ino()), Arc::clone(&file)));
        Ok(Self(file))
    }

    /// From now on no copy of SQLite can be the last to close this database.
    pub(super) fn keep_open(&self) -> io::Result<()> {
        imp::lock_shared(&self.0, SHARED_FIRST, SHARED_SIZE)
    }

    /// For the `-shm` file: whether any copy of SQLite, here or in another process, is writing.
    pub(super) fn is_written(&self) -> bool {
        imp::is_locked(&self.0, WRITE_LOCK)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock};

    fn range(kind: c_int, start: i64, length: i64) -> flock {
        // The kinds of locks and of positions are small constants, kept in a short by the system.
        let short = |number: c_int| i16::try_from(number).expect("a small constant fits");
        flock {
            l_type: short(kind),
            l_whence: short(SEEK_SET),
            l_start: start,
            l_len: length,
            l_pid: 0,
        }
    }

    pub(super) fn lock_shared(file: &File, start: i64, length: i64) -> io::Result<()> {
        // A copy that is closing the file just now has it alone for a moment.
        fcntl(file, FcntlArg::F_OFD_SETLKW(&range(F_RDLCK, start, length)))?;
        Ok(())
    }

    /// What cannot be asked counts as not locked: SQLite's own locks still stand.
    pub(super) fn is_locked(file: &File, start: i64) -> bool {
        let mut asked = range(F_WRLCK, start, 1);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).is_ok()
            && c_int::from(asked.l_type) != F_UNLCK
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    //! Other systems have no such locks; the hazard stands there, as the store's header says.

    use std::fs::File;
    use std::io;

    pub(super) fn lock_shared(_file: &File, _start: i64, _length: i64) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn is_locked(_file: &File, _start: i64) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_WRLCK, SEEK_SET, flock};

    use super::*;

    /// What another copy of SQLite in this process does when it closes the file.
    fn takes_alone_then_closes(path: &Path, start: i64, length: i64) -> bool {
        let file = File::options().write(true).open(path).unwrap();
        let (l_type, l_whence) = (F_WRLCK.try_into().unwrap(), SEEK_SET.try_into().unwrap());
        let lock = flock { l_type, l_whence, l_start: start, l_len: length, l_pid: 0 };
        fcntl(&file, FcntlArg::F_SETLK(&lock)).is_ok()
    }

    #[test]
    fn no_other_copy_in_this_process_can_be_the_last_to_close() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(takes_alone_then_closes(file.path(), SHARED_FIRST, SHARED_SIZE));
        Guard::open(file.path()).unwrap().keep_open().unwrap();
        for _ in 0..2 {
            assert!(!takes_alone_then_closes(file.path(), SHARED_FIRST, SHARED_SIZE));
        }
        Guard::open(file.path()).unwrap().keep_open().unwrap();
    }

    #[test]
    fn a_copy_that_writes_is_seen_by_its_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let guard = Guard::open(file.path()).unwrap();
        assert!(!guard.is_written());
        let lock = File::options().write(true).open(file.path()).unwrap();
        let (l_type, l_whence) = (F_WRLCK.try_into().unwrap(), SEEK_SET.try_into().unwrap());
        let range = flock { l_type, l_whence, l_start: WRITE_LOCK, l_len: 1, l_pid: 0 };
        fcntl(&lock, FcntlArg::F_SETLK(&range)).unwrap();
        assert!(guard.is_written());
        drop(lock);
        assert!(!guard.is_written());
    }
}
