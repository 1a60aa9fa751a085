//! Takes over what dead processes left open.
//!
//! Not what is done with it: that is the engine's recovery. Invariants: of several adopters one
//! gets a coordination, under a higher epoch than anybody had; it is handed over when the record of
//! its adoption is on the server's disk; what two processes claim at once neither waits for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::alive::{self, Census};
use super::judge::Standing;
use super::link::{Link, Outcome, Trouble};
use super::reader::now;
use super::shared::Inner;
use super::table::{self, COLUMNS, Found, get};
use super::values::At;
use crate::crash;
use crate::journal::OpenCoordination;
use crate::model::ids::{CoordinationId, InstanceId, StoreName};
use crate::model::record::Record;
use crate::model::request::CoordinationType;
use crate::model::time::Timestamp;

const OPEN: &str = "SELECT coordination_id, coordination_type, participating_stores \
     FROM coordination_transactions WHERE completed_at IS NULL \
     AND (owner <> ALL($1::text[]) OR (owner = $2::text AND coordination_id = ANY($3::text[]))) \
     ORDER BY position";

/// Claims what `stores` suffice for, and gives it in the order in which it began. `abandoned` are
/// this process's own that nobody here drives.
pub(super) async fn adopt(
    link: &Link,
    inner: &Inner,
    stores: &[StoreName],
    abandoned: &HashSet<CoordinationId>,
) -> Outcome<Vec<(Standing, OpenCoordination)>> {
    let census = alive::census(link, inner).await?;
    let claim = Claim::new(inner, &census, abandoned);
    let ids = claim.candidates(link, stores).await?;
    let mut found = Vec::new();
    for portion in ids.chunks(inner.options.portion.max(1)) {
        crash::point("before_record", "adopted");
        crash::point("before_sync", "adopted");
        found.extend(claim.claim(link, portion).await?);
        crash::point("after_record", "adopted");
    }
    alive::bury(link, &census.dead).await?;
    with_records(link, found).await
}

struct Claim<'a> {
    own: &'a str,
    alive: Vec<&'a str>,
    abandoned: Vec<&'a str>,
}

impl<'a> Claim<'a> {
    fn new(inner: &'a Inner, census: &'a Census, abandoned: &'a HashSet<CoordinationId>) -> Self {
        Self {
            own: inner.own.as_str(),
            alive: census.alive.iter().map(InstanceId::as_str).collect(),
            abandoned: abandoned.iter().map(CoordinationId::as_str).collect(),
        }
    }

    /// The open coordinations without a living owner that this process has the stores for.
    async fn candidates(&self, link: &Link, stores: &[StoreName]) -> Outcome<Vec<String>> {
        let rows = link.ask(OPEN, &[&self.alive, &self.own, &self.abandoned]).await?;
        let mut ids = Vec::new();
        for row in &rows {
            let needed: Vec<&str> = get(row, 2)?;
            let goes_to_its_stores =
                get::<&str>(row, 1)? == CoordinationType::SagaChoreography.as_str();
            let has = |name: &&str| stores.iter().any(|store| store.as_str() == *name);
            if goes_to_its_stores || needed.iter().all(has) {
                ids.push(get(row, 0)?);
            }
        }
        Ok(ids)
    }

    async fn claim(&self, link: &Link, ids: &[String]) -> Outcome<Vec<Found>> {
        let sql = format!(
            "WITH picked AS (SELECT coordination_id FROM coordination_transactions \
                 WHERE coordination_id = ANY($1::text[]) AND completed_at IS NULL \
                 AND (owner <> ALL($2::text[]) \
                     OR (owner = $3::text AND coordination_id = ANY($4::text[]))) \
                 ORDER BY position FOR UPDATE SKIP LOCKED), \
             claimed AS (UPDATE coordination_transactions t SET owner = $3::text, \
                 epoch = t.epoch + 1, version = t.version + 1, \
                 updated_at = $5::timestamptz FROM picked p \
                 WHERE t.coordination_id = p.coordination_id RETURNING t.*), \
             kept AS (INSERT INTO coordination_records \
                 SELECT coordination_id, version, epoch, 'adopted', $5::timestamptz, \
                 json_build_object( \
                     'record', 'adopted', 'owner', owner, 'epoch', epoch)::text FROM claimed) \
             SELECT {COLUMNS} FROM claimed t"
        );
        let at = At(now());
        let rows = link.ask(&sql, &[&ids, &self.alive, &self.own, &self.abandoned, &at]).await?;
        rows.iter().map(Found::read).collect()
    }
}

/// In the order in which they began.
async fn with_records(
    link: &Link,
    mut found: Vec<Found>,
) -> Outcome<Vec<(Standing, OpenCoordination)>> {
    found.sort_unstable_by_key(|found| found.position);
    let ids: Vec<String> = found.iter().map(|found| found.stored.request.id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut records: HashMap<String, Vec<(Timestamp, Record)>> = HashMap::new();
    if !ids.is_empty() {
        for (id, at, record) in table::records(link, &ids).await? {
            records.entry(id).or_default().push((at, record));
        }
    }
    let mut open = Vec::with_capacity(found.len());
    for one in found {
        let stored = Arc::new(one.stored.clone());
        let standing = Standing { stored, version: one.version };
        let later = records.remove(one.stored.request.id.as_str()).unwrap_or_default();
        if i64::try_from(later.len() + 1) != Ok(one.version) {
            return Err(Trouble::Row(format!(
                "'{}' has {} records where {} are counted",
                one.stored.request.id,
                later.len() + 1,
                one.version
            )));
        }
        open.push((standing, one.open(later)));
    }
    Ok(open)
}
