//! Many threads append events through two journals of one file, against what they were told.
//!
//! From a printed seed. The claims: positions and versions have no gap; a request's events stand
//! together, all or none; who expected a version got the one behind it, or was told another.

use std::collections::HashMap;

use super::random::{Dice, base_seed};
use super::streams::{Wish, events_begin};
use super::*;
use crate::db::segments::SegmentSizes;

const THREADS: u64 = 4;
const STEPS: u64 = 120;
const STREAMS: [&str; 5] = ["s0", "s1", "s2", "s3", "s4"];

type Sent = HashMap<u64, Append>;

fn play(journal: &SqliteJournal, thread: u64, seed: u64) -> Sent {
    let mut dice = Dice(seed);
    let mut sent = Sent::new();
    let mut guess = 0;
    for step in 0..STEPS {
        let name = format!("t{thread}-{step}");
        let wishes: Vec<Wish<'_>> = (0..=dice.roll(3))
            .map(|_| {
                let stream = STREAMS[usize::try_from(dice.roll(5)).unwrap()];
                let near = guess + i64::try_from(dice.roll(3)).unwrap();
                (stream, (dice.roll(3) == 0).then_some(near))
            })
            .collect();
        let begin = events_begin(journal, &name, &wishes);
        sent.insert(begin.token, begin.clone());
        journal.append(&mut vec![begin]);
        match dice.roll(20) {
            0 => drop(wait(|reply| journal.history(everything(), reply)).unwrap()),
            1 => drop(wait(|reply| journal.read_all(dice.roll(50), 10, reply)).unwrap()),
            2 => {
                let stream = super::streams::stream(STREAMS[0]);
                let version = wait(|reply| journal.stream_version(stream, reply)).unwrap();
                guess = i64::try_from(version).unwrap();
            }
            3 => drop(wait(|reply| journal.retain(Duration::ZERO, reply)).unwrap()),
            _ => {}
        }
    }
    sent
}

fn collect(desk: &Desk, mut sent: Sent, told: &mut HashMap<CoordinationId, (Record, Answer)>) {
    while !sent.is_empty() {
        let (token, answer) = desk.answer();
        let append = sent.remove(&token).expect("one answer for each");
        told.insert(append.id, (append.record, answer));
    }
}

fn check(told: &HashMap<CoordinationId, (Record, Answer)>, desk: &Desk) {
    let events = desk.all(0, 1_000_000);
    let mut versions: HashMap<StreamName, u64> = HashMap::new();
    let mut by_coordination: HashMap<_, Vec<_>> = HashMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event.position, index as u64 + 1, "positions have no gap");
        let version = versions.entry(event.stream.to_string()).or_default();
        *version += 1;
        assert_eq!(event.version, *version, "versions have no gap");
        by_coordination.entry(event.coordination.clone()).or_default().push(event);
    }
    for (id, (record, answer)) in told {
        let Record::Begin { request, .. } = record else { panic!("only begins were sent") };
        let own = by_coordination.remove(id).unwrap_or_default();
        match answer {
            Answer::Appended { through } => {
                assert_eq!(own.len(), request.operations.len(), "{id}: all of them");
                assert_eq!(own.last().map(|event| event.position), Some(*through), "{id}");
                assert_eq!(own[0].position + own.len() as u64 - 1, *through, "{id}: together");
                check_expected(request, &own);
            }
            Answer::VersionMismatch { stream, expected, actual } => {
                assert!(own.is_empty(), "{id}: none of them");
                let last = versions.get(stream.as_str()).copied().unwrap_or(0);
                assert!(expected != actual && *actual <= last, "{id}: {answer:?}");
            }
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(by_coordination.is_empty(), "nobody appended these: {by_coordination:?}");
    for name in STREAMS {
        let of_stream: Vec<_> =
            events.iter().filter(|event| event.stream.as_str() == name).collect();
        let read = desk.stream(name, 0, 1_000_000);
        assert_eq!(read.iter().collect::<Vec<_>>(), of_stream);
    }
}

type StreamName = String;

fn check_expected(request: &CoordinationRequest, own: &[&crate::model::stream::StreamEvent]) {
    let mut seen = Vec::new();
    for (operation, event) in request.operations.iter().zip(own) {
        let expected = operation.body.get("expected_version").and_then(Value::as_int);
        if let Some(expected) = expected
            && !seen.contains(&&event.stream)
        {
            assert_eq!(event.version, u64::try_from(expected).unwrap() + 1);
        }
        seen.push(&event.stream);
    }
}

#[test]
fn whatever_is_appended_by_whomever_streams_have_no_gap_and_requests_stand_whole() {
    let base = base_seed();
    for seed in base..base + 4 {
        println!("seed {seed}");
        let (_folder, path) = folder();
        let options = JournalOptions {
            batch_size_max: 7,
            projection_due: 50,
            projection_backlog_max: 100,
            segments: SegmentSizes { first: 8 << 10, most: 32 << 10, total: None },
            projection_chunk: 11,
            projection_idle: Duration::from_millis(1),
            ..JournalOptions::default()
        };
        let desks = [0, 1].map(|_| Desk::with(&path, options.clone()));
        let sent: Vec<Sent> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let journal = desks[usize::from(thread % 2 == 1)].journal.clone();
                    let seed = seed.wrapping_mul(THREADS) + thread;
                    scope.spawn(move || play(&journal, thread, seed))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut shares = [Sent::new(), Sent::new()];
        for (index, share) in sent.into_iter().enumerate() {
            shares[index % 2].extend(share);
        }
        let mut told = HashMap::new();
        for (desk, share) in desks.iter().zip(shares) {
            collect(desk, share, &mut told);
        }
        for desk in &desks {
            check(&told, desk);
        }
        drop(desks);
        check(&told, &Desk::with(&path, options));
    }
}
