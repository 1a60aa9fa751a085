//! The locks of one process, measured: how often a second they are taken and let go.
//!
//! Not a test. One JSON line for each way of use; the best of three rounds, since a machine that
//! does something else besides only makes it slower. `detection` is the time that the ask takes
//! which closes a circle, in microseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use unanimity::locks::local::LocalLockManager;
use unanimity::locks::{Grant, LockAsk, LockError, LockManager, LockMode, RequesterId, ResourceId};
use unanimity::model::lock::WaitId;
use unanimity::model::time::Timestamp;
use unanimity::protocol::lock_table::{Ask, LockTable};
use unanimity::reply::Reply;

const ROUNDS: usize = 3;
const PAIRS: u64 = 300_000;
const REQUESTERS: usize = 64;
const WAITERS: usize = 16;

fn ask(requester: &str, on: &str, mode: LockMode) -> LockAsk {
    LockAsk {
        resource: ResourceId::new(on).expect("a short name"),
        mode,
        requester: RequesterId::new(requester).expect("a short name"),
        timeout: Some(Duration::from_secs(300)),
        lease: None,
        working_since: None,
        is_protected: false,
        coordination: None,
    }
}

/// One ask for each requester, each for a key of its own, with names as coordinations have them.
fn asks() -> Vec<LockAsk> {
    let one = |number: usize| {
        let requester = format!("0190a5f2c3d47e8f9a0b1c2d3e4f{number:04}");
        ask(&requester, &format!("accounts/customer:{number:06}"), LockMode::Exclusive)
    };
    (0..REQUESTERS).map(one).collect()
}

fn report(what: &str, pairs: u64, mut run: impl FnMut()) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        run();
        best = best.min(started.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = pairs as f64 / best.as_secs_f64();
    println!("{{\"locks\": \"{what}\", \"acquire_and_release_per_second\": {rate:.0}}}");
}

/// All requesters take their locks, then all let go, and again.
fn in_turns(
    asks: &[LockAsk],
    mut take: impl FnMut(&LockAsk) -> Grant,
    mut free: impl FnMut(&Grant, &LockAsk),
) {
    let mut grants = Vec::with_capacity(asks.len());
    for _ in 0..PAIRS / asks.len() as u64 {
        grants.extend(asks.iter().map(&mut take));
        for (grant, ask) in grants.drain(..).zip(asks) {
            free(&grant, ask);
        }
    }
}

fn table() {
    let (asks, mut effects) = (asks(), Vec::new());
    report("the table alone, 64 requesters, keys of their own", PAIRS, || {
        let table = std::cell::RefCell::new(LockTable::new(1_000, 1));
        let mut more_effects = Vec::new();
        in_turns(
            &asks,
            |ask| {
                let wish = as_told(ask);
                let grant = table.borrow_mut().ask_now(Timestamp(0), &wish, &mut effects);
                grant.expect("it is free")
            },
            |grant, ask| {
                let (id, who) = (&grant.lock_id, &ask.requester);
                assert!(table.borrow_mut().release(Timestamp(0), id, who, &mut more_effects));
            },
        );
    });
}

fn as_told(ask: &LockAsk) -> Ask<'_> {
    Ask {
        resource: &ask.resource,
        mode: ask.mode,
        requester: &ask.requester,
        timeout: ask.timeout,
        lease: ask.lease,
        working_since: ask.working_since.unwrap_or(Timestamp(0)),
        is_protected: ask.is_protected,
    }
}

fn without_replies() {
    let (asks, manager) = (asks(), LocalLockManager::new());
    report("try_acquire and release_now, 64 requesters, keys of their own", PAIRS, || {
        in_turns(
            &asks,
            |ask| manager.try_acquire(ask).expect("it is free"),
            |grant, ask| assert!(manager.release_now(&grant.lock_id, &ask.requester)),
        );
    });
}

fn with_replies() {
    let (asks, manager) = (asks(), LocalLockManager::new());
    let count = Arc::new(AtomicU64::new(0));
    report("acquire and release with replies, 64 requesters, keys of their own", PAIRS, || {
        in_turns(
            &asks,
            |ask| {
                let slot = Arc::new(std::sync::Mutex::new(None));
                let answer = slot.clone();
                let reply = Reply::new(move |granted: Result<Grant, LockError>| {
                    *answer.lock().expect("nobody panics") = granted.ok();
                });
                manager.acquire(ask.clone(), reply);
                slot.lock().expect("nobody panics").take().expect("it is free")
            },
            |grant, ask| {
                let count = count.clone();
                let reply = Reply::new(move |is_released: Result<bool, LockError>| {
                    count.fetch_add(u64::from(is_released == Ok(true)), Ordering::Relaxed);
                });
                manager.release(&grant.lock_id, &ask.requester, reply);
            },
        );
    });
}

/// Two threads at one manager, each with its own half of the requesters.
fn two_threads() {
    let (asks, manager) = (asks(), LocalLockManager::new());
    report("try_acquire and release_now, two threads", 2 * PAIRS, || {
        std::thread::scope(|scope| {
            for half in asks.chunks(REQUESTERS / 2) {
                scope.spawn(|| {
                    in_turns(
                        half,
                        |ask| manager.try_acquire(ask).expect("it is free"),
                        |grant, ask| assert!(manager.release_now(&grant.lock_id, &ask.requester)),
                    );
                });
            }
        });
    });
}

/// As a strong coordination over two stores takes them: four locks in one step.
fn many() {
    let manager = LocalLockManager::new();
    let wishes: Vec<Vec<LockAsk>> = (0..REQUESTERS)
        .map(|number| {
            let requester = format!("0190a5f2c3d47e8f9a0b1c2d3e4f{number:04}");
            let key = |store: &str| format!("{store}/customer:{number:06}");
            vec![
                ask(&requester, "accounts", LockMode::IntentExclusive),
                ask(&requester, &key("accounts"), LockMode::Exclusive),
                ask(&requester, "search", LockMode::IntentExclusive),
                ask(&requester, &key("search"), LockMode::Exclusive),
            ]
        })
        .collect();
    let rounds = PAIRS / 4 / REQUESTERS as u64;
    report("try_acquire_many of four and release_now of each", rounds * 4 * 64, || {
        for _ in 0..rounds {
            let take = |wish: &Vec<LockAsk>| manager.try_acquire_many(wish).expect("all are free");
            let grants: Vec<Vec<Grant>> = wishes.iter().map(take).collect();
            for (grants, wish) in grants.iter().zip(&wishes) {
                for grant in grants {
                    assert!(manager.release_now(&grant.lock_id, &wish[0].requester));
                }
            }
        }
    });
}

/// Everybody asks again as soon as he has let go; one holds and the others wait.
fn hot_key() {
    fn go_on(manager: &Arc<LocalLockManager>, ask: LockAsk, left: Arc<AtomicU64>) {
        let (own, again) = (manager.clone(), ask.clone());
        let reply = Reply::new(move |granted: Result<Grant, LockError>| {
            let grant = granted.expect("a grant");
            assert!(own.release_now(&grant.lock_id, &again.requester));
            if left.fetch_sub(1, Ordering::Relaxed) > WAITERS as u64 {
                go_on(&own, again, left);
            }
        });
        manager.acquire(ask, reply);
    }
    report("one hot key, 16 waiters", PAIRS, || {
        let manager = Arc::new(LocalLockManager::new());
        let first = manager.try_acquire(&ask("first", "hot", LockMode::Exclusive)).expect("free");
        let left = Arc::new(AtomicU64::new(PAIRS));
        for number in 0..WAITERS {
            let wish = ask(&format!("waiter{number}"), "hot", LockMode::Exclusive);
            go_on(&manager, wish, left.clone());
        }
        manager.release_now(&first.lock_id, &RequesterId::new("first").expect("a short name"));
    });
}

/// A circle of so many, closed over and over again.
fn detection(members: u32, queue: usize) {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let (mut table, mut effects) = (LockTable::new(1 << 20, 1), Vec::new());
        let asks: Vec<(LockAsk, LockAsk)> = (0..members)
            .map(|number| {
                let who = format!("requester{number}");
                let (own, next) = (format!("r{number}"), format!("r{}", (number + 1) % members));
                (ask(&who, &own, LockMode::Exclusive), ask(&who, &next, LockMode::Exclusive))
            })
            .collect();
        for (own, _) in &asks {
            table.ask_now(Timestamp(0), &as_told(own), &mut effects).expect("it is free");
        }
        // A long queue of others stands at one of them.
        for number in 0..queue {
            let wish = ask(&format!("bystander{number}"), "r1", LockMode::Exclusive);
            let wait = WaitId(1_000_000 + number as u64);
            table.ask(Timestamp(0), wait, &as_told(&wish), &mut effects);
        }
        let started = Instant::now();
        for (number, (_, next)) in asks.iter().enumerate() {
            let started = Instant::now();
            table.ask(Timestamp(0), WaitId(number as u64), &as_told(next), &mut effects);
            if number + 1 == asks.len() {
                best = best.min(started.elapsed());
            }
        }
        assert!(!effects.is_empty() && started.elapsed() > best, "a circle was found");
    }
    let (what, took) = (format!("circle of {members}, queue of {queue}"), best.as_secs_f64() * 1e6);
    println!("{{\"locks\": \"detection, {what}\", \"microseconds\": {took:.1}}}");
}

fn main() {
    table();
    without_replies();
    with_replies();
    two_threads();
    many();
    hot_key();
    for (members, queue) in [(2, 0), (16, 0), (2, 1_000), (1_000, 0)] {
        detection(members, queue);
    }
}
