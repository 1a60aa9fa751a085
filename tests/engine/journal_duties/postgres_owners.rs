//! Owners of coordinations in a PostgreSQL journal: killed, stopped, cut off, and racing.
//!
//! The owner that dies is this test program again, in a process of its own, told what to do by
//! lines. What has to be waited for has no signal: it is asked for again, with a bound.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use unanimity::journal::{PostgresJournal, PostgresJournalOptions};

use super::postgres::place;
use super::*;
use crate::support::postgres::PostgresCluster;

const DSN: &str = "UNANIMITY_TEST_DSN";

fn with(place: &Place, options: PostgresJournalOptions) -> Desk {
    Desk::over(Arc::new(PostgresJournal::open(&place.location, options).expect("opens")))
}

/// Adopts until something is there.
fn adopt_some(desk: &Desk) -> Vec<OpenCoordination> {
    let until = Instant::now() + PATIENCE;
    loop {
        let adopted = desk.adopt();
        if !adopted.is_empty() {
            return adopted;
        }
        assert!(Instant::now() < until, "nothing was adopted");
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "is the child of the tests beside it"]
fn an_owner_in_a_process_of_its_own() {
    let Ok(dsn) = std::env::var(DSN) else { return };
    let desk = Place::database(dsn).desk();
    desk.put(forced("undecided", 1, begin(&*desk.journal, "undecided")));
    desk.put(forced("decided", 2, begin(&*desk.journal, "decided")));
    desk.put(forced("decided", 3, decide(Decision::Commit)));
    desk.whole("finished", 4, Decision::Commit);
    println!("told: ready");
    for line in std::io::stdin().lines() {
        let answer = match line.unwrap().as_str() {
            "decide" => desk.put(forced("undecided", 5, decide(Decision::Commit))),
            _ => desk.put(forced("decided", 6, end(Decision::Commit))),
        };
        println!("told: {answer:?}");
    }
}

struct Owner {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Owner {
    fn start(dsn: &str) -> Self {
        let name = "journal_duties::postgres_owners::an_owner_in_a_process_of_its_own";
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(DSN, dsn)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut owner = Self { process, input, output };
        assert_eq!(owner.word(), "ready");
        owner
    }

    /// What it says next.
    fn word(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, word)) = line.split_once("told: ") {
                return word.trim().to_owned();
            }
            line.clear();
        }
        panic!("it ended");
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.input, "{what}").unwrap();
        self.word()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn names(adopted: &[OpenCoordination]) -> Vec<&str> {
    adopted.iter().map(|open| open.id.as_str()).collect()
}

#[test]
fn what_a_killed_process_left_is_adopted() {
    let place = place();
    let heir = place.desk();
    let mut owner = Owner::start(&place.location);
    let both = wait(|reply| heir.journal.status(reply)).unwrap().instances_alive;
    assert_eq!(both.len(), 2, "who lives is shown");
    assert_eq!(heir.adopt(), [], "the living are left alone");
    owner.process.kill().unwrap();
    owner.process.wait().unwrap();
    let adopted = adopt_some(&heir);
    assert_eq!(names(&adopted), ["undecided", "decided"]);
    assert_eq!(adopted[1].records[1].1, decide(Decision::Commit));
    let left = wait(|reply| heir.journal.status(reply)).unwrap().instances_alive;
    assert_eq!(left, [heir.journal.instance().clone()]);
}

#[test]
fn an_owner_that_was_stopped_and_goes_on_writes_nothing() {
    let place = place();
    let silence_max = Duration::from_secs(2);
    let heir = with(&place, PostgresJournalOptions { silence_max, ..Default::default() });
    let mut owner = Owner::start(&place.location);
    owner.signal(Signal::STOP);
    let adopted = adopt_some(&heir);
    assert_eq!(names(&adopted), ["undecided", "decided"]);
    owner.signal(Signal::CONT);
    assert_eq!(owner.ask("decide"), "Deposed");
    assert_eq!(owner.ask("end"), "Deposed");
    let stored = heir.find("undecided").unwrap();
    assert_eq!((&stored.owner, stored.epoch, stored.decision), (heir.journal.instance(), 2, None));
    assert_eq!(heir.find("decided").unwrap().completed_at, None);
    let late = Append { epoch: 2, ..forced("undecided", 9, decide(Decision::Abort)) };
    assert!(matches!(heir.put(late), Answer::Recorded));
}

#[test]
fn one_whose_connections_broke_keeps_what_it_owns() {
    let place = place();
    let (owner, heir) = (place.desk(), place.desk());
    owner.put(forced("a", 1, begin(&*owner.journal, "a")));
    let database = place.location.rsplit('/').next().unwrap();
    PostgresCluster::shared().run(
        "postgres",
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        ),
    );
    assert!(matches!(owner.put(forced("a", 2, decide(Decision::Commit))), Answer::Recorded));
    assert_eq!(heir.adopt(), [], "it lives");
    assert!(matches!(owner.put(forced("a", 3, end(Decision::Commit))), Answer::Recorded));
}

#[test]
fn what_others_decide_is_told_to_the_owner() {
    let place = place();
    let (owner, other) = (place.desk(), place.desk());
    for index in 0..20 {
        let name = format!("c{index}");
        owner.put(forced(&name, 1, begin(&*owner.journal, &name)));
        assert!(matches!(other.put(forced(&name, 2, decide(Decision::Abort))), Answer::Recorded));
        // In one batch with what is nobody else's.
        let company = format!("d{index}");
        owner.journal.append(&mut vec![
            forced(&company, 3, begin(&*owner.journal, &company)),
            forced(&name, 3, decide(Decision::Commit)),
            forced(&company, 3, decide(Decision::Commit)),
        ]);
        assert!(matches!(owner.answer().1, Answer::Recorded));
        assert!(matches!(owner.answer().1, Answer::Decided(Decision::Abort)));
        assert!(matches!(owner.answer().1, Answer::Recorded));
        assert!(matches!(owner.put(forced(&name, 4, end(Decision::Abort))), Answer::Recorded));
        assert_eq!(other.find(&name).unwrap().state, TransactionState::Aborted);
    }
}

/// A small generator of our own: the same numbers from the same seed, for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Appends at random; every record with its answer.
fn play(desk: &Desk, seed: u64) -> Vec<(Append, Answer)> {
    let mut dice = Dice(seed);
    let mut told = Vec::new();
    for step in 0..150 {
        let mut batch = Vec::new();
        for _ in 0..=dice.roll(4) {
            let name = format!("c{}", dice.roll(40));
            let record = match dice.roll(5) {
                0..=1 => begin(&*desk.journal, &name),
                2 => decide(Decision::Commit),
                3 => decide(Decision::Abort),
                _ => end(Decision::Commit),
            };
            batch.push(forced(&name, step, record));
        }
        let sent = batch.clone();
        desk.journal.append(&mut batch);
        for append in sent {
            let (token, answer) = desk.answer();
            assert_eq!(token, append.token);
            told.push((append, answer));
        }
    }
    told
}

#[test]
fn of_all_begins_and_decisions_of_two_processes_one_stands_and_all_are_told_so() {
    let seed = std::env::var("UNANIMITY_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::try_from(now().0).unwrap());
    println!("UNANIMITY_SEED={seed}");
    let place = place();
    let desks = [place.desk(), place.desk()];
    let told: Vec<_> = std::thread::scope(|scope| {
        let players = desks.into_iter().zip([seed, seed + 1]);
        let players = players.map(|(desk, seed)| scope.spawn(move || play(&desk, seed)));
        let players: Vec<_> = players.collect();
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    let (mut begun, mut decided) = (HashMap::new(), HashMap::new());
    for (append, answer) in &told {
        match (&append.record, answer) {
            (Record::Begin { owner, .. }, Answer::Recorded) => {
                assert!(begun.insert(append.id.clone(), owner).is_none(), "two begins");
            }
            (Record::Decision { decision, .. }, Answer::Recorded) => {
                assert!(decided.insert(append.id.clone(), *decision).is_none(), "two decisions");
            }
            _ => {}
        }
    }
    for (append, answer) in &told {
        match answer {
            Answer::Recorded => {}
            Answer::Exists(stored) => assert_eq!(begun[&append.id], &stored.owner),
            Answer::Decided(decision) => assert_eq!(decided[&append.id], *decision),
            Answer::Failed(error) => assert!(error.to_string().contains("no begin"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
    let desk = place.desk();
    for (id, owner) in begun {
        let stored = desk.find(id.as_str()).unwrap();
        assert_eq!((&stored.owner, stored.decision), (owner, decided.get(&id).copied()));
    }
}
