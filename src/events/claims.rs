//! What one subscription of a durable bus holds: lines (streams of its group) that this process
//! claimed, the events of each that were handed over in order, and what became of them.
//!
//! Not a store and not a clock: the adapters carry reports to their database and claims from it.
//! Invariants: a stream is in at most one line; an event is settled at most once; a report that
//! could not be written comes back and is written again, which changes nothing the second time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::BusEvent;
use crate::model::time::Timestamp;

/// The most events of a stream that are claimed at once.
const PORTION_MAX: usize = 64;
/// About how many events a subscription holds in all.
const HELD_ABOUT: usize = 2_048;

/// An event of a claimed line.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) position: i64,
    /// It was parked, and is to be handed over once more.
    pub(super) is_redriven: bool,
    pub(super) event: Arc<BusEvent>,
}

/// A claimed line with its next events, in their order.
#[derive(Debug)]
pub(super) struct Portion {
    pub(super) stream: String,
    /// How often a process ended that had been handed the first of them: answers that were lost.
    pub(super) deaths: u32,
    pub(super) items: Vec<Item>,
}

/// An event whose tries are spent.
#[derive(Clone, Debug)]
pub(super) struct Park {
    pub(super) event_id: String,
    pub(super) attempts: u32,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// What became of a line's events, for the store.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) stream: String,
    /// The last position that is settled.
    pub(super) handled: Option<i64>,
    /// Redriven events that are handled now.
    pub(super) redriven: Vec<String>,
    pub(super) parked: Vec<Park>,
    /// Nothing of it is held any more: others may claim it.
    pub(super) is_last: bool,
}

impl Report {
    fn is_empty(&self) -> bool {
        let has_settled =
            self.handled.is_some() || !self.redriven.is_empty() || !self.parked.is_empty();
        !has_settled && !self.is_last
    }

    /// Takes in a report that came later.
    fn add(&mut self, later: Self) {
        self.handled = self.handled.max(later.handled);
        self.redriven.extend(later.redriven);
        self.parked.extend(later.parked);
        self.is_last |= later.is_last;
    }
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Item>,
    report: Report,
}

/// The lines that a subscription holds.
#[derive(Debug)]
pub(super) struct Claims {
    lines: HashMap<String, Line>,
    lines_max: usize,
    /// Streams with something to report.
    told: HashSet<String>,
    is_ending: bool,
}

impl Claims {
    pub(super) fn new(lines_max: usize) -> Self {
        let (lines, told) = (HashMap::new(), HashSet::new());
        Self { lines, lines_max: lines_max.max(1), told, is_ending: false }
    }

    /// How many more lines it may claim.
    pub(super) fn room(&self) -> usize {
        if self.is_ending { 0 } else { self.lines_max.saturating_sub(self.lines.len()) }
    }

    /// How many events of each line it wants.
    pub(super) fn portion(&self) -> usize {
        (HELD_ABOUT / self.lines_max).clamp(4, PORTION_MAX)
    }

    /// Takes a claimed line.
    pub(super) fn claimed(&mut self, portion: &Portion) {
        let report = Report { stream: portion.stream.clone(), ..Report::default() };
        let mut line = Line { waiting: portion.items.iter().cloned().collect(), report };
        if self.is_ending {
            line.waiting.clear();
        }
        if line.waiting.is_empty() {
            self.told.insert(portion.stream.clone());
        }
        self.lines.insert(portion.stream.clone(), line);
    }

    /// Whether this very copy of an event is still to be settled: its line was not lost or given
    /// back since it was claimed.
    pub(super) fn holds(&self, event: &Arc<BusEvent>) -> bool {
        let line = self.lines.get(&event.stream);
        line.is_some_and(|line| line.waiting.iter().any(|item| Arc::ptr_eq(&item.event, event)))
    }

    /// Takes what became of an event; `park` says that its tries are spent. False where its line is
    /// not held any more.
    pub(super) fn settled(&mut self, event: &Arc<BusEvent>, park: Option<Park>) -> bool {
        let Some(line) = self.lines.get_mut(&event.stream) else { return false };
        let mut items = line.waiting.iter();
        let Some(at) = items.position(|item| Arc::ptr_eq(&item.event, event)) else { return false };
        let Some(item) = line.waiting.remove(at) else { return false };
        if !item.is_redriven {
            line.report.handled = line.report.handled.max(Some(item.position));
        } else if park.is_none() {
            line.report.redriven.push(event.id.clone());
        }
        line.report.parked.extend(park);
        self.told.insert(event.stream.clone());
        true
    }

    /// Claims nothing from here on, and gives back what was not handed over.
    pub(super) fn end(&mut self) {
        self.is_ending = true;
        self.give_up();
    }

    /// Gives back what was not settled.
    pub(super) fn give_up(&mut self) {
        for (stream, line) in &mut self.lines {
            line.waiting.clear();
            self.told.insert(stream.clone());
        }
    }

    /// What is to be written. It is forgotten here; see [`Claims::put_back`].
    pub(super) fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        for stream in self.told.drain() {
            let Some(line) = self.lines.get_mut(&stream) else { continue };
            let next = Report { stream: stream.clone(), ..Report::default() };
            let mut report = std::mem::replace(&mut line.report, next);
            if line.waiting.is_empty() {
                report.is_last = true;
                self.lines.remove(&stream);
            }
            if !report.is_empty() {
                reports.push(report);
            }
        }
        // Stores lock in one order.
        reports.sort_unstable_by(|one, other| one.stream.cmp(&other.stream));
        reports
    }

    /// The reports could not be written.
    pub(super) fn put_back(&mut self, reports: Vec<Report>) {
        for mut report in reports {
            let stream = report.stream.clone();
            self.told.insert(stream.clone());
            let line = self.lines.entry(stream).or_default();
            report.add(std::mem::take(&mut line.report));
            report.is_last = false;
            line.report = report;
        }
    }

    /// Whether a line of this stream is held.
    pub(super) fn has(&self, stream: &str) -> bool {
        self.lines.contains_key(stream)
    }

    /// The streams that are held.
    pub(super) fn streams(&self) -> Vec<String> {
        self.lines.keys().cloned().collect()
    }

    /// Forgets lines that others have now.
    pub(super) fn lost(&mut self, streams: &[String]) {
        for stream in streams {
            self.lines.remove(stream);
            self.told.remove(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::value::Value;

    fn portion(ids: &[(i64, &str, bool)]) -> Portion {
        let text = |text: &str| text.to_owned();
        let item = |(position, id, is_redriven): &(i64, &str, bool)| {
            let (kind, stream, body) = (text("k"), text("s"), Value::Null);
            let event = Arc::new(BusEvent { id: text(id), kind, stream, body });
            Item { position: *position, is_redriven: *is_redriven, event }
        };
        Portion { stream: text("s"), deaths: 0, items: ids.iter().map(item).collect() }
    }

    /// Claims with one line of two events.
    fn two() -> (Claims, Arc<BusEvent>, Arc<BusEvent>) {
        let mut claims = Claims::new(1);
        let portion = portion(&[(4, "a", false), (7, "b", false)]);
        claims.claimed(&portion);
        (claims, portion.items[0].event.clone(), portion.items[1].event.clone())
    }

    fn park(id: &str) -> Park {
        let (event_id, message) = (id.to_owned(), "no".to_owned());
        Park { event_id, attempts: 3, message, at: Timestamp(1) }
    }

    #[test]
    fn a_line_is_given_back_with_the_last_of_its_events() {
        let (mut claims, a, b) = two();
        assert_eq!((claims.room(), claims.reports().len()), (0, 0));
        assert!(claims.settled(&a, None));
        let first = claims.reports();
        assert_eq!((first[0].handled, first[0].is_last), (Some(4), false));
        assert!(claims.settled(&b, Some(park("b"))));
        let last = claims.reports();
        assert_eq!((last[0].handled, last[0].is_last, last[0].parked.len()), (Some(7), true, 1));
        assert_eq!(claims.room(), 1);
        assert!(!claims.settled(&b, None), "settled once");
    }

    #[test]
    fn a_report_that_was_not_written_comes_again_with_what_was_settled_meanwhile() {
        let (mut claims, a, b) = two();
        claims.settled(&a, None);
        let reports = claims.reports();
        claims.settled(&b, None);
        claims.put_back(reports);
        let again = claims.reports();
        assert_eq!((again.len(), again[0].handled, again[0].is_last), (1, Some(7), true));
        claims.put_back(again);
        assert_eq!(claims.room(), 0, "it is held until that is written");
        assert!(claims.reports()[0].is_last);
    }

    #[test]
    fn a_redriven_event_moves_no_position() {
        let mut claims = Claims::new(1);
        let portion = portion(&[(3, "r", true)]);
        claims.claimed(&portion);
        claims.settled(&portion.items[0].event, None);
        let reports = claims.reports();
        assert_eq!((reports[0].handled, reports[0].redriven.len()), (None, 1));
    }

    #[test]
    fn what_ends_gives_everything_back_and_claims_nothing() {
        let (mut claims, a, b) = two();
        claims.settled(&a, None);
        claims.end();
        let reports = claims.reports();
        assert_eq!((reports[0].handled, reports[0].is_last), (Some(4), true));
        assert_eq!(claims.room(), 0);
        assert!(!claims.holds(&b));
    }

    #[test]
    fn an_event_of_a_line_that_was_lost_counts_no_more_even_when_the_line_comes_back() {
        let (mut claims, a, _) = two();
        claims.lost(&claims.streams());
        assert!(!claims.holds(&a) && !claims.settled(&a, None));
        let again = portion(&[(4, "a", false)]);
        claims.claimed(&again);
        assert!(!claims.holds(&a) && claims.holds(&again.items[0].event));
    }
}
