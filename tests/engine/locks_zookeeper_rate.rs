//! How many locks a second: printed, asserted only against a bound that any machine holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::Exclusive;

use crate::support::lock_caller::{Caller, wish};
use crate::support::zookeeper::ZooKeeperServer;

/// Takes and releases on so many lines at once, for a while; how many a second.
fn rate(caller: &Arc<Caller>, lines: usize, key: impl Fn(usize) -> String) -> f64 {
    let until = Instant::now() + Duration::from_secs(2);
    let threads: Vec<_> = (0..lines)
        .map(|line| {
            let (caller, key) = (caller.clone(), key(line));
            std::thread::spawn(move || {
                let name = format!("r{line}");
                let mut count = 0_u32;
                while Instant::now() < until {
                    let grant = caller.take(wish(&key, Exclusive, &name)).unwrap();
                    assert_eq!(caller.release(&grant.lock_id, &name), Ok(true));
                    count += 1;
                }
                count
            })
        })
        .collect();
    let total: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    f64::from(total) / 2.0
}

#[test]
#[ignore = "a measurement"]
fn rates() {
    let server = ZooKeeperServer::start();
    let caller = Arc::new(Caller::at(&server.address()));
    for lines in [1, 16, 64] {
        println!("distinct {lines}: {:.0}/s", rate(&caller, lines, |line| format!("k{line}")));
    }
    println!("hot 16: {:.0}/s", rate(&caller, 16, |_| "hot".to_owned()));
}
