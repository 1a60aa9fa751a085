//! A log of records in segments: files of zeros, written ahead, filled one after the other.
//!
//! Not what the records mean, and not who may write which: a record is a position and some bytes.
//! Several processes share a log: whoever writes holds the folder's lock, first reads on to the
//! end ([`SegmentLog::catch_up`]), and then appends there. `frame` has the bytes, `spare` the next
//! segment, `lock` the lock.
//!
//! Invariants:
//! - Positions grow by one from frame to frame, also from segment to segment.
//! - What [`SegmentLog::sync`] returned for is on the disk, and everything before it: a segment is
//!   synced whole before the next one takes records.
//! - Behind the last record there are zeros. A write that did not end well, of this process or of
//!   one that was killed, is wiped away under the lock before anything is written in its place.
//! - A sync that failed is never tried again: the kernel may have forgotten what it did not write,
//!   and a second call would say that all is well.
//! - A record that cannot be read ends the log if nothing comes after it, as a torn write does;
//!   in front of another segment it is damage, and nothing is opened.

mod error;
mod frame;
mod lock;
mod segment;
mod spare;
mod stranded;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::LogError;
pub use frame::{Batch, Tag};
pub use lock::forget_locks_in_child;
pub use segment::SegmentSizes;
pub use spare::SpareJob;

use frame::{FRAME_BYTES, Found, HEADER_BYTES};
use lock::FolderLock;
use segment::{Segment, sync_folder};
use spare::Spares;

use crate::crash;

/// How many times as large as the one before it a segment is.
const GROWTH: u64 = 4;

/// One process's hold on a log.
pub struct SegmentLog {
    folder: PathBuf,
    tag: Tag,
    sizes: SegmentSizes,
    lock: FolderLock,
    segment: Segment,
    /// Where the next frame will stand.
    offset: u64,
    /// The position of the last record.
    tail: i64,
    /// The current segment has its end mark, and the next is not there yet.
    is_full: bool,
    /// A write of this process failed; nobody knows what of it is in the file.
    is_dirty: bool,
    is_synced: bool,
    broken: Option<String>,
    next_bytes: u64,
    /// The size of a spare that is to be made: asked for when a segment is half full.
    wanted: Option<u64>,
    /// Where segments begin that have one before them: what may be removed when all is known.
    borders: VecDeque<i64>,
    spares: Spares,
    buffer: Vec<u8>,
}

impl SegmentLog {
    /// Opens the log in `folder`, or begins it, and takes the lock, which the caller gives back
    /// when it has read on. `after` is asked under the lock: records up to there are known from
    /// elsewhere, and may be gone from here.
    pub fn open_locked<E: From<LogError>>(
        folder: &Path,
        tag: Tag,
        sizes: SegmentSizes,
        patience: Duration,
        after: impl FnOnce() -> Result<i64, E>,
    ) -> Result<Self, E> {
        segment::make_folder(folder).map_err(LogError::Io)?;
        let lock = FolderLock::open(&folder.join("lock")).map_err(LogError::Io)?;
        if !lock.take(patience).map_err(LogError::Io)? {
            return Err(LogError::Busy.into());
        }
        let after = after()?;
        segment::remove_spares_of_others(folder);
        let spares = Spares::new(folder);
        let at = segment::holding(folder, after, &tag)?;
        let segment = match at {
            Some(segment) => segment,
            None => Segment::create(folder, after + 1, &tag, &spares, sizes.first)?,
        };
        let mut log = Self {
            folder: folder.to_owned(),
            tag,
            sizes,
            lock,
            tail: segment.first() - 1,
            segment,
            offset: HEADER_BYTES as u64,
            is_full: false,
            is_dirty: false,
            is_synced: false,
            broken: None,
            next_bytes: (sizes.first * GROWTH).min(sizes.most),
            wanted: None,
            borders: VecDeque::new(),
            spares,
            buffer: Vec::new(),
        };
        log.find_borders()?;
        Ok(log)
    }

    /// Goes back to where everything after `after` can be read again.
    pub fn rewind(&mut self, after: i64) -> Result<(), LogError> {
        let segment = segment::holding(&self.folder, after, &self.tag)?.ok_or(LogError::Gap)?;
        self.tail = segment.first() - 1;
        self.enter(segment);
        self.find_borders()
    }

    fn find_borders(&mut self) -> Result<(), LogError> {
        let firsts = segment::list(&self.folder).map_err(LogError::Io)?;
        let here = self.segment.first();
        self.borders = firsts.into_iter().skip(1).filter(|first| *first <= here).collect();
        Ok(())
    }

    /// Whether a log was ever begun in this folder.
    pub fn exists(folder: &Path) -> bool {
        segment::list(folder).is_ok_and(|firsts| !firsts.is_empty())
    }

    /// The position of the last record.
    pub fn tail(&self) -> i64 {
        self.tail
    }

    /// Takes the lock: from here on only this process writes.
    pub fn lock(&self, patience: Duration) -> Result<(), LogError> {
        let is_taken = self.lock.take(patience).map_err(LogError::Io)?;
        if is_taken { Ok(()) } else { Err(LogError::Busy) }
    }

    /// Gives the lock back.
    pub fn unlock(&self) {
        self.lock.give_back();
    }

    /// Reads what others wrote since the last look, in order. Outside of the lock a record that is
    /// just being written is left for the next look.
    pub fn catch_up<E: From<LogError>>(
        &mut self,
        mut each: impl FnMut(i64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = self.read_segment(&mut buffer, &mut each);
            self.buffer = buffer;
            read?;
            if !self.is_full || !self.enter_next()? {
                return Ok(());
            }
        }
    }

    /// Reads on to the end of the current segment.
    fn read_segment<E: From<LogError>>(
        &mut self,
        buffer: &mut Vec<u8>,
        each: &mut impl FnMut(i64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Nearly always nothing was written by others: one small read tells.
        let mut wanted = FRAME_BYTES;
        while !self.is_full {
            self.segment.read(self.offset, wanted, buffer).map_err(LogError::Io)?;
            let mut taken = 0;
            let short = loop {
                match frame::look(&buffer[taken..]) {
                    Found::Record { position, payload, bytes } if position == self.tail + 1 => {
                        each(position, payload)?;
                        self.tail = position;
                        self.is_synced = false;
                        taken += bytes;
                        self.offset += bytes as u64;
                    }
                    Found::GoesOn(next) if next == self.tail + 1 => {
                        self.is_full = true;
                        return Ok(());
                    }
                    Found::Short(bytes) => break bytes,
                    Found::Nothing | Found::Torn | Found::Record { .. } | Found::GoesOn(_) => {
                        return Ok(());
                    }
                }
            };
            if self.offset + short as u64 > self.segment.bytes() {
                return Ok(());
            }
            wanted = short.max(segment::READ_BYTES);
        }
        Ok(())
    }

    /// Goes to the segment behind a full one; false if it is not there yet.
    fn enter_next(&mut self) -> Result<bool, LogError> {
        match Segment::open(&self.folder, self.tail + 1, &self.tag) {
            Ok(next) => {
                self.enter(next);
                Ok(true)
            }
            Err(LogError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                let firsts = segment::list(&self.folder).map_err(LogError::Io)?;
                let is_gone = firsts.last().is_some_and(|last| *last > self.tail + 1);
                if is_gone { Err(LogError::Gap) } else { Ok(false) }
            }
            Err(error) => Err(error),
        }
    }

    fn enter(&mut self, next: Segment) {
        if next.first() > self.tail {
            self.borders.push_back(next.first());
        }
        self.segment = next;
        self.offset = HEADER_BYTES as u64;
        self.is_full = false;
        self.is_synced = false;
    }

    /// Sees that nothing but zeros is behind the last record, and wipes away what a torn write
    /// left. Under the lock, when the log is opened: after a loss of power anything may be there.
    pub fn settle(&mut self) -> Result<(), LogError> {
        let firsts = segment::list(&self.folder).map_err(LogError::Io)?;
        if firsts.iter().any(|first| *first > self.segment.first()) {
            // A segment is on the disk whole, its end mark too, before there is a next one.
            let (name, tail) = (segment::name(self.segment.first()), self.tail);
            let words = format!("{name} cannot be read after record {tail}, and later ones exist");
            return Err(LogError::Damaged(words));
        }
        if self.is_full || self.segment.is_zero_from(self.offset).map_err(LogError::Io)? {
            return Ok(());
        }
        self.wipe()
    }

    /// Goes on behind `position`, of which more is known elsewhere than is left here: with power
    /// a log may lose what nobody waited for. Under the lock, when the log is opened.
    pub fn skip_to(&mut self, position: i64) -> Result<(), LogError> {
        if self.tail < position {
            self.tail = position;
            self.begin_next(0)?;
        }
        Ok(())
    }

    /// Sees whether a next segment can be made, where one is needed. Under the lock.
    pub fn probe(&mut self) -> Result<(), LogError> {
        self.usable()?;
        if self.is_full { self.roll(0) } else { Ok(()) }
    }

    fn wipe(&mut self) -> Result<(), LogError> {
        self.segment.zero_from(self.offset).map_err(LogError::Io)?;
        self.segment.sync().map_err(|error| self.broken_by(&error))?;
        self.is_dirty = false;
        Ok(())
    }

    /// Writes records behind the last one. Under the lock, after [`SegmentLog::catch_up`].
    pub fn append(&mut self, batch: &Batch) -> Result<(), LogError> {
        self.usable()?;
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_dirty || !self.is_full && !self.is_blank()? {
            self.wipe()?;
        }
        let needed = (batch.bytes().len() + FRAME_BYTES) as u64;
        if self.is_full || self.offset + needed > self.segment.bytes() {
            self.roll(needed)?;
        }
        self.is_synced = false;
        if let Err(error) = self.segment.write(self.offset, batch.bytes()) {
            self.is_dirty = true;
            return Err(LogError::Io(error));
        }
        let (half, before) = (self.segment.bytes() / 2, self.offset);
        self.offset += batch.bytes().len() as u64;
        self.tail = batch.last();
        if before < half && self.offset >= half {
            self.wanted = Some(self.next_bytes);
        }
        crash::point("segment", "written");
        Ok(())
    }

    /// Whether nobody left half a frame where the next one goes. Whoever is killed in the middle
    /// of a write has written its beginning.
    fn is_blank(&mut self) -> Result<bool, LogError> {
        let bytes =
            FRAME_BYTES.min(usize::try_from(self.segment.bytes() - self.offset).unwrap_or(0));
        self.segment.read(self.offset, bytes, &mut self.buffer).map_err(LogError::Io)?;
        Ok(self.buffer.iter().all(|byte| *byte == 0))
    }

    /// Ends the current segment and begins the next.
    fn roll(&mut self, needed: u64) -> Result<(), LogError> {
        if !self.is_full {
            let mark = frame::end_mark(self.tail + 1);
            if let Err(error) = self.segment.write(self.offset, &mark) {
                self.is_dirty = true;
                return Err(LogError::Io(error));
            }
            self.is_full = true;
            crash::point("segment", "marked");
        }
        // All of it, before anything in the next segment can be told of as durable.
        self.segment.sync().map_err(|error| self.broken_by(&error))?;
        crash::point("segment", "full");
        self.begin_next(needed)
    }

    fn begin_next(&mut self, needed: u64) -> Result<(), LogError> {
        let bytes = self.next_bytes.max(needed + HEADER_BYTES as u64);
        let (folder, tag) = (&self.folder, &self.tag);
        if let Some(total) = self.sizes.total
            && segment::bytes_of_all(folder).map_err(LogError::Io)? + bytes > total
        {
            let words = format!("the log may have {total} bytes, and the next segment needs more");
            return Err(LogError::Io(io::Error::new(io::ErrorKind::StorageFull, words)));
        }
        let next = Segment::create(folder, self.tail + 1, tag, &self.spares, bytes)?;
        self.enter(next);
        self.next_bytes = (self.next_bytes * GROWTH).min(self.sizes.most);
        Ok(())
    }

    /// Returns when everything that was appended or read is on the disk. Once failed, it fails
    /// for good.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.usable()?;
        if !self.is_synced {
            self.segment.sync().map_err(|error| self.broken_by(&error))?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Work that makes the next segment ready, when it is time for it: to be done beside the
    /// writing, or not at all, and then the segment is made when it is needed.
    pub fn spare_job(&mut self) -> Option<SpareJob> {
        self.wanted.take().map(|bytes| self.spares.job(bytes))
    }

    fn usable(&self) -> Result<(), LogError> {
        self.broken.clone().map_or(Ok(()), |words| Err(LogError::Broken(words)))
    }

    fn broken_by(&mut self, error: &io::Error) -> LogError {
        self.broken = Some(error.to_string());
        LogError::Broken(error.to_string())
    }

    /// Whether there are segments in which nothing comes after `position`.
    pub fn has_before(&self, position: i64) -> bool {
        self.borders.front().is_some_and(|first| *first <= position + 1)
    }

    /// Removes segments of which every record is known elsewhere up to `position`, durably. The
    /// one that is written stays.
    pub fn remove_through(&mut self, position: i64) -> io::Result<()> {
        while self.has_before(position)
            && let Some(border) = self.borders.pop_front()
        {
            for first in segment::list(&self.folder)?.into_iter().filter(|first| *first < border) {
                segment::remove(&self.folder, first)?;
            }
        }
        sync_folder(&self.folder)
    }

    /// Removes every segment: all is known elsewhere, durably. Under the lock, and the last act.
    pub fn remove_all(&self) -> io::Result<()> {
        for first in segment::list(&self.folder)? {
            segment::remove(&self.folder, first)?;
        }
        sync_folder(&self.folder)
    }
}
