//! How many locks a second one manager takes and releases: printed, for people; run by hand.
//!
//! Not a claim: the numbers depend on the machine and on how this was compiled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use unanimity::locks::LockMode::Exclusive;
use unanimity::locks::{LockAsk, LockManager};
use unanimity::reply::Reply;

use crate::support::lock_caller::{ANSWER_MAX, Caller, wish};
use crate::support::zookeeper::ZooKeeperServer;

const SPAN: Duration = Duration::from_secs(3);

/// One line of takes and releases, each begun by the answer to the one before.
struct Line {
    caller: Arc<Caller>,
    ask: LockAsk,
    until: Instant,
    count: Arc<AtomicU32>,
    done: Sender<()>,
}

impl Line {
    fn go_on(self) {
        if Instant::now() >= self.until {
            return self.done.send(()).unwrap();
        }
        let (caller, ask) = (self.caller.clone(), self.ask.clone());
        let taken = Reply::new(move |answer: Result<unanimity::locks::Grant, _>| {
            let grant = answer.unwrap();
            let (caller, requester) = (self.caller.clone(), self.ask.requester.clone());
            let released = Reply::new(move |answer| {
                assert_eq!(answer, Ok(true));
                self.count.fetch_add(1, Ordering::Relaxed);
                self.go_on();
            });
            caller.manager.release(&grant.lock_id, &requester, released);
        });
        caller.manager.acquire(ask, taken);
    }
}

/// Takes and releases on so many lines at once; how many a second.
fn rate(caller: &Arc<Caller>, lines: usize, key: impl Fn(usize) -> String) -> f64 {
    let count = Arc::new(AtomicU32::new(0));
    let (sender, done) = channel();
    let until = Instant::now() + SPAN;
    for line in 0..lines {
        let ask = wish(&key(line), Exclusive, &format!("r{line}"));
        let (caller, count, done) = (caller.clone(), count.clone(), sender.clone());
        Line { caller, ask, until, count, done }.go_on();
    }
    (0..lines).for_each(|_| done.recv_timeout(ANSWER_MAX).unwrap());
    f64::from(count.load(Ordering::Relaxed)) / SPAN.as_secs_f64()
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
