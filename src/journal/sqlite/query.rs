//! Questions to the tables, and the removal of what is old.
//!
//! Not answers about what is ahead of the tables: the writer brings them up to date first.
//! Invariant: only finished coordinations are ever removed.

use std::collections::HashMap;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params_from_iter};

use super::table;
use super::trouble::{Outcome, Trouble};
use crate::journal::{HistoryFilter, Space, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::TransactionState;
use crate::model::time::Timestamp;

pub(super) const STATES: &str =
    "SELECT state, count(*) FROM coordination_transactions GROUP BY state";

// What ended before the cutoff began before it too, and the beginning has an index. A record
// added to a finished coordination keeps it in the log, and then it stays here as well.
pub(super) const ENDED: &str = "FROM coordination_transactions \
    WHERE created_at < ?1 AND completed_at < ?1 \
    AND NOT EXISTS (SELECT 1 FROM distributed_locks l \
        WHERE l.coordination_id = coordination_transactions.coordination_id) \
    AND NOT EXISTS (SELECT 1 FROM lock_wait_queue q \
        WHERE q.coordination_id = coordination_transactions.coordination_id)";

/// Lists coordinations, the latest first.
pub(super) fn history(
    connection: &Connection,
    filter: &HistoryFilter,
) -> Outcome<Vec<StoredCoordination>> {
    let (sql, parameters) = history_query(filter);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(parameters))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(table::read(row)?);
    }
    Ok(found)
}

/// What is asked, and with which parameters. For each state there is a question of its own, which
/// walks the index of states in the order of time; SQLite merges them, and stops at the limit.
pub(super) fn history_query(filter: &HistoryFilter) -> (String, Vec<SqlValue>) {
    let states: Vec<Option<TransactionState>> = if filter.states.is_empty() {
        vec![None]
    } else {
        let known = TransactionState::ALL.into_iter();
        known.filter(|state| filter.states.contains(state)).map(Some).collect()
    };
    let mut questions = Vec::new();
    let mut parameters = Vec::new();
    for state in states {
        let (conditions, values) = conditions(filter, state);
        questions.push(format!(
            "SELECT {}, rowid AS row FROM coordination_transactions WHERE {conditions}",
            table::COLUMNS
        ));
        parameters.extend(values);
    }
    parameters.push(SqlValue::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    let questions = questions.join(" UNION ALL ");
    (format!("{questions} ORDER BY created_at DESC, row DESC LIMIT ?"), parameters)
}

fn conditions(filter: &HistoryFilter, state: Option<TransactionState>) -> (String, Vec<SqlValue>) {
    let mut conditions = vec!["1".to_owned()];
    let mut parameters = Vec::new();
    if let Some(state) = state {
        // The few that are open have an index of their own; the plus keeps the other one out.
        let column = if filter.open { "+state" } else { "state" };
        conditions.push(format!("{column} = ?"));
        parameters.push(SqlValue::Text(state.as_str().to_owned()));
    }
    if filter.open {
        conditions.push("completed_at IS NULL".to_owned());
    }
    if let Some(kind) = filter.kind {
        conditions.push("coordination_type = ?".to_owned());
        parameters.push(SqlValue::Text(kind.as_str().to_owned()));
    }
    if let Some(store) = &filter.store {
        conditions.push(
            "EXISTS (SELECT 1 FROM json_each(participating_stores) WHERE value = ?)".to_owned(),
        );
        parameters.push(SqlValue::Text(store.clone()));
    }
    if let Some(since) = filter.since {
        conditions.push("created_at >= ?".to_owned());
        parameters.push(SqlValue::Text(since.to_rfc3339()));
    }
    if let Some(until) = filter.until {
        conditions.push("created_at <= ?".to_owned());
        parameters.push(SqlValue::Text(until.to_rfc3339()));
    }
    (conditions.join(" AND "), parameters)
}

/// How many coordinations stand in each state.
pub(super) fn states(connection: &Connection) -> Outcome<HashMap<TransactionState, u64>> {
    let mut statement = connection.prepare_cached(STATES)?;
    let mut rows = statement.query([])?;
    let mut states = HashMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let state = TransactionState::parse(&name)
            .ok_or_else(|| Trouble::Row(format!("the state {name:?} is unknown")))?;
        let count: i64 = row.get(1)?;
        states.insert(state, u64::try_from(count).unwrap_or(0));
    }
    Ok(states)
}

/// Of these ids, those that have no row.
pub(super) fn without_row(
    connection: &Connection,
    ids: Vec<CoordinationId>,
) -> Outcome<Vec<CoordinationId>> {
    let mut unknown = Vec::new();
    for id in ids {
        if !table::exists(connection, &id)? {
            unknown.push(id);
        }
    }
    Ok(unknown)
}

/// How many [`remove_ended`] would remove in all.
pub(super) fn count_ended(connection: &Connection, cutoff: Timestamp) -> Outcome<u64> {
    let sql = format!("SELECT count(*) {ENDED}");
    let count: i64 =
        connection.prepare_cached(&sql)?.query_row([cutoff.to_rfc3339()], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How large the file is, and what is free in it.
pub(super) fn space(connection: &Connection) -> Outcome<Space> {
    let number = |pragma: &str| -> Outcome<u64> {
        let found: i64 = connection.query_row(pragma, [], |row| row.get(0))?;
        Ok(u64::try_from(found).unwrap_or(0))
    };
    let page = number("PRAGMA page_size")?;
    Ok(Space {
        bytes: page * number("PRAGMA page_count")?,
        free: page * number("PRAGMA freelist_count")?,
    })
}

/// Removes a portion of what ended before `cutoff`, inside the caller's transaction. Answers how
/// many coordinations went.
pub(super) fn remove_ended(
    connection: &Connection,
    cutoff: Timestamp,
    portion: usize,
) -> Outcome<usize> {
    let ids: Vec<String> = {
        let sql = format!("SELECT coordination_id {ENDED} ORDER BY created_at LIMIT ?2");
        let mut statement = connection.prepare_cached(&sql)?;
        let portion = i64::try_from(portion).unwrap_or(i64::MAX);
        let rows = statement.query_map((cutoff.to_rfc3339(), portion), |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    let ids_json = serde_json::to_string(&ids).map_err(|error| Trouble::Row(error.to_string()))?;
    for sql in [
        "DELETE FROM coordination_operations WHERE coordination_id IN \
         (SELECT value FROM json_each(?1))",
        "DELETE FROM coordination_transactions WHERE coordination_id IN \
         (SELECT value FROM json_each(?1))",
    ] {
        connection.prepare_cached(sql)?.execute([&ids_json])?;
    }
    Ok(ids.len())
}
