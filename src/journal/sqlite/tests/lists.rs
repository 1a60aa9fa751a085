//! Lists and removal stay quick however long the history is: by the plans of their questions, and
//! not by a clock.

use rusqlite::params_from_iter;
use rusqlite::types::Value as SqlValue;

use super::*;
use crate::journal::HistoryFilter;
use crate::journal::sqlite::query;

/// A journal with enough in it that a plan is worth something.
fn filled() -> (tempfile::TempDir, Connection) {
    let (folder, path) = folder();
    let desk = Desk::open(&path);
    for number in 0..40 {
        let decision = if number % 4 == 0 { Decision::Abort } else { Decision::Commit };
        desk.whole(&format!("c{number:02}"), number, decision);
    }
    desk.put(forced("open", 99, begin(&*desk.journal, "open")));
    assert_eq!(desk.history(everything()).len(), 41);
    desk.journal.close();
    let connection = Connection::open(path).unwrap();
    (folder, connection)
}

fn plan(connection: &Connection, sql: &str, parameters: Vec<SqlValue>) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let rows = statement.query_map(params_from_iter(parameters), |row| row.get(3)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn plan_of(connection: &Connection, filter: &HistoryFilter) -> String {
    let (sql, parameters) = query::history_query(filter);
    plan(connection, &sql, parameters).join("; ")
}

fn some() -> HistoryFilter {
    HistoryFilter { limit: 10, ..HistoryFilter::default() }
}

#[test]
fn every_list_walks_an_index_and_sorts_nothing() {
    use TransactionState::{Aborted, Committed, Failed};
    let (_folder, connection) = filled();
    let moment = Some(Timestamp(20));
    let by_time = "idx_coordination_transactions_created_at";
    let by_state = "idx_coordination_transactions_state";
    let open = "idx_coordination_transactions_open";
    let cases = [
        (some(), by_time),
        (HistoryFilter { since: moment, ..some() }, by_time),
        (HistoryFilter { until: moment, ..some() }, by_time),
        (HistoryFilter { states: vec![Committed], ..some() }, by_state),
        (HistoryFilter { states: vec![Committed, Aborted, Failed], ..some() }, by_state),
        (HistoryFilter { states: vec![Aborted], since: moment, until: moment, ..some() }, by_state),
        (HistoryFilter { open: true, ..some() }, open),
        (HistoryFilter { open: true, states: vec![Failed], ..some() }, open),
    ];
    for (filter, index) in cases {
        let plan = plan_of(&connection, &filter);
        assert!(plan.contains(index), "{filter:?}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "it sorts: {filter:?}: {plan}");
        let others = [by_time, by_state, open].into_iter().filter(|other| *other != index);
        assert!(others.into_iter().all(|other| !plan.contains(other)), "{filter:?}: {plan}");
    }
}

#[test]
fn states_are_counted_without_their_rows_and_removal_begins_at_the_oldest() {
    let (_folder, connection) = filled();
    let counting = plan(&connection, query::STATES, Vec::new()).join("; ");
    assert!(counting.contains("COVERING INDEX idx_coordination_transactions_state"), "{counting}");
    let sql = format!("SELECT coordination_id {} ORDER BY created_at LIMIT ?2", query::ENDED);
    let cutoff = SqlValue::Text(Timestamp(30).to_rfc3339());
    let removing = plan(&connection, &sql, vec![cutoff, SqlValue::Integer(5)]).join("; ");
    assert!(removing.contains("idx_coordination_transactions_created_at (created_at<?)"));
    assert!(!removing.contains("TEMP B-TREE") && !removing.contains("SCAN"), "{removing}");
}

#[test]
fn several_states_come_in_one_order_of_time() {
    let (_folder, path) = folder();
    let desk = Desk::open(&path);
    for number in 0..9 {
        let decision = if number % 3 == 0 { Decision::Abort } else { Decision::Commit };
        desk.whole(&format!("c{number}"), number, decision);
    }
    let states = vec![TransactionState::Aborted, TransactionState::Committed];
    let filter = HistoryFilter { states, limit: 4, ..HistoryFilter::default() };
    assert_eq!(desk.history(filter), ["c8", "c7", "c6", "c5"]);
}

#[test]
fn room_that_is_free_in_the_file_is_given_back() {
    let (_folder, path) = folder();
    let desk = Desk::open(&path);
    for number in 0..200 {
        desk.whole(&format!("c{number}"), number, Decision::Commit);
    }
    desk.put(forced("open", 999, begin(&*desk.journal, "open")));
    assert_eq!(wait(|reply| desk.journal.retain(Duration::ZERO, reply)), Ok(200));
    let status = wait(|reply| desk.journal.status(reply)).unwrap();
    let before = status.space.expect("a file has a size");
    assert!(before.free > 0, "{before:?}");
    let given = wait(|reply| desk.journal.shrink(reply)).unwrap();
    assert!(given >= before.free, "{given} of {before:?}");
    let after = wait(|reply| desk.journal.status(reply)).unwrap().space.expect("a size");
    assert_eq!((after.bytes, after.free), (before.bytes - given, 0));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), after.bytes, "nobody else reads it");
    desk.whole("later", 1_000, Decision::Commit);
    assert_eq!(desk.history(everything()), ["later", "open"]);
}
