//! What `check` reads out of operations; what it refuses stands in the scenario `bad_requests`.

use std::time::Duration;

use super::{CheckError, Step, Undo, check};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::value::Value;

fn operation(id: &str, fields: &[(&str, Value)]) -> Value {
    let always = [("operation_id", Value::from(id)), ("store", "s".into()), ("type", "t".into())];
    let fields = always.into_iter().chain(fields.iter().cloned());
    Value::Map(fields.map(|(key, value)| (key.to_owned(), value)).collect())
}

fn read(operations: Vec<Value>, knows: &[&str]) -> Result<Vec<Step>, CheckError> {
    let request = CoordinationRequest::check(RequestParts {
        id: "c1".into(),
        kind: "saga_orchestration".into(),
        stores: vec!["s".into()],
        operations,
        timeout_seconds: 1.0,
        consistency: "session".into(),
        metadata: Value::Map(Vec::new()),
    });
    check(&request.expect("it is right"), |operation| knows.contains(&operation.id.as_str()))
}

#[test]
fn an_operation_depends_on_the_one_before_it_unless_it_says_otherwise() {
    let none = Value::List(Vec::new());
    let twice = Value::List(vec!["c".into(), "a".into(), "c".into()]);
    let operations = vec![
        operation("a", &[]),
        operation("b", &[("depends_on", Value::Null)]),
        operation("c", &[("depends_on", none)]),
        operation("d", &[("depends_on", twice)]),
    ];
    let steps = read(operations, &["a", "b", "c", "d"]).unwrap();
    let dependencies: Vec<_> = steps.iter().map(|step| step.depends_on.clone()).collect();
    assert_eq!(dependencies, [vec![], vec![0], vec![], vec![2, 0]]);
}

#[test]
fn retries_and_timeouts_are_the_operations_own_or_the_default() {
    let operations = vec![
        operation("a", &[]),
        operation("b", &[("max_retries", 0.into()), ("timeout_seconds", Value::Float(0.5))]),
        operation("c", &[("timeout_seconds", 2.into())]),
    ];
    let steps = read(operations, &["a", "b", "c"]).unwrap();
    let bounds: Vec<_> = steps.iter().map(|step| (step.max_retries, step.timeout)).collect();
    let (half, two) = (Duration::from_millis(500), Duration::from_secs(2));
    assert_eq!(bounds, [(3, None), (0, Some(half)), (3, Some(two))]);
}

#[test]
fn a_step_is_undone_by_its_own_word_or_its_participants() {
    let undo = Value::Map(vec![("type".into(), "u".into())]);
    let operations = vec![
        operation("a", &[("compensation", undo)]),
        operation("b", &[("compensation", Value::Null)]),
        operation("c", &[]),
        operation("p", &[("pivot", Value::Bool(true)), ("compensation", Value::Null)]),
        operation("d", &[("pivot", Value::Bool(false))]),
    ];
    let steps = read(operations.clone(), &["c"]).unwrap();
    let undo: Vec<_> = steps.iter().map(|step| step.undo).collect();
    // "Nothing to undo" does not make a pivot one that can be undone.
    let expected = [Undo::Asked, Undo::Nothing, Undo::Asked, Undo::Impossible, Undo::Impossible];
    assert_eq!(undo, expected);
    let error = read(operations, &[]).unwrap_err();
    assert!(matches!(error, CheckError::NoCompensation { operation, .. } if operation == "c"));
}

#[test]
fn what_does_not_depend_on_the_pivot_may_be_done_before_it() {
    let after = |id: &str| ("depends_on", Value::List(vec![id.into()]));
    let operations = vec![
        operation("p", &[("pivot", Value::Bool(true)), ("depends_on", Value::List(vec![]))]),
        operation("a", &[after("p")]),
        operation("b", &[after("a")]),
        operation("c", &[("depends_on", Value::List(vec![]))]),
    ];
    let error = read(operations, &["a", "b"]).unwrap_err();
    assert!(matches!(error, CheckError::NoCompensation { operation, .. } if operation == "c"));
}
