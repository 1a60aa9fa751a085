//! Brings the tables up to the log: what people query is written here, in portions.
//!
//! Not the truth: the log is, until the tables are complete up to the watermark. Invariants: a
//! portion and the new watermark are one transaction; doing a portion again, or one that another
//! process has done, changes nothing; up to the watermark the records of open coordinations are
//! kept beside the tables, so that the log's segments may go.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::log::{self, Entry};
use super::streams::Appended;
use super::trouble::{Outcome, Trouble};
use super::view::View;
use super::{event_table, held};
use crate::journal::StoredCoordination;
use crate::journal::progress::{Progress, error_message};
use crate::model::record::Record;
use crate::model::time::Timestamp;
use crate::model::value::Value;

const UPSERT_COORDINATION: &str = "
    INSERT INTO coordination_transactions (
        coordination_id, coordination_type, participating_stores, operations, state,
        timeout_seconds, consistency_level, metadata, created_at, updated_at, completed_at,
        error_message, owner, epoch, timeout_us, decision, reason_code, reason_message, outcome,
        stores_summary, steps_summary)
    VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21)
    ON CONFLICT (coordination_id) DO UPDATE SET
        state = excluded.state, updated_at = excluded.updated_at,
        completed_at = excluded.completed_at, error_message = excluded.error_message,
        owner = excluded.owner, epoch = excluded.epoch, decision = excluded.decision,
        reason_code = excluded.reason_code, reason_message = excluded.reason_message,
        outcome = excluded.outcome, stores_summary = excluded.stores_summary,
        steps_summary = excluded.steps_summary";

const UPSERT_OPERATION: &str = "
    INSERT INTO coordination_operations (
        operation_id, coordination_id, store_name, operation_type, operation_data,
        sequence_number, state, max_retries, error_message, created_at, executed_at, completed_at,
        retry_count)
    VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13)
    ON CONFLICT (coordination_id, operation_id) DO UPDATE SET
        state = excluded.state, retry_count = excluded.retry_count,
        error_message = excluded.error_message,
        executed_at = excluded.executed_at, completed_at = excluded.completed_at";

/// What is to be brought into the tables at once.
pub(super) struct Portion {
    watermark: i64,
    events: Vec<Arc<Appended>>,
    coordinations: Vec<Part>,
}

struct Part {
    stored: Arc<StoredCoordination>,
    /// Where the records of an ended one are: some of them may be kept beside the tables.
    positions: Vec<i64>,
    /// The records of an open one, up to the watermark.
    open: Vec<Entry>,
}

impl Portion {
    /// The next records that are ahead of the tables; `None` when there are none.
    pub(super) fn next(view: &View, records: usize) -> Option<Self> {
        let mut seen =
            HashSet::with_capacity_and_hasher(records, foldhash::fast::RandomState::default());
        let mut ids = Vec::with_capacity(records);
        let mut watermark = None;
        for (position, id) in view.first_unprojected(records) {
            watermark = Some(*position);
            if seen.insert(id) {
                ids.push(id);
            }
        }
        let watermark = watermark?;
        let parts = ids.into_iter().filter_map(|id| {
            let standing = view.get(id)?;
            let kept = standing.records.iter().take_while(|kept| kept.position <= watermark);
            let open = kept.map(|kept| Entry {
                position: kept.position,
                id: id.clone(),
                epoch: kept.epoch,
                at: kept.at,
                record: kept.record.clone(),
            });
            Some(Part {
                stored: Arc::clone(&standing.stored),
                positions: if standing.is_ended() {
                    standing.positions.clone()
                } else {
                    Vec::new()
                },
                open: open.collect(),
            })
        });
        let events = view.streams().up_to(watermark);
        Some(Self { watermark, events, coordinations: parts.collect() })
    }

    /// Up to where the tables will be complete.
    pub(super) fn watermark(&self) -> i64 {
        self.watermark
    }

    /// Writes it. Answers up to where the tables are complete now, which may be further.
    pub(super) fn write(&self, connection: &mut Connection) -> Outcome<i64> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before = log::watermark(&transaction)?;
        if before >= self.watermark {
            return Ok(before);
        }
        for part in &self.coordinations {
            part.write(&transaction, before)?;
        }
        for appended in self.events.iter().filter(|appended| appended.log_position > before) {
            event_table::insert(&transaction, appended)?;
        }
        log::set_watermark(&transaction, self.watermark)?;
        transaction.commit()?;
        Ok(self.watermark)
    }
}

impl Part {
    fn write(&self, transaction: &Transaction<'_>, before: i64) -> Outcome<()> {
        upsert(transaction, &self.stored)?;
        for entry in &self.open {
            log::keep(transaction, &self.stored.owner, entry)?;
            if let Record::Begin { locks, .. } = &entry.record
                && entry.position > before
            {
                held::write(transaction, &self.stored, locks)?;
            }
        }
        if self.positions.first().is_some_and(|first| *first <= before) {
            held::remove(transaction, &self.stored)?;
        }
        let kept = self.positions.partition_point(|position| *position <= before);
        log::drop_kept(transaction, &self.positions[..kept])
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
        json(&stored.steps)?,
    ])?;
    upsert_operations(connection, stored)
}

fn upsert_operations(connection: &Connection, stored: &StoredCoordination) -> Outcome<()> {
    let mut statement = connection.prepare_cached(UPSERT_OPERATION)?;
    for (sequence, operation) in stored.request.operations.iter().enumerate() {
        let progress = Progress::at(stored, sequence, operation);
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
            progress.retry_count,
        ])?;
    }
    Ok(())
}
