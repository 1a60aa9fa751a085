//! A process that holds a lock is stopped by SIGSTOP, loses the lock without knowing it, and comes
//! late: its first write is refused.
//!
//! Not the lock's loss itself, which is a lock manager's; tokens are given by hand. The holder is
//! this test program again, a child with a journal of its own, so that what is remembered must come
//! from the store. Invariant: of two incompatible prepares the lower is never left prepared, to be
//! committed, when the higher one was accepted.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use unanimity::model::lock::LockMode::Exclusive;
use unanimity::model::outcome::Vote;

use crate::support::fenced::{Kind, PATIENCE, Place, Store, fence};

const KIND: &str = "UNANIMITY_TEST_FENCED_KIND";
const ADDRESS: &str = "UNANIMITY_TEST_FENCED_ADDRESS";
/// What stands before everything that the child says.
const SAYS: &str = "holder says ";
const LOCK: &str = "bank/1";
const ROUNDS: u64 = 100;

#[test]
#[ignore = "is the child of the tests beside it"]
fn a_holder_in_another_process() {
    let (Ok(kind), Ok(address)) = (std::env::var(KIND), std::env::var(ADDRESS)) else { return };
    let kind = Kind::DURABLE.into_iter().find(|one| one.name() == kind).unwrap();
    let store = Store::open(kind, &address, "the holder's own journal");
    println!("{SAYS}ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let (verb, id) = (words.next().unwrap(), words.next().unwrap());
        let said = match verb {
            "prepare" => {
                let token = words.next().unwrap().parse().unwrap();
                let shown = [fence(LOCK, Exclusive, token)];
                format!("{:?}", store.prepare(id, store.put("a", token), &shown))
            }
            _ => format!("{:?}", store.abort(id)),
        };
        println!("{SAYS}{said}");
    }
}

/// The holder, as its parent sees it.
struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    fn start(place: &Place) -> Self {
        let test = "fencing_stopped::a_holder_in_another_process";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env(KIND, place.kind.name())
            .env(ADDRESS, &place.address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take();
        let mut holder = Self { child, input, output };
        assert_eq!(holder.hear(), "ready");
        holder
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The bound of this wait is the child's: its own waits have one, and its death ends it.
    fn hear(&mut self) -> String {
        loop {
            let line = self.output.next().expect("the holder lives").unwrap();
            // The test program's own words may stand before it.
            if let Some((_, said)) = line.split_once(SAYS) {
                return said.to_owned();
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Stops it, and waits until it stands still.
    fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The end of its input ends it; what was stopped by a test that failed goes on first.
        self.go_on();
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_holder_that_was_stopped_is_refused_when_it_wakes_100_of_100() {
    for kind in Kind::DURABLE {
        let place = Place::new(kind);
        let mut holder = Holder::start(&place);
        let mut refused = 0;
        for round in 1..=ROUNDS {
            let (late, later) = (2 * round, 2 * round + 1);
            holder.stop();
            let store = place.open();
            let (id, shown) = (format!("later{round}"), [fence(LOCK, Exclusive, later)]);
            assert_eq!(store.prepare(&id, store.put("b", later), &shown), Vote::Commit, "{kind:?}");
            store.commit(&id);
            store.participant().close();
            holder.go_on();
            holder.tell(&format!("prepare late{round} {late}"));
            let said = holder.hear();
            refused += u64::from(said.contains("Abort") && said.contains("was lost"));
            // Answered behind the prepare, so that it is not stopped within its last moments.
            holder.tell(&format!("abort late{round}"));
            assert_eq!(holder.hear(), "Done");
        }
        assert_eq!(refused, ROUNDS, "{kind:?}");
        assert_eq!(place.open().get("a"), None, "{kind:?}");
    }
}

/// A moment of up to half a millisecond, other in each round: the stop shall hit every place of a
/// prepare.
fn moment(round: u64) -> Duration {
    Duration::from_micros(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).div_f64(8_589_934.0)
}

#[test]
fn a_holder_that_is_stopped_within_its_prepare_never_commits_after_a_later_one() {
    for kind in Kind::DURABLE {
        let place = Place::new(kind);
        let store = place.open();
        let mut holder = Holder::start(&place);
        let (mut before, mut after) = (0, 0);
        for round in 1..=ROUNDS {
            let (early, later) = (format!("early{round}"), format!("later{round}"));
            holder.tell(&format!("prepare {early} {}", 2 * round));
            std::thread::sleep(moment(round));
            holder.stop();
            let shown = [fence(LOCK, Exclusive, 2 * round + 1)];
            let patience = Duration::from_millis(100);
            let vote = store.ask(patience, &later, store.put("b", round), &shown);
            // The stopped one may have a lock that the store itself waits for, whatever the time.
            let in_time = vote.recv_timeout(3 * patience).ok();
            if in_time == Some(Vote::Commit) {
                store.commit(&later);
            }
            holder.go_on();
            let is_early_in = holder.hear() == "Commit";
            let vote = in_time.unwrap_or_else(|| vote.recv_timeout(PATIENCE).expect("a vote"));
            let is_later_in = vote == Vote::Commit;
            let both = is_early_in && is_later_in;
            assert!(
                !both,
                "{kind:?}, round {round}: the early one is prepared after the later one"
            );
            before += u64::from(is_early_in);
            after += u64::from(is_later_in);
            holder.tell(&format!("abort {early}"));
            assert_eq!(holder.hear(), "Done");
            // Of what was committed it says so; all else is over now.
            store.abort(&later);
        }
        println!(
            "{kind:?}: the early one came through {before} times, the later one {after} times"
        );
        assert!(before + after >= ROUNDS / 2, "{kind:?}: {before} and {after}");
    }
}
