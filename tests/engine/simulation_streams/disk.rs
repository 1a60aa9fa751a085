//! The simulated disk of one journal: coordinations, events, and how far projections are.
//!
//! Not a queue: what a process has not brought to the disk dies with it. Invariant, unless a bug is
//! planted: a begin stands once, with all of its events or not at all, and only if every stream has
//! the version that it expects; a position is taken from the owner under the standing generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use unanimity::model::ids::{CoordinationId, InstanceId, StreamId};
use unanimity::model::outcome::Outcome;
use unanimity::model::record::Record;
use unanimity::model::request::CoordinationRequest;
use unanimity::model::stream::EventDraft;
use unanimity::model::time::Timestamp;

use super::bugs::Bug;

/// Something on its way to the disk.
#[derive(Clone)]
pub(super) enum Append {
    Record {
        id: CoordinationId,
        epoch: u32,
        at: Timestamp,
        record: Record,
        /// Which run of the machine waits for the answer; none for a lazy record.
        run: Option<u64>,
    },
    Position {
        store: usize,
        owner: InstanceId,
        generation: u64,
        position: u64,
        is_parked: bool,
    },
}

/// The disk's word on a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Recorded,
    Exists,
    Deposed,
    Mismatch { stream: StreamId, expected: u64, actual: u64 },
}

/// One coordination as the disk has it.
pub(super) struct Row {
    pub(super) request: Arc<CoordinationRequest>,
    pub(super) owner: InstanceId,
    pub(super) epoch: u32,
    pub(super) records: Vec<(Timestamp, Record)>,
    pub(super) outcome: Option<Outcome>,
    /// The global position of its last event.
    pub(super) through: u64,
}

/// An event that stands; its place in the list is its global position, less one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) stream: String,
    pub(super) version: u64,
    pub(super) of: CoordinationId,
    pub(super) operation: usize,
}

/// How far a store is.
#[derive(Clone, Debug, Default)]
pub(super) struct Projection {
    pub(super) owner: Option<InstanceId>,
    pub(super) generation: u64,
    pub(super) position: u64,
    pub(super) is_parked: bool,
}

/// The disk.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeMap<CoordinationId, Row>,
    pub(super) events: Vec<Event>,
    pub(super) positions: Vec<Projection>,
    pub(super) bug: Option<Bug>,
}

impl Disk {
    pub(super) fn last_position(&self) -> u64 {
        self.events.len() as u64
    }

    fn version(&self, stream: &str) -> u64 {
        self.events.iter().rfind(|event| event.stream == stream).map_or(0, |event| event.version)
    }

    /// The events of a request if they were appended now.
    fn fit(&self, request: &CoordinationRequest) -> Result<Vec<Event>, Answer> {
        let mut events: Vec<Event> = Vec::new();
        for (operation, asked) in request.operations.iter().enumerate() {
            let draft = EventDraft::of(asked).expect("it is drawn to be right");
            let before = events.iter().rfind(|event| event.stream == draft.stream);
            let actual = before.map_or_else(|| self.version(draft.stream), |event| event.version);
            let is_first = before.is_none() && self.bug != Some(Bug::VersionsIgnored);
            if let Some(expected) = draft.expected_version
                && is_first
                && expected != actual
            {
                let stream = StreamId::new(draft.stream).expect("it is short");
                return Err(Answer::Mismatch { stream, expected, actual });
            }
            let (stream, version) = (draft.stream.to_owned(), actual + 1);
            events.push(Event { stream, version, of: request.id.clone(), operation });
        }
        Ok(events)
    }

    /// Writes it, if it may stand.
    pub(super) fn write(&mut self, append: &Append) -> Answer {
        match append {
            Append::Record { id, epoch, at, record, .. } => {
                self.write_record(id, *epoch, *at, record)
            }
            Append::Position { store, owner, generation, position, is_parked } => {
                let row = &mut self.positions[*store];
                let is_current =
                    row.generation == *generation || self.bug == Some(Bug::GenerationIgnored);
                if row.owner.as_ref() != Some(owner) || !is_current {
                    return Answer::Deposed;
                }
                row.position = *position;
                row.is_parked = *is_parked;
                Answer::Recorded
            }
        }
    }

    fn write_record(
        &mut self,
        id: &CoordinationId,
        epoch: u32,
        at: Timestamp,
        record: &Record,
    ) -> Answer {
        if let Record::Begin { request, owner, .. } = record {
            if self.rows.contains_key(id) && self.bug != Some(Bug::SecondBeginStands) {
                return Answer::Exists;
            }
            match self.fit(request) {
                Ok(events) => self.events.extend(events),
                Err(answer) => return answer,
            }
            let row = Row {
                request: Arc::clone(request),
                owner: owner.clone(),
                epoch,
                records: vec![(at, record.clone())],
                outcome: None,
                through: self.last_position(),
            };
            self.rows.insert(id.clone(), row);
            return Answer::Recorded;
        }
        let Some(row) = self.rows.get_mut(id).filter(|row| epoch >= row.epoch) else {
            return Answer::Deposed;
        };
        match record {
            Record::End { outcome, .. } => row.outcome = Some(outcome.clone()),
            Record::Adopted { owner, epoch } => {
                row.owner = owner.clone();
                row.epoch = *epoch;
            }
            _ => {}
        }
        row.records.push((at, record.clone()));
        Answer::Recorded
    }

    /// A crash in the middle of a write, by a journal with a mistake.
    pub(super) fn tear(&mut self) {
        self.events.pop();
    }
}
