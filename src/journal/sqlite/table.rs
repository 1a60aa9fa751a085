//! A coordination as a row of `coordination_transactions`: read back whole.
//!
//! Not who writes the row (projection). Invariant: what projection wrote comes back equal.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::de::DeserializeOwned;

use super::trouble::{Outcome, Trouble};
use crate::journal::StoredCoordination;
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::operation::Operation;
use crate::model::outcome::{Decision, TransactionState};
use crate::model::record::Reason;
use crate::model::request::{ConsistencyLevel, CoordinationRequest, CoordinationType, root_of};
use crate::model::time::Timestamp;
use crate::model::value::Value;

/// The columns that [`read`] needs.
pub(super) const COLUMNS: &str = "coordination_id, coordination_type, participating_stores, \
    operations, state, timeout_us, consistency_level, metadata, created_at, updated_at, \
    completed_at, owner, epoch, decision, reason_code, reason_message, outcome, stores_summary, \
    steps_summary";

/// Whether there is such a row.
pub(super) fn exists(connection: &Connection, id: &CoordinationId) -> Outcome<bool> {
    let found = connection
        .prepare_cached("SELECT 1 FROM coordination_transactions WHERE coordination_id = ?1")?
        .exists([id.as_str()])?;
    Ok(found)
}

/// The id that sorts last: ids that are minted grow with time, so most new ones are behind it.
pub(super) fn newest_id(connection: &Connection) -> Outcome<Option<CoordinationId>> {
    let newest: Option<String> = connection
        .prepare_cached("SELECT max(coordination_id) FROM coordination_transactions")?
        .query_row([], |row| row.get(0))?;
    newest
        .map(|text| CoordinationId::new(&text).map_err(|error| wrong("coordination_id", &error)))
        .transpose()
}

/// The row of this id.
pub(super) fn find(
    connection: &Connection,
    id: &CoordinationId,
) -> Outcome<Option<StoredCoordination>> {
    let sql = format!("SELECT {COLUMNS} FROM coordination_transactions WHERE coordination_id = ?1");
    connection
        .prepare_cached(&sql)?
        .query_row([id.as_str()], |row| Ok(read(row)))
        .optional()?
        .transpose()
}

/// Reads a row with [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> Outcome<StoredCoordination> {
    let id: String = row.get(0)?;
    read_columns(row, &id).map_err(|trouble| match trouble {
        Trouble::Row(found) => {
            Trouble::Row(format!("the row '{id}' of coordination_transactions: {found}"))
        }
        other => other,
    })
}

fn read_columns(row: &Row<'_>, id: &str) -> Outcome<StoredCoordination> {
    let state: String = row.get(4)?;
    let owner: String = row.get(11)?;
    let decision: Option<String> = row.get(13)?;
    let reason = match (row.get(14)?, row.get::<_, Option<String>>(15)?) {
        (Some(code), Some(message)) => Some(Reason { code, message }),
        _ => None,
    };
    let outcome: Option<String> = row.get(16)?;
    Ok(StoredCoordination {
        request: Arc::new(read_request(row, id)?),
        owner: InstanceId::new(&owner).map_err(|error| wrong("owner", &error))?,
        epoch: row.get(12)?,
        state: known("state", &state, TransactionState::parse)?,
        decision: decision.map(|text| known("decision", &text, Decision::parse)).transpose()?,
        reason,
        outcome: outcome.map(|text| json("outcome", &text)).transpose()?,
        stores: json("stores_summary", &text(row, 17)?)?,
        steps: json("steps_summary", &text(row, 18)?)?,
        created_at: timestamp("created_at", &text(row, 8)?)?,
        updated_at: timestamp("updated_at", &text(row, 9)?)?,
        completed_at: get::<Option<String>>(row, 10)?
            .map(|text| timestamp("completed_at", &text))
            .transpose()?,
        locks: Vec::new(),
    })
}

fn read_request(row: &Row<'_>, id: &str) -> Outcome<CoordinationRequest> {
    let id = CoordinationId::new(id).map_err(|error| wrong("coordination_id", &error))?;
    let bodies: Vec<Value> = json("operations", &text(row, 3)?)?;
    let operations = bodies
        .into_iter()
        .enumerate()
        .map(|(index, body)| Operation::from_value(&id, index, body))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong("operations", &error))?;
    let timeout_us: i64 = row.get(5)?;
    let metadata: Value = json("metadata", &text(row, 7)?)?;
    Ok(CoordinationRequest {
        kind: known("coordination_type", &text(row, 1)?, CoordinationType::parse)?,
        stores: json("participating_stores", &text(row, 2)?)?,
        operations,
        timeout: Duration::from_micros(u64::try_from(timeout_us).unwrap_or(0)),
        consistency: known("consistency_level", &text(row, 6)?, ConsistencyLevel::parse)?,
        root: root_of(&metadata),
        metadata,
        id,
    })
}

fn get<T: FromSql>(row: &Row<'_>, index: usize) -> Outcome<T> {
    Ok(row.get(index)?)
}

fn text(row: &Row<'_>, index: usize) -> Outcome<String> {
    get(row, index)
}

fn wrong(column: &str, error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Row(format!("{column}: {error}"))
}

fn known<T>(column: &str, name: &str, parse: impl Fn(&str) -> Option<T>) -> Outcome<T> {
    parse(name).ok_or_else(|| wrong(column, &format!("{name:?} is unknown")))
}

pub(super) fn json<T: DeserializeOwned>(column: &str, text: &str) -> Outcome<T> {
    serde_json::from_str(text).map_err(|error| wrong(column, &error))
}

pub(super) fn timestamp(column: &str, text: &str) -> Outcome<Timestamp> {
    parse_rfc3339(text).ok_or_else(|| wrong(column, &format!("{text:?} is no time of ours")))
}

/// Reads what [`Timestamp::to_rfc3339`] wrote.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix("+00:00")?.split_once('T')?;
    // From the right, so that a year before 0 keeps its sign.
    let mut date = date.rsplitn(3, '-').map(str::parse::<i64>);
    let (day, month, year) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (clock, micros) = time.split_once('.')?;
    let mut clock = clock.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp(seconds * 1_000_000 + micros.parse::<i64>().ok()?))
}

/// Days since 1970-01-01, by shifting the year to begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_shifted = (month + 9) % 12;
    let day_of_year = (153 * month_shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were_printed() {
        for micros in [0, -1, 951_782_400_000_001, 1_767_225_599_999_999, -62_000_000_000_000_000] {
            let at = Timestamp(micros);
            assert_eq!(parse_rfc3339(&at.to_rfc3339()), Some(at), "{at}");
        }
        assert_eq!(parse_rfc3339("2026-01-01 00:00:00"), None);
    }
}
