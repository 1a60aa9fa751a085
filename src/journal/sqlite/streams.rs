//! The versions and positions of events: a fold of the log, in its order.
//!
//! Not the events' rows (`event_table`) and not who may append what (judge, which asks here).
//! Invariants: every process that reads the log gives an event the same version and position; what
//! is held here is ahead of the tables, and what is not held here is in them; a stream's events
//! that are ahead are a row without a gap behind those in the tables.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::Connection;

use super::event_table;
use super::trouble::{Outcome, Trouble};
use crate::model::ids::{CoordinationId, StreamId};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::stream::{EventDraft, StreamEvent};
use crate::model::time::Timestamp;

/// The events of one begin that stands.
#[derive(Debug)]
pub(super) struct Appended {
    /// Where the begin stands in the log.
    pub(super) log_position: i64,
    pub(super) at: Timestamp,
    pub(super) request: Arc<CoordinationRequest>,
    /// The global position of the first.
    first: u64,
    /// One for each operation.
    versions: Vec<u64>,
}

impl Appended {
    /// The global position of the last event.
    fn last(&self) -> u64 {
        self.first + self.versions.len() as u64 - 1
    }

    /// The event that an operation became.
    pub(super) fn event(&self, index: usize) -> Outcome<StreamEvent> {
        let draft = draft(&self.request, index)?;
        Ok(StreamEvent {
            stream: stream_id(draft.stream)?,
            version: self.versions[index],
            kind: draft.kind.to_owned(),
            data: draft.data(),
            metadata: draft.metadata(),
            position: self.first + index as u64,
            recorded_at: self.at,
            coordination: self.request.id.clone(),
        })
    }

    /// Its events, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = Outcome<StreamEvent>> + '_ {
        (0..self.versions.len()).map(|index| self.event(index))
    }
}

/// Requests were checked when they came; what is read from a log may be anything.
fn draft(request: &CoordinationRequest, index: usize) -> Outcome<EventDraft<'_>> {
    EventDraft::of(&request.operations[index])
        .map_err(|error| Trouble::Row(format!("'{}': operations[{index}] {error}", request.id)))
}

fn stream_id(text: &str) -> Outcome<StreamId> {
    StreamId::new(text).map_err(|error| Trouble::Row(format!("the stream {text:?}: {error}")))
}

/// Where the events of a request would stand.
pub(super) enum Placement {
    /// There: a version for each operation.
    Fits(Vec<u64>),
    /// A stream has another version than the request expects.
    Mismatch { stream: StreamId, expected: u64, actual: u64 },
}

type ByStream = HashMap<StreamId, VecDeque<(Arc<Appended>, usize)>, foldhash::fast::RandomState>;

/// The streams, as far as they are ahead of the tables.
#[derive(Default)]
pub(super) struct Streams {
    /// The global position of the last event of all.
    last: u64,
    /// Up to which record of the log they are counted in `last`.
    counted: i64,
    /// Up to which record of the log they are in the tables.
    watermark: i64,
    /// In the order of the log.
    ahead: VecDeque<Arc<Appended>>,
    by_stream: ByStream,
}

impl Streams {
    /// What the tables tell; in one look with their watermark.
    pub(super) fn load(connection: &Connection, watermark: i64) -> Outcome<Self> {
        let last = event_table::last_position(connection)?;
        Ok(Self { last, counted: watermark, watermark, ..Self::default() })
    }

    /// Whether the events of the record there have their positions already.
    pub(super) fn has_counted(&self, log_position: i64) -> bool {
        log_position <= self.counted
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The version of a stream for whoever appends at `log_position`.
    pub(super) fn version(
        &self,
        connection: &Connection,
        stream: &str,
        log_position: i64,
    ) -> Outcome<u64> {
        match self.by_stream.get(stream).and_then(VecDeque::back) {
            Some((appended, index)) => Ok(appended.versions[*index]),
            None => event_table::version_before(connection, stream, log_position),
        }
    }

    /// Where the events of a request would stand if it began at `log_position`, and whether each
    /// stream has the version that is expected of it.
    pub(super) fn fit(
        &self,
        connection: &Connection,
        log_position: i64,
        request: &CoordinationRequest,
    ) -> Outcome<Placement> {
        let mut reached: HashMap<&str, u64> = HashMap::new();
        let mut versions = Vec::with_capacity(request.operations.len());
        for index in 0..request.operations.len() {
            let draft = draft(request, index)?;
            let (version, is_first) = match reached.get(draft.stream) {
                Some(version) => (*version, false),
                None => (self.version(connection, draft.stream, log_position)?, true),
            };
            let expected = draft.expected_version.filter(|_| is_first);
            if let Some(expected) = expected.filter(|expected| *expected != version) {
                let stream = stream_id(draft.stream)?;
                return Ok(Placement::Mismatch { stream, expected, actual: version });
            }
            reached.insert(draft.stream, version + 1);
            versions.push(version + 1);
        }
        Ok(Placement::Fits(versions))
    }

    /// Adds the events of a begin that stands at `log_position`, behind all that are known.
    pub(super) fn add(
        &mut self,
        log_position: i64,
        at: Timestamp,
        request: &Arc<CoordinationRequest>,
        versions: Vec<u64>,
    ) -> Outcome<()> {
        self.counted = log_position;
        let first = self.last + 1;
        self.last += versions.len() as u64;
        // Another process may have brought them into the tables before this one has read them.
        if versions.is_empty() || log_position <= self.watermark {
            return Ok(());
        }
        let request = Arc::clone(request);
        let appended = Arc::new(Appended { log_position, at, request, first, versions });
        for index in 0..appended.versions.len() {
            let stream = stream_id(draft(&appended.request, index)?.stream)?;
            self.by_stream.entry(stream).or_default().push_back((Arc::clone(&appended), index));
        }
        self.ahead.push_back(appended);
        Ok(())
    }

    /// The events of the first records that are ahead of the tables.
    pub(super) fn up_to(&self, watermark: i64) -> Vec<Arc<Appended>> {
        let first = self.ahead.iter().take_while(|appended| appended.log_position <= watermark);
        first.map(Arc::clone).collect()
    }

    /// The tables are complete up to `watermark`.
    pub(super) fn projected(&mut self, watermark: i64) {
        self.watermark = self.watermark.max(watermark);
        while let Some(appended) = self.ahead.front()
            && appended.log_position <= watermark
            && let Some(appended) = self.ahead.pop_front()
        {
            for index in 0..appended.versions.len() {
                let Ok(draft) = draft(&appended.request, index) else { continue };
                let Some(events) = self.by_stream.get_mut(draft.stream) else { continue };
                events.pop_front();
                if events.is_empty() {
                    self.by_stream.remove(draft.stream);
                }
            }
        }
    }

    /// The global position behind which the tables know nothing yet.
    pub(super) fn projected_last(&self) -> u64 {
        self.ahead.front().map_or(self.last, |appended| appended.first - 1)
    }

    /// The first events behind a global position that are ahead of the tables.
    pub(super) fn read_all(&self, after: u64, limit: usize) -> Outcome<Vec<StreamEvent>> {
        let begin = self.ahead.partition_point(|appended| appended.last() <= after);
        let mut events = Vec::new();
        for appended in self.ahead.iter().skip(begin) {
            for event in appended.events() {
                if events.len() >= limit {
                    return Ok(events);
                }
                let event = event?;
                if event.position > after {
                    events.push(event);
                }
            }
        }
        Ok(events)
    }

    /// Events of a stream that are ahead of the tables, from a version on, and the version behind
    /// which the tables know nothing of this stream yet; `None` where they know everything.
    pub(super) fn read_stream(
        &self,
        stream: &StreamId,
        from: u64,
        limit: usize,
    ) -> Outcome<(Vec<StreamEvent>, Option<u64>)> {
        let Some(ahead) = self.by_stream.get(stream) else { return Ok((Vec::new(), None)) };
        let known = ahead.front().map(|(appended, index)| appended.versions[*index] - 1);
        let skipped = from.saturating_sub(known.unwrap_or(0) + 1);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let events = ahead.iter().skip(skipped).take(limit);
        let events = events.map(|(appended, index)| appended.event(*index));
        Ok((events.collect::<Outcome<_>>()?, known))
    }

    /// The global position of the last event of a coordination, if it is ahead of the tables.
    pub(super) fn last_of(&self, id: &CoordinationId) -> Option<u64> {
        let appended = self.ahead.iter().rev().find(|appended| appended.request.id == *id);
        appended.map(|appended| appended.last())
    }
}

/// Whether a begin of this request appends events.
pub(super) fn appends(request: &CoordinationRequest) -> bool {
    request.kind == CoordinationType::EventSourcing
}
