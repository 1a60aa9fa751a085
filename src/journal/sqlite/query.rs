//! Questions to the tables, and the removal of what is old.
//!
//! Not answers about what is ahead of the tables: the writer brings them up to date first.
//! Invariant: only finished coordinations are ever removed.

use std::collections::HashMap;

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, params_from_iter};

use super::table;
use super::trouble::{Outcome, Trouble};
use crate::journal::{HistoryFilter, StoredCoordination};
use crate::model::ids::CoordinationId;
use crate::model::outcome::TransactionState;
use crate::model::time::Timestamp;

/// Lists coordinations, the latest first.
pub(super) fn history(
    connection: &Connection,
    filter: &HistoryFilter,
) -> Outcome<Vec<StoredCoordination>> {
    let (conditions, parameters) = conditions(filter);
    let sql = format!(
        "SELECT {} FROM coordination_transactions WHERE {conditions} \
         ORDER BY created_at DESC, rowid DESC LIMIT ?",
        table::COLUMNS
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(parameters))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(table::read(row)?);
    }
    Ok(found)
}

fn conditions(filter: &HistoryFilter) -> (String, Vec<SqlValue>) {
    let mut conditions = vec!["1".to_owned()];
    let mut parameters = Vec::new();
    if !filter.states.is_empty() {
        let marks = vec!["?"; filter.states.len()].join(",");
        conditions.push(format!("state IN ({marks})"));
        let names = filter.states.iter().map(|state| state.as_str().to_owned());
        parameters.extend(names.map(SqlValue::Text));
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
    parameters.push(SqlValue::Integer(i64::try_from(filter.limit).unwrap_or(i64::MAX)));
    (conditions.join(" AND "), parameters)
}

/// How many coordinations stand in each state.
pub(super) fn states(connection: &Connection) -> Outcome<HashMap<TransactionState, u64>> {
    let mut statement = connection
        .prepare_cached("SELECT state, count(*) FROM coordination_transactions GROUP BY state")?;
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

/// Removes a portion of what ended before `cutoff`, inside the caller's transaction. Answers how
/// many coordinations went.
pub(super) fn remove_ended(
    connection: &Connection,
    cutoff: Timestamp,
    portion: usize,
) -> Outcome<usize> {
    // What ended before the cutoff began before it too, and the beginning has an index. A record
    // added to a finished coordination keeps it in the log, and then it stays here as well.
    let ids: Vec<String> = {
        let mut statement = connection.prepare_cached(
            "SELECT coordination_id FROM coordination_transactions \
             WHERE created_at < ?1 AND completed_at < ?1 \
             AND NOT EXISTS (SELECT 1 FROM distributed_locks l \
                 WHERE l.coordination_id = coordination_transactions.coordination_id) \
             AND NOT EXISTS (SELECT 1 FROM lock_wait_queue q \
                 WHERE q.coordination_id = coordination_transactions.coordination_id) \
             ORDER BY created_at LIMIT ?2",
        )?;
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
