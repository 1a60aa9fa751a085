//! Tests of steps in the SQLite store: what it gives, what it refuses, and whom it waits for.
//!
//! Not the rules of the barrier, which all stores share (`step_test.rs`).

use rusqlite::Connection;
use tempfile::TempDir;

use super::sqlite::SqliteStore;
use super::step_subject_test::statement;
use super::test_kit::{
    abort, answer, attach, failed, map, passing, prepare, send, step, step_ask, wait,
};
use super::*;

use Work::Execute;

fn done(result: Value) -> StepAnswer {
    StepAnswer::Done { result }
}

struct Sql {
    folder: TempDir,
    store: SqliteStore,
}

impl Sql {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = SqliteStore::new(folder.path().join("data.db"), "sqlite");
        attach(&store);
        let sql = Self { folder, store };
        let text = "CREATE TABLE t (id INTEGER PRIMARY KEY, v INT UNIQUE CHECK (v < 100))";
        sql.outsider().execute_batch(text).unwrap();
        sql
    }

    fn outsider(&self) -> Connection {
        Connection::open(self.folder.path().join("data.db")).unwrap()
    }

    fn step(&self, id: &str, text: &str) -> StepAnswer {
        step(&self.store, id, Execute, statement(text, vec![]))
    }

    fn count(&self, from: &str) -> i64 {
        let text = format!("SELECT count(*) FROM {from}");
        self.outsider().query_row(&text, [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn a_statement_gives_the_rows_that_it_returns() {
    let sql = Sql::new();
    let row = |id: i64, v: i64| map(&[("id", id.into()), ("v", v.into())]);
    let expected = |affected: i64, rows: Vec<Value>| {
        done(map(&[("rows_affected", affected.into()), ("rows", Value::List(rows))]))
    };
    let insert = "INSERT INTO t (v) VALUES (10), (20) RETURNING id, v";
    assert_eq!(sql.step("a", insert), expected(2, vec![row(1, 10), row(2, 20)]));
    let select = "SELECT id, v FROM t WHERE v > 10";
    assert_eq!(sql.step("b", select), expected(1, vec![row(2, 20)]));
    assert_eq!(sql.step("c", "SELECT id FROM t WHERE v > 99"), expected(0, vec![]));
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) \
                SELECT i FROM n";
    assert!(failed(sql.step("d", many)).contains("more than 1000 rows"));
    let long = "SELECT hex(zeroblob(600000)) AS h";
    assert!(failed(sql.step("e", long)).contains("1048576 are the most"));
    assert_eq!(sql.count("unanimity_barrier"), 3);
}

#[test]
fn what_sqlite_refuses_fails_for_good_and_leaves_nothing() {
    let sql = Sql::new();
    sql.step("first", "INSERT INTO t VALUES (1, 1)");
    let cases = [
        ("INSERT INTO t VALUES (2, 1)", "UNIQUE"),
        ("INSERT INTO t VALUES (2, 100)", "CHECK"),
        ("INSERT OR ROLLBACK INTO t VALUES (2, 1)", "UNIQUE"),
        ("INSERT INTO u VALUES (1)", "no such table"),
        ("DELETE FROM unanimity_barrier", "belongs to the coordination"),
        ("COMMIT", "begins with 'COMMIT'"),
    ];
    for (index, (text, part)) in cases.into_iter().enumerate() {
        let reason = failed(sql.step(&format!("c{index}"), text));
        assert!(reason.contains(part) && reason.contains(&format!("'c{index}:0'")), "{reason}");
    }
    assert_eq!((sql.count("t"), sql.count("unanimity_barrier")), (1, 1));
}

#[test]
fn a_foreign_key_that_is_checked_at_the_end_fails_the_step_for_good() {
    let sql = Sql::new();
    let text = "CREATE TABLE child (t INT REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)";
    sql.outsider().execute_batch(text).unwrap();
    let reason = failed(sql.step("c", "INSERT INTO child VALUES (7)"));
    assert!(reason.contains("FOREIGN KEY"), "{reason}");
    assert_eq!((sql.count("child"), sql.count("unanimity_barrier")), (0, 0));
}

#[test]
fn a_step_in_sqlite_waits_for_what_is_prepared_and_gives_up_in_time() {
    let sql = Sql::new();
    let insert = |v: i64| statement("INSERT INTO t (v) VALUES (?)", vec![v.into()]);
    assert_eq!(prepare(&sql.store, "held", vec![insert(1)]), Vote::Commit);
    let mut ask = step_ask("c", Execute, vec![insert(2)]);
    ask.timeout = Duration::from_millis(30);
    let reason = passing(answer(|reply| sql.store.execute(ask.clone(), reply)));
    assert!(reason.contains("'held'"), "{reason}");
    ask.timeout = Duration::from_secs(60);
    let waiting = send(|reply| sql.store.execute(ask, reply));
    assert_eq!(abort(&sql.store, "held"), Acknowledgement::Done);
    let answer = wait(&waiting);
    assert_eq!(answer, done(map(&[("rows_affected", 1.into())])));
    assert_eq!(sql.count("t"), 1);
}

#[test]
fn a_step_waits_for_a_writer_that_is_none_of_ours() {
    let sql = Sql::new();
    let outsider = sql.outsider();
    outsider.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut ask = step_ask("c", Execute, vec![statement("INSERT INTO t (v) VALUES (1)", vec![])]);
    ask.timeout = Duration::from_millis(30);
    let reason = passing(answer(|reply| sql.store.execute(ask.clone(), reply)));
    assert!(reason.contains("none of ours"), "{reason}");
    outsider.execute_batch("COMMIT").unwrap();
    let answer = answer(|reply| sql.store.execute(ask, reply));
    assert_eq!(answer, done(map(&[("rows_affected", 1.into())])));
}

#[test]
fn rows_older_than_a_month_go_at_the_start_and_younger_ones_stay() {
    let sql = Sql::new();
    for id in ["old", "young"] {
        sql.step(id, "SELECT 1 AS one");
    }
    let age = |days: u32, id: &str| {
        let text = "UPDATE unanimity_barrier SET recorded_at = \
                    strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', ?) WHERE coordination_id = ?";
        sql.outsider().execute(text, [format!("-{days} days"), id.to_owned()]).unwrap();
    };
    age(31, "old");
    age(29, "young");
    attach(&sql.store);
    assert_eq!(sql.count("unanimity_barrier WHERE coordination_id = 'old'"), 0);
    assert_eq!(sql.count("unanimity_barrier WHERE coordination_id = 'young'"), 1);
}
