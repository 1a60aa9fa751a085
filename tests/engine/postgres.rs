//! The PostgreSQL participant against real servers: every duty of a participant, and what is
//! PostgreSQL's own. Each test has a database of its own, and must leave nothing prepared in it.
//! It is long because one server serves all of them.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::{CoordinationRequest, RequestParts};
use unanimity::model::value::Value;
use unanimity::participants::postgres::PostgresStore;
use unanimity::participants::{DeliveryAsk, Participant, ParticipantError, PrepareAsk, Rows};
use unanimity::reply::Reply;

use crate::support::postgres::PostgresCluster;
use crate::support::proxy::Proxy;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// A store over a fresh database with the table `account(id, balance)`.
pub(super) struct Bank<'c> {
    pub(super) cluster: &'c PostgresCluster,
    pub(super) database: String,
    /// Of its own too, because gids are shared by all databases of a server.
    pub(super) journal: String,
    pub(super) store: PostgresStore,
}

impl Bank<'static> {
    pub(super) fn open() -> Self {
        Bank::on(PostgresCluster::shared())
    }
}

impl<'c> Bank<'c> {
    pub(super) fn on(cluster: &'c PostgresCluster) -> Self {
        let database = cluster.create_database();
        cluster.run(
            &database,
            "CREATE TABLE account (id int8 PRIMARY KEY, balance int8 NOT NULL \
             CHECK (balance >= 0)); INSERT INTO account VALUES (1, 100), (2, 100)",
        );
        let journal = format!("journal of {database}");
        let store = attached(&cluster.dsn(&database), &journal, "bank").unwrap();
        Self { cluster, database, journal, store }
    }

    pub(super) fn balance(&self, id: i64) -> String {
        let text = format!("SELECT balance FROM account WHERE id = {id}");
        self.cluster.run(&self.database, &text)[0][0].clone().unwrap()
    }

    pub(super) fn count(&self, from: &str) -> u32 {
        let rows = self.cluster.run(&self.database, &format!("SELECT count(*) FROM {from}"));
        rows[0][0].as_ref().unwrap().parse().unwrap()
    }

    pub(super) fn prepared(&self) -> u32 {
        self.count("pg_prepared_xacts WHERE database = current_database()")
    }

    pub(super) fn wait_for(&self, what: &str, from: &str, count: u32) {
        let until = Instant::now() + PATIENCE;
        while self.count(from) != count {
            assert!(Instant::now() < until, "{what} did not come to {count}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn wait_for_lock_wait(&self) {
        let waiting = "pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock'";
        self.wait_for("backends that wait for a lock", waiting, 1);
    }
}

impl Drop for Bank<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.prepared(), 0, "something is left prepared");
        }
    }
}

pub(super) fn attached(
    dsn: &str,
    cluster: &str,
    name: &str,
) -> Result<PostgresStore, ParticipantError> {
    let store = PostgresStore::new(dsn, name, 1, 4, runtime().handle().clone())?;
    store.attach(&ClusterId::new(cluster).unwrap(), &StoreName::new(name).unwrap())?;
    Ok(store)
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

pub(super) fn execute(statement: &str, parameters: &[Value]) -> Value {
    map(&[
        ("store", "bank".into()),
        ("type", "execute".into()),
        ("statement", statement.into()),
        ("parameters", Value::List(parameters.to_vec())),
    ])
}

fn expecting(mut operation: Value, rows: i64) -> Value {
    if let Value::Map(entries) = &mut operation {
        entries.push(("expect_rows".to_owned(), rows.into()));
    }
    operation
}

pub(super) fn add(account: i64, amount: i64) -> Value {
    let statement = "UPDATE account SET balance = balance + $1 WHERE id = $2";
    execute(statement, &[amount.into(), account.into()])
}

pub(super) fn question(
    store: &str,
    id: &str,
    operations: Vec<Value>,
    timeout: Duration,
) -> PrepareAsk {
    let parts = RequestParts {
        id: id.to_owned(),
        kind: "two_phase_commit".to_owned(),
        stores: vec![store.to_owned()],
        operations,
        timeout_seconds: 60.0,
        consistency: "session".to_owned(),
        metadata: Value::Map(vec![]),
    };
    let request = Arc::new(CoordinationRequest::check(parts).unwrap());
    PrepareAsk {
        request,
        store: StoreName::new(store).unwrap(),
        timeout,
        attachment: None,
        fences: Arc::default(),
        keeps_receipt: false,
    }
}

fn begin_prepare(
    store: &PostgresStore,
    id: &str,
    operations: Vec<Value>,
    timeout: Duration,
) -> Receiver<Vote> {
    let (sender, answers) = channel();
    let ask = question("bank", id, operations, timeout);
    store.prepare(ask, Reply::new(move |vote| sender.send(vote).unwrap()));
    answers
}

fn prepare(store: &PostgresStore, id: &str, operations: Vec<Value>) -> Vote {
    begin_prepare(store, id, operations, PATIENCE).recv_timeout(PATIENCE).unwrap()
}

fn refusal(store: &PostgresStore, id: &str, operations: Vec<Value>) -> String {
    match prepare(store, id, operations) {
        Vote::Abort { reason } => reason,
        other => panic!("{other:?} is no refusal"),
    }
}

pub(super) fn delivery(id: &str) -> DeliveryAsk {
    DeliveryAsk {
        id: CoordinationId::new(id).unwrap(),
        timeout: PATIENCE,
        attachment: None,
        receipt: None,
    }
}

fn commit(store: &PostgresStore, id: &str) -> Acknowledgement {
    let (sender, answers) = channel();
    store.commit(delivery(id), Reply::new(move |answer| sender.send(answer).unwrap()));
    answers.recv_timeout(PATIENCE).unwrap()
}

fn abort(store: &PostgresStore, id: &str) -> Acknowledgement {
    let (sender, answers) = channel();
    store.abort(delivery(id), Reply::new(move |answer| sender.send(answer).unwrap()));
    answers.recv_timeout(PATIENCE).unwrap()
}

fn list(store: &PostgresStore) -> Vec<String> {
    let (sender, answers) = channel();
    store.list_prepared(Reply::new(move |answer| sender.send(answer).unwrap()));
    let ids = answers.recv_timeout(PATIENCE).unwrap().unwrap();
    ids.iter().map(|id| id.as_str().to_owned()).collect()
}

fn fetch(store: &PostgresStore, text: &str, values: &[Value]) -> Result<Rows, ParticipantError> {
    let (sender, answers) = channel();
    let reply = Reply::new(move |answer| sender.send(answer).unwrap());
    store.fetch(text.to_owned(), values.to_vec(), reply);
    answers.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_prepared_change_is_invisible_until_its_commit_and_commit_may_be_repeated() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "c1", vec![add(1, -30), add(2, 30)]), Vote::Commit);
    assert_eq!(bank.prepared(), 1);
    assert_eq!(bank.balance(1), "100");
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!((bank.balance(1), bank.balance(2)), ("70".to_owned(), "130".to_owned()));
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "70");
}

#[test]
fn an_abort_undoes_what_was_prepared_and_may_be_repeated() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "c1", vec![add(1, -30)]), Vote::Commit);
    assert_eq!(abort(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!(abort(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!((bank.balance(1), bank.prepared()), ("100".to_owned(), 0));
}

#[test]
fn an_unknown_id_is_acknowledged_by_abort_and_never_prepared_for_commit() {
    let bank = Bank::open();
    assert_eq!(commit(&bank.store, "nobody"), Acknowledgement::NeverPrepared);
    assert_eq!(abort(&bank.store, "stranger"), Acknowledgement::Done);
}

#[test]
fn commit_after_abort_and_abort_after_commit_are_final_words() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "c1", vec![add(1, -30)]), Vote::Commit);
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    let message = "it was committed here before".to_owned();
    assert_eq!(abort(&bank.store, "c1"), Acknowledgement::Failed { message });
    assert_eq!(abort(&bank.store, "c2"), Acknowledgement::Done);
    let message = "it was aborted here before".to_owned();
    assert_eq!(commit(&bank.store, "c2"), Acknowledgement::Failed { message });
}

#[test]
fn a_prepare_that_comes_after_its_abort_is_refused() {
    let bank = Bank::open();
    assert_eq!(abort(&bank.store, "c1"), Acknowledgement::Done);
    let reason = refusal(&bank.store, "c1", vec![add(1, -30)]);
    assert!(reason.contains("was aborted or prepared"), "{reason}");
    assert_eq!(prepare(&bank.store, "c2", vec![add(1, -30)]), Vote::Commit);
    assert_eq!(commit(&bank.store, "c2"), Acknowledgement::Done);
}

#[test]
fn a_failed_statement_aborts_with_operation_state_and_message_and_keeps_nothing() {
    let bank = Bank::open();
    for round in 0..3 {
        let id = format!("c{round}");
        let reason = refusal(&bank.store, &id, vec![add(2, 1), add(1, -101), add(2, 1)]);
        assert!(reason.starts_with(&format!("operation '{id}:1' failed")), "{reason}");
        assert!(reason.contains("23514") && reason.contains("account_balance_check"), "{reason}");
        assert_eq!((bank.balance(2), bank.prepared()), ("100".to_owned(), 0));
    }
    assert_eq!(prepare(&bank.store, "c9", vec![add(1, -100)]), Vote::Commit);
    assert_eq!(commit(&bank.store, "c9"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "0");
}

#[test]
fn a_deferred_constraint_fails_at_prepare_not_at_commit() {
    let bank = Bank::open();
    bank.cluster.run(
        &bank.database,
        "CREATE TABLE child (parent int8 REFERENCES account DEFERRABLE INITIALLY DEFERRED)",
    );
    let insert = execute("INSERT INTO child VALUES ($1)", &[77.into()]);
    let reason = refusal(&bank.store, "c1", vec![insert]);
    assert!(reason.contains("23503"), "{reason}");
    assert_eq!(bank.count("child"), 0);
}

#[test]
fn a_number_of_rows_that_was_not_expected_aborts_and_keeps_nothing() {
    let bank = Bank::open();
    let reason = refusal(&bank.store, "c1", vec![add(1, -1), expecting(add(9, 1), 1)]);
    assert_eq!(reason, "operation 'c1:1' touched 0 rows, and 1 were expected");
    assert_eq!(bank.prepared(), 0);
    assert_eq!(prepare(&bank.store, "c2", vec![expecting(add(1, -1), 1)]), Vote::Commit);
    assert_eq!(commit(&bank.store, "c2"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "99");
}

#[test]
fn operations_that_cannot_be_done_are_refused_before_anything_is_sent() {
    let bank = Bank::open();
    let put = map(&[("store", "bank".into()), ("type", "put".into())]);
    let cases = [
        (put, "use \"execute\""),
        (execute("/* a */ ; COMMIT", &[]), "controls the transaction"),
        (execute("SET search_path = x", &[]), "SET LOCAL"),
        (execute("UPDATE account SET balance = $1", &[]), "has 0 parameters"),
        (execute("UPDATE account SET balance = $1", &[Value::Bytes(vec![1])]), "is a bytes"),
        (execute("UPDATE nowhere SET a = 1", &[]), "42P01"),
        (execute("SELECT 1; DELETE FROM account", &[]), "42601"),
        (execute("DO $$ BEGIN COMMIT; END $$", &[]), "2D000"),
        (expecting(add(1, 1), -1), "expect_rows"),
    ];
    for (index, (operation, expected)) in cases.into_iter().enumerate() {
        let id = format!("c{index}");
        let reason = refusal(&bank.store, &id, vec![add(1, 5), operation]);
        assert!(reason.contains(expected) && reason.contains(&format!("'{id}:1'")), "{reason}");
        assert_eq!((bank.balance(1), bank.prepared()), ("100".to_owned(), 0));
    }
}

#[test]
fn reading_alone_is_voted_read_only_and_keeps_nothing() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "c0", vec![]), Vote::ReadOnly);
    let read = execute("SELECT * FROM account WHERE id = $1", &[1.into()]);
    assert_eq!(prepare(&bank.store, "c1", vec![expecting(read.clone(), 1)]), Vote::ReadOnly);
    let reason = refusal(&bank.store, "c2", vec![expecting(read, 2)]);
    assert!(reason.contains("touched 1 rows, and 2 were expected"), "{reason}");
    assert_eq!(bank.count("unanimity_prepared"), 0);
}

#[test]
fn a_select_that_writes_is_prepared_as_a_write() {
    let bank = Bank::open();
    bank.cluster.run(
        &bank.database,
        "CREATE FUNCTION empty(one int8) RETURNS int8 LANGUAGE sql AS \
         'UPDATE account SET balance = 0 WHERE id = one RETURNING balance'",
    );
    let call = execute("SELECT empty($1)", &[1.into()]);
    assert_eq!(prepare(&bank.store, "c1", vec![call]), Vote::Commit);
    assert_eq!(bank.balance(1), "100");
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "0");
}

#[test]
fn a_statement_may_need_what_an_earlier_one_creates() {
    let bank = Bank::open();
    let create = execute("CREATE TABLE fresh (a int8)", &[]);
    let insert = execute("INSERT INTO fresh VALUES ($1)", &[7.into()]);
    let both = vec![create.clone(), expecting(insert.clone(), 1)];
    assert_eq!(prepare(&bank.store, "c1", both), Vote::Commit);
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    assert_eq!(bank.count("fresh"), 1);
    let reason = refusal(&bank.store, "c2", vec![create, insert]);
    assert!(reason.contains("'c2:0'") && reason.contains("42P07"), "{reason}");
}

#[test]
fn a_changed_table_does_not_break_statements_that_were_prepared_before() {
    let bank = Bank::open();
    let take = execute("DELETE FROM account WHERE id = $1 RETURNING *", &[1.into()]);
    assert_eq!(prepare(&bank.store, "c1", vec![take.clone()]), Vote::Commit);
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
    bank.cluster.run(&bank.database, "ALTER TABLE account ADD COLUMN note text");
    assert_eq!(prepare(&bank.store, "c2", vec![take]), Vote::Commit);
    assert_eq!(abort(&bank.store, "c2"), Acknowledgement::Done);
}

#[test]
fn two_databases_of_one_server_take_part_in_one_coordination() {
    let (one, two) = (Bank::open(), Bank::open());
    let other = attached(&two.cluster.dsn(&two.database), &one.journal, "other").unwrap();
    assert_eq!(prepare(&one.store, "c1", vec![add(1, -30)]), Vote::Commit);
    let mut operation = add(1, 30);
    if let Value::Map(entries) = &mut operation {
        entries[0].1 = "other".into();
    }
    let (sender, answers) = channel();
    let ask = question("other", "c1", vec![operation], PATIENCE);
    other.prepare(ask, Reply::new(move |vote| sender.send(vote).unwrap()));
    assert_eq!(answers.recv_timeout(PATIENCE), Ok(Vote::Commit));
    assert_eq!((list(&one.store), list(&other)), (vec!["c1".to_owned()], vec!["c1".to_owned()]));
    assert_eq!(commit(&one.store, "c1"), Acknowledgement::Done);
    assert_eq!(commit(&other, "c1"), Acknowledgement::Done);
    assert_eq!((one.balance(1), two.balance(1)), ("70".to_owned(), "130".to_owned()));
}

#[test]
fn only_this_journals_and_this_stores_work_is_listed() {
    let bank = Bank::open();
    let dsn = bank.cluster.dsn(&bank.database);
    let foreign = attached(&dsn, "another journal", "bank").unwrap();
    assert_eq!(prepare(&bank.store, "mine:1", vec![add(1, -30)]), Vote::Commit);
    assert_eq!(prepare(&foreign, "theirs", vec![add(2, -30)]), Vote::Commit);
    assert_eq!(list(&bank.store), ["mine:1"]);
    assert_eq!(list(&foreign), ["theirs"]);
    assert_eq!(abort(&bank.store, "mine:1"), Acknowledgement::Done);
    assert_eq!(abort(&foreign, "theirs"), Acknowledgement::Done);
    assert_eq!(list(&bank.store), Vec::<String>::new());
}

#[test]
fn long_and_strange_ids_are_listed_and_committed_like_others() {
    let bank = Bank::open();
    let long = "𐍈".repeat(128);
    let other = "é".repeat(128);
    for id in [long.as_str(), other.as_str(), r"it's \ a:%'; DROP TABLE account; --"] {
        assert_eq!(prepare(&bank.store, id, vec![add(1, -1)]), Vote::Commit);
        assert_eq!(list(&bank.store), [id]);
        assert_eq!(commit(&bank.store, id), Acknowledgement::Done);
        assert_eq!(commit(&bank.store, id), Acknowledgement::Done);
    }
    assert_eq!(bank.balance(1), "97");
    bank.store.forget(vec![CoordinationId::new(&long).unwrap()]);
    bank.wait_for("kept gids", "unanimity_gids", 1);
}

#[test]
fn forgotten_markers_are_deleted_in_the_background() {
    let bank = Bank::open();
    let ids: Vec<String> = (0..5).map(|index| format!("c{index}")).collect();
    for id in &ids {
        assert_eq!(prepare(&bank.store, id, vec![add(1, -1)]), Vote::Commit);
        assert_eq!(commit(&bank.store, id), Acknowledgement::Done);
    }
    assert_eq!(bank.count("unanimity_prepared"), 5);
    bank.store.forget(ids.iter().map(|id| CoordinationId::new(id).unwrap()).collect());
    bank.wait_for("markers", "unanimity_prepared", 0);
    assert_eq!(commit(&bank.store, "c0"), Acknowledgement::NeverPrepared);
}

#[test]
fn a_lock_that_does_not_come_aborts_at_the_timeout() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "holder", vec![add(1, -1)]), Vote::Commit);
    let timeout = Duration::from_millis(400);
    let began = Instant::now();
    let vote = begin_prepare(&bank.store, "late", vec![add(2, 1), add(1, -1)], timeout);
    let vote = vote.recv_timeout(PATIENCE).unwrap();
    assert!(began.elapsed() >= timeout / 2, "after {:?}", began.elapsed());
    assert!(
        matches!(&vote, Vote::Abort { reason } if reason.contains("'late:1'")
            && reason.contains("55P03")),
        "{vote:?}"
    );
    assert_eq!(commit(&bank.store, "holder"), Acknowledgement::Done);
    assert_eq!((bank.balance(1), bank.balance(2)), ("99".to_owned(), "100".to_owned()));
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled() {
    let bank = Bank::open();
    let sleep = execute("UPDATE account SET balance = 1 WHERE pg_sleep(60) IS NULL", &[]);
    let vote = begin_prepare(&bank.store, "c1", vec![sleep], Duration::from_millis(300));
    let vote = vote.recv_timeout(PATIENCE / 2).unwrap();
    assert!(matches!(&vote, Vote::Abort { reason } if reason.contains("57014")), "{vote:?}");
}

#[test]
fn an_abort_stops_a_prepare_that_waits() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "holder", vec![add(1, -1)]), Vote::Commit);
    let waiting = begin_prepare(&bank.store, "waiter", vec![add(1, -1)], PATIENCE);
    bank.wait_for_lock_wait();
    assert_eq!(abort(&bank.store, "waiter"), Acknowledgement::Done);
    let vote = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(vote, Vote::Abort { .. }), "{vote:?}");
    assert_eq!(commit(&bank.store, "holder"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "99");
}

#[test]
fn commits_get_through_while_every_prepare_waits_for_them() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "holder", vec![add(1, -1)]), Vote::Commit);
    let ids: Vec<String> = (0..8).map(|index| format!("w{index}")).collect();
    let begin = |id: &String| begin_prepare(&bank.store, id, vec![add(1, -1)], PATIENCE);
    let mut waiting: Vec<_> = ids.iter().map(begin).collect();
    assert_eq!(commit(&bank.store, "holder"), Acknowledgement::Done);
    let mut pending = ids;
    while !pending.is_empty() {
        let until = Instant::now() + PATIENCE;
        let next = loop {
            let answered = waiting.iter().position(|answers| answers.try_recv().is_ok());
            if let Some(index) = answered {
                break index;
            }
            assert!(Instant::now() < until, "no prepare went on");
            std::thread::sleep(Duration::from_millis(2));
        };
        drop(waiting.swap_remove(next));
        assert_eq!(commit(&bank.store, &pending.swap_remove(next)), Acknowledgement::Done);
    }
    assert_eq!(bank.balance(1), "91");
}

#[test]
fn a_connection_that_the_server_ends_in_a_prepare_aborts() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "holder", vec![add(1, -1)]), Vote::Commit);
    let waiting = begin_prepare(&bank.store, "lost", vec![add(1, -1)], PATIENCE);
    bank.wait_for_lock_wait();
    bank.cluster.run(
        &bank.database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    );
    let vote = waiting.recv_timeout(PATIENCE).unwrap();
    // The server said that it ended the connection; nothing can have been prepared then.
    assert!(matches!(&vote, Vote::Abort { reason } if reason.contains("57P01")), "{vote:?}");
    assert_eq!(abort(&bank.store, "lost"), Acknowledgement::Done);
    assert_eq!(commit(&bank.store, "holder"), Acknowledgement::Done);
    assert_eq!(bank.balance(1), "99");
}

#[test]
fn a_connection_lost_in_a_prepare_is_unknown_and_what_it_sent_is_fenced_off() {
    let bank = Bank::open();
    let proxy = Proxy::before(bank.cluster.port());
    let dsn = format!("postgresql://postgres@127.0.0.1:{}/{}", proxy.port, bank.database);
    let far = attached(&dsn, &bank.journal, "bank").unwrap();
    assert_eq!(prepare(&far, "known", vec![add(2, 0)]), Vote::Commit);
    assert_eq!(abort(&far, "known"), Acknowledgement::Done);
    assert_eq!(prepare(&bank.store, "holder", vec![add(1, -1)]), Vote::Commit);
    let waiting = begin_prepare(&far, "lost", vec![add(1, -1)], PATIENCE);
    bank.wait_for_lock_wait();
    proxy.cut();
    let vote = waiting.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(&vote, Vote::Unknown { .. }), "{vote:?}");
    // The server still has all of it, and goes on when it gets the lock.
    assert_eq!(abort(&bank.store, "lost"), Acknowledgement::Done);
    assert_eq!(commit(&bank.store, "holder"), Acknowledgement::Done);
    let still = "pg_stat_activity WHERE datname = current_database() \
                 AND state NOT IN ('idle', 'idle in transaction (aborted)') \
                 AND pid <> pg_backend_pid()";
    bank.wait_for("backends that are busy", still, 0);
    assert_eq!((bank.prepared(), bank.balance(1)), (0, "99".to_owned()));
}

#[test]
fn a_server_that_cannot_prepare_is_refused_with_the_setting_to_change() {
    let cluster = PostgresCluster::start(0);
    let error = attached(&cluster.dsn("postgres"), "journal", "bank").err().unwrap();
    assert!(error.message.contains("max_prepared_transactions = 64"), "{error}");
}

#[test]
fn an_unreachable_server_is_named_without_the_password() {
    let dsn = "postgresql://ann:secret@127.0.0.1:1/nowhere";
    let error = attached(dsn, "journal", "bank").err().unwrap().message;
    assert!(error.contains("127.0.0.1:1, database 'nowhere'"), "{error}");
    assert!(error.contains("check that the server runs"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

fn survives(stop: impl Fn(&mut PostgresCluster)) {
    let mut cluster = PostgresCluster::start(64);
    let database = cluster.create_database();
    cluster.run(&database, "CREATE TABLE account (id int8, balance int8)");
    let store = attached(&cluster.dsn(&database), "journal", "bank").unwrap();
    let insert =
        |id: &str| prepare(&store, id, vec![execute("INSERT INTO account VALUES (1)", &[])]);
    assert_eq!(insert("c1"), Vote::Commit);
    stop(&mut cluster);
    assert!(matches!(commit(&store, "c1"), Acknowledgement::Unknown { .. }));
    let vote = insert("c2");
    assert!(matches!(&vote, Vote::Abort { reason } if reason.contains("cannot connect")));
    cluster.resume();
    assert_eq!(list(&store), ["c1"]);
    assert_eq!(commit(&store, "c1"), Acknowledgement::Done);
    let rows = cluster.run(
        &database,
        "SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM pg_prepared_xacts)",
    );
    assert_eq!(rows, [[Some("1".to_owned()), Some("0".to_owned())]]);
}

#[test]
fn what_was_prepared_survives_a_restart_of_the_server_and_commits_after_it() {
    survives(PostgresCluster::stop);
}

#[test]
fn what_was_prepared_survives_a_crash_of_the_server_and_commits_after_it() {
    survives(PostgresCluster::crash);
}

#[test]
fn a_closed_store_answers_that_it_is_closed_and_can_be_attached_again() {
    let bank = Bank::open();
    assert_eq!(prepare(&bank.store, "c1", vec![add(1, -1)]), Vote::Commit);
    bank.store.close();
    assert!(refusal(&bank.store, "c2", vec![add(1, -1)]).contains("is closed"));
    assert!(matches!(commit(&bank.store, "c1"), Acknowledgement::Unknown { .. }));
    let name = StoreName::new("bank").unwrap();
    bank.store.attach(&ClusterId::new(&bank.journal).unwrap(), &name).unwrap();
    assert_eq!(commit(&bank.store, "c1"), Acknowledgement::Done);
}

#[test]
fn values_come_back_as_they_went_in() {
    let bank = Bank::open();
    let cases: Vec<(&str, Value, Value)> = vec![
        ("bool", Value::Bool(true), Value::Bool(true)),
        ("int2", (-7).into(), (-7).into()),
        ("int4", i64::from(i32::MAX).into(), i64::from(i32::MAX).into()),
        ("int8", i64::MIN.into(), i64::MIN.into()),
        ("float4", Value::Float(0.1), Value::Float(0.1)),
        ("float8", Value::Float(1e300), Value::Float(1e300)),
        ("float8", "NaN".into(), "NaN".into()),
        ("text", "é '\" \\ \n".into(), "é '\" \\ \n".into()),
        ("varchar", "a".into(), "a".into()),
        ("char(3)", "a".into(), "a  ".into()),
        ("bytea", Value::Bytes(vec![0, 255, 92]), Value::Bytes(vec![0, 255, 92])),
        ("json", map(&[("a", 1.into())]), map(&[("a", 1.into())])),
        (
            "jsonb",
            Value::List(vec![1.into(), Value::Null]),
            Value::List(vec![1.into(), Value::Null]),
        ),
        ("jsonb", r#"{"$bytes": "aGk="}"#.into(), map(&[("$bytes", "aGk=".into())])),
        (
            "uuid",
            "0123ABCD-0123-4567-89ab-0123456789ab".into(),
            "0123abcd-0123-4567-89ab-0123456789ab".into(),
        ),
        ("numeric", "123456789012345678901.50".into(), "123456789012345678901.50".into()),
        ("numeric", Value::Float(1.5), "1.5".into()),
        ("timestamptz", "2024-02-29 12:00:00.5+02".into(), "2024-02-29 10:00:00.5+00".into()),
        ("timestamp", "2024-02-29 12:00:00".into(), "2024-02-29 12:00:00".into()),
        ("date", "2024-02-29".into(), "2024-02-29".into()),
        ("interval", "1 day 02:00".into(), "1 day 02:00:00".into()),
        ("inet", "10.0.0.1/8".into(), "10.0.0.1/8".into()),
        ("mood", "happy".into(), "happy".into()),
        ("small", 5.into(), 5.into()),
        (
            "int8[]",
            Value::List(vec![1.into(), Value::Null]),
            Value::List(vec![1.into(), Value::Null]),
        ),
        ("text[]", Value::List(vec!["a,\"b".into()]), Value::List(vec!["a,\"b".into()])),
        (
            "bytea[]",
            Value::List(vec![Value::Bytes(vec![9])]),
            Value::List(vec![Value::Bytes(vec![9])]),
        ),
        ("int8", Value::Null, Value::Null),
    ];
    bank.cluster.run(
        &bank.database,
        "CREATE TYPE mood AS ENUM ('happy'); CREATE DOMAIN small AS int4 CHECK (value < 10)",
    );
    for (index, (of, given, expected)) in cases.into_iter().enumerate() {
        let create = format!("SET timezone = 'UTC'; CREATE TABLE v{index} (a {of})");
        bank.cluster.run(&bank.database, &create);
        let insert = execute(&format!("INSERT INTO v{index} VALUES ($1)"), &[given]);
        let id = format!("c{index}");
        assert_eq!(prepare(&bank.store, &id, vec![insert]), Vote::Commit, "{of}");
        assert_eq!(commit(&bank.store, &id), Acknowledgement::Done);
        let rows = fetch(&bank.store, &format!("SELECT a FROM v{index} -- all"), &[]).unwrap();
        assert_eq!(rows.columns, ["a"]);
        assert_eq!(rows.rows, [[expected]], "{of}");
    }
}

#[test]
fn fetch_reads_with_parameters_keeps_order_and_refuses_to_write() {
    let bank = Bank::open();
    let text = "SELECT id, balance::numeric AS id, now() IS NULL AS old FROM account \
                WHERE id >= $1 ORDER BY account.id DESC;";
    let rows = fetch(&bank.store, text, &[1.into()]).unwrap();
    assert_eq!(rows.columns, ["id", "id", "old"]);
    let row = |id: i64| vec![id.into(), "100".into(), Value::Bool(false)];
    assert_eq!(rows.rows, [row(2), row(1)]);
    let error = fetch(&bank.store, "DELETE FROM account RETURNING id", &[]).unwrap_err();
    assert!(error.message.contains("25006"), "{error}");
    let error = fetch(&bank.store, "SELECT $1::int8", &[]).unwrap_err();
    assert!(error.message.contains("has 0 parameters"), "{error}");
    assert_eq!(bank.count("account"), 2);
}
