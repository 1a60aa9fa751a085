//! Processes that are killed while they handle, before they acknowledge, while they publish.
//!
//! Not a simulation: the children are this test program again, and they die by SIGKILL.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::support::random::Random;

const PLACE: &str = "UNANIMITY_TEST_BUS_PLACE";
const FOLDER: &str = "UNANIMITY_TEST_BUS_FOLDER";
const ROLE: &str = "UNANIMITY_TEST_BUS_ROLE";

const EVENTS: usize = 1_000;
const STREAMS: usize = 20;
const KILLS: usize = 6;

mod on_a_file {
    use super::*;

    #[test]
    fn killed_consumers_lose_nothing_and_keep_the_order() {
        consumers_are_killed(&House::journal());
    }

    #[test]
    fn what_was_handled_and_not_acknowledged_is_handled_again() {
        a_handler_dies(&House::journal());
    }

    #[test]
    fn an_event_that_ends_its_processes_is_parked() {
        an_event_is_deadly(&House::journal());
    }

    #[test]
    fn what_was_acknowledged_to_a_killed_publisher_is_there() {
        a_publisher_is_killed(&House::journal(), None);
    }

    #[test]
    fn a_publisher_that_dies_between_its_commit_and_the_answer_loses_nothing() {
        for point in ["bus:committed#40", "bus:synced#40"] {
            a_publisher_is_killed(&House::journal(), Some(point));
        }
    }
}

mod in_postgres {
    use super::*;

    #[test]
    fn killed_consumers_lose_nothing_and_keep_the_order() {
        consumers_are_killed(&House::postgres());
    }

    #[test]
    fn what_was_handled_and_not_acknowledged_is_handled_again() {
        a_handler_dies(&House::postgres());
    }

    #[test]
    fn an_event_that_ends_its_processes_is_parked() {
        an_event_is_deadly(&House::postgres());
    }

    #[test]
    fn what_was_acknowledged_to_a_killed_publisher_is_there() {
        a_publisher_is_killed(&House::postgres(), None);
    }

    #[test]
    fn a_publisher_that_dies_between_its_commit_and_the_answer_loses_nothing() {
        a_publisher_is_killed(&House::postgres(), Some("bus:committed#40"));
    }
}

/// Not a claim: what the killed processes do. Without its variables it is done at once.
#[test]
fn child() {
    let (Ok(place), Some(folder)) = (std::env::var(PLACE), std::env::var_os(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let process = Process::at(&place);
    match std::env::var(ROLE).unwrap().as_str() {
        "consume" => consume(&process, &folder, false),
        "die" => consume(&process, &folder, true),
        _ => publish_for_ever(&process, &folder),
    }
}

/// One write of a file that is only appended to: lines of several processes stand one behind the
/// other in the order of the writes.
fn append(path: &Path, line: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Handles what comes: notes it, and has its effect once by the event's id, as a store with a
/// barrier does.
fn consume(process: &Process, folder: &Path, dies: bool) {
    let home = folder.to_owned();
    let (handler, _heard) = ruled(move |delivery| {
        let id = &delivery.event.id;
        append(&home.join("handled"), id);
        have_effect(&home, id);
        if dies && id == "s/3" {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        }
        std::thread::sleep(Duration::from_millis(1));
        Handled::Done
    });
    // Of those that are killed at random nobody is to blame.
    let attempts_max = if dies { 3 } else { 1_000 };
    process.subscribe(SubscribeAsk { attempts_max, ..subscription(Some("g"), handler) });
    let (handler, _heard) = listener();
    process.subscribe(subscription(None, handler));
    println!("\nready");
    // Until the parent ends.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

/// Adds the event's number to a total, unless its id did that before.
fn have_effect(folder: &Path, id: &str) {
    let mut store = effects(folder);
    let begun = rusqlite::TransactionBehavior::Immediate;
    let transaction = store.transaction_with_behavior(begun).unwrap();
    let number: i64 = id.split_once('/').unwrap().1.parse().unwrap();
    let is_new = transaction.execute("INSERT OR IGNORE INTO seen VALUES (?1)", [id]).unwrap();
    if is_new == 1 {
        transaction
            .execute("UPDATE total SET sum = sum + ?1, count = count + 1", [number])
            .unwrap();
    }
    transaction.commit().unwrap();
}

fn effects(folder: &Path) -> rusqlite::Connection {
    let store = rusqlite::Connection::open(folder.join("effects.db")).unwrap();
    store.busy_timeout(PATIENCE).unwrap();
    store.execute_batch("PRAGMA synchronous=OFF").unwrap();
    store
}

/// Publishes and notes what was answered, several at a time.
fn publish_for_ever(process: &Process, folder: &Path) {
    let told = folder.join("published");
    for round in 0.. {
        let (sender, answers) = channel();
        for number in round * 10..round * 10 + 10 {
            let (sender, told) = (sender.clone(), told.clone());
            let reply = Reply::new(move |answer: Result<(), EventBusError>| {
                answer.unwrap();
                append(&told, &format!("s/{number}"));
                let _ = sender.send(());
            });
            process.bus.publish(event("s", number), reply);
        }
        (0..10).for_each(|_| answers.recv().unwrap());
    }
}

struct Nursery {
    place: String,
    folder: tempfile::TempDir,
}

impl Nursery {
    fn at(house: &House) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tables = "CREATE TABLE seen (id TEXT PRIMARY KEY); \
             CREATE TABLE total (sum INTEGER, count INTEGER); INSERT INTO total VALUES (0, 0)";
        effects(folder.path()).execute_batch(tables).unwrap();
        Self { place: house.place(), folder }
    }

    fn start(&self, role: &str, crash_at: Option<&str>) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "events_durable::deaths::child", "--nocapture"]);
        command.env(PLACE, &self.place).env(FOLDER, self.folder.path()).env(ROLE, role);
        if let Some(point) = crash_at {
            command.env("UNANIMITY_CRASH_AT", point);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// A consumer that has subscribed.
    fn consumer(&self) -> Child {
        let mut child = self.start("consume", None);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"), "the child subscribed");
        child
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(file)).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end);
        text[..whole].lines().map(str::to_owned).collect()
    }

    fn wait_for_lines(&self, file: &str, count: usize) {
        eventually("so much is done", || (self.lines(file).len() >= count).then_some(()));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Makes the group, so that what is published from here on waits for it.
fn make_group(process: &Process) {
    let (handler, _heard) = listener();
    let id = process.subscribe(subscription(Some("g"), handler));
    process.unsubscribe(id);
}

fn consumers_are_killed(house: &House) {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let (process, nursery) = (house.process(), Nursery::at(house));
    make_group(&process);
    let mut children: Vec<Child> = (0..3).map(|_| nursery.consumer()).collect();
    let per_round = EVENTS / KILLS;
    for round in 0..=KILLS {
        let first = round * per_round;
        let last = if round == KILLS { EVENTS } else { first + per_round };
        process.publish_all(
            (first..last).map(|index| event(&format!("s{}", index % STREAMS), index / STREAMS)),
        );
        if round < KILLS {
            nursery.wait_for_lines("handled", first + random.below(per_round));
            let victim = children.swap_remove(random.below(children.len()));
            kill(victim);
            children.push(nursery.consumer());
        }
    }
    let handled = eventually("all are handled", || {
        let lines = nursery.lines("handled");
        (lines.iter().collect::<HashSet<_>>().len() == EVENTS).then_some(lines)
    });
    println!("{} deliveries of {EVENTS} events", handled.len());
    children.into_iter().for_each(kill);
    for (stream, numbers) in by_stream(handled) {
        let mut next = 0;
        for number in numbers {
            assert!(number <= next, "{stream}: {number} before {next}");
            next = next.max(number + 1);
        }
        assert_eq!(next, EVENTS / STREAMS, "{stream}");
    }
    let total = effects(nursery.folder.path())
        .query_row("SELECT sum, count FROM total", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    let sum: i64 = (0..EVENTS).map(|index| i64::try_from(index / STREAMS).unwrap()).sum();
    assert_eq!(total, (sum, i64::try_from(EVENTS).unwrap()), "each effect once");
    assert!(process.parked().is_empty());
    eventually("what the killed had of their own goes", || {
        (house.count("bus_groups") == 1).then_some(())
    });
}

fn a_handler_dies(house: &House) {
    let (process, nursery) = (house.process(), Nursery::at(house));
    make_group(&process);
    process.publish_all((0..8).map(|number| event("s", number)));
    let mut child = nursery.start("die", None);
    // Else the end of its input would end it.
    let _input = child.stdin.take();
    assert!(!child.wait().unwrap().success(), "it kills itself");
    assert_eq!(nursery.lines("handled").last().unwrap(), "s/3");
    let (handler, heard) = listener();
    process.subscribe(subscription(Some("g"), handler));
    let first: usize = heard.ids(1)[0][2..].parse().unwrap();
    assert!(first <= 3, "not acknowledged: {first}");
    let rest: Vec<String> = (first + 1..8).map(|number| format!("s/{number}")).collect();
    assert_eq!(heard.ids(rest.len()), rest);
}

fn an_event_is_deadly(house: &House) {
    let (process, nursery) = (house.process(), Nursery::at(house));
    make_group(&process);
    process.publish_all((3..5).map(|number| event("s", number)));
    for _ in 0..3 {
        let mut child = nursery.start("die", None);
        let _input = child.stdin.take();
        assert!(!child.wait().unwrap().success(), "it kills itself");
    }
    let (handler, heard) = listener();
    process.subscribe(subscription(Some("g"), handler));
    assert_eq!(heard.ids(1), ["s/4"]);
    let parked = process.wait_for_parked();
    assert_eq!((parked.event.id.as_str(), parked.attempts), ("s/3", 3));
    assert!(parked.message.contains("3 processes ended"), "{}", parked.message);
}

fn a_publisher_is_killed(house: &House, crash_at: Option<&str>) {
    let (process, nursery) = (house.process(), Nursery::at(house));
    make_group(&process);
    let mut child = nursery.start("publish", crash_at);
    let _input = child.stdin.take();
    if crash_at.is_none() {
        nursery.wait_for_lines("published", 200);
        child.kill().unwrap();
    }
    assert!(!child.wait().unwrap().success(), "it was killed");
    let published = nursery.lines("published");
    assert!(published.len() >= 30, "{crash_at:?}: {}", published.len());
    let (handler, heard) = listener();
    process.subscribe(subscription(Some("g"), handler));
    let last: usize = published.iter().map(|id| id[2..].parse().unwrap()).max().unwrap();
    let ids = heard.ids(last + 1);
    assert_eq!(by_stream(ids)["s"], (0..=last).collect::<Vec<_>>());
}
