//! A coordination as a row of `coordination_transactions`: read back whole, with its records.
//!
//! Not who writes it (batch). Invariant: what was written comes back equal.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_postgres::Row;

use super::link::{Link, Outcome, Trouble};
use super::values::At;
use crate::journal::{OpenCoordination, StoredCoordination};
use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::operation::Operation;
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::{Reason, Record};
use crate::model::request::{ConsistencyLevel, CoordinationRequest, CoordinationType, root_of};
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// The columns that [`Found::read`] needs, of the table `t`.
pub(super) const COLUMNS: &str = "t.coordination_id, t.coordination_type, \
    t.participating_stores, t.operations::text, t.state, t.timeout_us, t.consistency_level, \
    t.metadata::text, t.created_at, t.updated_at, t.completed_at, t.owner, t.epoch, t.decision, \
    t.reason_code, t.reason_message, t.outcome::text, t.stores_summary::text, \
    t.steps_summary::text, t.lock_tokens, t.version, t.begun_by, t.begun_epoch, t.position";

/// A row.
pub(super) struct Found {
    pub(super) stored: StoredCoordination,
    /// How many records it has.
    pub(super) version: i64,
    begun_by: InstanceId,
    begun_epoch: u32,
    pub(super) position: i64,
}

impl Found {
    /// Reads a row with [`COLUMNS`].
    pub(super) fn read(row: &Row) -> Outcome<Self> {
        let id: &str = get(row, 0)?;
        Self::columns(row, id).map_err(|trouble| match trouble {
            Trouble::Row(found) => {
                Trouble::Row(format!("the row '{id}' of coordination_transactions: {found}"))
            }
            other => other,
        })
    }

    fn columns(row: &Row, id: &str) -> Outcome<Self> {
        let instance = |column: &str, index: usize| {
            InstanceId::new(get(row, index)?).map_err(|error| wrong(column, &error))
        };
        let reason = match (get(row, 14)?, get::<Option<String>>(row, 15)?) {
            (Some(code), Some(message)) => Some(Reason { code, message }),
            _ => None,
        };
        let completed_at = get::<Option<At>>(row, 10)?.map(|at| at.0);
        let tokens: Vec<i64> = get(row, 19)?;
        let tokens = tokens.into_iter().filter_map(|token| u64::try_from(token).ok());
        let stored = StoredCoordination {
            request: Arc::new(request(row, id)?),
            owner: instance("owner", 11)?,
            epoch: epoch(row, 12)?,
            state: known("state", get(row, 4)?, TransactionState::parse)?,
            decision: get::<Option<&str>>(row, 13)?
                .map(|text| known("decision", text, Decision::parse))
                .transpose()?,
            reason,
            outcome: get::<Option<&str>>(row, 16)?.map(|text| json("outcome", text)).transpose()?,
            stores: json("stores_summary", get(row, 17)?)?,
            steps: json("steps_summary", get(row, 18)?)?,
            created_at: get::<At>(row, 8)?.0,
            updated_at: get::<At>(row, 9)?.0,
            completed_at,
            locks: if completed_at.is_none() { tokens.collect() } else { Vec::new() },
        };
        let (begun_by, begun_epoch) = (instance("begun_by", 21)?, epoch(row, 22)?);
        let (version, position) = (get(row, 20)?, get(row, 23)?);
        Ok(Self { stored, version, begun_by, begun_epoch, position })
    }

    /// With all its records: the begin is in the row, the later ones are `records`.
    pub(super) fn open(self, records: Vec<(Timestamp, Record)>) -> OpenCoordination {
        let stored = self.stored;
        let begin = Record::Begin {
            request: Arc::clone(&stored.request),
            owner: self.begun_by,
            epoch: self.begun_epoch,
            locks: stored.locks,
        };
        OpenCoordination {
            id: stored.request.id.clone(),
            owner: stored.owner,
            epoch: stored.epoch,
            records: std::iter::once((stored.created_at, begin)).chain(records).collect(),
        }
    }
}

fn request(row: &Row, id: &str) -> Outcome<CoordinationRequest> {
    let id = CoordinationId::new(id).map_err(|error| wrong("coordination_id", &error))?;
    let bodies: Vec<Value> = json("operations", get(row, 3)?)?;
    let operations = bodies
        .into_iter()
        .enumerate()
        .map(|(index, body)| Operation::from_value(&id, index, body))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("operations", &error))?;
    let stores: Vec<&str> = get(row, 2)?;
    let stores = stores.into_iter().map(StoreName::new).collect::<Result<_, _>>();
    let timeout: i64 = get(row, 5)?;
    let metadata: Value = json("metadata", get(row, 7)?)?;
    Ok(CoordinationRequest {
        kind: known("coordination_type", get(row, 1)?, CoordinationType::parse)?,
        stores: stores.map_err(|error| wrong("participating_stores", &error))?,
        operations,
        timeout: Duration::from_micros(u64::try_from(timeout).unwrap_or(0)),
        consistency: known("consistency_level", get(row, 6)?, ConsistencyLevel::parse)?,
        root: root_of(&metadata),
        metadata,
        id,
    })
}

/// The rows of these ids.
pub(super) async fn find(link: &Link, ids: &[&str]) -> Outcome<Vec<Found>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM unnest($1::text[]) AS id \
         JOIN coordination_transactions t ON t.coordination_id = id"
    );
    link.ask(&sql, &[&ids]).await?.iter().map(Found::read).collect()
}

/// The records of open ones, without their begins, each with its coordination's id.
pub(super) async fn records(
    link: &Link,
    ids: &[&str],
) -> Outcome<Vec<(String, Timestamp, Record)>> {
    let sql = "SELECT r.coordination_id, r.recorded_at, r.body FROM unnest($1::text[]) AS id \
               JOIN coordination_records r ON r.coordination_id = id \
               ORDER BY r.coordination_id, r.version";
    let rows = link.ask(sql, &[&ids]).await?;
    let read = |row: &Row| {
        let record = json("coordination_records.body", get(row, 2)?)?;
        Ok((get(row, 0)?, get::<At>(row, 1)?.0, record))
    };
    rows.iter().map(read).collect()
}

pub(super) fn get<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Outcome<T> {
    row.try_get(index).map_err(|error| Trouble::Row(error.to_string()))
}

fn epoch(row: &Row, index: usize) -> Outcome<u32> {
    u32::try_from(get::<i32>(row, index)?).map_err(|error| wrong("epoch", &error))
}

fn wrong(column: &str, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Row(format!("{column}: {error}"))
}

fn known<T>(column: &str, name: &str, parse: impl Fn(&str) -> Option<T>) -> Outcome<T> {
    parse(name).ok_or_else(|| wrong(column, &format!("{name:?} is unknown")))
}

fn json<T: DeserializeOwned>(column: &str, text: &str) -> Outcome<T> {
    serde_json::from_str(text).map_err(|error| wrong(column, &error))
}
