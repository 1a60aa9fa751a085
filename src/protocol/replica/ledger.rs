//! Decisions and coordinations: who may write what.
//!
//! Not what the records say together (the journal folds them) and not who lives (`sessions`).
//! Invariants:
//! - The first decision on an id stands, whether a record of the journal or a proposal made it.
//! - A record under a lower epoch than the one that stands is refused: a deposed owner writes
//!   nothing.
//! - An append that stands already, equal in time and content, is answered as it was: whoever lost
//!   the answer may ask again.
//! - What is open is never forgotten; of what has ended at most [`FINISHED_MAX`] are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Position;
use super::command::{Answer, Coordination, StandingDecision};
use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::outcome::Decision;
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// How many coordinations that have ended are kept, the latest; each is a few kilobytes of every
/// snapshot.
pub const FINISHED_MAX: usize = 20_000;

/// Where in the log, and when.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) position: Position,
    pub(super) now: Timestamp,
}

/// What is known of all ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    decisions: BTreeMap<CoordinationId, Arc<StandingDecision>>,
    coordinations: BTreeMap<CoordinationId, Arc<Coordination>>,
    /// In the order in which they began.
    open: BTreeSet<(u64, CoordinationId)>,
    /// By the time of their end.
    ended: BTreeSet<(Timestamp, CoordinationId)>,
    last_order: u64,
}

impl Ledger {
    pub(super) fn decision(&self, id: &CoordinationId) -> Option<&Arc<StandingDecision>> {
        self.decisions.get(id)
    }

    pub(super) fn coordination(&self, id: &CoordinationId) -> Option<&Arc<Coordination>> {
        self.coordinations.get(id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Coordination>> {
        self.coordinations.values()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Arc<Coordination>> {
        self.open.iter().filter_map(|(_, id)| self.coordinations.get(id))
    }

    pub(super) fn decide(
        &mut self,
        place: Place,
        id: &CoordinationId,
        decision: Decision,
        evidence: impl FnOnce() -> Value,
    ) -> Arc<StandingDecision> {
        let standing = self.decisions.entry(id.clone()).or_insert_with(|| {
            Arc::new(StandingDecision {
                decision,
                evidence: evidence(),
                term: place.position.term,
                index: place.position.index,
                decided_at: place.now,
            })
        });
        Arc::clone(standing)
    }

    pub(super) fn append(
        &mut self,
        place: Place,
        id: &CoordinationId,
        epoch: u32,
        (at, record): (Timestamp, &Record),
    ) -> Answer {
        if let Record::Begin { owner, epoch, request, .. } = record {
            return match self.coordinations.get(id) {
                Some(standing) if stands(standing, at, record) => Answer::Recorded,
                Some(standing) => Answer::Exists(Arc::clone(standing)),
                None => {
                    self.last_order += 1;
                    let coordination = Coordination {
                        request: Arc::clone(request),
                        owner: owner.clone(),
                        epoch: *epoch,
                        order: self.last_order,
                        records: vec![(at, record.clone())],
                    };
                    self.open.insert((self.last_order, id.clone()));
                    self.coordinations.insert(id.clone(), Arc::new(coordination));
                    Answer::Recorded
                }
            };
        }
        let Some(standing) = self.coordinations.get(id) else { return Answer::NoBegin };
        let is_deposed = match record {
            Record::Adopted { epoch, .. } => *epoch <= standing.epoch,
            _ => epoch < standing.epoch,
        };
        if is_deposed {
            return Answer::Deposed;
        }
        if stands(standing, at, record) {
            return Answer::Recorded;
        }
        if let Record::Decision { decision, .. } = record {
            let is_told = standing.records.iter().any(|(_, it)| is_decision(it));
            let made = self.decide(place, id, *decision, || Value::Null);
            if is_told || made.decision != *decision {
                return Answer::Decided(made.decision);
            }
        }
        self.add(id, at, record);
        Answer::Recorded
    }

    fn add(&mut self, id: &CoordinationId, at: Timestamp, record: &Record) {
        let Some(standing) = self.coordinations.get_mut(id) else { return };
        let coordination = Arc::make_mut(standing);
        if let Record::Adopted { owner, epoch } = record {
            coordination.owner = owner.clone();
            coordination.epoch = *epoch;
        }
        coordination.records.push((at, record.clone()));
        let is_end = matches!(record, Record::End { .. });
        if is_end && self.open.remove(&(coordination.order, id.clone())) {
            self.ended.insert((at, id.clone()));
            if self.ended.len() > FINISHED_MAX {
                self.forget_first();
            }
        }
    }

    /// Gives a process what is open, is nobody's, and needs no store that it does not have.
    pub(super) fn adopt(
        &mut self,
        now: Timestamp,
        heir: &InstanceId,
        stores: &[StoreName],
        is_alive: impl Fn(&InstanceId) -> bool,
    ) -> Vec<Arc<Coordination>> {
        let is_free = |coordination: &&Arc<Coordination>| {
            let request = &coordination.request;
            let has_all = request.stores.iter().all(|store| stores.contains(store));
            coordination.owner != *heir
                && !is_alive(&coordination.owner)
                && (has_all || !request.needs_stores_here())
        };
        let free: Vec<(CoordinationId, u32)> =
            self.open().filter(is_free).map(|it| (it.request.id.clone(), it.epoch)).collect();
        let mut adopted = Vec::with_capacity(free.len());
        for (id, epoch) in free {
            self.add(&id, now, &Record::Adopted { owner: heir.clone(), epoch: epoch + 1 });
            adopted.extend(self.coordinations.get(&id).cloned());
        }
        adopted
    }

    /// How many were forgotten.
    pub(super) fn forget(&mut self, before: Timestamp, at_most: u32) -> u64 {
        let mut count = 0;
        while count < u64::from(at_most)
            && self.ended.first().is_some_and(|(ended_at, _)| *ended_at < before)
        {
            self.forget_first();
            count += 1;
        }
        count
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.ended.pop_first() {
            self.coordinations.remove(&id);
            self.decisions.remove(&id);
        }
    }

    pub(super) fn image(&self) -> Image {
        Image {
            decisions: self.decisions.clone(),
            coordinations: self.coordinations.clone(),
            last_order: self.last_order,
        }
    }

    pub(super) fn of_image(image: Image) -> Self {
        let Image { decisions, coordinations, last_order } = image;
        let (mut open, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for (id, coordination) in &coordinations {
            let is_end = |(_, record): &&(Timestamp, Record)| matches!(record, Record::End { .. });
            match coordination.records.iter().find(is_end) {
                Some((at, _)) => drop(ended.insert((*at, id.clone()))),
                None => drop(open.insert((coordination.order, id.clone()))),
            }
        }
        Self { decisions, coordinations, open, ended, last_order }
    }
}

/// A ledger as it is kept: what is open and what has ended follows from the records.
#[derive(Serialize, Deserialize)]
pub(super) struct Image {
    decisions: BTreeMap<CoordinationId, Arc<StandingDecision>>,
    coordinations: BTreeMap<CoordinationId, Arc<Coordination>>,
    last_order: u64,
}

fn is_decision(record: &Record) -> bool {
    matches!(record, Record::Decision { .. })
}

/// Whether this very append stands. The latest first: it is asked again soon or never.
fn stands(coordination: &Coordination, at: Timestamp, record: &Record) -> bool {
    coordination.records.iter().rev().any(|(then, other)| *then == at && other == record)
}
