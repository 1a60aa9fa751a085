//! The next segment, written ahead: bringing bytes of a file that was written before to the disk
//! costs half of what it costs while the file grows, because no metadata change.
//!
//! Not part of the log before it gets its name. Invariant: a spare that is handed out is zeros,
//! whole, and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

const CHUNK_BYTES: usize = 256 << 10;
/// How a spare's name begins; no segment's does.
pub(super) const PREFIX: &str = "spare-";

/// A file of zeros under a name that nobody else uses.
pub(super) struct Blank {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// Makes spares, one ahead.
pub(super) struct Spares {
    folder: PathBuf,
    making: Option<JoinHandle<io::Result<Blank>>>,
}

impl Spares {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), making: None }
    }

    /// Begins to make one in the background.
    pub(super) fn prepare(&mut self, bytes: u64) {
        if self.making.is_none() {
            let folder = self.folder.clone();
            let thread = thread::Builder::new().name("unanimity-journal-spare".to_owned());
            // Without a thread it is made when it is needed.
            self.making = thread.spawn(move || make(&folder, bytes)).ok();
        }
    }

    /// Gives one of at least so many bytes; waits for it, or makes it, as need be.
    pub(super) fn take(&mut self, bytes: u64) -> io::Result<Blank> {
        if let Some(thread) = self.making.take()
            && let Ok(Ok(blank)) = thread.join()
        {
            if blank.bytes >= bytes {
                return Ok(blank);
            }
            // One that stays behind is removed when the log is opened next.
            let _ = fs::remove_file(&blank.path);
        }
        make(&self.folder, bytes)
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        if let Some(thread) = self.making.take()
            && let Ok(Ok(blank)) = thread.join()
        {
            let _ = fs::remove_file(&blank.path);
        }
    }
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
        left -= part as u64;
    }
    file.sync_all()?;
    Ok(file)
}
