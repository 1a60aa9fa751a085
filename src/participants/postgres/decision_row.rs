//! The row that decides: written, forbidden, read and forgotten, in the user's database.
//!
//! Not the transaction that a decide is (`decide.rs`). Invariants: the first row of an id stands;
//! rows are written with `synchronous_commit` on; a standby, which may lag, never says that there
//! is no row.

use tokio::time::timeout;
use tokio_postgres::{Client, Error};

use crate::crash;
use crate::db::postgres::describe;
use crate::model::ids::CoordinationId;
use crate::model::outcome::Decision;
use crate::participants::last_resource::{ABORTS_KEPT, RowAsk, decode_read_only};
use crate::protocol::Standing;

use super::Inner;
use super::gid::Scope;
use super::marker::last_row;
use super::pool::Purpose;
use super::statement::literal;
use super::values::text_array;

/// The table of the rows. They come and go at the rate of coordinations, as markers do.
const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS unanimity_decisions (
    cluster_id text COLLATE "C" NOT NULL,
    coordination_id text COLLATE "C" NOT NULL,
    decision text COLLATE "C" NOT NULL CHECK (decision IN ('COMMIT', 'ABORT')),
    store_name text COLLATE "C" NOT NULL,
    read_only text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cluster_id, coordination_id)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
"#;

/// A text that has the commit wait for the disk.
pub(super) const DURABLY: &str = "SELECT set_config('synchronous_commit', 'on', true) \
                       WHERE current_setting('synchronous_commit') = 'off'";

/// A text that writes a row.
pub(super) fn insert(
    scope: &Scope,
    id: &CoordinationId,
    decision: Decision,
    read_only: &str,
) -> String {
    let [cluster, store, id, read_only] =
        [scope.cluster.as_str(), scope.store.as_str(), id.as_str(), read_only].map(literal);
    let decision = decision.as_str();
    format!(
        "INSERT INTO unanimity_decisions (cluster_id, coordination_id, decision, store_name, \
         read_only) VALUES ({cluster}, {id}, '{decision}', {store}, {read_only})"
    )
}

/// Writes a row ABORT unless one stands, and answers what stands.
pub(super) async fn forbid(inner: &Inner, ask: &RowAsk) -> Standing {
    if let Some(ended) = inner.running.stop(&ask.id)
        && timeout(ask.timeout, ended).await.is_err()
    {
        return Standing::Unknown;
    }
    within(inner, ask, async |client: &Client, scope: &Scope| {
        crash::point("store_forbid", scope.store.as_str());
        // At "read committed" the look sees what the insert has waited for.
        let text = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL lock_timeout = 1000;{DURABLY};\
             {} ON CONFLICT (cluster_id, coordination_id) DO NOTHING;{};COMMIT",
            insert(scope, &ask.id, Decision::Abort, "[]"),
            select(scope, &ask.id)
        );
        let row = last_row(client, &text).await?;
        crash::point("store_forbidden", scope.store.as_str());
        Ok(standing(&row))
    })
    .await
}

/// Answers what stands.
pub(super) async fn read(inner: &Inner, ask: &RowAsk) -> Standing {
    within(inner, ask, async |client: &Client, scope: &Scope| {
        Ok(standing(&last_row(client, &select(scope, &ask.id)).await?))
    })
    .await
}

async fn within(
    inner: &Inner,
    ask: &RowAsk,
    act: impl AsyncFnOnce(&Client, &Scope) -> Result<Standing, Error>,
) -> Standing {
    let work = async {
        let scope = inner.scope().ok_or("it was not attached")?;
        let mut lease = inner.pool.lease(Purpose::Delivery).await?;
        let standing = act(&lease.session().client, &scope).await.map_err(|e| describe(&e))?;
        lease.clean();
        Ok::<_, String>(standing)
    };
    let answer = timeout(ask.timeout, work).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    answer.unwrap_or_else(|trouble| {
        tracing::warn!(id = %ask.id, store = inner.name, trouble, "a decision cannot be read");
        Standing::Unknown
    })
}

/// A text that reads the row. One line always comes; a standby's says nothing, because it may lag.
fn select(scope: &Scope, id: &CoordinationId) -> String {
    let [cluster, id] = [scope.cluster.as_str(), id.as_str()].map(literal);
    format!(
        "SELECT pg_is_in_recovery(), d.decision, d.read_only FROM (VALUES (1)) AS one(line) \
         LEFT JOIN unanimity_decisions AS d \
         ON d.cluster_id = {cluster} AND d.coordination_id = {id}"
    )
}

fn standing(row: &[Option<String>]) -> Standing {
    let [Some(is_standby), decision, read_only] = row else { return Standing::Unknown };
    match decision.as_deref().map(Decision::parse) {
        Some(Some(decision)) => {
            let read_only = decode_read_only(read_only.as_deref().unwrap_or_default());
            Standing::Decided { decision, read_only }
        }
        None if is_standby == "f" => Standing::Open,
        _ => Standing::Unknown,
    }
}

/// A text that removes the rows COMMIT of these ids.
pub(super) fn forget(scope: &Scope, ids: &[CoordinationId]) -> String {
    let ids = literal(&text_array(ids.iter().map(CoordinationId::as_str)));
    let cluster = literal(scope.cluster.as_str());
    format!(
        "DELETE FROM unanimity_decisions WHERE cluster_id = {cluster} \
         AND coordination_id = ANY ({ids}::text[]) AND decision = 'COMMIT';"
    )
}

/// Makes the table where it is missing, and removes rows ABORT that are old.
pub(super) async fn set_up(client: &Client) -> Result<(), String> {
    let there = "SELECT to_regclass('unanimity_decisions') IS NOT NULL";
    let row = last_row(client, there).await.map_err(|error| describe(&error))?;
    if row.first().and_then(Option::as_deref) != Some("t") {
        let lock = "SELECT pg_advisory_xact_lock(hashtext('unanimity_decisions'))";
        let create = format!("BEGIN;{lock};{CREATE}COMMIT");
        client.batch_execute(&create).await.map_err(|error| {
            format!(
                "its table unanimity_decisions cannot be created: {}; grant CREATE on the first \
                 schema of the search_path to the dsn's user",
                describe(&error)
            )
        })?;
    }
    let days = ABORTS_KEPT.as_secs() / 86_400;
    let old = format!(
        "DELETE FROM unanimity_decisions \
         WHERE decision = 'ABORT' AND decided_at < now() - interval '{days} days'"
    );
    client.batch_execute(&old).await.map_err(|error| describe(&error))
}
