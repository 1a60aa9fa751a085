//! What is in the queue, and when it is due.
//!
//! Not the lock round it, and nobody is woken here (queue). Invariant: records leave in the order
//! in which they came, and a question no earlier than the records that were queued before it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::queue::{Ask, Note, Pending, Work};
use crate::journal::{Durability, JournalError};

/// What the writer's thread sleeps for, as it was when the writer was looked at.
pub(super) struct Wait {
    /// When it is to wake at the latest; `None` for never.
    pub(super) until: Option<Instant>,
    /// Whether records are left to wait: the journal cannot write now.
    pub(super) is_pause: bool,
    /// How many turns other threads had taken by then.
    pub(super) turns: u64,
    pub(super) batch_max: usize,
    pub(super) lazy_max: Duration,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) appends: VecDeque<Pending>,
    /// How many of them somebody waits for.
    pub(super) awaited: usize,
    pub(super) lazy_since: Option<Instant>,
    /// The same count, as the holder of the lock knows it.
    pub(super) arrivals: u64,
    /// Whether the writer sleeps; else it looks by itself before it does.
    pub(super) is_waiting: bool,
    /// When it wakes by itself; `None` for never.
    pub(super) wakes_at: Option<Instant>,
    /// How long a record that nobody waits for may lie here.
    pub(super) lazy_max: Duration,
    /// How often another thread did the writer's work.
    pub(super) turns: u64,
    pub(super) queued_count: u64,
    pub(super) taken_count: u64,
    /// With the count of records that were queued before.
    pub(super) asks: VecDeque<(u64, Ask)>,
    pub(super) notes: Vec<Note>,
    pub(super) shut: Option<JournalError>,
}

impl State {
    /// Whether there is nothing but records to see to.
    pub(super) fn is_quiet(&self) -> bool {
        self.asks.is_empty() && self.notes.is_empty() && self.shut.is_none()
    }

    /// When a record that nobody waits for has lain here for long enough.
    pub(super) fn lazy_due(&self) -> Option<Instant> {
        self.lazy_since.map(|since| since + self.lazy_max)
    }

    /// Whether there are records to be written now, whatever else there is.
    pub(super) fn is_ready(&self, batch_max: usize) -> bool {
        self.awaited > 0 || self.appends.len() >= batch_max
    }

    /// Whether a writer that sleeps would still sleep then.
    pub(super) fn sleeps_beyond(&self, then: Instant) -> bool {
        self.wakes_at.is_none_or(|wakes_at| wakes_at > then)
    }

    pub(super) fn take_appends(&mut self, batch_max: usize) -> Vec<Pending> {
        // The room stays where callers fill it again.
        let count = self.appends.len().min(batch_max);
        let batch: Vec<Pending> = self.appends.drain(..count).collect();
        let awaited = batch.iter().filter(|p| p.append.durability != Durability::Lazy).count();
        self.awaited -= awaited;
        self.taken_count += batch.len() as u64;
        if self.appends.is_empty() {
            self.lazy_since = None;
        }
        batch
    }

    pub(super) fn take(&mut self, batch_max: usize) -> Work {
        let batch = self.take_appends(batch_max);
        let mut asks = Vec::new();
        while let Some((before, _)) = self.asks.front()
            && *before <= self.taken_count
            && let Some((_, ask)) = self.asks.pop_front()
        {
            asks.push(ask);
        }
        let is_last = self.shut.is_some() && self.appends.is_empty() && self.asks.is_empty();
        Work { batch, asks, notes: std::mem::take(&mut self.notes), is_last }
    }

    pub(super) fn take_asks(&mut self) -> Work {
        let asks = self.asks.drain(..).map(|(_, ask)| ask).collect();
        Work { asks, notes: std::mem::take(&mut self.notes), ..Work::default() }
    }
}
