//! Steps in PostgreSQL against real servers: the barrier's rules, what fails for good and what may
//! pass, lost answers, and a server that dies in the middle of random histories.
//!
//! Not prepared transactions (`postgres.rs`). Each test has a database of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::model::ids::{ClusterId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::value::Value;
use unanimity::participants::postgres::PostgresStore;
use unanimity::participants::{DeliveryAsk, ExecuteAsk, Participant, PrepareAsk};
use unanimity::reply::Reply;

use crate::support::postgres::PostgresCluster;
use crate::support::proxy::Proxy;
use crate::support::random::Random;

use Work::{Compensate, Execute};

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// A store over a fresh database with the table `account(id, balance)`.
struct Bank<'c> {
    cluster: &'c PostgresCluster,
    database: String,
    store: PostgresStore,
}

impl Bank<'static> {
    fn open() -> Self {
        Bank::on(PostgresCluster::shared())
    }
}

impl<'c> Bank<'c> {
    fn on(cluster: &'c PostgresCluster) -> Self {
        let database = cluster.create_database();
        let text = "CREATE TABLE account (id int8 PRIMARY KEY, balance int8 NOT NULL \
                    CHECK (balance >= 0)); INSERT INTO account VALUES (1, 100), (2, 100)";
        cluster.run(&database, text);
        let store = attached(&cluster.dsn(&database), &database);
        Self { cluster, database, store }
    }

    fn number(&self, query: &str) -> i64 {
        let rows = self.cluster.run(&self.database, query);
        rows[0][0].as_ref().unwrap().parse().unwrap()
    }

    fn balance(&self) -> i64 {
        self.number("SELECT balance FROM account WHERE id = 1")
    }

    fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM unanimity_barrier")
    }

    fn step(&self, id: &str, work: Work, operation: &Value) -> StepAnswer {
        wait(&begin(&self.store, ask(id, work, vec![operation.clone()])))
    }

    fn run(&self, id: &str, statement: &str) -> StepAnswer {
        self.step(id, Execute, &execute(statement, &[]))
    }

    /// Until this many sessions wait for a lock.
    fn wait_for_lock_waits(&self, count: i64) {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock'";
        let until = Instant::now() + PATIENCE;
        while self.number(query) != count {
            assert!(Instant::now() < until, "{count} sessions do not wait for a lock");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Prepares a change of an account under this id, which then has its row.
    fn hold(&self, id: &str, account: i64) {
        let text = "UPDATE account SET balance = balance - 1 WHERE id = $1";
        let asked = ask(id, Execute, vec![execute(text, &[account.into()])]);
        let (sender, votes) = channel();
        let question = PrepareAsk {
            request: asked.request,
            store: StoreName::new("bank").unwrap(),
            timeout: PATIENCE,
            attachment: None,
            fences: Arc::default(),
            keeps_receipt: false,
        };
        self.store.prepare(question, Reply::new(move |vote| sender.send(vote).unwrap()));
        assert_eq!(wait(&votes), Vote::Commit);
    }

    fn commit(&self, id: &str) {
        let (sender, answers) = channel();
        let id = ask(id, Execute, vec![execute("", &[])]).id().clone();
        let question = DeliveryAsk { id, timeout: PATIENCE, attachment: None, receipt: None };
        self.store.commit(question, Reply::new(move |answer| sender.send(answer).unwrap()));
        assert_eq!(wait(&answers), Acknowledgement::Done);
    }
}

fn attached(dsn: &str, cluster: &str) -> PostgresStore {
    let store = PostgresStore::new(dsn, "bank", 1, 8, runtime().handle().clone()).unwrap();
    store.attach(&ClusterId::new(cluster).unwrap(), &StoreName::new("bank").unwrap()).unwrap();
    store
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn execute(statement: &str, parameters: &[Value]) -> Value {
    map(&[
        ("store", "bank".into()),
        ("type", "execute".into()),
        ("statement", statement.into()),
        ("parameters", Value::List(parameters.to_vec())),
    ])
}

fn with(operation: Value, key: &str, value: Value) -> Value {
    let Value::Map(mut entries) = operation else { panic!("an operation is a map") };
    entries.push((key.to_owned(), value));
    Value::Map(entries)
}

/// Adds to the first account, and is undone by taking it away again.
fn add(amount: i64) -> Value {
    let text = "UPDATE account SET balance = balance + $1 WHERE id = 1";
    let undo = execute(text, &[(-amount).into()]);
    with(execute(text, &[amount.into()]), "compensation", undo)
}

fn ask(id: &str, work: Work, operations: Vec<Value>) -> ExecuteAsk {
    let request = CoordinationRequest::check(RequestParts {
        id: id.to_owned(),
        kind: "saga_orchestration".to_owned(),
        stores: vec!["bank".to_owned()],
        operations,
        timeout_seconds: 60.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(vec![]),
    });
    ExecuteAsk {
        request: Arc::new(request.unwrap()),
        step: 0,
        work,
        attempt: 1,
        context: Vec::new(),
        timeout: PATIENCE,
        attachment: None,
    }
}

fn begin(store: &PostgresStore, ask: ExecuteAsk) -> Receiver<StepAnswer> {
    let (sender, answers) = channel();
    store.execute(ask, Reply::new(move |answer| sender.send(answer).unwrap()));
    answers
}

fn wait<T>(answers: &Receiver<T>) -> T {
    answers.recv_timeout(PATIENCE).unwrap()
}

fn done(affected: i64) -> StepAnswer {
    StepAnswer::Done { result: map(&[("rows_affected", affected.into())]) }
}

fn failed(answer: StepAnswer) -> String {
    match answer {
        StepAnswer::Failed { message, retryable: false } => message,
        other => panic!("expected a failure for good, got {other:?}"),
    }
}

fn passing(answer: StepAnswer) -> String {
    match answer {
        StepAnswer::Failed { message, retryable: true } => message,
        other => panic!("expected a failure that may pass, got {other:?}"),
    }
}

#[test]
fn work_that_is_asked_twice_is_done_once_and_answers_as_the_first_time() {
    let bank = Bank::open();
    for (work, balance) in [(Execute, 105), (Execute, 105), (Compensate, 100), (Compensate, 100)] {
        assert_eq!((bank.step("c", work, &add(5)), bank.balance()), (done(1), balance));
    }
    let late = bank.step("c", Execute, &add(5));
    assert_eq!((failed(late), bank.balance()), ("already compensated".to_owned(), 100));
    assert_eq!(bank.rows(), 2);
}

#[test]
fn undoing_what_was_never_done_does_nothing_and_refuses_it_afterwards() {
    let bank = Bank::open();
    for _ in 0..2 {
        let undone = bank.step("c", Compensate, &add(5));
        assert_eq!(undone, StepAnswer::Done { result: Value::Null });
    }
    assert_eq!(failed(bank.step("c", Execute, &add(5))), "already compensated");
    assert_eq!((bank.balance(), bank.rows()), (100, 2));
    let nothing = with(execute("SELECT 1 AS one", &[]), "compensation", Value::Null);
    bank.step("d", Execute, &nothing);
    let undone = bank.step("d", Compensate, &nothing);
    assert_eq!(undone, StepAnswer::Done { result: Value::Null });
}

#[test]
fn another_journal_over_the_same_database_has_rows_of_its_own() {
    let bank = Bank::open();
    bank.step("c", Execute, &add(5));
    let other = attached(&bank.cluster.dsn(&bank.database), "another journal");
    assert_eq!(wait(&begin(&other, ask("c", Execute, vec![add(5)]))), done(1));
    assert_eq!(bank.balance(), 110);
}

#[test]
fn a_statement_gives_the_rows_that_it_returns_and_later_ones_can_use_them() {
    let bank = Bank::open();
    let insert = "INSERT INTO account VALUES (7, 1), (8, 2) RETURNING id, balance";
    let row = |id: i64, balance: i64| map(&[("id", id.into()), ("balance", balance.into())]);
    let rows = Value::List(vec![row(7, 1), row(8, 2)]);
    let result = map(&[("rows_affected", 2.into()), ("rows", rows)]);
    assert_eq!(bank.run("c", insert), StepAnswer::Done { result: result.clone() });
    assert_eq!(bank.run("c", insert), StepAnswer::Done { result: result.clone() });
    let path = Value::List(vec!["rows".into(), 1.into(), "id".into()]);
    let taken = map(&[("$result", "d:0".into()), ("path", path)]);
    let delete = execute("DELETE FROM account WHERE id = $1", &[taken]);
    let mut later = ask("d", Execute, vec![execute(insert, &[]), delete]);
    later.step = 1;
    let reason = failed(wait(&begin(&bank.store, later.clone())));
    assert!(reason.contains("'d:1'") && reason.contains("none at all"), "{reason}");
    later.context = vec![(0, Arc::new(result))];
    assert_eq!(wait(&begin(&bank.store, later)), done(1));
    assert_eq!(bank.number("SELECT max(id) FROM account"), 7);
}

#[test]
fn what_postgresql_refuses_fails_for_good_and_leaves_nothing() {
    let bank = Bank::open();
    let text = "CREATE TABLE child (id int8 REFERENCES account DEFERRABLE INITIALLY DEFERRED)";
    bank.cluster.run(&bank.database, text);
    let cases = [
        ("UPDATE account SET balance = -1 WHERE id = 1", "23514"),
        ("INSERT INTO account VALUES (1, 1)", "23505"),
        ("INSERT INTO child VALUES (9)", "23503"),
        ("INSERT INTO nowhere VALUES (1)", "42P01"),
        ("SELECT generate_series(1, 1001) AS n", "more than 1000 rows"),
        ("SELECT repeat('x', 1100000) AS long", "1048576 are the most"),
        ("SELECT '(1,2)'::point AS p", "write p::text"),
        ("COMMIT", "controls the transaction"),
    ];
    for (statement, part) in cases {
        let reason = failed(bank.run("c", statement));
        assert!(reason.contains(part) && reason.contains("operation 'c:0'"), "{reason}");
    }
    let none = execute("UPDATE account SET balance = 0 WHERE id = 9", &[]);
    let reason = failed(bank.step("c", Execute, &with(none, "expect_rows", 1.into())));
    assert!(reason.contains("1 were expected"), "{reason}");
    assert_eq!((bank.balance(), bank.rows()), (100, 0));
    assert_eq!(bank.number("SELECT count(*) FROM child"), 0);
}

#[test]
fn a_step_waits_for_what_is_prepared_and_gives_up_in_time() {
    let bank = Bank::open();
    bank.hold("held", 1);
    let mut asked = ask("c", Execute, vec![add(5)]);
    asked.timeout = Duration::from_millis(200);
    let reason = passing(wait(&begin(&bank.store, asked.clone())));
    assert!(reason.contains("55P03") || reason.contains("in time"), "{reason}");
    asked.timeout = PATIENCE;
    let waiting = begin(&bank.store, asked);
    bank.wait_for_lock_waits(1);
    bank.commit("held");
    assert_eq!(wait(&waiting), done(1));
    assert_eq!(bank.balance(), 104);
}

#[test]
fn many_that_ask_for_one_step_at_once_do_it_once_in_every_isolation() {
    let bank = Bank::open();
    for (index, level) in ["read committed", "repeatable read", "serializable"].iter().enumerate() {
        let name = &bank.database;
        let text = format!("ALTER DATABASE {name} SET default_transaction_isolation = '{level}'");
        bank.cluster.run("postgres", &text);
        let store = attached(&bank.cluster.dsn(&bank.database), &bank.database);
        let asked = ask(&format!("c{index}"), Execute, vec![add(5)]);
        let answers: Vec<_> = (0..6).map(|_| begin(&store, asked.clone())).collect();
        for answer in answers {
            match wait(&answer) {
                StepAnswer::Failed { retryable: true, .. } => {
                    assert_eq!(wait(&begin(&store, asked.clone())), done(1), "{level}");
                }
                answer => assert_eq!(answer, done(1), "{level}"),
            }
        }
    }
    assert_eq!((bank.balance(), bank.rows()), (115, 3));
}

#[test]
fn a_step_and_its_undoing_that_come_at_once_leave_nothing() {
    let bank = Bank::open();
    for round in 0..20 {
        let id = format!("c{round}");
        let execute = begin(&bank.store, ask(&id, Execute, vec![add(5)]));
        let compensate = begin(&bank.store, ask(&id, Compensate, vec![add(5)]));
        assert!(matches!(wait(&compensate), StepAnswer::Done { .. }));
        drop(wait(&execute));
    }
    assert_eq!((bank.balance(), bank.rows()), (100, 40));
}

#[test]
fn a_changed_table_does_not_break_statements_that_were_prepared_before() {
    let bank = Bank::open();
    let select = "SELECT * FROM account WHERE id = 1";
    bank.run("c", select);
    bank.cluster.run(&bank.database, "ALTER TABLE account ADD COLUMN note text DEFAULT 'new'");
    let StepAnswer::Done { result } = bank.run("d", select) else { panic!("it is not done") };
    assert!(result.to_json().contains("\"new\""), "{}", result.to_json());
}

#[test]
fn a_connection_that_ends_before_the_commit_has_done_nothing() {
    let bank = Bank::open();
    bank.hold("held", 1);
    let waiting = begin(&bank.store, ask("c", Execute, vec![add(5)]));
    bank.wait_for_lock_waits(1);
    let text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
    bank.cluster.run(&bank.database, text);
    assert!(passing(wait(&waiting)).contains("57P01"));
    bank.commit("held");
    assert_eq!(bank.step("c", Execute, &add(5)), done(1));
    assert_eq!(bank.balance(), 104);
}

#[test]
fn a_connection_that_ends_in_the_commit_is_unknown_and_another_try_tells() {
    let bank = Bank::open();
    // The commit waits for a row that somebody has prepared.
    let text = "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                UPDATE account SET balance = balance + 1 WHERE id = 2; RETURN NULL; END $$; \
                CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON account DEFERRABLE INITIALLY \
                DEFERRED FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION late()";
    bank.cluster.run(&bank.database, text);
    bank.hold("held", 2);
    let proxy = Proxy::before(bank.cluster.port());
    let dsn = format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.port, bank.database);
    let far = attached(&dsn, &bank.database);
    let waiting = begin(&far, ask("c", Execute, vec![add(5)]));
    bank.wait_for_lock_waits(1);
    proxy.cut();
    let StepAnswer::Unknown { message } = wait(&waiting) else { panic!("it is not unknown") };
    assert!(message.contains("COMMIT"), "{message}");
    bank.commit("held");
    assert_eq!(bank.step("c", Execute, &add(5)), done(1));
    assert_eq!((bank.balance(), bank.rows()), (105, 1));
}

#[test]
fn rows_older_than_a_month_go_at_the_start_and_younger_ones_stay() {
    let bank = Bank::open();
    for (id, days) in [("old", 31), ("young", 29)] {
        bank.step(id, Execute, &add(1));
        let text = format!(
            "UPDATE unanimity_barrier SET recorded_at = now() - interval '{days} days' \
             WHERE coordination_id = '{id}'"
        );
        bank.cluster.run(&bank.database, &text);
    }
    drop(attached(&bank.cluster.dsn(&bank.database), &bank.database));
    assert_eq!(bank.rows(), 1);
    assert_eq!(bank.step("young", Execute, &add(1)), done(1));
    assert_eq!(bank.balance(), 102);
}

const HISTORIES: usize = 1_000;
const CALLERS: usize = 4;

/// Asks until the answer is certain, as the engine does: a server may be gone for a while.
fn certain(store: &PostgresStore, asked: &ExecuteAsk) -> StepAnswer {
    let until = Instant::now() + PATIENCE;
    loop {
        match wait(&begin(store, asked.clone())) {
            StepAnswer::Failed { retryable: true, .. } | StepAnswer::Unknown { .. } => {}
            answer => return answer,
        }
        assert!(Instant::now() < until, "no certain answer came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One caller's histories, checked against what the barrier promises; gives what they leave behind
/// in the account.
fn histories(store: &PostgresStore, caller: usize, seed: u64, ended: &AtomicUsize) -> i64 {
    let mut random = Random::new(seed);
    let mut left = 0;
    for history in 0..HISTORIES / CALLERS {
        let amount = i64::try_from(history).unwrap() + 1;
        let (mut is_done, mut is_undone) = (false, false);
        for _ in 0..2 + random.below(4) {
            let work = if random.chance(65) { Execute } else { Compensate };
            let asked = ask(&format!("caller {caller} {history}"), work, vec![add(amount)]);
            // Sometimes it is asked twice at once.
            let twin = random.chance(20).then(|| begin(store, asked.clone()));
            let answer = certain(store, &asked);
            drop(twin.map(|twin| wait(&twin)));
            let is_fine = match work {
                Execute if is_undone => {
                    let message = "already compensated".to_owned();
                    answer == StepAnswer::Failed { message, retryable: false }
                }
                Execute => {
                    is_done = true;
                    answer == done(1)
                }
                Compensate => {
                    is_undone = true;
                    let empty = StepAnswer::Done { result: Value::Null };
                    answer == if is_done { done(1) } else { empty }
                }
            };
            assert!(is_fine, "seed {seed}, history {history}, {work:?}: {answer:?}");
        }
        left += if is_done && !is_undone { amount } else { 0 };
        ended.fetch_add(1, Ordering::SeqCst);
    }
    left
}

#[test]
fn a_thousand_histories_while_the_server_dies_twice_leave_what_was_done_and_not_undone() {
    let mut cluster = PostgresCluster::start(8);
    let database = cluster.create_database();
    let text = "CREATE TABLE account (id int8, balance int8); INSERT INTO account VALUES (1, 0)";
    cluster.run(&database, text);
    let store = attached(&cluster.dsn(&database), "journal");
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let ended = AtomicUsize::new(0);
    let left = std::thread::scope(|scope| {
        let (store, ended) = (&store, &ended);
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let seed = seed + u64::try_from(caller).unwrap();
                scope.spawn(move || histories(store, caller, seed, ended))
            })
            .collect();
        for part in 1..=2 {
            let until = Instant::now() + PATIENCE;
            while ended.load(Ordering::SeqCst) < HISTORIES * part / 3 {
                assert!(Instant::now() < until, "the histories do not go on");
                std::thread::sleep(Duration::from_millis(2));
            }
            cluster.crash();
            cluster.resume();
        }
        callers.into_iter().map(|caller| caller.join().unwrap()).sum::<i64>()
    });
    let rows = cluster.run(&database, "SELECT balance FROM account");
    assert_eq!(rows[0][0], Some(left.to_string()));
}
