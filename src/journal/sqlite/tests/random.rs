//! Many threads on two journals of one file against a model, from a printed seed.
//!
//! The model: of all begins of an id one stands, of all decisions one stands, and everyone who
//! asked was told so.

use std::collections::HashMap;

use super::*;
use crate::db::segments::SegmentSizes;

const THREADS: u64 = 4;
const STEPS: u64 = 150;
const NAMES: u64 = 60;

/// A small generator of our own: the same numbers from the same seed, for ever.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Where random runs begin: as `UNANIMITY_SEED` says, or anywhere.
pub(super) fn base_seed() -> u64 {
    let base = std::env::var("UNANIMITY_SEED").ok().and_then(|text| text.parse().ok());
    base.unwrap_or_else(|| u64::try_from(serve::now().0).unwrap())
}

type Told = (CoordinationId, Record, Answer);

/// One thread's share: appends at random to its journal, and keeps what it was told.
fn play(journal: &SqliteJournal, seed: u64) -> Vec<Append> {
    let mut dice = Dice(seed);
    let mut sent = Vec::new();
    for step in 0..STEPS {
        let mut batch = Vec::new();
        for _ in 0..=dice.roll(3) {
            let name = format!("c{}", dice.roll(NAMES));
            let record = match dice.roll(5) {
                0..=1 => begin(journal, &name),
                2 => decide(Decision::Commit),
                3 => decide(Decision::Abort),
                _ => end(Decision::Commit),
            };
            let durability =
                if dice.roll(4) == 0 { Durability::Accepted } else { Durability::Forced };
            let at = i64::try_from(step).unwrap();
            batch.push(append(&name, at, record, durability));
        }
        sent.extend(batch.clone());
        journal.append(&mut batch);
        match dice.roll(40) {
            0 => drop(wait(|reply| journal.history(everything(), reply)).unwrap()),
            1 => drop(wait(|reply| journal.find(id("c1"), reply)).unwrap()),
            _ => {}
        }
    }
    sent
}

fn collect(desk: &Desk, sent: Vec<Append>) -> Vec<Told> {
    let mut waiting: HashMap<u64, Append> = sent.into_iter().map(|a| (a.token, a)).collect();
    let mut told = Vec::new();
    while !waiting.is_empty() {
        let (token, answer) = desk.answer();
        let append = waiting.remove(&token).expect("one answer for each");
        told.push((append.id, append.record, answer));
    }
    told
}

fn check(told: &[Told], desk: &Desk) {
    let mut begun = HashMap::new();
    let mut decided = HashMap::new();
    for (id, record, answer) in told {
        match (record, answer) {
            (Record::Begin { owner, .. }, Answer::Recorded) => {
                assert!(begun.insert(id, owner).is_none(), "{id} began twice");
            }
            (Record::Decision { decision, .. }, Answer::Recorded) => {
                assert!(decided.insert(id, *decision).is_none(), "{id} was decided twice");
            }
            _ => {}
        }
    }
    for (id, record, answer) in told {
        match (record, answer) {
            (_, Answer::Exists(stored)) => assert_eq!(Some(&&stored.owner), begun.get(id)),
            (_, Answer::Decided(standing)) => assert_eq!(Some(standing), decided.get(id), "{id}"),
            (_, Answer::Recorded)
            | (Record::Decision { .. } | Record::End { .. }, Answer::Failed(_)) => {}
            other => panic!("{id}: {other:?}"),
        }
    }
    for (id, owner) in &begun {
        let stored = desk.find(id.as_str()).expect("what began is found");
        assert_eq!((&&stored.owner, stored.decision), (owner, decided.get(*id).copied()), "{id}");
    }
    assert_eq!(desk.history(everything()).len(), begun.len());
}

#[test]
fn whatever_threads_and_processes_append_the_first_stands_and_all_are_told() {
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
        let told = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let journal = desks[usize::from(thread % 2 == 1)].journal.clone();
                    scope.spawn(move || play(&journal, seed.wrapping_mul(THREADS) + thread))
                })
                .collect();
            let sent: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            let mut shares = [Vec::new(), Vec::new()];
            for (index, share) in sent.into_iter().enumerate() {
                shares[index % 2].extend(share);
            }
            let [first, second] = shares;
            let mut told = collect(&desks[0], first);
            told.extend(collect(&desks[1], second));
            told
        });
        for desk in &desks {
            check(&told, desk);
        }
        drop(desks);
        check(&told, &Desk::open(&path));
    }
}
