//! What "strong" costs: instructions and allocations of one coordination over two stores in memory,
//! under "session" and under "strong" with the lock manager of one process.
//!
//! Not a test, and not a time: what is counted does not depend on what else the machine does.
//! `valgrind` counts two runs of this program, and the difference is that of the coordinations in
//! between, without the start and the end. The journal here answers at once and keeps nothing, so
//! that nobody waits and all work is that of the caller's thread.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use unanimity::engine::{Coordinator, Options, Ports};
use unanimity::journal::{
    Answer, AnswerSink, Append, Durability, HistoryFilter, Journal, JournalError, JournalStatus,
    OpenCoordination, StoredCoordination,
};
use unanimity::locks::local::LocalLockManager;
use unanimity::model::ids::{ClusterId, CoordinationId, InstanceId, StoreName};
use unanimity::model::outcome::OutcomeKind;
use unanimity::model::request::RequestParts;
use unanimity::model::value::Value;
use unanimity::participants::Participant;
use unanimity::participants::memory::MemoryStore;
use unanimity::reply::Reply;

const FEW: u64 = 500;
const MANY: u64 = 2_500;
/// Keys that take turns, so that the stores do not grow.
const KEYS: u64 = 64;

/// A journal that says yes.
struct AtOnce {
    cluster: ClusterId,
    instance: InstanceId,
    sink: OnceLock<Arc<dyn AnswerSink>>,
}

impl Journal for AtOnce {
    fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    fn instance(&self) -> &InstanceId {
        &self.instance
    }

    fn attach(&self, sink: Arc<dyn AnswerSink>) {
        assert!(self.sink.set(sink).is_ok(), "one engine uses it");
    }

    fn append(&self, batch: &mut Vec<Append>) {
        let is_answered = |append: &Append| append.durability != Durability::Lazy;
        let asked = batch.drain(..).filter(is_answered);
        let answers: Vec<_> = asked.map(|append| (append.token, Answer::Recorded)).collect();
        if let (Some(sink), false) = (self.sink.get(), answers.is_empty()) {
            sink.answered(answers);
        }
    }

    fn find(
        &self,
        _: CoordinationId,
        reply: Reply<Result<Option<StoredCoordination>, JournalError>>,
    ) {
        reply.send(Ok(None));
    }

    fn history(
        &self,
        _: HistoryFilter,
        reply: Reply<Result<Vec<StoredCoordination>, JournalError>>,
    ) {
        reply.send(Ok(Vec::new()));
    }

    fn adopt(&self, _: Vec<StoreName>, reply: Reply<Result<Vec<OpenCoordination>, JournalError>>) {
        reply.send(Ok(Vec::new()));
    }

    fn unknown_of(
        &self,
        ids: Vec<CoordinationId>,
        reply: Reply<Result<Vec<CoordinationId>, JournalError>>,
    ) {
        reply.send(Ok(ids));
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn status(&self, reply: Reply<Result<JournalStatus, JournalError>>) {
        reply.send(Ok(JournalStatus::default()));
    }

    fn retain_some(&self, _: Duration, _: u64, reply: Reply<Result<u64, JournalError>>) {
        reply.send(Ok(0));
    }

    fn count_ended(&self, _: Duration, reply: Reply<Result<u64, JournalError>>) {
        reply.send(Ok(0));
    }

    fn close(&self) {}
}

fn parts(number: u64, consistency: &str) -> RequestParts {
    let key = format!("customer:{:06}", number % KEYS);
    let operation = |store: &str| {
        let fields = [("store", store), ("type", "put"), ("key", &key), ("value", "text")];
        Value::Map(fields.map(|(key, word)| (key.to_owned(), Value::from(word))).into())
    };
    RequestParts {
        id: format!("0190a5f2-c3d4-7e8f-9a0b-{number:012}"),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["accounts".to_owned(), "search".to_owned()],
        operations: vec![operation("accounts"), operation("search")],
        timeout_seconds: 30.0,
        consistency: consistency.to_owned(),
        metadata: Value::Map(Vec::new()),
    }
}

/// Coordinates so many, one after the other.
fn run(consistency: &str, count: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let named = |name: &str| {
        let store: Arc<dyn Participant> = Arc::new(MemoryStore::new(name));
        (StoreName::new(name).expect("a short name"), store, true)
    };
    let ports = Ports {
        journal: Arc::new(AtOnce {
            cluster: ClusterId::new("cluster").expect("a short name"),
            instance: InstanceId::new("instance").expect("a short name"),
            sink: OnceLock::new(),
        }),
        stores: vec![named("accounts"), named("search")],
        consensus: None,
        bus: None,
        event_bus: None,
        alerting: None,
        observers: Vec::new(),
        locks: Some(Arc::new(LocalLockManager::new())),
        options: Options::default(),
        runtime: runtime.handle().clone(),
    };
    let engine = Coordinator::start(ports, Reply::new(drop)).expect("an engine");
    let committed = Arc::new(AtomicU64::new(0));
    for number in 0..count {
        let counter = committed.clone();
        let waiter = Reply::new(move |result: Result<_, _>| {
            let result: unanimity::model::outcome::CoordinationResult = result.expect("a result");
            assert_eq!(result.outcome.kind, OutcomeKind::Committed, "{:?}", result.outcome);
            counter.fetch_add(1, Ordering::Relaxed);
        });
        engine.coordinate(parts(number, consistency), None, waiter);
        assert_eq!(committed.load(Ordering::Relaxed), number + 1, "nobody waits for anything");
    }
    engine.shut_down();
}

/// The numbers of a line of valgrind's report: of the one that holds `mark`, those behind it.
fn counted(tool: &[&str], mark: &str, consistency: &str, count: u64) -> Vec<u64> {
    let own = std::env::current_exe().expect("a program");
    let output = Command::new("valgrind")
        .args(tool)
        .arg(own)
        .args(["run", consistency, &count.to_string()])
        .output()
        .expect("valgrind counts; it is Debian's package of that name");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let line = report.lines().find_map(|line| line.split_once(mark)).expect(mark).1;
    let numbers = line.split_whitespace().filter_map(|word| word.replace(',', "").parse().ok());
    numbers.collect()
}

/// What one coordination adds to a count.
fn per_coordination(tool: &[&str], mark: &str, consistency: &str) -> u64 {
    let first = |count| counted(tool, mark, consistency, count)[0];
    (first(MANY) - first(FEW)) / (MANY - FEW)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, consistency, count] = arguments.as_slice()
        && verb == "run"
    {
        return run(consistency, count.parse().expect("a number"));
    }
    let callgrind = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let memcheck = ["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"];
    for consistency in ["session", "strong"] {
        let instructions = per_coordination(&callgrind, "Collected :", consistency);
        let allocations = per_coordination(&memcheck, "total heap usage:", consistency);
        println!(
            "{{\"consistency\": \"{consistency}\", \"instructions\": {instructions}, \
             \"allocations\": {allocations}}}"
        );
    }
}
