//! Recovery of the whole engine over a real journal file, with what a dead process left in it.

use std::sync::{Arc, mpsc};

use unanimity::engine::{Coordinator, EngineError, Options, Ports, RecoveryReport};
use unanimity::journal::{Append, Durability, Journal, JournalOptions, SqliteJournal};
use unanimity::model::ids::StoreName;
use unanimity::model::outcome::Decision;
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::participants::{MemoryStore, Participant};
use unanimity::reply::Reply;

fn request(id: &str) -> Arc<CoordinationRequest> {
    let parts = RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["left".to_owned()],
        operations: Vec::new(),
        timeout_seconds: 30.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(Vec::new()),
    };
    Arc::new(CoordinationRequest::check(parts).unwrap())
}

/// A process that dies with these records on disk.
fn leave_behind(path: &str, left: Vec<(&str, Record)>) {
    let journal = SqliteJournal::open(path, JournalOptions::default()).unwrap();
    let mut batch = Vec::new();
    for (id, record) in left {
        let owner = journal.instance().clone();
        let begin = Record::Begin { request: request(id), owner, epoch: 1, locks: Vec::new() };
        for record in [begin, record] {
            batch.push(Append {
                token: 0,
                id: request(id).id.clone(),
                epoch: 1,
                at: Timestamp(1),
                record,
                durability: Durability::Forced,
            });
        }
    }
    journal.append(&mut batch);
    journal.close();
}

#[test]
fn a_coordination_that_is_done_within_its_first_step_does_not_end_the_report_on_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db").display().to_string();
    let left = StoreName::new("left").unwrap();
    let decided = |decision| Record::Decision {
        decision,
        reason: None,
        read_only: Vec::new(),
        receipts: Vec::new(),
    };
    // The first is parked with nothing to ask; the second must still be rolled back.
    leave_behind(&path, vec![("parked", decided(Decision::Commit))]);
    leave_behind(&path, vec![("undone", decided(Decision::Abort))]);
    let journal = SqliteJournal::open(&path, JournalOptions::default()).unwrap();
    journal.append(&mut vec![Append {
        token: 0,
        id: request("parked").id.clone(),
        epoch: 1,
        at: Timestamp(2),
        record: Record::Heuristic {
            store: left.clone(),
            expected: Decision::Commit,
            message: "no".to_owned(),
        },
        durability: Durability::Forced,
    }]);
    journal.close();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store: Arc<dyn Participant> = Arc::new(MemoryStore::new("left"));
    let ports = Ports {
        journal: Arc::new(SqliteJournal::open(&path, JournalOptions::default()).unwrap()),
        stores: vec![(left, store, true)],
        consensus: None,
        bus: None,
        event_bus: None,
        alerting: None,
        observers: Vec::new(),
        locks: None,
        options: Options::default(),
        runtime: runtime.handle().clone(),
    };
    let (sender, reports) = mpsc::channel();
    let reply = Reply::new(move |report: Result<RecoveryReport, EngineError>| {
        sender.send(report).unwrap();
    });
    let engine = Coordinator::start(ports, reply).unwrap();
    let report = reports.recv().unwrap().unwrap();
    assert_eq!((report.in_doubt, report.aborted), (vec!["parked".into()], vec!["undone".into()]));
    engine.shut_down();
}
