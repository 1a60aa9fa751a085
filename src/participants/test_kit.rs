//! What the tests of the stores share: asks, and waiting for answers. Compiled for tests only.
//!
//! Invariant: every wait has a bound, and a bound that passes is a failed test.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use tokio::runtime::Runtime;

use super::{DeliveryAsk, ExecuteAsk, Participant, PrepareAsk};
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::{CoordinationRequest, RequestParts};
use crate::model::step::{StepAnswer, Work};
use crate::model::value::Value;
use crate::reply::{Lost, Reply};

/// The name under which the tests' services know their store.
pub(super) const STORE: &str = "store";

const PATIENCE: Duration = Duration::from_secs(30);

/// For stores that run on one.
pub(super) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().expect("a runtime starts")
    })
}

pub(super) fn id(text: &str) -> CoordinationId {
    CoordinationId::new(text).expect("a test's id is good")
}

pub(super) fn cluster() -> ClusterId {
    ClusterId::new("cluster-1").expect("a test's id is good")
}

pub(super) fn store_name() -> StoreName {
    StoreName::new(STORE).expect("a test's name is good")
}

pub(super) fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

pub(super) fn put(key: &str, value: impl Into<Value>) -> Value {
    map(&[("type", "put".into()), ("key", key.into()), ("value", value.into())])
}

pub(super) fn delete(key: &str) -> Value {
    map(&[("type", "delete".into()), ("key", key.into())])
}

pub(super) fn check_value(key: &str, value: impl Into<Value>) -> Value {
    map(&[("type", "check".into()), ("key", key.into()), ("value", value.into())])
}

pub(super) fn check_exists(key: &str, exists: bool) -> Value {
    map(&[("type", "check".into()), ("key", key.into()), ("exists", Value::Bool(exists))])
}

/// An ask with these operations, whose `store` is added here.
pub(super) fn ask(transaction: &str, operations: Vec<Value>) -> PrepareAsk {
    let operations = operations
        .into_iter()
        .map(|body| match body {
            Value::Map(mut entries) => {
                entries.push(("store".to_owned(), STORE.into()));
                Value::Map(entries)
            }
            other => other,
        })
        .collect();
    let request = CoordinationRequest::check(RequestParts {
        id: transaction.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![STORE.to_owned()],
        operations,
        timeout_seconds: 30.0,
        consistency: "strong".to_owned(),
        metadata: Value::Map(vec![]),
    })
    .expect("a test's request is good");
    PrepareAsk {
        request: Arc::new(request),
        store: store_name(),
        timeout: PATIENCE,
        attachment: None,
        fences: Arc::default(),
        keeps_receipt: false,
    }
}

/// Asks, and gives the end at which the answer comes out.
pub(super) fn send<T: Lost + Send + 'static>(question: impl FnOnce(Reply<T>)) -> mpsc::Receiver<T> {
    let (sender, answer) = mpsc::channel();
    // A test that failed already does not wait for its answers.
    question(Reply::new(move |answer| drop(sender.send(answer))));
    answer
}

/// Waits for an answer.
pub(super) fn wait<T>(answer: &mpsc::Receiver<T>) -> T {
    answer.recv_timeout(PATIENCE).expect("an answer comes")
}

/// Asks and waits.
pub(super) fn answer<T: Lost + Send + 'static>(question: impl FnOnce(Reply<T>)) -> T {
    wait(&send(question))
}

pub(super) fn delivery(transaction: &str) -> DeliveryAsk {
    DeliveryAsk { id: id(transaction), timeout: PATIENCE, attachment: None, receipt: None }
}

pub(super) fn attach(store: &dyn Participant) {
    store.attach(&cluster(), &store_name()).expect("the store attaches");
}

pub(super) fn prepare(store: &dyn Participant, transaction: &str, operations: Vec<Value>) -> Vote {
    answer(|reply| store.prepare(ask(transaction, operations), reply))
}

pub(super) fn commit(store: &dyn Participant, transaction: &str) -> Acknowledgement {
    answer(|reply| store.commit(delivery(transaction), reply))
}

pub(super) fn abort(store: &dyn Participant, transaction: &str) -> Acknowledgement {
    answer(|reply| store.abort(delivery(transaction), reply))
}

/// The ask for the first of these operations as a step.
pub(super) fn step_ask(coordination: &str, work: Work, operations: Vec<Value>) -> ExecuteAsk {
    ExecuteAsk {
        request: ask(coordination, operations).request,
        step: 0,
        work,
        attempt: 1,
        context: Vec::new(),
        timeout: PATIENCE,
        attachment: None,
    }
}

/// Asks for one operation as a step, and waits.
pub(super) fn step(
    store: &dyn Participant,
    coordination: &str,
    work: Work,
    operation: Value,
) -> StepAnswer {
    answer(|reply| store.execute(step_ask(coordination, work, vec![operation]), reply))
}

/// An operation with a compensation.
pub(super) fn undone_by(operation: Value, compensation: Value) -> Value {
    let Value::Map(mut entries) = operation else { panic!("an operation is a map") };
    entries.push(("compensation".to_owned(), compensation));
    Value::Map(entries)
}

/// The message of work that failed for good; anything else fails the test.
pub(super) fn failed(answer: StepAnswer) -> String {
    match answer {
        StepAnswer::Failed { message, retryable: false } => message,
        other => panic!("expected a failure for good, got {other:?}"),
    }
}

/// The message of work that may be tried again; anything else fails the test.
pub(super) fn passing(answer: StepAnswer) -> String {
    match answer {
        StepAnswer::Failed { message, retryable: true } => message,
        other => panic!("expected a failure that may pass, got {other:?}"),
    }
}

/// What is prepared, sorted.
pub(super) fn listed(store: &dyn Participant) -> Vec<String> {
    let ids = answer(|reply| store.list_prepared(reply)).expect("the store lists");
    let mut ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    ids.sort();
    ids
}

/// The reason of a refusal; anything else fails the test.
pub(super) fn refused(vote: Vote) -> String {
    match vote {
        Vote::Abort { reason } => reason,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Numbers from a seed that is printed, so that a failure can be run again: set
/// `UNANIMITY_TEST_SEED`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        let given = std::env::var("UNANIMITY_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::try_from(now.expect("now is after 1970").as_nanos() % 1_000_000_007).unwrap_or(1)
        });
        println!("UNANIMITY_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound`, by splitmix64.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(bound).expect("a bound fits");
        usize::try_from((z ^ (z >> 31)) % bound).expect("less than a bound that fits")
    }
}
