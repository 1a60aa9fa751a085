//! The events whose tries are spent, in memory.
//!
//! Invariant: at most [`PARKED_MAX`] are kept; the oldest one that goes is in the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::{BusEvent, ParkedEvent};
use crate::model::time::Timestamp;

/// How many are kept.
const PARKED_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Parked(Mutex<VecDeque<ParkedEvent>>);

impl Parked {
    fn kept(&self) -> MutexGuard<'_, VecDeque<ParkedEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, group: &str, event: &BusEvent, attempts: u32, message: String) {
        let (event, group) = (event.clone(), group.to_owned());
        let parked = ParkedEvent { event, group, attempts, message, parked_at: now() };
        let mut kept = self.kept();
        kept.push_back(parked);
        let gone = if kept.len() > PARKED_MAX { kept.pop_front() } else { None };
        drop(kept);
        if let Some(ParkedEvent { event, group, message, .. }) = gone {
            let id = event.id;
            tracing::warn!(id, group, "too many parked events, one is dropped: {message}");
        }
    }

    pub(super) fn list(&self, limit: usize) -> Vec<ParkedEvent> {
        self.kept().iter().take(limit).cloned().collect()
    }

    pub(super) fn find(&self, event_id: &str, group: &str) -> Option<BusEvent> {
        let kept = self.kept();
        let mut found = kept.iter().filter(|one| one.event.id == event_id && one.group == group);
        found.next().map(|one| one.event.clone())
    }

    pub(super) fn remove(&self, event_id: &str, group: &str) {
        let mut kept = self.kept();
        let place = kept.iter().position(|one| one.event.id == event_id && one.group == group);
        if let Some(place) = place {
            kept.remove(place);
        }
    }

    pub(super) fn forget(&self, group: &str) {
        self.kept().retain(|one| one.group != group);
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
