//! What else is in a log's folder than what reading comes to, for an owner that has to know.
//!
//! Not reading on (`SegmentLog::catch_up`). Whether bytes behind the end are a write that a loss of
//! power tore, or the rest of a log that is damaged in front of them, only what they say can tell.
//! Invariant: nothing is changed here.

use std::io;
use std::path::Path;

use super::frame::{self, Found};
use super::{LogError, SegmentLog, segment};

impl SegmentLog {
    /// The position with which the first segment in this folder begins; `None` where there is none.
    pub fn first_in(folder: &Path) -> io::Result<Option<i64>> {
        segment::list(folder).map(|firsts| firsts.first().copied())
    }

    /// The whole records that stand behind the one at which reading ended: what a loss of power
    /// left of a batch, or what comes after damage. To be asked before [`SegmentLog::settle`],
    /// which wipes them away.
    pub fn stranded(&self) -> Result<Vec<(i64, Vec<u8>)>, LogError> {
        let mut found = Vec::new();
        if self.is_full || self.segment.is_zero_from(self.offset).map_err(LogError::Io)? {
            return Ok(found);
        }
        let (left, mut bytes) = (self.segment.bytes() - self.offset, Vec::new());
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        self.segment.read(self.offset, left, &mut bytes).map_err(LogError::Io)?;
        let mut at = 0;
        while at < bytes.len() {
            at += match frame::look(&bytes[at..]) {
                Found::Record { position, payload, bytes } if position > self.tail => {
                    found.push((position, payload.to_vec()));
                    bytes
                }
                _ => frame::ALIGNED_BYTES,
            };
        }
        Ok(found)
    }
}
