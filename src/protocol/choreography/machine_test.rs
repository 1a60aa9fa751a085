//! The machine that answers for a choreographed saga, row by row. Not the stops: those are the
//! engine's, and are tried with real processes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::outcome::OutcomeKind;
use crate::model::request::RequestParts;
use crate::model::value::Value;

const MINUTE: Duration = Duration::from_secs(60);

fn plan(consistency: &str, epoch: u32) -> Plan {
    let operation = [("store", "s"), ("type", "do")]
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .to_vec();
    let parts = RequestParts {
        id: "c".to_owned(),
        kind: "saga_choreography".to_owned(),
        stores: vec!["s".to_owned()],
        operations: vec![Value::Map(operation)],
        timeout_seconds: 30.0,
        consistency: consistency.to_owned(),
        metadata: Value::Map(Vec::new()),
    };
    Plan {
        request: Arc::new(CoordinationRequest::check(parts).unwrap()),
        owner: InstanceId::new("i").unwrap(),
        epoch,
        backoff: Backoff { base: MINUTE, cap: 10 * MINUTE, seed: 1 },
        no_locks: Arc::default(),
    }
}

fn started(consistency: &str) -> (Choreography, Vec<Effect>) {
    let mut machine = Choreography::new(plan(consistency, 1), Timestamp(0));
    let effects = machine.step(Timestamp(0), Input::Started).unwrap();
    (machine, effects)
}

fn walks(effects: &[Effect]) -> Vec<u32> {
    let walk = |effect: &Effect| match effect {
        Effect::Walk { walk } => Some(*walk),
        _ => None,
    };
    effects.iter().filter_map(walk).collect()
}

fn told(effects: &[Effect]) -> Vec<OutcomeKind> {
    let outcome = |effect: &Effect| match effect {
        Effect::Answer(outcome) | Effect::Finish(outcome) => Some(outcome.kind),
        _ => None,
    };
    effects.iter().filter_map(outcome).collect()
}

fn end(undone: Option<Reason>) -> Input {
    Input::RouteEnded(RouteEnd { undone, steps: Vec::new() })
}

#[test]
fn the_beginning_is_on_disk_before_the_slip_is_sent_off() {
    let (_, effects) = started("session");
    let forced = effects
        .iter()
        .position(|effect| matches!(effect, Effect::Record { durability: Durability::Forced, .. }));
    let walk = effects.iter().position(|effect| matches!(effect, Effect::Walk { .. }));
    assert!(forced < walk && forced == Some(0), "{effects:?}");
    assert!(told(&effects).is_empty());
    assert_eq!(told(&started("eventual").1), [OutcomeKind::Unknown]);
}

#[test]
fn the_first_end_stands_and_is_recorded_before_it_is_told() {
    let (mut machine, _) = started("session");
    let effects = machine.step(Timestamp(5), end(None)).unwrap();
    let record = effects.iter().rposition(|effect| matches!(effect, Effect::Record { .. }));
    let finish = effects.iter().position(|effect| matches!(effect, Effect::Finish(_)));
    assert!(record < finish, "{effects:?}");
    assert_eq!(told(&effects), [OutcomeKind::Committed]);
    let late = end(Some(Reason::new("transaction.aborted.step", "late")));
    assert_eq!(machine.step(Timestamp(6), late).unwrap(), []);
    assert_eq!(machine.view().decision, Some(Decision::Commit));
}

#[test]
fn a_way_back_ends_as_aborted_with_the_operations_words() {
    let (mut machine, _) = started("session");
    let undone = Reason::new("transaction.aborted.step", "operation 'pay' failed: no money");
    let effects = machine.step(Timestamp(5), end(Some(undone))).unwrap();
    assert_eq!(told(&effects), [OutcomeKind::Aborted]);
    assert!(machine.view().outcome.message.unwrap().contains("no money"));
}

#[test]
fn a_caller_hears_that_it_is_not_known_yet_and_the_slip_is_sent_again_when_no_end_comes() {
    let (mut machine, effects) = started("session");
    assert_eq!(walks(&effects), [1_001]);
    let at = Timestamp(0) + Duration::from_secs(30);
    assert_eq!(machine.deadline(), Some(at));
    assert_eq!(told(&machine.step(at, Input::TimeReached).unwrap()), [OutcomeKind::Unknown]);
    let mut at = machine.deadline().unwrap();
    let again = machine.step(at, Input::TimeReached).unwrap();
    assert_eq!((walks(&again), told(&again)), (vec![1_002], Vec::new()));
    for _ in 0..20 {
        let next = machine.deadline().unwrap();
        assert!(next > at && next.since(at) <= 10 * MINUTE);
        at = next;
        assert_eq!(walks(&machine.step(at, Input::TimeReached).unwrap()).len(), 1);
    }
}

#[test]
fn after_a_takeover_the_slip_is_sent_under_a_number_that_was_never_used() {
    let (_, effects) = started("session");
    let Effect::Record { record, .. } = &effects[0] else { panic!("{effects:?}") };
    let records = [(Timestamp(0), record.clone())];
    let mut machine = Choreography::from_records(plan("session", 2), &records);
    let effects = machine.step(Timestamp(9), Input::Resumed).unwrap();
    assert_eq!(walks(&effects), [2_001]);
    assert!(!machine.awaits_answer());
}

#[test]
fn every_row_is_taken_and_what_cannot_be_is_said() {
    let mut taken = BTreeSet::new();
    let (mut machine, _) = started("session");
    machine.step(Timestamp(1), Input::AbortRequested { reason: "no".into() }).unwrap();
    machine.step(Timestamp(1), Input::TimeReached).unwrap();
    let late = Timestamp(0) + 11 * MINUTE;
    machine.step(late, Input::TimeReached).unwrap();
    assert!(machine.step(late, Input::Started).is_err());
    let vote = Input::Voted { party: 0, vote: crate::model::outcome::Vote::Commit };
    assert!(machine.step(late, vote).is_err());
    machine.step(late, end(None)).unwrap();
    taken.extend(machine.rules_taken().map(|rule| rule as u8));
    let mut undone = Choreography::from_records(plan("session", 2), &[]);
    undone.step(late, Input::Resumed).unwrap();
    undone.step(late, end(Some(Reason::new("code", "words")))).unwrap();
    taken.extend(undone.rules_taken().map(|rule| rule as u8));
    let missed: Vec<Rule> = TRANSITIONS
        .iter()
        .map(|row| row.rule)
        .filter(|rule| !taken.contains(&(*rule as u8)))
        .collect();
    assert!(missed.is_empty(), "never taken: {missed:?}");
}
