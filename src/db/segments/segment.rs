//! One file of a log: its name, its header, reads and writes at a place.
//!
//! Not the frames in it. Invariants: a segment has its name only when its header is on the disk;
//! its size never changes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::LogError;
use super::frame::{self, HEADER_BYTES, Tag};
use super::spare::{self, Blank, Spares};
use crate::crash;

/// How much is read at once.
pub(super) const READ_BYTES: usize = 64 << 10;
const ENDING: &str = ".log";

/// How segments are made.
#[derive(Clone, Copy, Debug)]
pub struct SegmentSizes {
    /// The first one's bytes: most logs never need a second.
    pub first: u64,
    /// No segment is greater, unless for a batch that needs it.
    pub most: u64,
    /// The most bytes of all segments together; `None` leaves it to the disk.
    pub total: Option<u64>,
}

pub(super) struct Segment {
    file: File,
    first: i64,
    bytes: u64,
}

impl Segment {
    pub(super) fn open(folder: &Path, first: i64, tag: &Tag) -> Result<Self, LogError> {
        let path = folder.join(name(first));
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(LogError::Io)?;
        let bytes = file.metadata().map_err(LogError::Io)?.len();
        let mut header = [0; HEADER_BYTES];
        let whole = file.read_exact_at(&mut header, 0).is_ok();
        match frame::read_header(&header).filter(|_| whole) {
            None => Err(LogError::Damaged(format!("{} has no header", name(first)))),
            Some((_, found)) if found != *tag => {
                Err(LogError::Foreign(format!("{} belongs to another journal", name(first))))
            }
            Some((found, _)) if found != first => {
                Err(LogError::Damaged(format!("{} begins with record {found}", name(first))))
            }
            Some(_) => Ok(Self { file, first, bytes }),
        }
    }

    /// Makes the segment that begins with `first`, durably.
    pub(super) fn create(
        folder: &Path,
        first: i64,
        tag: &Tag,
        spares: &Spares,
        bytes: u64,
    ) -> Result<Self, LogError> {
        let blank = spares.take(bytes).map_err(LogError::Io)?;
        let named = match christen(folder, first, tag, blank) {
            // Another process took the spare for a dead one's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let blank = spares.take(bytes).map_err(LogError::Io)?;
                christen(folder, first, tag, blank)
            }
            named => named,
        };
        named.map_err(LogError::Io)
    }

    pub(super) fn first(&self) -> i64 {
        self.first
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads up to so many bytes into `buffer`, fewer at the end of the file.
    pub(super) fn read(&self, at: u64, bytes: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(bytes, 0);
        let mut done = 0;
        while done < bytes {
            match self.file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(done);
        Ok(())
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(written) = crate::simulated::write(&self.file, at, bytes) {
            return written;
        }
        self.file.write_all_at(bytes, at)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(synced) = crate::simulated::sync(&self.file) {
            return synced;
        }
        self.file.sync_data()
    }

    pub(super) fn is_zero_from(&self, at: u64) -> io::Result<bool> {
        let (mut at, mut buffer) = (at, Vec::new());
        loop {
            self.read(at, READ_BYTES, &mut buffer)?;
            if buffer.is_empty() {
                return Ok(true);
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += buffer.len() as u64;
        }
    }

    pub(super) fn zero_from(&self, at: u64) -> io::Result<()> {
        let zeros = vec![0; READ_BYTES];
        let mut at = at;
        while at < self.bytes {
            let left = usize::try_from(self.bytes - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            self.write(at, &zeros[..left])?;
            at += left as u64;
        }
        Ok(())
    }
}

fn christen(folder: &Path, first: i64, tag: &Tag, blank: Blank) -> io::Result<Segment> {
    let Blank { path, file, bytes } = blank;
    file.write_all_at(&frame::header(first, tag), 0)?;
    file.sync_data()?;
    crash::point("segment", "headed");
    fs::rename(path, folder.join(name(first)))?;
    crash::point("segment", "named");
    sync_folder(folder)?;
    Ok(Segment { file, first, bytes })
}

/// The file name of the segment that begins with `first`: names sort as their records do.
pub(super) fn name(first: i64) -> String {
    format!("{first:020}{ENDING}")
}

/// The first positions of all segments, ascending.
pub(super) fn list(folder: &Path) -> io::Result<Vec<i64>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file_name = entry?.file_name();
        let stem = file_name.to_str().and_then(|name| name.strip_suffix(ENDING));
        if let Some(first) = stem.and_then(|stem| stem.parse().ok()) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// The segment in which reading on from `after` begins; `None` where there is none at all.
pub(super) fn holding(folder: &Path, after: i64, tag: &Tag) -> Result<Option<Segment>, LogError> {
    let firsts = list(folder).map_err(LogError::Io)?;
    match firsts.iter().rev().find(|first| **first <= after + 1) {
        Some(first) => Segment::open(folder, *first, tag).map(Some),
        None if firsts.is_empty() => Ok(None),
        None => Err(LogError::Gap),
    }
}

/// Others may have removed it at the same time.
pub(super) fn remove(folder: &Path, first: i64) -> io::Result<()> {
    match fs::remove_file(folder.join(name(first))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            crash::point("segment", "removed");
            removed
        }
    }
}

/// How much room the segments take.
pub(super) fn bytes_of_all(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for first in list(folder)? {
        bytes += fs::metadata(folder.join(name(first))).map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

/// Removes the spares of other processes: most are dead, and one that lives makes another.
pub(super) fn remove_spares_of_others(folder: &Path) {
    let own = format!("{}{}-", spare::PREFIX, std::process::id());
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(spare::PREFIX) && !name.starts_with(&own) {
            // One that stays takes room, and nothing else.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the log's folder, durably: its own name too is one that a loss of power could take.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
