//! Holders hear of a server that is silent, before its silence costs them their locks.
//!
//! Invariant: whatever is stopped goes on when its test ends.

use std::process::Command;
use std::time::{Duration, Instant};

use unanimity::locks::LockId;
use unanimity::locks::LockMode::Exclusive;
use unanimity::locks::postgres::PostgresLockOptions;

use super::{House, PATIENCE, Process, ask};
use crate::support::proxy::Proxy;

impl Process {
    /// What it heard of suspensions, once it is so much.
    fn suspensions(&self, count: usize) -> Vec<(LockId, Option<Instant>)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let told = self.suspensions.lock().unwrap().clone();
            if told.len() >= count {
                return told;
            }
            assert!(Instant::now() < until, "{told:?}, and not {count}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The stopped server processes of one database.
struct Stopped(Vec<String>);

impl Stopped {
    fn of(house: &House) -> Self {
        let pids = format!("pid FROM pg_stat_activity WHERE datname = '{}'", house.database);
        let rows = house.cluster.run("postgres", &format!("SELECT {pids}"));
        let stopped = Self(rows.into_iter().filter_map(|mut row| row.remove(0)).collect());
        stopped.tell("-STOP");
        stopped
    }

    fn tell(&self, signal: &str) {
        // One of them may have ended by itself.
        let _ = Command::new("kill").arg(signal).args(&self.0).status();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.tell("-CONT");
    }
}

fn behind_proxy(session_timeout: Duration) -> (House, Process, Proxy) {
    let house = House::open();
    let proxy = Proxy::before(house.cluster.port());
    let through = house.dsn().replace(&house.cluster.port().to_string(), &proxy.port.to_string());
    let options = PostgresLockOptions { session_timeout, ..PostgresLockOptions::default() };
    let process = Process::on(&through, options);
    (house, process, proxy)
}

#[test]
fn locks_postgres_holders_hear_that_a_stopped_server_is_silent_and_that_it_goes_on_or_they_lost() {
    let (house, process, proxy) = behind_proxy(Duration::from_secs(6));
    let grant = process.acquire(ask("r", Exclusive, "a")).unwrap();
    let stopped = Stopped::of(&house);
    let [(id, Some(until))] = &process.suspensions(1)[..] else { panic!("suspended once") };
    assert!(*id == grant.lock_id && *until > Instant::now(), "told in time");
    drop(stopped);
    assert_eq!(process.suspensions(2)[1], (grant.lock_id.clone(), None));
    assert!(process.lost().is_empty());
    // The second time it stays away.
    proxy.close();
    let until = process.suspensions(3)[2].1.expect("suspended");
    let begun = Instant::now();
    while process.lost().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "lost at last");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Instant::now() >= until && process.lost()[0].0 == grant.lock_id, "held until then");
    proxy.open();
    process.acquire(ask("r", Exclusive, "a")).unwrap();
    assert_eq!(process.suspensions(3).len(), 3, "what is lost is not resumed");
}

#[test]
fn locks_postgres_a_lost_connection_suspends_at_once_and_a_new_one_resumes() {
    let (_house, process, proxy) = behind_proxy(Duration::from_secs(60));
    let grant = process.acquire(ask("r", Exclusive, "a")).unwrap();
    proxy.close();
    let told = process.suspensions(1);
    assert!(told.len() == 1 && told[0].0 == grant.lock_id && told[0].1.is_some(), "{told:?}");
    proxy.open();
    assert_eq!(process.suspensions(2)[1], (grant.lock_id.clone(), None));
    assert!(process.lost().is_empty() && process.release(&grant, "a"));
}
