//! The write-ahead log of a SQLite file, brought to the disk by our own hand.
//!
//! SQLite can sync it with each commit (synchronous=FULL), but whether a commit must wait for the
//! disk is known only when its records are, and the setting cannot change inside a transaction.
//! So the writer runs with synchronous=NORMAL, which syncs at checkpoints, and this syncs the log
//! after those commits that somebody waits for. The log's checksums make a torn tail harmless.
//!
//! Invariants: the descriptor belongs to the log, never to the database file, whose locks closing
//! it would drop; a sync that failed is never tried again: the kernel may have forgotten what it
//! did not write, and a second call would say that all is well.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The log beside one database file.
#[derive(Debug)]
pub struct WriteAheadLog {
    path: PathBuf,
    file: Option<File>,
    broken: Option<String>,
}

impl WriteAheadLog {
    /// The log of the database at `database`. It is opened when it is first synced.
    pub fn of(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), file: None, broken: None }
    }

    /// Returns when everything that was committed is on the disk. Once failed, it fails for good.
    pub fn sync(&mut self) -> io::Result<()> {
        if let Some(words) = &self.broken {
            return Err(io::Error::other(words.clone()));
        }
        let done = self.opened().and_then(File::sync_data);
        if let Err(error) = &done {
            self.broken = Some(error.to_string());
        }
        done
    }

    /// The database was opened anew, and its log may be another file now.
    pub fn reopen(&mut self) {
        self.file = None;
    }

    fn opened(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(OpenOptions::new().read(true).write(true).open(&self.path)?);
        }
        Ok(self.file.as_ref().expect("it was opened on the line above"))
    }
}
