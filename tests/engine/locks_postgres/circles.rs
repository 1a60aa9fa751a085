//! Deadlocks across processes: found in time, one victim for each, and nobody else harmed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::{Exclusive, Shared};
use unanimity::locks::{LockAsk, LockError, LockManager, RequesterId};
use unanimity::model::time::Timestamp;

use super::{Answer, House, PATIENCE, ask, now, requester};

#[test]
fn locks_postgres_a_circle_of_three_processes_has_one_victim_within_two_seconds() {
    let house = House::open();
    let processes = [house.manager(), house.manager(), house.manager()];
    let names = ["a", "b", "c"];
    let start = now();
    let aged = |index: usize, ask: LockAsk| {
        let age = Duration::from_secs([1, 3, 2][index]);
        LockAsk { working_since: Some(start + age), ..ask }
    };
    for (index, process) in processes.iter().enumerate() {
        process.acquire(aged(index, ask(names[index], Exclusive, names[index]))).unwrap();
    }
    let mut began = Instant::now();
    let mut waits = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        began = Instant::now();
        let wanted = names[(index + 1) % 3];
        waits.push(process.begin(aged(index, ask(wanted, Exclusive, names[index]))).1);
    }
    let victim = waits[1].recv_timeout(PATIENCE).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let Err(LockError::Deadlock(deadlock)) = victim else { panic!("{victim:?}") };
    assert_eq!(deadlock.victim, requester("b"), "the youngest");
    assert_eq!(deadlock.cycle, ["b", "c", "a"].map(requester));
    assert_eq!(deadlock.resource.as_str(), "c");
    // The victim lets go, and the others go on one after the other.
    assert_eq!(processes[1].release_all("b"), 1);
    waits[0].recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(processes[0].release_all("a") == 2);
    waits[2].recv_timeout(PATIENCE).unwrap().unwrap();
    let told: usize = processes.iter().map(|process| process.deadlocks.lock().unwrap().len()).sum();
    let listed: usize = processes.iter().map(|process| process.manager.deadlocks().len()).sum();
    assert_eq!((told, listed), (1, 1), "one circle is told once");
    house.wait_for("waits", "lock_wait_queue", 0);
}

#[test]
fn locks_postgres_two_upgraders_are_a_deadlock_and_the_protected_one_is_spared() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let protected = |ask: LockAsk| LockAsk { is_protected: true, ..ask };
    one.acquire(ask("r", Shared, "old")).unwrap();
    other.acquire(protected(ask("r", Shared, "young"))).unwrap();
    let (_, first) = one.wait(&house, ask("r", Exclusive, "old"));
    let (_, second) = other.begin(protected(ask("r", Exclusive, "young")));
    let refused = first.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(refused, Err(LockError::Deadlock(_))), "{refused:?}");
    one.release_all("old");
    second.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// Numbers that look random, from a seed that a failure prints.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// A random order, in which everybody waits for who stands at his place. Whoever stands at his own
/// place waits for nobody. Each resource has one waiter at most, so circles do not overlap.
fn shuffled(count: usize, numbers: &mut Numbers) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        order.swap(at, numbers.below(at + 1));
    }
    order
}

/// The circles of such an order, without those of one.
fn circles_of(next: &[usize]) -> BTreeSet<BTreeSet<usize>> {
    let circle = |start: usize| {
        let way =
            std::iter::successors(Some(start), |at| Some(next[*at]).filter(|at| *at != start));
        way.collect::<BTreeSet<usize>>()
    };
    (0..next.len()).map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn locks_postgres_random_graphs_have_exactly_one_victim_for_each_circle() {
    let house = House::open();
    let processes = [house.manager(), house.manager(), house.manager()];
    let mut victims_of_all = 0;
    for seed in 1..=20 {
        println!("seed {seed}");
        let mut numbers = Numbers(seed * 0x9e37_79b9);
        let count = 3 + numbers.below(6);
        let next = shuffled(count, &mut numbers);
        let name = |at: usize| format!("graph{seed}/{at}");
        let base = Timestamp(1_000_000);
        let ages: Vec<usize> = (0..count).map(|at| numbers.below(1_000) * 16 + at).collect();
        let aged = |at: usize, ask: LockAsk| LockAsk {
            working_since: Some(base + Duration::from_micros(ages[at] as u64)),
            ..ask
        };
        let process = |at: usize| &processes[at % 3];
        for at in 0..count {
            process(at).acquire(aged(at, ask(&name(at), Exclusive, &name(at)))).unwrap();
        }
        let waiters = (0..count).filter(|at| next[*at] != *at);
        let waits: BTreeMap<usize, Answer> = waiters
            .map(|at| {
                let wish = aged(at, ask(&name(next[at]), Exclusive, &name(at)));
                (at, process(at).begin(wish).1)
            })
            .collect();
        (0..count).filter(|at| next[*at] == *at).for_each(|at| {
            process(at).release_all(&name(at));
        });
        let expected: BTreeSet<usize> = circles_of(&next)
            .into_iter()
            .map(|circle| circle.into_iter().max_by_key(|at| ages[*at]).unwrap())
            .collect();
        let mut victims = BTreeSet::new();
        let mut open: BTreeSet<usize> = waits.keys().copied().collect();
        let until = Instant::now() + PATIENCE;
        while !open.is_empty() {
            assert!(Instant::now() < until, "seed {seed}: stuck {open:?} of {next:?}");
            for at in open.clone() {
                let Ok(answer) = waits[&at].try_recv() else { continue };
                if let Err(error) = answer {
                    let LockError::Deadlock(deadlock) = error else {
                        panic!("seed {seed}: {error}")
                    };
                    assert_eq!(deadlock.victim, RequesterId::new(&name(at)).unwrap());
                    victims.insert(at);
                }
                open.remove(&at);
                process(at).release_all(&name(at));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(victims, expected, "seed {seed}: {next:?} {ages:?}");
        victims_of_all += victims.len();
    }
    let told: usize = processes.iter().map(|process| process.deadlocks.lock().unwrap().len()).sum();
    assert_eq!(told, victims_of_all, "each circle is told once");
    assert_eq!(house.count("distributed_locks") + house.count("lock_wait_queue"), 0);
}
