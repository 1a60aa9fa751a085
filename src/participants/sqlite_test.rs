//! Tests of the SQLite store, through the port, over real files.
//!
//! The file is long because each claim of the store is a test of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::sqlite::SqliteStore;
use super::test_kit::{
    Random, STORE, abort, answer, ask, attach, cluster, commit, delivery, id, listed, map, prepare,
    refused, send, store_name, wait,
};
use super::*;

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.db");
        let place = Self { _folder: folder, path };
        place.outsider().execute_batch("CREATE TABLE t (k TEXT PRIMARY KEY, v INT)").unwrap();
        place
    }

    /// A writer that is none of ours.
    fn outsider(&self) -> Connection {
        let connection = Connection::open(&self.path).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection
    }

    fn store(&self) -> SqliteStore {
        let store = SqliteStore::new(&self.path, "sqlite");
        attach(&store);
        store
    }

    fn rows(&self, table: &str) -> i64 {
        let text = format!("SELECT count(*) FROM {table}");
        self.outsider().query_row(&text, [], |row| row.get(0)).unwrap()
    }
}

fn execute(statement: &str, parameters: Vec<Value>) -> Value {
    map(&[
        ("type", "execute".into()),
        ("statement", statement.into()),
        ("parameters", Value::List(parameters)),
    ])
}

fn expecting(statement: &str, rows: i64) -> Value {
    map(&[
        ("type", "execute".into()),
        ("statement", statement.into()),
        ("expect_rows", rows.into()),
    ])
}

fn insert(key: &str, value: i64) -> Value {
    execute("INSERT OR REPLACE INTO t VALUES (?, ?)", vec![key.into(), value.into()])
}

fn content(store: &SqliteStore) -> Vec<Vec<Value>> {
    let text = "SELECT k, v FROM t ORDER BY k".to_owned();
    answer(|reply| store.fetch(text, vec![], reply)).expect("the table can be read").rows
}

fn within(transaction: &str, milliseconds: u64, operations: Vec<Value>) -> PrepareAsk {
    PrepareAsk { timeout: Duration::from_millis(milliseconds), ..ask(transaction, operations) }
}

#[test]
fn a_prepared_change_is_seen_by_nobody_until_it_commits() {
    let place = Place::new();
    let store = place.store();
    assert_eq!(prepare(&store, "t", vec![insert("a", 1)]), Vote::Commit);
    assert_eq!(content(&store), Vec::<Vec<Value>>::new());
    assert_eq!(listed(&store), ["t"]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    assert_eq!(content(&store), [vec!["a".into(), 1.into()]]);
    assert_eq!(listed(&store), Vec::<String>::new());
    assert_eq!((place.rows("unanimity_staged"), place.rows("unanimity_applied")), (0, 1));
}

#[test]
fn an_abort_leaves_nothing_and_is_acknowledged_for_unknown_ids() {
    let place = Place::new();
    let store = place.store();
    assert_eq!(abort(&store, "never"), Acknowledgement::Done);
    prepare(&store, "t", vec![insert("a", 1)]);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    assert_eq!((place.rows("t"), place.rows("unanimity_staged")), (0, 0));
}

#[test]
fn bytes_and_numbers_come_back_as_they_went_in() {
    let place = Place::new();
    let store = place.store();
    let values = vec![Value::Bytes(vec![0, 255]), Value::Float(2.5), Value::Null];
    let operations = vec![
        execute("CREATE TABLE x (a, b, c)", vec![]),
        execute("INSERT INTO x VALUES (?, ?, ?)", values.clone()),
    ];
    assert_eq!(prepare(&store, "t", operations), Vote::Commit);
    commit(&store, "t");
    let text = "SELECT * FROM x WHERE b = ?".to_owned();
    let rows = answer(|reply| store.fetch(text, vec![Value::Float(2.5)], reply)).unwrap();
    assert_eq!(rows.rows, [values]);
}

#[test]
fn a_crash_keeps_what_was_prepared_and_its_writers_place() {
    let place = Place::new();
    drop_prepared(&place, "t");
    let store = place.store();
    assert_eq!(listed(&store), ["t"]);
    let outside = place.outsider().execute("INSERT INTO t VALUES ('b', 2)", []);
    assert!(outside.is_err(), "an outside writer got in between");
    let reason =
        refused(answer(|reply| store.prepare(within("u", 50, vec![insert("c", 3)]), reply)));
    assert!(reason.contains("'t'"), "{reason}");
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    drop(store);
    let store = place.store();
    assert_eq!(content(&store), [vec!["a".into(), 1.into()]]);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done, "the marker outlives the process");
}

fn drop_prepared(place: &Place, transaction: &str) {
    let store = place.store();
    assert_eq!(prepare(&store, transaction, vec![insert("a", 1)]), Vote::Commit);
}

#[test]
fn a_crash_then_an_abort_leaves_nothing() {
    let place = Place::new();
    drop_prepared(&place, "t");
    let store = place.store();
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!((place.rows("t"), place.rows("unanimity_staged")), (0, 0));
    assert_eq!(prepare(&store, "u", vec![insert("b", 1)]), Vote::Commit);
}

#[test]
fn what_cannot_be_applied_again_is_a_final_word_and_can_still_be_aborted() {
    let place = Place::new();
    drop_prepared(&place, "t");
    place.outsider().execute_batch("DROP TABLE t").unwrap();
    let store = place.store();
    let Acknowledgement::Failed { message } = commit(&store, "t") else { panic!("not failed") };
    assert!(message.contains("no such table"), "{message}");
    assert_eq!(listed(&store), ["t"]);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(listed(&store), Vec::<String>::new());
}

#[test]
fn a_statement_that_fails_names_itself_and_leaves_nothing() {
    let place = Place::new();
    let store = place.store();
    let reason = refused(prepare(
        &store,
        "t",
        vec![insert("a", 1), execute("INSERT INTO nowhere VALUES (1)", vec![])],
    ));
    for part in ["'t:1'", "statement 1", "no such table: nowhere"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!((place.rows("t"), place.rows("unanimity_staged")), (0, 0));
    assert_eq!(prepare(&store, "u", vec![insert("a", 1)]), Vote::Commit);
}

#[test]
fn the_expected_number_of_rows_is_checked() {
    let place = Place::new();
    let store = place.store();
    let update = "UPDATE t SET v = 2 WHERE k = 'a'";
    let reason = refused(prepare(&store, "t", vec![insert("b", 1), expecting(update, 1)]));
    assert!(reason.contains("expect_rows is 1, but it was 0"), "{reason}");
    let good = vec![insert("a", 1), expecting("CREATE TABLE u (a)", 0), expecting(update, 1)];
    assert_eq!(prepare(&store, "u", good), Vote::Commit);
    commit(&store, "u");
    assert_eq!(prepare(&store, "v", vec![expecting("SELECT * FROM t", 1)]), Vote::ReadOnly);
    refused(prepare(&store, "w", vec![expecting("SELECT * FROM t", 2)]));
}

#[test]
fn malformed_and_forbidden_operations_are_refused_with_a_reason() {
    let place = Place::new();
    let store = place.store();
    let with = |extra: (&str, Value)| {
        map(&[("type", "execute".into()), ("statement", "SELECT 1".into()), extra])
    };
    let cases = [
        (map(&[("type", "put".into())]), "knows 'execute'"),
        (map(&[("type", "execute".into())]), "no 'statement'"),
        (map(&[("type", "execute".into()), ("statement", 1.into())]), "type int"),
        (with(("parameters", 1.into())), "give a list"),
        (with(("parameters", Value::List(vec![Value::List(vec![])]))), "parameters[0]"),
        (with(("expect_rows", "1".into())), "expect_rows"),
        (execute("COMMIT", vec![]), "'COMMIT'"),
        (execute("DELETE FROM unanimity_staged", vec![]), "belongs to the coordination"),
        (execute("INSERT INTO t VALUES ('x', 1); COMMIT", vec![]), "ultiple"),
        (execute("INSERT INTO t VALUES (?, 1)", vec![]), "arameter"),
    ];
    for (operation, part) in cases {
        let reason = refused(prepare(&store, "t", vec![operation]));
        assert!(reason.contains(part) && reason.contains("'t:0'"), "{reason}");
    }
    assert_eq!((place.rows("t"), place.rows("unanimity_staged")), (0, 0));
}

#[test]
fn reading_and_nothing_at_all_are_read_only() {
    let place = Place::new();
    let store = place.store();
    assert_eq!(prepare(&store, "a", vec![]), Vote::ReadOnly);
    assert_eq!(prepare(&store, "b", vec![execute("SELECT * FROM t", vec![])]), Vote::ReadOnly);
    assert_eq!(listed(&store), Vec::<String>::new());
    assert_eq!(prepare(&store, "c", vec![insert("a", 1)]), Vote::Commit);
}

#[test]
fn a_second_prepare_of_an_id_is_refused_and_keeps_the_first() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t", vec![insert("a", 1)]);
    assert!(refused(prepare(&store, "t", vec![insert("b", 2)])).contains("'t'"));
    commit(&store, "t");
    assert_eq!(content(&store), [vec!["a".into(), 1.into()]]);
    assert!(refused(prepare(&store, "t", vec![insert("b", 2)])).contains("committed here before"));
    assert!(matches!(abort(&store, "t"), Acknowledgement::Failed { .. }));
}

#[test]
fn those_who_wait_for_the_place_are_served_first_come_first_served() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t1", vec![insert("a", 1)]);
    let second = send(|reply| store.prepare(ask("t2", vec![insert("a", 2)]), reply));
    let third = send(|reply| store.prepare(ask("t3", vec![insert("a", 3)]), reply));
    assert_eq!(listed(&store), ["t1"]);
    commit(&store, "t1");
    assert_eq!(wait(&second), Vote::Commit);
    assert_eq!(listed(&store), ["t2"]);
    assert!(third.try_recv().is_err(), "the third got in beside the second");
    abort(&store, "t2");
    assert_eq!(wait(&third), Vote::Commit);
    commit(&store, "t3");
    assert_eq!(content(&store), [vec!["a".into(), 3.into()]]);
}

#[test]
fn who_waits_too_long_is_told_who_has_the_place() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "first", vec![insert("a", 1)]);
    let began = Instant::now();
    let reason =
        refused(answer(|reply| store.prepare(within("u", 60, vec![insert("b", 1)]), reply)));
    assert!(reason.contains("busy") && reason.contains("'first'"), "{reason}");
    assert!(began.elapsed() >= Duration::from_millis(60));
    assert_eq!(commit(&store, "first"), Acknowledgement::Done);
    assert_eq!(place.rows("t"), 1);
}

#[test]
fn an_abort_drops_the_prepare_that_waits() {
    let place = Place::new();
    let store = place.store();
    prepare(&store, "t1", vec![insert("a", 1)]);
    let waiting = send(|reply| store.prepare(ask("t2", vec![insert("b", 1)]), reply));
    assert_eq!(abort(&store, "t2"), Acknowledgement::Done);
    assert!(refused(wait(&waiting)).contains("aborted"));
    assert_eq!(commit(&store, "t1"), Acknowledgement::Done);
    assert_eq!(place.rows("t"), 1);
}

#[test]
fn an_abort_cuts_the_prepare_short_that_runs() {
    let place = Place::new();
    let store = place.store();
    let endless = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT i, i FROM n WHERE i < 0";
    let running = send(|reply| store.prepare(ask("t", vec![execute(endless, vec![])]), reply));
    // The row is staged by another connection's eyes, so the statement runs or is about to.
    let began = Instant::now();
    while place.rows("unanimity_staged") == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is staged");
        std::thread::yield_now();
    }
    // An abort that comes between staging and running is taken after a run that nobody cuts
    // short, so it is repeated, as the engine does.
    while running.try_recv().is_err() {
        drop(send(|reply| store.abort(delivery("t"), reply)));
        assert!(began.elapsed() < Duration::from_secs(30), "the prepare was not cut short");
        std::thread::yield_now();
    }
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!((place.rows("t"), place.rows("unanimity_staged")), (0, 0));
    assert_eq!(prepare(&store, "u", vec![insert("a", 1)]), Vote::Commit);
}

#[test]
fn an_abort_that_races_its_prepare_leaves_nothing_behind() {
    let place = Place::new();
    let store = place.store();
    for number in 0..30 {
        let transaction = format!("t{number}");
        let vote = send(|reply| store.prepare(ask(&transaction, vec![insert("a", 1)]), reply));
        assert_eq!(abort(&store, &transaction), Acknowledgement::Done);
        assert!(matches!(wait(&vote), Vote::Commit | Vote::Abort { .. }));
        assert_eq!(listed(&store), Vec::<String>::new());
    }
    assert_eq!(place.rows("t"), 0);
}

#[test]
fn two_stores_on_one_file_exclude_each_other() {
    let place = Place::new();
    let (one, other) = (place.store(), place.store());
    prepare(&one, "t1", vec![insert("a", 1)]);
    refused(answer(|reply| other.prepare(within("t2", 50, vec![insert("b", 1)]), reply)));
    let waiting = send(|reply| other.prepare(ask("t3", vec![insert("c", 1)]), reply));
    assert_eq!(commit(&one, "t1"), Acknowledgement::Done);
    assert_eq!(wait(&waiting), Vote::Commit);
    assert_eq!(commit(&other, "t3"), Acknowledgement::Done);
    assert_eq!(place.rows("t"), 2);
}

#[test]
fn a_store_ends_what_a_dead_process_prepared_and_writes_nothing_before() {
    let place = Place::new();
    let survivor = place.store();
    drop_prepared(&place, "t");
    let reason =
        refused(answer(|reply| survivor.prepare(within("u", 50, vec![insert("a", 9)]), reply)));
    assert!(reason.contains("'t'") && reason.contains("cluster-1"), "{reason}");
    assert!(refused(prepare(&survivor, "t", vec![insert("a", 9)])).contains("already"));
    assert_eq!(listed(&survivor), ["t"]);
    assert_eq!(commit(&survivor, "t"), Acknowledgement::Done);
    assert_eq!(content(&survivor), [vec!["a".into(), 1.into()]]);
}

#[test]
fn a_recovered_transaction_is_let_go_to_the_store_that_must_end_it() {
    for is_commit in [true, false] {
        let place = Place::new();
        let survivor = place.store();
        drop_prepared(&place, "t");
        let restarted = place.store();
        assert!(place.outsider().execute("INSERT INTO t VALUES ('b', 2)", []).is_err());
        let end = if is_commit { commit } else { abort };
        assert_eq!(end(&survivor, "t"), Acknowledgement::Done);
        assert_eq!(end(&restarted, "t"), Acknowledgement::Done);
        assert_eq!(place.rows("t"), i64::from(is_commit));
    }
}

#[test]
fn another_journals_work_is_respected_and_not_listed() {
    let place = Place::new();
    let other = SqliteStore::new(&place.path, "sqlite");
    other.attach(&ClusterId::new("cluster-2").unwrap(), &store_name()).unwrap();
    prepare(&other, "t", vec![insert("a", 1)]);
    drop(other);
    let store = place.store();
    assert_eq!(listed(&store), Vec::<String>::new());
    let reason =
        refused(answer(|reply| store.prepare(within("t", 50, vec![insert("a", 2)]), reply)));
    assert!(reason.contains("cluster-2"), "{reason}");
    assert_eq!(commit(&store, "t"), Acknowledgement::NeverPrepared);
    assert_eq!(abort(&store, "t"), Acknowledgement::Done);
    assert_eq!(place.rows("unanimity_staged"), 1);
}

#[test]
fn a_deferred_foreign_key_is_found_before_the_vote() {
    let place = Place::new();
    let store = place.store();
    let tables = "CREATE TABLE child (k TEXT REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)";
    place.outsider().execute_batch(tables).unwrap();
    let child = execute("INSERT INTO child VALUES ('a')", vec![]);
    assert!(refused(prepare(&store, "t", vec![child.clone()])).contains("foreign key"));
    assert_eq!(prepare(&store, "u", vec![child, insert("a", 1)]), Vote::Commit);
    assert_eq!(commit(&store, "u"), Acknowledgement::Done);
}

#[test]
fn forgotten_markers_go_with_the_next_commit() {
    let place = Place::new();
    let store = place.store();
    for transaction in ["t1", "t2"] {
        prepare(&store, transaction, vec![insert("a", 1)]);
        commit(&store, transaction);
    }
    store.forget(vec![id("t1")]);
    prepare(&store, "t3", vec![insert("a", 1)]);
    commit(&store, "t3");
    assert_eq!(place.rows("unanimity_applied"), 2);
    assert_eq!(commit(&store, "t1"), Acknowledgement::NeverPrepared);
    store.forget(vec![id("t2"), id("t3")]);
    store.close();
    assert_eq!(place.rows("unanimity_applied"), 0);
}

#[test]
fn a_store_that_is_not_open_says_so_and_opens_again() {
    let place = Place::new();
    let store = SqliteStore::new(&place.path, "sqlite");
    assert!(refused(prepare(&store, "t", vec![insert("a", 1)])).contains("not open"));
    assert!(matches!(commit(&store, "t"), Acknowledgement::Unknown { .. }));
    assert!(content(&store).is_empty(), "reading needs no service");
    attach(&store);
    prepare(&store, "t", vec![insert("a", 1)]);
    store.close();
    assert!(matches!(abort(&store, "t"), Acknowledgement::Unknown { .. }));
    attach(&store);
    assert_eq!(commit(&store, "t"), Acknowledgement::Done);
    let nowhere = SqliteStore::new(place.path.join("x.db"), "sqlite");
    let error = nowhere.attach(&cluster(), &StoreName::new(STORE).unwrap()).unwrap_err();
    assert!(error.message.contains("x.db"), "{error}");
}

#[test]
fn random_histories_with_crashes_leave_what_was_committed() {
    let mut random = Random::new();
    let place = Place::new();
    let mut store = place.store();
    let mut model: BTreeMap<String, i64> = BTreeMap::new();
    let mut open: Option<(String, Vec<(String, i64)>)> = None;
    for number in 0..150_i64 {
        if random.below(5) == 0 {
            drop(store);
            store = place.store();
        }
        let Some((transaction, effects)) = open.take() else {
            let effects: Vec<_> =
                (0..=random.below(3)).map(|_| (format!("k{}", random.below(6)), number)).collect();
            let operations = effects.iter().map(|(key, value)| insert(key, *value)).collect();
            let transaction = format!("t{number}");
            assert_eq!(prepare(&store, &transaction, operations), Vote::Commit);
            open = Some((transaction, effects));
            continue;
        };
        if random.below(3) == 0 {
            assert_eq!(abort(&store, &transaction), Acknowledgement::Done);
        } else {
            assert_eq!(commit(&store, &transaction), Acknowledgement::Done);
            model.extend(effects);
        }
    }
    let expected: Vec<Vec<Value>> =
        model.into_iter().map(|(key, value)| vec![Value::Text(key), value.into()]).collect();
    assert_eq!(content(&store), expected);
}
