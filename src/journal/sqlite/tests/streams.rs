//! Streams of events, one claim a test: versions, positions, snapshots, projections.

use super::*;
use crate::journal::streams::{ParkedProjection, Projection, Streams};
use crate::model::ids::StreamId;
use crate::model::stream::{Snapshot, StreamEvent};

/// An event of a request: its stream and the version that is expected.
pub(super) type Wish<'a> = (&'a str, Option<i64>);

pub(super) fn stream(name: &str) -> StreamId {
    StreamId::new(name).unwrap()
}

pub(super) fn events_request(name: &str, wishes: &[Wish<'_>]) -> Arc<CoordinationRequest> {
    let operation = |(index, (stream, expected)): (usize, &Wish<'_>)| {
        let mut body = vec![
            ("store".into(), "left".into()),
            ("type".into(), format!("kind-{index}").as_str().into()),
            ("stream".into(), (*stream).into()),
            ("data".into(), Value::Map(vec![("of".into(), name.into())])),
        ];
        body.extend(expected.map(|version| ("expected_version".to_owned(), version.into())));
        Value::Map(body)
    };
    let parts = RequestParts {
        id: name.to_owned(),
        kind: "event_sourcing".to_owned(),
        stores: vec!["left".to_owned()],
        operations: wishes.iter().enumerate().map(operation).collect(),
        timeout_seconds: 1.5,
        consistency: "session".to_owned(),
        metadata: Value::Map(Vec::new()),
    };
    Arc::new(CoordinationRequest::check(parts).unwrap())
}

pub(super) fn events_begin(journal: &SqliteJournal, name: &str, wishes: &[Wish<'_>]) -> Append {
    let (request, owner) = (events_request(name, wishes), journal.instance().clone());
    forced(name, 1, Record::Begin { request, owner, epoch: 1, locks: Vec::new() })
}

impl Desk {
    pub(super) fn append_events(&self, name: &str, wishes: &[Wish<'_>]) -> Answer {
        self.put(events_begin(&self.journal, name, wishes))
    }

    pub(super) fn stream(&self, name: &str, from: u64, limit: usize) -> Vec<StreamEvent> {
        wait(|reply| self.journal.read_stream(stream(name), from, limit, reply)).unwrap()
    }

    pub(super) fn all(&self, after: u64, limit: usize) -> Vec<StreamEvent> {
        wait(|reply| self.journal.read_all(after, limit, reply)).unwrap()
    }

    fn claim(&self, store: &str) -> Option<Projection> {
        let store = StoreName::new(store).unwrap();
        wait(|reply| self.journal.claim_projection(store, reply)).unwrap()
    }

    fn advance(&self, projection: &Projection) -> bool {
        wait(|reply| self.journal.advance_projection(projection.clone(), reply)).unwrap()
    }
}

fn through(answer: &Answer) -> u64 {
    match answer {
        Answer::Appended { through } => *through,
        other => panic!("{other:?}"),
    }
}

fn assert_mismatch(answer: &Answer, of: &str, versions: (u64, u64)) {
    match answer {
        Answer::VersionMismatch { stream, expected, actual } => {
            assert_eq!((stream.as_str(), (*expected, *actual)), (of, versions));
        }
        other => panic!("{other:?}"),
    }
}

fn places(events: &[StreamEvent]) -> Vec<(u64, &str, u64)> {
    events.iter().map(|event| (event.position, event.stream.as_str(), event.version)).collect()
}

#[test]
fn versions_and_positions_have_no_gap_whether_or_not_the_tables_know_them() {
    in_both(|desk| {
        assert_eq!(through(&desk.append_events("c1", &[("a", None), ("b", None), ("a", None)])), 3);
        for round in 0..2 {
            let expected = vec![(1, "a", 1), (2, "b", 1), (3, "a", 2)];
            assert_eq!(places(&desk.all(0, 100)), expected, "round {round}");
            assert_eq!(places(&desk.all(1, 1)), [(2, "b", 1)]);
            assert_eq!(places(&desk.stream("a", 0, 100)), [(1, "a", 1), (3, "a", 2)]);
            assert_eq!(places(&desk.stream("a", 2, 100)), [(3, "a", 2)]);
            assert_eq!(places(&desk.stream("a", 1, 1)), [(1, "a", 1)]);
            assert_eq!(desk.stream("a", 3, 100), []);
            assert_eq!(desk.stream("never", 0, 100), []);
            desk.history(everything());
        }
        assert_eq!(through(&desk.append_events("c2", &[("b", Some(1)), ("b", None)])), 5);
        let expected = [(2, "b", 1), (4, "b", 2), (5, "b", 3)];
        assert_eq!(places(&desk.stream("b", 0, 100)), expected, "in the tables and ahead of them");
        assert_eq!(places(&desk.stream("b", 1, 2)), expected[..2]);
        assert_eq!(places(&desk.all(1, 3)).len(), 3);
        let event = &desk.stream("b", 3, 1)[0];
        assert_eq!((event.kind.as_str(), event.coordination.as_str()), ("kind-1", "c2"));
        assert_eq!(event.data, Value::Map(vec![("of".into(), "c2".into())]));
        assert_eq!((&event.metadata, event.recorded_at), (&Value::Map(vec![]), Timestamp(1)));
        let version =
            |name| wait(|reply| desk.journal.stream_version(stream(name), reply)).unwrap();
        assert_eq!([version("a"), version("b"), version("never")], [2, 3, 0]);
        assert_eq!(wait(|reply| desk.journal.last_position(reply)).unwrap(), 5);
    });
}

#[test]
fn an_expected_version_that_is_not_met_says_both_and_nothing_of_the_request_stands() {
    in_both(|desk| {
        desk.append_events("c1", &[("a", Some(0))]);
        for projected in [false, true] {
            if projected {
                desk.history(everything());
            }
            assert_mismatch(&desk.append_events("new", &[("a", Some(0))]), "a", (0, 1));
            assert_mismatch(&desk.append_events("far", &[("a", Some(7))]), "a", (7, 1));
            let both = [("b", Some(0)), ("a", Some(2))];
            assert_mismatch(&desk.append_events("both", &both), "a", (2, 1));
        }
        assert_eq!(desk.all(0, 100).len(), 1);
        assert_eq!(desk.find("both"), None, "the id may be used again");
        assert_eq!(through(&desk.append_events("both", &[("b", Some(0)), ("a", Some(1))])), 3);
    });
}

#[test]
fn only_the_first_event_of_a_stream_in_a_request_is_held_against_the_streams_version() {
    in_both(|desk| {
        let twice = [("a", Some(0)), ("a", Some(0)), ("a", Some(1)), ("a", None)];
        assert_eq!(through(&desk.append_events("c1", &twice)), 4);
        let later = [("a", None), ("a", Some(1))];
        assert_eq!(through(&desk.append_events("c2", &later)), 6);
    });
}

#[test]
fn one_batch_is_judged_in_its_order() {
    in_both(|desk| {
        let names = ["c0", "c1", "c2", "c3"];
        let mut batch: Vec<_> = names
            .iter()
            .map(|name| events_begin(&desk.journal, name, &[("a", Some(1)), ("b", None)]))
            .collect();
        batch.insert(0, events_begin(&desk.journal, "first", &[("a", Some(0))]));
        desk.journal.append(&mut batch);
        let answers: Vec<Answer> = (0..5).map(|_| desk.answer().1).collect();
        assert_eq!([through(&answers[0]), through(&answers[1])], [1, 3]);
        for answer in &answers[2..] {
            assert_mismatch(answer, "a", (1, 2));
        }
    });
}

#[test]
fn a_begin_with_events_is_decided_and_told_again_as_it_stands() {
    in_both(|desk| {
        desk.append_events("c1", &[("a", None)]);
        for projected in [false, true] {
            if projected {
                assert_eq!(desk.history(everything()), ["c1"]);
            }
            let stored = desk.find("c1").unwrap();
            assert_eq!(stored.decision, Some(Decision::Commit));
            assert_eq!(stored.state, TransactionState::Committing);
            match desk.append_events("c1", &[("a", None)]) {
                Answer::Exists(found) => assert_eq!(found.decision, Some(Decision::Commit)),
                other => panic!("{other:?}"),
            }
            let answer = desk.put(forced("c1", 5, decide(Decision::Abort)));
            assert!(matches!(answer, Answer::Decided(Decision::Commit)), "{answer:?}");
        }
        assert_eq!(desk.all(0, 100).len(), 1, "nothing was appended twice");
        desk.put(forced("c1", 9, end(Decision::Commit)));
        assert_eq!(desk.find("c1").unwrap().state, TransactionState::Committed);
    });
}

#[test]
fn events_outlive_the_coordination_that_appended_them() {
    in_both(|desk| {
        for name in ["c1", "c2"] {
            desk.append_events(name, &[("a", None)]);
            desk.put(forced(name, 2, end(Decision::Commit)));
        }
        let removed = wait(|reply| desk.journal.retain(Duration::ZERO, reply)).unwrap();
        assert_eq!((removed, desk.find("c1")), (2, None));
        assert_eq!(places(&desk.all(0, 100)), [(1, "a", 1), (2, "a", 2)]);
        assert_mismatch(&desk.append_events("c3", &[("a", Some(1))]), "a", (1, 2));
    });
}

#[test]
fn two_processes_count_as_one_whoever_brings_the_tables_up() {
    let (_folder, path) = folder();
    let (one, two) = (Desk::open(&path), Desk::open(&path));
    for round in 0..40 {
        let name = format!("c{round}");
        let (writer, other) = if round % 3 == 0 { (&two, &one) } else { (&one, &two) };
        let answer = writer.append_events(&name, &[("a", Some(round)), ("b", None)]);
        assert_eq!(through(&answer), u64::try_from(round + 1).unwrap() * 2);
        if round % 7 == 1 {
            // Brought into the tables by one, perhaps before the other has read it in the log.
            writer.history(everything());
        }
        let late = other.append_events(&format!("late{round}"), &[("a", Some(round))]);
        let round = u64::try_from(round).unwrap();
        assert_mismatch(&late, "a", (round, round + 1));
    }
    let events = one.all(0, 1_000);
    assert_eq!(events, two.all(0, 1_000));
    let positions: Vec<u64> = events.iter().map(|event| event.position).collect();
    assert_eq!(positions, (1..=80).collect::<Vec<u64>>());
    drop((one, two));
    assert_eq!(Desk::open(&path).all(0, 1_000), events);
}

#[test]
fn a_listener_hears_of_events_when_they_can_be_read() {
    struct Ear(Mutex<Sender<u64>>);
    impl AnswerSink for Ear {
        fn answered(&self, _answers: Vec<(u64, Answer)>) {}
        fn health_changed(&self, _trouble: Option<JournalError>) {}
        fn events_appended(&self, through: u64) {
            let _ = self.0.lock().unwrap().send(through);
        }
    }
    let (_folder, path) = folder();
    let journal = SqliteJournal::open(&path, JournalOptions::default()).unwrap();
    let (heard_in, heard) = mpsc::channel();
    journal.attach(Arc::new(Ear(Mutex::new(heard_in))));
    journal.append(&mut vec![events_begin(&journal, "c1", &[("a", None), ("b", None)])]);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(2));
    let other = Desk::open(&path);
    other.append_events("c2", &[("a", None)]);
    // What another process appended is noticed with the next look at the log.
    assert_eq!(wait(|reply| journal.last_position(reply)).unwrap(), 3);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(3));
}

#[test]
fn the_latest_snapshot_is_kept_and_none_of_what_has_not_happened() {
    in_both(|desk| {
        desk.append_events("c1", &[("a", None), ("a", None), ("a", None)]);
        let save = |version, state: i64| {
            let state = Value::from(state);
            let snapshot = Snapshot {
                stream: stream("a"),
                version,
                state,
                taken_at: Timestamp(version.cast_signed()),
            };
            wait(|reply| desk.journal.save_snapshot(snapshot, reply)).unwrap()
        };
        let load = || wait(|reply| desk.journal.load_snapshot(stream("a"), reply)).unwrap();
        assert_eq!(load(), None);
        assert!(!save(4, 40), "the stream is not that far");
        assert!(save(2, 20));
        assert!(!save(1, 10), "a later one is kept");
        assert!(save(3, 30));
        assert!(save(3, 31), "the same version again takes the place");
        let kept = load().unwrap();
        assert_eq!((kept.version, kept.state, kept.taken_at), (3, 31.into(), Timestamp(3)));
    });
}

#[test]
fn a_projection_has_one_living_owner_and_its_place_outlives_it() {
    let (_folder, path) = folder();
    let (one, two) = (Desk::open(&path), Desk::open(&path));
    let claimed = one.claim("view").expect("nobody has it");
    assert_eq!((claimed.position, claimed.generation, claimed.parked.clone()), (0, 1, None));
    assert_eq!(two.claim("view"), None);
    assert!(two.claim("other").is_some(), "each store is by itself");
    let moved = Projection { position: 7, ..claimed.clone() };
    assert!(one.advance(&moved));
    assert_eq!(one.claim("view").map(|own| own.position), Some(7), "claimed again");
    let stolen = Projection { owner: Some(two.journal.instance().clone()), ..moved.clone() };
    assert!(!two.advance(&stolen), "it is not the owner");
    drop(one);
    let taken = two.claim("view").expect("its owner is gone");
    assert_eq!((taken.position, taken.generation), (7, 1));
    drop(two);
    let three = Desk::open(&path);
    let listed = wait(|reply| three.journal.projections(reply)).unwrap();
    let names: Vec<_> = listed.iter().map(|one| (one.store.as_str(), one.position)).collect();
    assert_eq!(names, [("other", 0), ("view", 7)]);
}

#[test]
fn a_restarted_projection_is_noticed_by_its_generation() {
    in_both(|desk| {
        let restart = |position| {
            let store = StoreName::new("view").unwrap();
            wait(|reply| desk.journal.restart_projection(store, position, reply)).unwrap()
        };
        assert_eq!(restart(Some(0)), None, "nobody ran it yet");
        let claimed = desk.claim("view").unwrap();
        let parked = ParkedProjection {
            position: 6,
            coordination: id("c6"),
            kind: "opened".to_owned(),
            attempts: 4,
            message: "no such column".to_owned(),
            at: Timestamp(8),
        };
        let parked = Projection { position: 5, parked: Some(parked), ..claimed };
        assert!(desk.advance(&parked));
        assert_eq!(desk.claim("view").unwrap().parked, parked.parked);
        let redriven = restart(None).unwrap();
        assert_eq!((redriven.position, redriven.generation, &redriven.parked), (5, 2, &None));
        assert!(!desk.advance(&parked), "what was true of the one before");
        assert_eq!(restart(Some(0)).map(|one| (one.position, one.generation)), Some((0, 3)));
    });
}

#[test]
fn a_row_that_was_changed_by_hand_is_told_and_not_believed() {
    for (change, words) in [
        ("UPDATE events SET data = '{' WHERE global_position = 2", "the row '2' of events: data"),
        ("UPDATE events SET recorded_at = 'now' WHERE version = 2", "recorded_at"),
        ("UPDATE events SET stream_id = '' WHERE global_position = 2", "stream_id"),
    ] {
        let (_folder, path) = folder();
        Desk::open(&path).append_events("c1", &[("a", None), ("a", None)]);
        let other = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(other.execute(change, []), Ok(1), "{change}");
        drop(other);
        let desk = Desk::open(&path);
        let error = wait(|reply| desk.journal.read_all(0, 10, reply)).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(desk.all(0, 1).len(), 1, "what is whole is told");
    }
}

#[test]
fn questions_to_a_closed_journal_are_answered_so() {
    in_both(|desk| {
        desk.journal.close();
        let read = wait(|reply| desk.journal.read_all(0, 1, reply));
        assert_eq!(read, Err(JournalError::Closed));
        let store = StoreName::new("view").unwrap();
        let claimed = wait(|reply| desk.journal.claim_projection(store, reply));
        assert_eq!(claimed, Err(JournalError::Closed));
    });
}
