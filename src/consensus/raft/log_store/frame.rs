//! What stands in the log of a node, as bytes, and what it amounts to when it is read again.
//!
//! Not the segments (`db::segments` has those, and their checksums). Entries, votes, truncations,
//! purges and commit marks share one stream, so that their order on the disk is the order in
//! which they were promised. A frame is the position of the first frame that was written with it,
//! and JSON. Invariant: a log is read to the state that it was closed in, or refused.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::consensus::raft::types::{Entry, LogId, Vote};

const BEGAN_BYTES: usize = 8;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Frame {
    Entry(Entry),
    Vote(Vote),
    /// The entries from this index on are gone.
    Truncate(u64),
    /// Everything up to here is committed.
    Committed(LogId),
    /// The entries up to `purged` are in a snapshot. It repeats what else is known, so that what
    /// stands before the first entry that is left can go.
    Purge {
        purged: LogId,
        vote: Option<Vote>,
        committed: Option<LogId>,
    },
}

impl Frame {
    /// The payload of the frame, in a batch that begins at `began`.
    pub(super) fn write(&self, began: i64, bytes: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        bytes.extend_from_slice(&began.to_le_bytes());
        serde_json::to_writer(bytes, self)
    }

    pub(super) fn read(payload: &[u8]) -> Result<Self, String> {
        let (_, json) = payload.split_at_checked(BEGAN_BYTES).ok_or("it is too short")?;
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }

    /// Where the batch of a frame began.
    pub(super) fn began(payload: &[u8]) -> Option<i64> {
        Some(i64::from_le_bytes(payload.get(..BEGAN_BYTES)?.try_into().ok()?))
    }
}

/// What a log amounts to.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) entries: VecDeque<Entry>,
    /// For each entry, the position of its frame.
    pub(super) positions: VecDeque<i64>,
}

impl Known {
    /// Adds the frame at `position`; an error says why the log cannot be one.
    pub(super) fn add(&mut self, position: i64, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Entry(entry) => return self.append(position, entry),
            Frame::Vote(vote) => self.vote = Some(vote),
            Frame::Truncate(index) => self.truncate(index),
            Frame::Committed(id) => self.committed = Some(id),
            Frame::Purge { purged, vote, committed } => {
                self.vote = vote;
                self.committed = committed;
                self.purge(purged);
            }
        }
        Ok(())
    }

    fn append(&mut self, position: i64, entry: Entry) -> Result<(), String> {
        // What stands first may follow a purge whose entries are gone with a segment, because of a
        // later purge; whether something is missing shows at the end.
        let last = self.entries.back().map(|entry| entry.log_id.index);
        let index = entry.log_id.index;
        if last.is_some_and(|last| last + 1 != index) {
            return Err(format!("entry {index} stands behind entry {}", last.unwrap_or(0)));
        }
        self.entries.push_back(entry);
        self.positions.push_back(position);
        Ok(())
    }

    pub(super) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.log_id.index >= index) {
            self.entries.pop_back();
            self.positions.pop_back();
        }
    }

    /// Entries behind the purge stay if they follow what was purged (Ongaro and Ousterhout, "In
    /// Search of an Understandable Consensus Algorithm", figure 13, rules 6 and 7). Others are left
    /// where a process died after a snapshot of another leader came, and before it truncated.
    pub(super) fn purge(&mut self, purged: LogId) {
        let at = self.entries.iter().find(|entry| entry.log_id.index == purged.index);
        if at.is_some_and(|entry| entry.log_id != purged) {
            self.truncate(0);
        }
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= purged.index) {
            self.entries.pop_front();
            self.positions.pop_front();
        }
        self.purged = self.purged.max(Some(purged));
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|entry| entry.log_id).or(self.purged)
    }

    /// Whether nothing is missing between what was purged and the entries.
    pub(super) fn is_whole(&self) -> Result<(), String> {
        let expected = self.purged.map_or(0, |id| id.index + 1);
        match self.entries.front().map(|entry| entry.log_id.index) {
            Some(first) if first != expected => {
                Err(format!("the entries from {expected} to {} are missing", first - 1))
            }
            _ => Ok(()),
        }
    }
}
