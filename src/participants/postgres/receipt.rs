//! The receipt: the number of the transaction that was prepared, kept with the decision.
//!
//! Not the marker, which it stands in for: a marker is written in every transaction and deleted
//! afterwards, while the server keeps the fate of a transaction's number by itself, for at least
//! as long as `autovacuum_freeze_max_age` says (200,000,000 transactions). Only numbers that are
//! durable with the decision are of use, so the engine promises that when it asks.
//!
//! A prepare that is on its way when its abort finds nothing must not come through afterwards. It
//! takes a lock for its gid, shared, and then looks whether the gid was shut; an abort takes the
//! same lock alone while it shuts. The transaction holds its lock until it is over, prepared too.
//! Invariants: a look sees everything that was shut before the lock was got, because at "read
//! committed" every statement looks anew (where the server's default is another, markers are
//! used); what a transaction slips past by choosing another level itself, the sweep of what is
//! prepared rolls back.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use super::gid::Gid;
use super::marker;
use super::statement::literal;
use crate::model::outcome::Receipt;

/// Made once per connection, as that for markers. The cast fails where there is a row, and only
/// there: as a column's value it cannot be computed ahead.
pub(super) const PREPARE: &str = "PREPARE unanimity_enter(text) AS \
     SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0));\
     PREPARE unanimity_receipt(text) AS SELECT pg_current_xact_id()::text, \
     (SELECT gid::bigint FROM unanimity_prepared WHERE gid = $1);";

/// A text that fails if the gid was shut, and otherwise answers with the transaction's number.
pub(super) fn take(gid: &Gid) -> String {
    let gid = literal(&gid.text);
    format!("EXECUTE unanimity_enter({gid});EXECUTE unanimity_receipt({gid})")
}

/// A text that takes the gid's lock alone, until the end of its transaction. Its row has no
/// columns.
pub(super) fn shut(gid: &str) -> String {
    format!("SELECT FROM pg_advisory_xact_lock(hashtextextended({gid}, 0))")
}

/// Whether it says that the gid was shut.
pub(super) fn is_shut(error: &Error, gid: &Gid) -> bool {
    error.as_db_error().is_some_and(|db| {
        *db.code() == SqlState::INVALID_TEXT_REPRESENTATION && db.message().contains(&gid.text)
    })
}

/// Runs a closing text, and gives the number that is in its answers; 0 where there is none.
pub(super) async fn closed(client: &Client, text: &str) -> Result<u64, Error> {
    let answers = client.simple_query(text).await?;
    let number = answers.iter().find_map(|answer| match answer {
        // The lock's row is empty, and no number.
        SimpleQueryMessage::Row(row) => row.get(0).and_then(|text| text.parse().ok()),
        _ => None,
    });
    Ok(number.unwrap_or(0))
}

/// What the server says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    RolledBack,
    /// It is not over, or was over so long ago that the server has forgotten it.
    Unknown,
}

/// Reads what became of it.
pub(super) async fn fate(client: &Client, receipt: &Receipt) -> Result<Fate, Error> {
    let text = format!("SELECT pg_xact_status({}::xid8)", literal(receipt.as_str()));
    let row = marker::last_row(client, &text).await?;
    Ok(match row.first().and_then(Option::as_deref) {
        Some("committed") => Fate::Committed,
        Some("aborted") => Fate::RolledBack,
        _ => Fate::Unknown,
    })
}
