//! Tests of steps in the native stores: each rule of the barrier, in each store, through the port.
//!
//! Not histories: those are in `step_history_test.rs`. What one store alone has stands at the end.

use tempfile::TempDir;

use super::memory::MemoryStore;
use super::sqlite::SqliteStore;
use super::step_subject_test::{Change, Kind, Subject, statement};
use super::test_kit::{
    answer, attach, commit, delete, failed, map, passing, prepare, put, step, step_ask, store_name,
    undone_by,
};
use super::*;

use Change::{Delete, Expect, Put};
use Work::{Compensate, Execute};

fn each(test: impl Fn(&mut Subject)) {
    for kind in Kind::ALL {
        println!("{kind:?}");
        test(&mut Subject::new(kind));
    }
}

fn done(result: Value) -> StepAnswer {
    StepAnswer::Done { result }
}

/// Puts 1, and is undone by putting 2.
fn one_then_two(subject: &Subject) -> Value {
    undone_by(subject.change("a", Put(1)), subject.change("a", Put(2)))
}

#[test]
fn work_that_is_asked_twice_is_done_once_and_answers_as_the_first_time() {
    each(|subject| {
        let operation = one_then_two(subject);
        let first = step(subject.participant(), "c", Execute, operation.clone());
        assert_eq!(first, done(subject.result(Put(1), false)));
        step(subject.participant(), "other", Execute, subject.change("a", Put(7)));
        assert_eq!(step(subject.participant(), "c", Execute, operation.clone()), first);
        assert_eq!(subject.get("a"), Some(7));
        let undone = step(subject.participant(), "c", Compensate, operation.clone());
        assert_eq!(
            (undone.clone(), subject.get("a")),
            (done(subject.result(Put(2), true)), Some(2))
        );
        step(subject.participant(), "other 2", Execute, subject.change("a", Delete));
        assert_eq!(step(subject.participant(), "c", Compensate, operation), undone);
        assert_eq!(subject.get("a"), None);
    });
}

#[test]
fn undoing_what_was_never_done_does_nothing_and_refuses_it_afterwards() {
    each(|subject| {
        let operation = one_then_two(subject);
        for _ in 0..2 {
            let undone = step(subject.participant(), "c", Compensate, operation.clone());
            assert_eq!(undone, done(Value::Null));
        }
        let late = step(subject.participant(), "c", Execute, operation.clone());
        assert_eq!((failed(late), subject.get("a")), ("already compensated".to_owned(), None));
        if subject.kind().is_durable() {
            subject.reopen();
            let late = step(subject.participant(), "c", Execute, operation);
            assert_eq!(failed(late), "already compensated");
        }
    });
}

#[test]
fn what_was_undone_is_not_done_again() {
    each(|subject| {
        let operation = one_then_two(subject);
        step(subject.participant(), "c", Execute, operation.clone());
        step(subject.participant(), "c", Compensate, operation.clone());
        let late = step(subject.participant(), "c", Execute, operation);
        assert_eq!((failed(late), subject.get("a")), ("already compensated".to_owned(), Some(2)));
    });
}

#[test]
fn an_operation_that_failed_leaves_no_row_and_may_be_asked_again() {
    each(|subject| {
        let check = undone_by(subject.change("a", Expect), Value::Null);
        let reason = failed(step(subject.participant(), "c", Execute, check.clone()));
        assert!(reason.contains("operation 'c:0'"), "{reason}");
        step(subject.participant(), "other", Execute, subject.change("a", Put(1)));
        let again = step(subject.participant(), "c", Execute, check.clone());
        assert_eq!(again, done(subject.result(Expect, true)));
        let undone = step(subject.participant(), "c", Compensate, check);
        assert_eq!((undone, subject.get("a")), (done(Value::Null), Some(1)));
    });
}

#[test]
fn a_compensation_that_fails_can_be_asked_again() {
    each(|subject| {
        let operation = undone_by(subject.change("a", Put(1)), subject.change("b", Expect));
        step(subject.participant(), "c", Execute, operation.clone());
        let reason = failed(step(subject.participant(), "c", Compensate, operation.clone()));
        assert!(reason.contains("the compensation of operation 'c:0'"), "{reason}");
        step(subject.participant(), "other", Execute, subject.change("b", Put(1)));
        let undone = step(subject.participant(), "c", Compensate, operation);
        assert_eq!(undone, done(subject.result(Expect, true)));
    });
}

#[test]
fn operations_of_one_coordination_and_coordinations_of_one_operation_are_apart() {
    each(|subject| {
        let operations = ["a", "b"].map(|key| subject.change(key, Put(1))).to_vec();
        let mut ask = step_ask("c", Execute, operations);
        for (index, other) in [(0, None), (1, Some(1))] {
            ask.step = index;
            let first = answer(|reply| subject.participant().execute(ask.clone(), reply));
            assert_eq!(first, done(subject.result(Put(1), false)));
            assert_eq!((subject.get("a"), subject.get("b")), (Some(1), other));
        }
        let again = step(subject.participant(), "d", Execute, subject.change("a", Put(2)));
        assert_eq!((again, subject.get("a")), (done(subject.result(Put(2), true)), Some(2)));
    });
}

#[test]
fn two_journals_that_share_a_store_do_not_meet_in_the_barrier() {
    each(|subject| {
        let operation = subject.change("a", Put(1));
        step(subject.participant(), "c", Execute, operation.clone());
        step(subject.participant(), "d", Execute, subject.change("a", Put(2)));
        let other = ClusterId::new("cluster-2").unwrap();
        subject.participant().attach(&other, &store_name()).unwrap();
        let answer = step(subject.participant(), "c", Execute, operation);
        assert_eq!((answer, subject.get("a")), (done(subject.result(Put(1), true)), Some(1)));
    });
}

#[test]
fn a_compensation_can_use_what_its_operation_gave_also_when_the_answer_was_lost() {
    each(|subject| {
        let own = |name: &str| {
            let path = Value::List(vec![name.into()]);
            map(&[("$result", "c:0".into()), ("path", path)])
        };
        let compensation = if subject.kind() == Kind::Sqlite {
            statement("INSERT INTO t VALUES ('b', ?)", vec![own("rows_affected")])
        } else {
            map(&[("type", "check".into()), ("key", "a".into()), ("exists", own("existed"))])
        };
        let put = subject.change("a", Put(1));
        step(subject.participant(), "before", Execute, put.clone());
        let operation = undone_by(put, compensation);
        step(subject.participant(), "c", Execute, operation.clone());
        let undone = step(subject.participant(), "c", Compensate, operation);
        assert!(matches!(undone, StepAnswer::Done { .. }), "{undone:?}");
    });
}

#[test]
fn an_operation_can_use_what_an_earlier_one_gave() {
    each(|subject| {
        let taken = map(&[("$result", "c:0".into()), ("path", Value::List(vec![0.into()]))]);
        let operation = if subject.kind() == Kind::Sqlite {
            statement("INSERT INTO t VALUES ('a', ?)", vec![taken])
        } else {
            map(&[("type", "put".into()), ("key", "a".into()), ("value", taken)])
        };
        let mut ask = step_ask("c", Execute, vec![subject.change("z", Put(1)), operation]);
        ask.step = 1;
        let reason = failed(answer(|reply| subject.participant().execute(ask.clone(), reply)));
        assert!(reason.contains("operation 'c:1'") && reason.contains("none at all"), "{reason}");
        let earlier = subject.stored(5);
        ask.context = vec![(0, Arc::new(Value::List(vec![earlier])))];
        let answer = answer(|reply| subject.participant().execute(ask, reply));
        assert!(matches!(answer, StepAnswer::Done { .. }), "{answer:?}");
        assert_eq!(subject.get("a"), Some(5));
    });
}

#[test]
fn a_store_that_is_not_open_has_done_nothing() {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::new(folder.path().join("data.db"), "sqlite");
    assert!(
        passing(step(&store, "c", Execute, statement("SELECT 1", vec![]))).contains("not open")
    );
}

#[test]
fn native_stores_serve_every_type_but_event_sourcing() {
    each(|subject| {
        for kind in CoordinationType::ALL {
            let lacks = (kind == CoordinationType::EventSourcing).then_some("apply_event");
            assert_eq!(subject.participant().missing_for(kind), lacks);
        }
    });
}

#[test]
fn only_a_compensation_in_the_stores_own_words_can_undo() {
    each(|subject| {
        let can = |compensation: Option<Value>| {
            let operation = subject.change("a", Put(1));
            let operation = match compensation {
                Some(compensation) => undone_by(operation, compensation),
                None => operation,
            };
            let ask = step_ask("c", Execute, vec![operation]);
            subject.participant().can_compensate(ask.operation())
        };
        assert!(can(Some(Value::Null)) && can(Some(subject.change("a", Delete))));
        assert!(!can(None) && !can(Some("delete".into())));
        assert!(!can(Some(map(&[("type", "refund".into()), ("key", "a".into())]))));
        assert!(!can(Some(map(&[("type", "put".into())]))));
    });
}

#[test]
fn a_key_in_memory_that_is_prepared_is_neither_seen_nor_overwritten() {
    let store = MemoryStore::new("memory");
    attach(&store);
    prepare(&store, "held", vec![put("a", 1)]);
    for operation in [put("a", 2), delete("a")] {
        assert!(passing(step(&store, "c", Execute, operation)).contains("'held'"));
    }
    commit(&store, "held");
    let answer = step(&store, "c", Execute, put("a", 2));
    assert_eq!(answer, done(map(&[("existed", Value::Bool(true))])));
    assert_eq!(prepare(&store, "t", vec![put("a", 3)]), Vote::Commit);
}
