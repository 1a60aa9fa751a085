//! The names of all metrics, with what they are: one table, from which the page and every HELP line
//! are made.
//!
//! Not their values (`tally`, and `engine/numbers`) and not their text form (Python's). Long,
//! because it is the table. Invariants: a name stands here once and does not change; every label
//! has few values, none of them from a request.

use std::fmt::Write as _;

use crate::histogram::{COUNTS, DURATIONS, Reading};

/// How values of a metric behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    /// How it is now.
    Gauge,
    /// Observations by upper bound. The values are whole numbers; times this they are in the unit.
    Histogram(&'static [u64], f64),
}

impl Kind {
    /// The word of the text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(..) => "histogram",
        }
    }
}

/// What becomes of the values of several services in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    /// They are added.
    Sum,
    /// The highest counts: an age, a term, or what belongs to the whole process.
    Highest,
    /// The lowest counts: whether all is well.
    Lowest,
}

/// What one name means.
#[derive(Debug)]
pub struct Metric {
    /// The name, whole.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// In what it is counted; empty for a plain number.
    pub unit: &'static str,
    /// The names of its labels, in the order of their values.
    pub labels: &'static [&'static str],
    /// What it tells, in a sentence.
    pub help: &'static str,
    /// With several services in one process.
    pub across: Across,
}

/// A value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Reading),
}

/// A metric with the values of its labels, as it was read.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Which.
    pub metric: &'static Metric,
    /// One value for each label.
    pub labels: Vec<String>,
    /// How it stood.
    pub value: Value,
}

impl Sample {
    /// Of a metric without labels.
    pub fn plain(metric: &'static Metric, value: f64) -> Self {
        Self { metric, labels: Vec::new(), value: Value::Number(value) }
    }

    /// The same for a count.
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which no count reaches")]
    pub fn count(metric: &'static Metric, value: u64) -> Self {
        Self::plain(metric, value as f64)
    }

    /// The same for something that is or is not so.
    pub fn truth(metric: &'static Metric, value: bool) -> Self {
        Self::plain(metric, f64::from(u8::from(value)))
    }

    /// With these labels.
    #[must_use]
    pub fn labelled<const N: usize>(mut self, labels: [&str; N]) -> Self {
        debug_assert_eq!(labels.len(), self.metric.labels.len());
        self.labels = labels.map(str::to_owned).into();
        self
    }

    /// Of a histogram.
    pub fn histogram(metric: &'static Metric, reading: Reading) -> Self {
        Self { metric, labels: Vec::new(), value: Value::Histogram(reading) }
    }
}

const SECONDS: Kind = Kind::Histogram(DURATIONS, 1e-6);
const RECORDS: Kind = Kind::Histogram(COUNTS, 1.0);

/// Makes the statics, and the table of them all in the order of the page.
macro_rules! metrics {
    ($($section:literal: $($label:ident = $name:literal, $kind:expr, $unit:literal, $labels:expr,
        $across:ident, $help:literal;)+)+) => {
        $($(
            #[doc = $help]
            pub static $label: Metric = Metric {
                name: $name, kind: $kind, unit: $unit, labels: &$labels, help: $help,
                across: Across::$across,
            };
        )+)+
        /// Every metric, by the sections of the page.
        pub static SECTIONS: &[(&str, &[&Metric])] = &[$(($section, &[$(&$label),+])),+];
    };
}

metrics! {
"Coordinations":
    STARTED = "coordination_transactions_started_total", Kind::Counter, "", ["type"], Sum,
        "Coordinations that began, by `coordination_type`.";
    COMPLETED = "coordination_transactions_completed_total", Kind::Counter, "", ["success"], Sum,
        "Coordinations that ended; `success` is `True` (committed) or `False` (aborted).";
    FAILED = "coordination_transactions_failed_total", Kind::Counter, "", [], Sum,
        "Coordinations that came to wait for an operator, each time that they did.";
    DURATION = "coordination_transaction_duration_seconds", SECONDS, "seconds", [], Sum,
        "From acceptance to the end, of those that ended.";
    ABORTED = "coordination_transactions_aborted_total", Kind::Counter, "", ["code"], Sum,
        "Coordinations that ended as aborted, by the error code of their result.";
    REFUSED = "coordination_transactions_refused_total", Kind::Counter, "", ["code"], Sum,
        "Requests that never began, by the error code of their result.";
    RUNNING = "coordination_transactions_running", Kind::Gauge, "", [], Sum,
        "Coordinations that take one of the places of `max_concurrent_coordinations`.";
    QUEUED = "coordination_transactions_queued", Kind::Gauge, "", [], Sum,
        "Coordinations that wait for such a place.";
    DELIVERING = "coordination_transactions_delivering", Kind::Gauge, "", [], Sum,
        "Coordinations of the types `eventual_consistency` and `event_sourcing` that are \
         accepted for good and not delivered to every store yet.";
    IN_DOUBT = "coordination_transactions_in_doubt", Kind::Gauge, "", [], Sum,
        "Open coordinations whose caller has been answered or is gone, and of which some store or \
         the decision is still out.";
    IN_DOUBT_AGE = "coordination_transactions_in_doubt_age_seconds", Kind::Gauge, "seconds", [],
        Highest, "How long ago the oldest of those in doubt was accepted; 0 where there is none.";
    PARKED = "coordination_transactions_parked", Kind::Gauge, "", [], Sum,
        "Open coordinations that wait for an operator.";
    PARKED_OPERATIONS = "coordination_parked_operations", Kind::Gauge, "", [], Sum,
        "Operations whose tries are spent (dead letters), and parked projections.";
"Stores and records":
    PHASE_DURATION = "coordination_phase_duration_seconds", SECONDS, "seconds", ["phase", "store"],
        Sum, "How long stores took to answer one question; `phase` is `prepare`, `commit`, \
         `abort`, `execute`, `compensate` or `apply`.";
    STORE_FAILURES = "coordination_store_failures_total", Kind::Counter, "", ["phase", "store"],
        Sum, "Questions to stores that were answered by a failure or a refusal, or not at all.";
    RECORD_WAIT = "coordination_record_wait_seconds", SECONDS, "seconds", ["record"], Sum,
        "How long coordinations waited for the journal to keep a record, by the kind of record.";
    CONSENSUS_WAIT = "coordination_consensus_duration_seconds", SECONDS, "seconds", ["question"],
        Sum, "How long the consensus service took to answer; `question` is `propose` or `read`.";
"Locks":
    LOCK_WAIT = "coordination_lock_wait_seconds", SECONDS, "seconds", ["result"], Sum,
        "How long coordinations waited for all of their locks; `result` is `granted` or \
         `refused`.";
    LOCK_WAITING = "coordination_lock_waiting", Kind::Gauge, "", [], Sum,
        "Coordinations that wait for locks now.";
    LOCKS_HELD = "coordination_locks_held", Kind::Gauge, "", [], Sum,
        "Locks that coordinations of this process hold.";
    DEADLOCKS = "coordination_deadlocks_detected_total", Kind::Counter, "", [], Sum,
        "Deadlocks that the lock manager found.";
"Recovery":
    RECOVERED = "coordination_recovered_total", Kind::Counter, "", [], Sum,
        "Coordinations that were taken over from a process before, or from one that died.";
    RECOVERY_BACKLOG = "coordination_recovery_backlog", Kind::Gauge, "", [], Sum,
        "Those of them that have not ended.";
"Journal":
    JOURNAL_WRITABLE = "coordination_journal_writable", Kind::Gauge, "", [], Lowest,
        "1 while the journal can be written, 0 while it cannot.";
    JOURNAL_RECORDS = "coordination_journal_records_total", Kind::Counter, "records", [], Sum,
        "Records that this process has written.";
    JOURNAL_BATCH = "coordination_journal_batch_records", RECORDS, "records", [], Sum,
        "Records in one group commit.";
    JOURNAL_SYNC = "coordination_journal_sync_seconds", SECONDS, "seconds", [], Sum,
        "How long one group commit took to become durable: the sync of the file, the commit in \
         PostgreSQL, or the proposal in a cluster.";
    JOURNAL_BACKLOG = "coordination_journal_backlog_records", Kind::Gauge, "records", [], Highest,
        "Records in the log that the journal's tables do not have yet; only where it is a file.";
"Cluster":
    PARTITIONS = "coordination_partitions_detected_total", Kind::Counter, "", [], Sum,
        "How often this node lost the majority.";
    RAFT_QUORUM = "coordination_raft_has_quorum", Kind::Gauge, "", [], Lowest,
        "1 while a majority is in reach of this node, 0 while it is not.";
    RAFT_LEADER = "coordination_raft_is_leader", Kind::Gauge, "", [], Highest,
        "1 while this node leads.";
    RAFT_TERM = "coordination_raft_term", Kind::Gauge, "", [], Highest,
        "The term that this node knows of.";
    RAFT_APPLIED = "coordination_raft_applied_index", Kind::Gauge, "entries", [], Highest,
        "Up to where this node has carried entries out.";
    RAFT_LAG = "coordination_raft_lag_entries", Kind::Gauge, "entries", [], Highest,
        "Entries in this node's log that it has not carried out.";
    RAFT_MEMBER_LAG = "coordination_raft_member_lag_entries", Kind::Gauge, "entries", ["node"],
        Highest, "Entries that another node lacks; only its leader tells.";
    RAFT_DROPPED = "coordination_raft_frames_dropped_total", Kind::Counter, "", [], Highest,
        "Frames of the network that nobody of the cluster could have meant.";
"The engine itself":
    UP = "coordination_engine_running", Kind::Gauge, "", [], Lowest,
        "1 while the engine decides, 0 once it is closed or broke down.";
    EVENTS_UNDER_WAY = "coordination_events_under_way", Kind::Gauge, "", [], Sum,
        "Events that the event bus has not taken yet.";
    EVENTS_DROPPED = "coordination_events_dropped_total", Kind::Counter, "", [], Sum,
        "Events that were dropped because the event bus is too slow.";
    LISTENER_ERRORS = "coordination_listener_errors_total", Kind::Counter, "", ["listener"], Sum,
        "How often a metrics collector or an event bus raised; `listener` is `metrics` or `bus`.";
    LOGS_DROPPED = "coordination_log_records_dropped_total", Kind::Counter, "", [], Highest,
        "Log records of the engine that were dropped because nobody took them in time.";
    BUILD = "coordination_build_info", Kind::Gauge, "", ["version"], Highest,
        "Always 1; `version` is that of the package.";
}

/// Every metric.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|(_, metrics)| metrics.iter().copied())
}

/// The tables of `docs/reference/metrics.md`, in Markdown.
pub fn page_table() -> String {
    let mut page = String::new();
    for (index, (section, metrics)) in SECTIONS.iter().enumerate() {
        let gap = if index == 0 { "" } else { "\n" };
        let _ = write!(page, "{gap}### {section}\n\n| name | type | unit | labels | tells |\n");
        page.push_str("| --- | --- | --- | --- | --- |\n");
        for metric in *metrics {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, unit) = (metric.name, metric.kind.as_str(), metric.unit);
            let (labels, help) = (labels.join(", "), metric.help);
            let _ = writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let mut seen = HashSet::new();
        for metric in all() {
            let name = metric.name;
            assert!(seen.insert(name), "{name} stands twice");
            assert!(name.starts_with("coordination_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            assert_eq!(metric.unit == "seconds", name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.'), "{name}");
        }
    }
}
