//! How waits and leases end, and that nothing stays behind.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::{Exclusive, Shared};
use unanimity::locks::{LockAsk, LockError, LockManager};

use super::{A_WHILE, House, PATIENCE, answer, ask, at_once, requester};

#[test]
fn locks_postgres_a_wait_ends_at_its_timeout_and_says_who_was_in_the_way() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    one.acquire(ask("r", Shared, "reader")).unwrap();
    let began = Instant::now();
    let short = LockAsk { timeout: Some(A_WHILE), ..ask("r", Exclusive, "writer") };
    let refused = other.acquire(short).unwrap_err();
    assert!(began.elapsed() >= A_WHILE);
    let LockError::Timeout { waited_ms, blockers, .. } = &refused else { panic!("{refused}") };
    assert!(*waited_ms >= 100, "{waited_ms}");
    assert_eq!(blockers, "'reader' (shared)");
    // Whoever stood behind it goes on.
    let short = LockAsk { timeout: Some(Duration::from_secs(3)), ..ask("r", Exclusive, "writer") };
    let (_, writer) = other.wait(&house, short);
    let (_, behind) = one.wait(&house, ask("r", Shared, "behind"));
    assert!(answer(&writer).is_err());
    answer(&behind).unwrap();
}

#[test]
fn locks_postgres_a_cancelled_wait_answers_once_and_lets_those_behind_it_go_on() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    one.acquire(ask("r", Shared, "reader")).unwrap();
    let (wait, writer) = other.wait(&house, ask("r", Exclusive, "writer"));
    let (_, behind) = one.wait(&house, ask("r", Shared, "behind"));
    other.manager.cancel(wait);
    assert_eq!(answer(&writer), Err(LockError::Cancelled));
    answer(&behind).unwrap();
    other.manager.cancel(wait);
    assert_eq!(writer.recv_timeout(A_WHILE), Err(RecvTimeoutError::Disconnected));
    assert_eq!(house.count("lock_wait_queue"), 0);
}

/// A cancel, a timeout or a goodbye at every moment of a wait, 1,000 times, against a holder that
/// comes and goes.
#[test]
fn locks_postgres_a_thousand_broken_off_waits_leave_no_row() {
    let house = House::open();
    let holder = house.manager();
    let process = house.manager();
    let (mut granted, mut refused) = (0, 0);
    for round in 0..1_000_u32 {
        let name = format!("r{}", round % 4);
        let held =
            (round % 3 != 0).then(|| holder.acquire(ask(&name, Exclusive, "holder")).unwrap());
        let micros = u64::from(round % 20) * 150;
        let by = format!("w{round}");
        let (number, wait) = match round % 5 {
            0 | 1 => {
                let timeout = Some(Duration::from_micros(micros));
                process.begin(LockAsk { timeout, ..ask(&name, Exclusive, &by) })
            }
            _ => process.begin(ask(&name, Exclusive, &by)),
        };
        if let (3, Some(grant)) = (round % 4, &held) {
            // The grant and the end meet somewhere on the way.
            let reply = unanimity::reply::Reply::new(|_| {});
            holder.manager.release(&grant.lock_id, &requester("holder"), reply);
        }
        if round % 5 > 1 {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(micros) {
                std::hint::spin_loop();
            }
            if round % 10 == 9 {
                process.release_all(&by);
            } else {
                process.manager.cancel(number);
            }
        }
        match answer(&wait) {
            Ok(grant) => {
                granted += 1;
                process.release(&grant, &by);
            }
            Err(LockError::Timeout { .. } | LockError::Cancelled) => refused += 1,
            Err(error) => panic!("round {round}: {error}"),
        }
        if let Some(grant) = held {
            holder.release(&grant, "holder");
        }
    }
    assert!(granted > 50 && refused > 50, "{granted} granted, {refused} refused");
    house.wait_for("rows", "distributed_locks", 0);
    house.wait_for("rows", "lock_wait_queue", 0);
}

#[test]
fn locks_postgres_a_manager_that_is_dropped_answers_its_waits_and_leaves_nothing() {
    let house = House::open();
    let one = house.manager();
    let grant = one.acquire(ask("r", Exclusive, "a")).unwrap();
    for round in 0..20 {
        let other = house.manager();
        other.acquire(ask("s", Exclusive, "b")).unwrap();
        let (_, wait) = other.begin(ask("r", Exclusive, "b"));
        if round % 2 == 0 {
            house.wait_for("waits", "lock_wait_queue", 1);
        }
        drop(other);
        assert_eq!(answer(&wait), Err(LockError::Closed));
        house.wait_for("waits", "lock_wait_queue", 0);
        house.wait_for("locks", "distributed_locks", 1);
    }
    assert!(one.release(&grant, "a"));
    one.manager.close();
    assert_eq!(one.acquire(ask("r", Exclusive, "a")), Err(LockError::Closed));
    assert_eq!(house.count("lock_sessions"), 0);
}

#[test]
fn locks_postgres_a_lease_ends_by_itself_and_its_holder_hears_of_it_before_the_next() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let lease = Some(Duration::from_secs(10));
    let grant = one.acquire(LockAsk { lease, ..ask("r", Exclusive, "a") }).unwrap();
    let (_, next) = other.wait(&house, ask("r", Exclusive, "b"));
    assert!(one.renew(&grant, Duration::from_millis(700)));
    let later = answer(&next).unwrap();
    assert!(later.acquired_at.since(grant.acquired_at) >= Duration::from_millis(700));
    assert!(later.fencing_token > grant.fencing_token);
    let lost = one.lost();
    assert_eq!(lost.len(), 1, "told before the next was granted");
    assert_eq!(lost[0].0, grant.lock_id);
    assert!(!one.renew(&grant, PATIENCE), "too late");
    assert!(!one.release(&grant, "a"));
}

#[test]
fn locks_postgres_a_lease_of_a_waiter_begins_with_its_grant() {
    let house = House::open();
    let (one, other) = (house.manager(), house.manager());
    let first = one.acquire(ask("r", Exclusive, "a")).unwrap();
    let lease = Some(Duration::from_secs(1));
    let (_, wait) = other.wait(&house, LockAsk { lease, ..ask("r", Exclusive, "b") });
    std::thread::sleep(Duration::from_millis(1_100));
    one.release(&first, "a");
    let grant = answer(&wait).unwrap();
    assert!(one.acquire(at_once("r", Exclusive, "c")).is_err(), "it holds now");
    other.wait_until_lost(PATIENCE);
    let next = one.acquire(ask("r", Exclusive, "c")).unwrap();
    assert!(next.acquired_at.since(grant.acquired_at) >= Duration::from_secs(1));
}

#[test]
fn locks_postgres_a_lease_that_is_released_in_time_is_not_told_as_lost() {
    let house = House::open();
    let one = house.manager();
    let lease = Some(Duration::from_millis(200));
    let grant = one.acquire(LockAsk { lease, ..ask("r", Exclusive, "a") }).unwrap();
    assert!(one.release(&grant, "a"));
    let other = one.acquire(LockAsk { lease, ..ask("r", Exclusive, "b") }).unwrap();
    one.wait_until_lost(PATIENCE);
    assert_eq!(one.lost().len(), 1);
    assert_eq!(one.lost()[0].0, other.lock_id);
}
