//! Which processes live, by the time of the cluster, and what each has proposed already.
//!
//! Not what a session holds (`locks`, `ledger`). Invariants: a renewal never brings an end nearer,
//! so that two parts of one process may each keep it alive; a proposal is new once. The number of a
//! process without a session is forgotten only after [`NUMBER_KEPT`]: by then no copy of an old
//! proposal is under way.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::ids::InstanceId;
use crate::model::time::Timestamp;

/// How long the number of a process without a session is remembered.
pub const NUMBER_KEPT: Duration = Duration::from_secs(3_600);

/// The sessions and numbers of all processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Sessions {
    until: BTreeMap<InstanceId, Timestamp>,
    /// The last number of each, and when it was carried out.
    numbers: BTreeMap<InstanceId, (u64, Timestamp)>,
}

impl Sessions {
    /// Whether the proposal with this number was not carried out before; from here on it was.
    pub(super) fn is_new(&mut self, now: Timestamp, instance: &InstanceId, number: u64) -> bool {
        let (last, at) = self.numbers.entry(instance.clone()).or_default();
        let is_new = *last < number;
        (*last, *at) = (number.max(*last), now);
        is_new
    }

    pub(super) fn keep_alive(&mut self, instance: &InstanceId, until: Timestamp) {
        let end = self.until.entry(instance.clone()).or_insert(until);
        *end = until.max(*end);
    }

    pub(super) fn end(&mut self, instance: &InstanceId) -> bool {
        self.until.remove(instance).is_some()
    }

    pub(super) fn has(&self, instance: &InstanceId) -> bool {
        self.until.contains_key(instance)
    }

    pub(super) fn until(&self, instance: &InstanceId) -> Option<Timestamp> {
        self.until.get(instance).copied()
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = &InstanceId> {
        self.until.keys()
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.until.values().min().copied()
    }

    /// Ends the sessions whose time has come; whose they were.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<InstanceId> {
        if self.deadline().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let due = self.until.iter().filter(|(_, until)| **until <= now);
        let ended: Vec<InstanceId> = due.map(|(instance, _)| instance.clone()).collect();
        self.until.retain(|_, until| *until > now);
        let until = &self.until;
        self.numbers.retain(|instance, (_, at)| {
            until.contains_key(instance) || now.since(*at) < NUMBER_KEPT
        });
        ended
    }
}
