//! Brings the tables up to the log: what people query is written here, in portions.
//!
//! Not the truth: the log is, until the tables are complete up to the watermark. Invariants: a
//! portion, the new watermark and the removal of log rows that are needed no more are one
//! transaction; doing a portion again changes nothing; rows of open coordinations stay in the log.

use std::collections::HashSet;

use rusqlite::{Connection, params};

use super::trouble::{Outcome, Trouble};
use super::view::{Standing, View};
use super::{held, log};
use crate::journal::StoredCoordination;
use crate::model::operation::Operation;
use crate::model::outcome::OutcomeKind;
use crate::model::time::Timestamp;
use crate::model::value::Value;

const UPSERT_COORDINATION: &str = "
    INSERT INTO coordination_transactions (
        coordination_id, coordination_type, participating_stores, operations, state,
        timeout_seconds, consistency_level, metadata, created_at, updated_at, completed_at,
        error_message, owner, epoch, timeout_us, decision, reason_code, reason_message, outcome,
        stores_summary)
    VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20)
    ON CONFLICT (coordination_id) DO UPDATE SET
        state = excluded.state, updated_at = excluded.updated_at,
        completed_at = excluded.completed_at, error_message = excluded.error_message,
        owner = excluded.owner, epoch = excluded.epoch, decision = excluded.decision,
        reason_code = excluded.reason_code, reason_message = excluded.reason_message,
        outcome = excluded.outcome, stores_summary = excluded.stores_summary";

const UPSERT_OPERATION: &str = "
    INSERT INTO coordination_operations (
        operation_id, coordination_id, store_name, operation_type, operation_data,
        sequence_number, state, max_retries, error_message, created_at, executed_at, completed_at)
    VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)
    ON CONFLICT (coordination_id, operation_id) DO UPDATE SET
        state = excluded.state, error_message = excluded.error_message,
        executed_at = excluded.executed_at, completed_at = excluded.completed_at";

/// Writes the next portion inside the caller's transaction. Answers the new watermark, for
/// [`View::projected`] once the transaction stands; `None` when nothing is ahead.
pub(super) fn project(
    connection: &Connection,
    view: &View,
    records: usize,
) -> Outcome<Option<i64>> {
    let mut seen = HashSet::new();
    let mut watermark = None;
    let mut ids = Vec::new();
    for (position, id) in view.first_unprojected(records) {
        watermark = Some(*position);
        if seen.insert(id) {
            ids.push(id);
        }
    }
    let Some(watermark) = watermark else { return Ok(None) };
    let mut removable = Vec::new();
    for standing in ids.into_iter().filter_map(|id| view.get(id)) {
        // One whose end is further on is written once, then, and stays whole in the log till then.
        if standing.is_ended() && standing.last_position() > watermark {
            continue;
        }
        upsert(connection, &standing.stored)?;
        project_locks(connection, view.watermark(), standing)?;
        if standing.is_ended() {
            removable.extend_from_slice(&standing.positions);
        }
    }
    removable.sort_unstable();
    log::delete(connection, &removable)?;
    log::set_watermark(connection, watermark)?;
    Ok(Some(watermark))
}

/// Locks are written when the begin is projected and the end is not, and removed with the end.
fn project_locks(connection: &Connection, watermark: i64, standing: &Standing) -> Outcome<()> {
    if standing.locks.is_empty() {
        return Ok(());
    }
    let was_projected = standing.positions.first().is_some_and(|first| *first <= watermark);
    match (standing.is_ended(), was_projected) {
        (false, false) => held::write(connection, &standing.stored, &standing.locks),
        (true, true) => held::remove(connection, &standing.stored),
        _ => Ok(()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Outcome<String> {
    serde_json::to_string(value)
        .map_err(|error| Trouble::Row(format!("cannot be written: {error}")))
}

fn upsert(connection: &Connection, stored: &StoredCoordination) -> Outcome<()> {
    let request = &stored.request;
    let bodies: Vec<&Value> = request.operations.iter().map(|operation| &operation.body).collect();
    let timeout_us = i64::try_from(request.timeout.as_micros()).unwrap_or(i64::MAX);
    connection.prepare_cached(UPSERT_COORDINATION)?.execute(params![
        request.id.as_str(),
        request.kind.as_str(),
        json(&request.stores)?,
        json(&bodies)?,
        stored.state.as_str(),
        timeout_us.saturating_add(999_999) / 1_000_000,
        request.consistency.as_str(),
        json(&request.metadata)?,
        stored.created_at.to_rfc3339(),
        stored.updated_at.to_rfc3339(),
        stored.completed_at.map(Timestamp::to_rfc3339),
        error_message(stored),
        stored.owner.as_str(),
        stored.epoch,
        timeout_us,
        stored.decision.map(crate::model::outcome::Decision::as_str),
        stored.reason.as_ref().map(|reason| reason.code.as_str()),
        stored.reason.as_ref().map(|reason| reason.message.as_str()),
        stored.outcome.as_ref().map(json).transpose()?,
        json(&stored.stores)?,
    ])?;
    upsert_operations(connection, stored)
}

fn error_message(stored: &StoredCoordination) -> Option<&str> {
    let outcome = stored.outcome.as_ref().and_then(|outcome| outcome.message.as_deref());
    outcome.or(stored.reason.as_ref().map(|reason| reason.message.as_str()))
}

fn upsert_operations(connection: &Connection, stored: &StoredCoordination) -> Outcome<()> {
    let mut statement = connection.prepare_cached(UPSERT_OPERATION)?;
    for (sequence, operation) in stored.request.operations.iter().enumerate() {
        let progress = Progress::of(stored, operation);
        let max_retries = operation.body.get("max_retries").and_then(Value::as_int).unwrap_or(3);
        statement.execute(params![
            operation.id,
            stored.request.id.as_str(),
            operation.store.as_str(),
            operation.kind,
            json(&operation.body)?,
            i64::try_from(sequence).unwrap_or(i64::MAX),
            progress.state,
            max_retries,
            progress.error_message,
            stored.created_at.to_rfc3339(),
            progress.executed_at.map(Timestamp::to_rfc3339),
            progress.completed_at.map(Timestamp::to_rfc3339),
        ])?;
    }
    Ok(())
}

/// How far one operation is, as its coordination's records tell.
struct Progress<'a> {
    state: &'static str,
    error_message: Option<&'a str>,
    executed_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
}

impl<'a> Progress<'a> {
    fn of(stored: &'a StoredCoordination, operation: &Operation) -> Self {
        let summary = stored.stores.iter().find(|summary| summary.store == operation.store);
        let executed_at = summary.and_then(|summary| summary.prepare_asked_at);
        let Some(outcome) = &stored.outcome else {
            let state = if stored.decision.is_some() { "executing" } else { "pending" };
            return Self { state, error_message: None, executed_at, completed_at: None };
        };
        let acknowledged_at = summary.and_then(|summary| summary.acknowledged_at);
        let is_completed = match outcome.kind {
            OutcomeKind::Committed => true,
            OutcomeKind::Heuristic => acknowledged_at.is_some(),
            _ => false,
        };
        let note = summary.and_then(|summary| summary.note.as_deref());
        let error_message = if is_completed { None } else { note.or(error_message(stored)) };
        Self {
            state: if is_completed { "completed" } else { "failed" },
            error_message,
            executed_at,
            completed_at: acknowledged_at.or(stored.completed_at),
        }
    }
}
