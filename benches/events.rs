//! What appending an event costs as the history grows: an empty journal beside one that is full.
//!
//! Not a test. `cargo bench --bench events -- [FOLDER] [EVENTS]` fills a journal with so many
//! events (1,000,000 by default, ten to a stream), then appends in turn to it and to an empty one,
//! one event at a time and many at once, each with the version that it expects. One JSON line for
//! each number in flight: events a second in both, and the ratio of the time for each. Then how
//! many are read again in a second, from the first on.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use unanimity::journal::sqlite::{JournalOptions, SqliteJournal};
use unanimity::journal::streams::Streams;
use unanimity::journal::{Answer, AnswerSink, Append, Durability, Journal, JournalError};
use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::{Outcome, OutcomeKind, TransactionState};
use unanimity::model::record::Record;
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::time::Timestamp;
use unanimity::model::value::Value;
use unanimity::reply::Reply;

const EVENTS: u64 = 1_000_000;
const EVENTS_OF_STREAM: u64 = 10;
/// How many events one request of the filling has, and how many such requests wait at once.
const FILLED_AT_ONCE: u64 = 100;
const FILLERS: usize = 16;
/// Turns of the two journals, so that both see the same of the machine's moods.
const TURNS: u64 = 20;

struct Listener(Mutex<mpsc::Sender<Answer>>);

impl AnswerSink for Listener {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        let sender = self.0.lock().expect("nobody panics with it");
        for (_, answer) in answers {
            let _ = sender.send(answer);
        }
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        panic!("{trouble:?}");
    }
}

/// A journal and its answers.
struct Desk {
    journal: SqliteJournal,
    answers: mpsc::Receiver<Answer>,
    next_id: u64,
}

impl Desk {
    fn open(path: &str) -> Self {
        let journal = SqliteJournal::open(path, JournalOptions::default()).expect("opens");
        let (sender, answers) = mpsc::channel();
        journal.attach(Arc::new(Listener(Mutex::new(sender))));
        Self { journal, answers, next_id: 0 }
    }

    /// Queues a begin with an event for each stream and expected version, and its end.
    fn append(&mut self, wishes: &[(u64, Option<u64>)]) {
        self.next_id += 1;
        let id = format!("{:032x}", u128::from(self.next_id) << 64);
        let operation = |(stream, expected): &(u64, Option<u64>)| {
            let data = vec![("amount".into(), 7.into()), ("by".into(), "a customer".into())];
            let mut body = vec![
                ("store".into(), "view".into()),
                ("type".into(), "deposited".into()),
                ("stream".into(), format!("account-{stream}").as_str().into()),
                ("data".into(), Value::Map(data)),
            ];
            let expected = expected.and_then(|version| i64::try_from(version).ok());
            body.extend(expected.map(|version| ("expected_version".to_owned(), version.into())));
            Value::Map(body)
        };
        let request = CoordinationRequest::check(RequestParts {
            id: id.clone(),
            kind: "event_sourcing".into(),
            stores: vec!["view".into()],
            operations: wishes.iter().map(operation).collect(),
            timeout_seconds: 300.0,
            consistency: "eventual".into(),
            metadata: Value::Map(vec![]),
        });
        let request = Arc::new(request.expect("is a good request"));
        let owner = self.journal.instance().clone();
        let outcome = Outcome {
            kind: OutcomeKind::Committed,
            state: TransactionState::Committed,
            code: None,
            message: None,
            operations_completed: 1,
            operations_failed: 0,
        };
        let begin = Record::Begin { request, owner, epoch: 1, locks: Vec::new() };
        let end = Record::End { outcome, stores: Vec::new(), steps: Vec::new() };
        let records = [(begin, Durability::Forced), (end, Durability::Lazy)];
        let mut batch = records.map(|(record, durability)| {
            let id = CoordinationId::new(&id).expect("is short");
            let at = Timestamp(1_700_000_000_000_000);
            Append { token: self.next_id, id, epoch: 1, at, record, durability }
        });
        self.journal.append(&mut batch.iter_mut().map(|append| append.clone()).collect());
    }

    fn stood(&self) {
        match self.answers.recv().expect("answers") {
            Answer::Appended { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn last(&self) -> u64 {
        let (sender, told) = mpsc::channel();
        self.journal.last_position(Reply::new(move |last| drop(sender.send(last))));
        told.recv().expect("an answer").expect("is readable")
    }

    fn fill(&mut self, events: u64) {
        let mut waiting = 0;
        let streams = events / EVENTS_OF_STREAM;
        for request in 0..events / FILLED_AT_ONCE {
            let first = request * FILLED_AT_ONCE;
            let wishes: Vec<_> =
                (first..first + FILLED_AT_ONCE).map(|event| (event % streams, None)).collect();
            self.append(&wishes);
            waiting += 1;
            if waiting >= FILLERS {
                self.stood();
                waiting -= 1;
            }
        }
        (0..waiting).for_each(|_| self.stood());
    }

    /// Appends `count` events, `in_flight` at once, each to a stream of its own; gives the seconds.
    fn turn(
        &mut self,
        streams: &mut dyn Iterator<Item = (u64, u64)>,
        (count, in_flight): (u64, u64),
    ) -> f64 {
        let started = Instant::now();
        for (index, (stream, version)) in (0..count).zip(streams) {
            if index >= in_flight {
                self.stood();
            }
            self.append(&[(stream, Some(version))]);
        }
        (0..in_flight.min(count)).for_each(|_| self.stood());
        started.elapsed().as_secs_f64()
    }

    fn read_everything(&self) -> f64 {
        let started = Instant::now();
        let mut after = 0;
        loop {
            let (sender, told) = mpsc::channel();
            self.journal.read_all(after, 1_000, Reply::new(move |read| drop(sender.send(read))));
            let events = told.recv().expect("an answer").expect("is readable");
            let Some(last) = events.last() else { return started.elapsed().as_secs_f64() };
            after = last.position;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn main() {
    // Cargo passes options of its own.
    let given: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    let place = given.first().map_or(".", String::as_str);
    let events = given.get(1).map_or(EVENTS, |count| count.parse().expect("a number"));
    let folder = tempfile::tempdir_in(place).expect("the folder is writable");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (mut empty, mut full) = (Desk::open(&path("empty.db")), Desk::open(&path("full.db")));
    let started = Instant::now();
    full.fill(events);
    assert_eq!(full.last(), events);
    eprintln!("{events} events after {:.0} s", started.elapsed().as_secs_f64());
    // Tables that are behind are brought up before the first turn.
    let read = full.read_everything();
    let streams = events / EVENTS_OF_STREAM;
    // Spread over the streams, none twice: a large odd step walks through all of them.
    let mut of_full = (0..streams).map(|index| (index * 7_919 % streams, EVENTS_OF_STREAM));
    let mut of_empty = (0..).map(|index| (index, 0));
    for (in_flight, count) in [(1, 100), (64, 1_000)] {
        let (mut in_empty, mut in_full) = (0.0, 0.0);
        for _ in 0..TURNS {
            in_empty += empty.turn(&mut of_empty, (count, in_flight));
            in_full += full.turn(&mut of_full, (count, in_flight));
        }
        let appended = (TURNS * count) as f64;
        println!(
            "{{\"in_flight\": {in_flight}, \"history\": {events}, \"empty_per_second\": {:.0}, \
             \"full_per_second\": {:.0}, \"time_ratio\": {:.3}}}",
            appended / in_empty,
            appended / in_full,
            in_full / in_empty
        );
    }
    println!("{{\"history\": {events}, \"read_per_second\": {:.0}}}", events as f64 / read);
    empty.journal.close();
    full.journal.close();
}
