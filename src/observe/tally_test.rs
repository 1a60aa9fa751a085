//! The tally counts what it is told, by the labels that metrics have.

use std::sync::Arc;
use std::time::Duration;

use super::metrics::{self, Metric, Value};
use super::tally::{CODES_MAX, Tally};
use super::{Act, Call, Ending, Observation, Observer};
use crate::model::event::CoordinationEvent;
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;

fn name(text: &str) -> StoreName {
    StoreName::new(text).unwrap()
}

fn tally() -> Tally {
    Tally::new([name("left"), name("right")])
}

/// Tells of one thing of coordination "c1" that took a millisecond.
fn observe(tally: &Tally, act: Act<'_>, ending: Ending<'_>) {
    let coordination = &CoordinationId::new("c1").unwrap();
    let (kind, duration) = (CoordinationType::TwoPhaseCommit, Duration::from_millis(1));
    let began_at = Timestamp(0);
    tally.observe(&Observation { coordination, kind, act, began_at, duration, ending });
}

fn call(tally: &Tally, call: Call, store: &str, ending: Ending<'_>) {
    let store = &name(store);
    observe(tally, Act::Call { call, store, operation: None, attempt: None }, ending);
}

/// The count of a counter or a histogram; `None` where it is not told.
fn count(tally: &Tally, metric: &'static Metric, labels: &[&str]) -> Option<u64> {
    let samples = tally.samples();
    let mut found = samples
        .iter()
        .filter(|it| it.metric.name == metric.name && it.labels.iter().eq(labels.iter()));
    let value = match &found.next()?.value {
        Value::Number(number) => format!("{number}").parse().unwrap(),
        Value::Histogram(reading) => reading.count(),
    };
    assert!(found.next().is_none(), "{} is told twice", metric.name);
    Some(value)
}

const NO: Ending<'static> = Ending::Refused { code: "store.refused", message: "no" };
const LOST: Ending<'static> = Ending::Unknown { code: "store.unknown", message: "lost" };

#[test]
fn calls_are_measured_by_phase_and_store_and_those_without_a_yes_are_counted() {
    let tally = tally();
    call(&tally, Call::Prepare, "left", Ending::Done);
    call(&tally, Call::Prepare, "left", NO);
    call(&tally, Call::Prepare, "right", LOST);
    call(&tally, Call::Commit, "right", Ending::Done);
    call(&tally, Call::Commit, "a store of somebody else", LOST);
    let durations = |labels| count(&tally, &metrics::PHASE_DURATION, labels);
    assert_eq!(durations(&["prepare", "left"]), Some(2));
    assert_eq!(durations(&["prepare", "right"]), Some(1));
    assert_eq!(durations(&["commit", "right"]), Some(1));
    assert_eq!(durations(&["commit", "left"]), None, "what never came is not told");
    let failures = |labels| count(&tally, &metrics::STORE_FAILURES, labels);
    assert_eq!(failures(&["prepare", "left"]), Some(1));
    assert_eq!(failures(&["prepare", "right"]), Some(1));
    assert_eq!(failures(&["commit", "right"]), None);
}

#[test]
fn waits_for_records_locks_and_consensus_are_measured_apart() {
    let tally = tally();
    for kind in ["begin", "decision", "decision"] {
        observe(&tally, Act::Record { kind }, Ending::Done);
    }
    observe(&tally, Act::Locks { count: 2 }, Ending::Done);
    observe(&tally, Act::Locks { count: 2 }, NO);
    observe(&tally, Act::Propose { decision: Decision::Commit }, LOST);
    observe(&tally, Act::ReadDecision, Ending::Done);
    assert_eq!(count(&tally, &metrics::RECORD_WAIT, &["decision"]), Some(2));
    assert_eq!(count(&tally, &metrics::RECORD_WAIT, &["begin"]), Some(1));
    assert_eq!(count(&tally, &metrics::LOCK_WAIT, &["granted"]), Some(1));
    assert_eq!(count(&tally, &metrics::LOCK_WAIT, &["refused"]), Some(1));
    assert_eq!(count(&tally, &metrics::CONSENSUS_WAIT, &["propose"]), Some(1));
    assert_eq!(count(&tally, &metrics::CONSENSUS_WAIT, &["read"]), Some(1));
}

fn ended(tally: &Tally, kind: OutcomeKind, state: TransactionState, code: Option<&str>) {
    let outcome = Outcome {
        kind,
        state,
        code: code.map(str::to_owned),
        message: None,
        operations_completed: 0,
        operations_failed: 0,
    };
    let act = Act::Ended { outcome: &outcome, is_resumed: false };
    observe(tally, act, Ending::from(&outcome));
}

#[test]
fn ends_are_measured_where_they_are_ends() {
    let tally = tally();
    ended(&tally, OutcomeKind::Committed, TransactionState::Committed, None);
    let code = Some("transaction.aborted.vote");
    ended(&tally, OutcomeKind::Aborted, TransactionState::Aborted, code);
    // Another process goes on with this one.
    ended(&tally, OutcomeKind::Unknown, TransactionState::Preparing, None);
    assert_eq!(count(&tally, &metrics::DURATION, &[]), Some(2));
    assert_eq!(count(&tally, &metrics::ABORTED, &["transaction.aborted.vote"]), Some(1));
}

#[test]
fn events_are_counted_by_their_kind() {
    let tally = tally();
    let id = CoordinationId::new("c1").unwrap();
    let completed = |success| CoordinationEvent::Completed {
        id: id.clone(),
        success,
        state: "",
        duration_ms: 1,
    };
    for success in [true, true, false] {
        tally.note(&completed(success));
    }
    let (kind, at) = (CoordinationType::EventSourcing, Timestamp(0));
    tally.note(&CoordinationEvent::Started { id: id.clone(), kind, stores: Vec::new(), at });
    tally.note(&CoordinationEvent::Failed { id, message: String::new(), at });
    assert_eq!(count(&tally, &metrics::COMPLETED, &["True"]), Some(2));
    assert_eq!(count(&tally, &metrics::COMPLETED, &["False"]), Some(1));
    assert_eq!(count(&tally, &metrics::STARTED, &["event_sourcing"]), Some(1));
    assert_eq!(count(&tally, &metrics::STARTED, &["two_phase_commit"]), Some(0));
    assert_eq!(count(&tally, &metrics::FAILED, &[]), Some(1));
}

#[test]
fn codes_are_bounded() {
    let tally = tally();
    (0..1_000).for_each(|number| tally.note_refused(&format!("code.{number}")));
    let refused = tally.samples();
    let refused: Vec<_> =
        refused.iter().filter(|it| it.metric.name == metrics::REFUSED.name).collect();
    assert_eq!(refused.len(), CODES_MAX + 1);
    assert_eq!(count(&tally, &metrics::REFUSED, &["other"]), Some(900));
    assert_eq!(count(&tally, &metrics::REFUSED, &["code.0"]), Some(1));
}

#[test]
fn threads_that_count_at_once_lose_nothing() {
    let tally = Arc::new(tally());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    call(&tally, Call::Commit, "left", LOST);
                    tally.note_refused("request.invalid");
                }
            });
        }
    });
    assert_eq!(count(&tally, &metrics::PHASE_DURATION, &["commit", "left"]), Some(2_000));
    assert_eq!(count(&tally, &metrics::STORE_FAILURES, &["commit", "left"]), Some(2_000));
    assert_eq!(count(&tally, &metrics::REFUSED, &["request.invalid"]), Some(2_000));
}
