//! Group commit, measured: how many records and coordinations a second the journal takes.
//!
//! Not a test. One JSON line for each number of coordinations in flight: each is a begin, a
//! decision (both waited for) and an end (not waited for). The file is in the current folder, or
//! in the one that is named, because the disk decides: `cargo bench --bench journal -- /dev/shm`
//! shows the journal without one; `postgresql://...` names a fresh database instead. The rate is
//! taken when the last decision stands, and again when the tables have caught up (`_projected`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use unanimity::journal::postgres::is_postgres;
use unanimity::journal::{
    self, Answer, AnswerSink, Append, Durability, HistoryFilter, Journal, JournalError,
    JournalOptions,
};
use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::{Decision, Outcome, OutcomeKind, TransactionState};
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::reply::Reply;

const RUN: Duration = Duration::from_secs(1);
/// Made before the clock starts, so that the journal is measured and not its callers.
const REQUESTS: u64 = 100_000;

/// Appends the next record of a coordination as soon as the one before is answered.
struct Callers {
    journal: OnceLock<Arc<dyn Journal>>,
    until: Instant,
    requests: Vec<Arc<CoordinationRequest>>,
    next: AtomicU64,
    ended: AtomicU64,
    running: AtomicU64,
    finished: mpsc::SyncSender<()>,
}

impl Callers {
    fn id(number: u64) -> CoordinationId {
        CoordinationId::new(&format!("{:032x}", u128::from(number) << 64)).expect("is short")
    }

    fn append(number: u64, step: u64, record: Record, durability: Durability) -> Append {
        let at = Timestamp(1_700_000_000_000_000 + i64::try_from(number).unwrap_or(0));
        let token = number * 2 + step;
        Append { token, id: Self::id(number), epoch: 1, at, record, durability }
    }

    fn request(number: u64) -> Arc<CoordinationRequest> {
        let operation = |store: &str| {
            Value::Map(vec![
                ("store".into(), store.into()),
                ("type".into(), "put".into()),
                ("key".into(), "account:1".into()),
                ("value".into(), 1.into()),
            ])
        };
        let request = CoordinationRequest::check(RequestParts {
            id: Self::id(number).to_string(),
            kind: "two_phase_commit".into(),
            stores: vec!["left".into(), "right".into()],
            operations: vec![operation("left"), operation("right")],
            timeout_seconds: 300.0,
            consistency: "session".into(),
            metadata: Value::Map(vec![]),
        });
        Arc::new(request.expect("is a good request"))
    }

    fn start(&self) -> Append {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let index = usize::try_from(number).expect("is small");
        let request = self.requests[index].clone();
        let owner = self.journal.get().expect("was set").instance().clone();
        let record = Record::Begin { request, owner, epoch: 1, locks: Vec::new() };
        Self::append(number, 0, record, Durability::Forced)
    }

    fn end(number: u64) -> Append {
        let outcome = Outcome {
            kind: OutcomeKind::Committed,
            state: TransactionState::Committed,
            code: None,
            message: None,
            operations_completed: 2,
            operations_failed: 0,
        };
        let record = Record::End { outcome, stores: vec![], steps: vec![] };
        Self::append(number, 0, record, Durability::Lazy)
    }
}

impl AnswerSink for Callers {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        // A bound below the number of requests, because one batch may start many.
        let is_spent = self.next.load(Ordering::Relaxed) + 2_048 > REQUESTS;
        let is_over = is_spent || Instant::now() >= self.until;
        let mut batch = Vec::with_capacity(answers.len() * 2);
        for (token, answer) in answers {
            assert!(matches!(answer, Answer::Recorded), "{answer:?}");
            let number = token / 2;
            if token % 2 == 0 {
                let record = Record::Decision {
                    decision: Decision::Commit,
                    reason: None,
                    read_only: Vec::new(),
                    receipts: Vec::new(),
                };
                batch.push(Self::append(number, 1, record, Durability::Forced));
                continue;
            }
            batch.push(Self::end(number));
            self.ended.fetch_add(1, Ordering::Relaxed);
            if !is_over {
                batch.push(self.start());
            } else if self.running.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.finished.try_send(()).expect("once");
            }
        }
        self.journal.get().expect("was set").append(&mut batch);
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        panic!("{trouble:?}");
    }
}

fn measure(location: &str, in_flight: u64) {
    let options = JournalOptions::default();
    let journal = journal::open(location, options, false).expect("opens");
    let (finished, over) = mpsc::sync_channel(1);
    let requests = (0..REQUESTS).map(Callers::request).collect();
    let started = Instant::now();
    let callers = Arc::new(Callers {
        journal: OnceLock::from(journal.clone()),
        until: started + RUN,
        requests,
        next: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        running: AtomicU64::new(in_flight),
        finished,
    });
    journal.attach(callers.clone());
    journal.append(&mut (0..in_flight).map(|_| callers.start()).collect());
    over.recv().expect("ends");
    let appending = started.elapsed().as_secs_f64();
    let (sender, listed) = mpsc::channel();
    let filter = HistoryFilter { limit: 1, ..HistoryFilter::default() };
    journal.history(filter, Reply::new(move |found| sender.send(found).expect("is awaited")));
    listed.recv().expect("an answer").expect("is readable");
    let projected = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let ended = callers.ended.load(Ordering::Relaxed) as f64;
    println!(
        "{{\"journal\": \"{}\", \"in_flight\": {in_flight}, \"coordinations_per_second\": {:.0}, \
         \"records_per_second\": {:.0}, \"coordinations_per_second_projected\": {:.0}}}",
        match location {
            "memory:" => "memory",
            _ if is_postgres(location) => "postgres",
            _ => "file",
        },
        ended / appending,
        ended * 3.0 / appending,
        ended / projected
    );
    journal.close();
}

fn main() {
    // Cargo passes options of its own; a folder may come after them, on another disk.
    let place = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let place = place.unwrap_or_else(|| ".".to_owned());
    if is_postgres(&place) {
        // One alone: the ids of each run are the same.
        return measure(&place, 64);
    }
    let folder = tempfile::tempdir_in(place).expect("the folder is writable");
    for in_flight in [1, 16, 64, 256] {
        let path = folder.path().join(format!("{in_flight}.db"));
        measure(path.to_str().expect("is UTF-8"), in_flight);
    }
    measure("memory:", 64);
}
