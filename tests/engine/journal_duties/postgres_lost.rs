//! A PostgreSQL journal whose server goes away, is not ours to use, or cannot keep what it gets.
//!
//! Servers that are stopped are the test's own.

use std::collections::HashMap;

use unanimity::journal::{PostgresJournal, PostgresJournalOptions};

use super::postgres::place;
use super::*;
use crate::support::postgres::PostgresCluster;

fn refusal(dsn: &str, options: PostgresJournalOptions) -> JournalError {
    match PostgresJournal::open(dsn, options) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

/// Keeps many coordinations under way; gives the ids of those of which a commit was acknowledged,
/// and says so after every few.
fn load(desk: &Desk, over: &Receiver<()>, progress: &Sender<()>) -> Vec<CoordinationId> {
    let mut flying: HashMap<u64, (CoordinationId, bool)> = HashMap::new();
    let (mut next, mut decided, mut is_over) = (0_u64, Vec::new(), false);
    let start = |next: &mut u64, flying: &mut HashMap<u64, (CoordinationId, bool)>| {
        let name = format!("c{next}");
        *next += 1;
        let append = forced(&name, 1, begin(&*desk.journal, &name));
        flying.insert(append.token, (append.id.clone(), false));
        desk.journal.append(&mut vec![append]);
    };
    for _ in 0..32 {
        start(&mut next, &mut flying);
    }
    while !flying.is_empty() {
        let (token, answer) = desk.answer();
        assert!(matches!(answer, Answer::Recorded), "{answer:?}");
        let (id, is_decision) = flying.remove(&token).unwrap();
        is_over = is_over || over.try_recv().is_ok();
        if is_decision {
            decided.push(id);
            if decided.len() % 100 == 0 {
                // Nobody listens after the last round.
                let _ = progress.send(());
            }
            if !is_over {
                start(&mut next, &mut flying);
            }
        } else {
            let append = forced(id.as_str(), 2, decide(Decision::Commit));
            flying.insert(append.token, (id, true));
            desk.journal.append(&mut vec![append]);
        }
    }
    decided
}

#[test]
fn a_server_that_stops_and_starts_under_load_loses_nothing_that_was_acknowledged() {
    let mut cluster = PostgresCluster::start(0);
    let place = Place::database(cluster.dsn(&cluster.create_database()));
    let desk = place.desk();
    let (sender, over) = mpsc::channel();
    let (progress, progressed) = mpsc::channel();
    let loading = std::thread::spawn(move || {
        let decided = load(&desk, &over, &progress);
        (desk, decided)
    });
    for round in 0..4 {
        while progressed.try_recv().is_ok() {}
        progressed.recv_timeout(PATIENCE).expect("it goes on");
        if round % 2 == 0 {
            cluster.crash();
        } else {
            cluster.stop();
        }
        cluster.resume();
    }
    sender.send(()).unwrap();
    let (desk, decided) = loading.join().unwrap();
    assert!(decided.len() > 32, "{} were decided", decided.len());
    let found = wait(|reply| desk.journal.history(everything(), reply)).unwrap();
    let found: HashMap<_, _> =
        found.into_iter().map(|stored| (stored.request.id.clone(), stored)).collect();
    for id in decided {
        assert_eq!(found[&id].decision, Some(Decision::Commit), "{id}");
        assert_eq!(&found[&id].owner, desk.journal.instance());
    }
}

#[test]
fn while_the_server_is_gone_begins_fail_with_its_name_and_decisions_wait() {
    let mut cluster = PostgresCluster::start(0);
    let dsn = cluster.dsn(&cluster.create_database()).replace("postgres@", "postgres:hunter2@");
    let patience = Duration::from_millis(200);
    let options = PostgresJournalOptions { patience, ..Default::default() };
    let desk = Desk::over(Arc::new(PostgresJournal::open(&dsn, options).unwrap()));
    desk.put(forced("a", 1, begin(&*desk.journal, "a")));
    cluster.stop();
    let decision = forced("a", 2, decide(Decision::Commit));
    let token = decision.token;
    desk.journal.append(&mut vec![decision]);
    let trouble = desk.health.recv_timeout(PATIENCE).unwrap().expect("it cannot write");
    let answer = desk.put(forced("b", 1, begin(&*desk.journal, "b")));
    let Answer::Failed(error) = answer else { panic!("{answer:?}") };
    for words in [trouble.to_string(), error.to_string()] {
        assert!(words.contains(&format!("127.0.0.1:{}", cluster.port())), "{words}");
        assert!(words.contains("check that the server runs"), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
    let found = wait(|reply| desk.journal.find(id("a"), reply));
    assert!(matches!(found, Err(JournalError::Unavailable { .. })), "{found:?}");
    cluster.resume();
    let (answered, answer) = desk.answer();
    assert_eq!(answered, token);
    assert!(matches!(answer, Answer::Recorded), "{answer:?}");
    assert_eq!(desk.health.recv_timeout(PATIENCE).unwrap(), None);
    assert_eq!(desk.find("a").unwrap().decision, Some(Decision::Commit));
    // Whether the begin that failed stands is not known to its caller; nobody drives it, so if it
    // stands it is this process's to adopt.
    let left = desk.find("b").map(|_| "b".to_owned());
    let adopted = desk.adopt();
    let adopted: Vec<String> = adopted.iter().map(|open| open.id.to_string()).collect();
    assert_eq!(adopted, Vec::from_iter(left));
}

#[test]
fn what_cannot_be_opened_is_refused_with_what_where_and_how_to_mend_it() {
    let cluster = PostgresCluster::shared();
    let plain = PostgresJournalOptions::default;
    let dsn = "postgresql://ann:hunter2@127.0.0.1:1/none";
    let mut words = vec![refusal(dsn, plain()).to_string()];
    let database = cluster.create_database();
    words.push(
        refusal(&cluster.dsn("none").replace("postgres@", "postgres:hunter2@"), plain())
            .to_string(),
    );
    let must_exist = PostgresJournalOptions { must_exist: true, ..plain() };
    let absent = refusal(&cluster.dsn(&database), must_exist);
    assert!(absent.to_string().contains("there is none in this database"), "{absent}");
    cluster.run(&database, "CREATE TABLE consensus_log (mine int)");
    let foreign = refusal(&cluster.dsn(&database), plain());
    assert!(matches!(foreign, JournalError::Foreign { .. }), "{foreign}");
    assert!(foreign.to_string().contains("'consensus_log'"), "{foreign}");
    cluster.run(&database, "DROP TABLE consensus_log");
    drop(PostgresJournal::open(&cluster.dsn(&database), plain()).unwrap());
    cluster.run(&database, "CREATE ROLE ann LOGIN");
    let user = cluster.dsn(&database).replace("postgres@", "ann:hunter2@");
    words.push(refusal(&user, plain()).to_string());
    cluster.run(&database, "UPDATE unanimity_journal_schema SET version = 99");
    let newer = refusal(&cluster.dsn(&database), plain());
    assert!(matches!(newer, JournalError::NewerSchema { found: 99, known: 1, .. }), "{newer}");
    words.extend([absent.to_string(), foreign.to_string(), newer.to_string()]);
    for words in &words {
        assert!(words.contains("127.0.0.1:") && words.contains("database '"), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
}

#[test]
fn what_the_server_cannot_keep_fails_alone() {
    let desk = place().desk();
    let Record::Begin { request, owner, epoch, .. } = begin(&*desk.journal, "bad") else {
        panic!("a begin is a begin");
    };
    let bad = Record::Begin { request, owner, epoch, locks: vec![u64::MAX] };
    desk.journal.append(&mut vec![
        forced("good", 1, begin(&*desk.journal, "good")),
        forced("bad", 1, bad),
        forced("good", 2, decide(Decision::Commit)),
        forced("fine", 1, begin(&*desk.journal, "fine")),
    ]);
    assert!(matches!(desk.answer().1, Answer::Recorded));
    let failed = desk.answer().1;
    assert!(matches!(failed, Answer::Failed(JournalError::Unavailable { .. })), "{failed:?}");
    assert!(matches!(desk.answer().1, Answer::Recorded));
    assert!(matches!(desk.answer().1, Answer::Recorded));
    assert_eq!(desk.find("bad"), None);
    assert_eq!(desk.find("good").unwrap().decision, Some(Decision::Commit));
}

#[test]
fn a_request_comes_back_as_it_was_given() {
    let desk = place().desk();
    let operation = Value::Map(vec![
        ("type".into(), "put".into()),
        ("store".into(), "the \"store\", {of} \\ things".into()),
        ("z".into(), "before \0 a".into()),
        ("a".into(), 9_007_199_254_740_993_i64.into()),
    ]);
    let parts = RequestParts {
        id: "odd ☃".to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec!["the \"store\", {of} \\ things".to_owned()],
        operations: vec![operation],
        timeout_seconds: 0.25,
        consistency: "eventual".to_owned(),
        metadata: Value::Map(vec![("b".into(), 1.into()), ("a".into(), "\0".into())]),
    };
    let request = Arc::new(CoordinationRequest::check(parts).unwrap());
    let owner = desk.journal.instance().clone();
    let record = Record::Begin { request: request.clone(), owner, epoch: 1, locks: vec![3, 4] };
    assert!(matches!(desk.put(forced("odd ☃", 1, record)), Answer::Recorded));
    let reason = Some(Reason::new("refused", "with \0 in it"));
    let decision = Record::Decision {
        decision: Decision::Abort,
        reason,
        read_only: Vec::new(),
        receipts: Vec::new(),
    };
    assert!(matches!(desk.put(forced("odd ☃", 2, decision)), Answer::Recorded));
    let stored = desk.find("odd ☃").unwrap();
    assert_eq!(stored.request, request);
    assert_eq!(stored.locks, [3, 4]);
    assert_eq!(stored.reason.unwrap().message, "with \u{fffd} in it");
}
