//! The fencing tokens that a database was shown, checked so that no pause can slip in between.
//!
//! Not the rule (`protocol/fence.rs`), and not the fence that an abort writes (`marker.rs`). The
//! table has four rows for each resource that was ever locked, one for each mode. A prepare first
//! *raises* its own row, in a transaction of its own; then, in the one that it prepares, it locks
//! the rows of all incompatible modes FOR SHARE, reads them, and judges. So whoever raises waits
//! until every incompatible holder that has judged is over, prepared ones too, and whoever judges
//! afterwards sees what was raised. Compatible holders touch each other's rows only for the moment
//! of raising, so they do not wait for each other.
//!
//! Invariants: a raised token is on disk before the vote, because PREPARE TRANSACTION flushes all
//! that came before it; rows are touched in one order, so these locks alone cannot deadlock; a
//! token that is refused already waits for nobody. No row is dropped, because nobody can know how
//! late a stopped process comes; the rows belong to no journal, as locks do not either.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::model::lock::{Fence, LockMode, ResourceId};
use crate::protocol::fence::{self, FenceMemory};

use super::statement::literal;
use crate::db::postgres::describe;

/// A numeric has room for all 64 bits. Updates that find room in their page touch no index.
pub(super) const CREATE: &str = r#"
CREATE TABLE IF NOT EXISTS unanimity_fencing_tokens (
    resource text COLLATE "C" NOT NULL,
    mode text COLLATE "C" NOT NULL,
    token numeric(20) NOT NULL,
    PRIMARY KEY (resource, mode)
) WITH (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
"#;

/// Whether the raised tokens must be on disk at once, or a PREPARE TRANSACTION will see to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Now,
    WithPrepare,
}

/// A text that raises what is shown, in a transaction of its own. `timeout` bounds the wait for
/// earlier holders that are prepared here.
pub(super) fn raise(shown: &[Fence], flush: Flush, timeout: Duration) -> String {
    // A wait that was in vain shall be told from a statement that computes too long.
    let ms = (timeout.as_millis() * 9 / 10).max(1);
    let commit = if flush == Flush::Now { "on" } else { "off" };
    let mut rows = String::new();
    for (resource, tokens) in fence::highest(shown) {
        let tokens: BTreeMap<LockMode, u64> = tokens.tokens().collect();
        for mode in LockMode::ALL {
            let comma = if rows.is_empty() { "" } else { "," };
            let token = tokens.get(&mode).copied().unwrap_or(0);
            // A later holder's token says that this one is lost. What is held together does not.
            let against = LockMode::ALL.map(|other| {
                let counts = token > 0 && !tokens.contains_key(&other);
                let word =
                    if counts && !mode.is_compatible_with(other) { other.as_str() } else { "" };
                format!("'{word}'")
            });
            let (name, against) = (literal(resource.as_str()), against.join(","));
            // Writing to a String cannot fail.
            let _ = write!(rows, "{comma}({name},'{mode}',{token}::numeric,ARRAY[{against}])");
        }
    }
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED;SET LOCAL lock_timeout = {ms};\
         SET LOCAL synchronous_commit = {commit};\
         INSERT INTO unanimity_fencing_tokens AS f (resource, mode, token) \
         SELECT s.resource, s.mode, s.token FROM (VALUES {rows}) \
         AS s(resource, mode, token, against) \
         WHERE NOT EXISTS (SELECT FROM unanimity_fencing_tokens t WHERE t.resource = s.resource \
         AND (t.mode = s.mode AND t.token >= s.token \
         OR t.mode = ANY (s.against) AND t.token > s.token)) \
         ORDER BY s.resource COLLATE \"C\", s.mode COLLATE \"C\" \
         ON CONFLICT (resource, mode) DO UPDATE SET token = EXCLUDED.token \
         WHERE f.token < EXCLUDED.token;COMMIT;"
    )
}

/// A text that reads the rows of the incompatible modes; in the transaction that is prepared they
/// are locked by it.
pub(super) fn read(shown: &[Fence], is_locking: bool) -> String {
    let mut keys: Vec<(&ResourceId, LockMode)> = Vec::new();
    for fence in shown {
        let against =
            LockMode::ALL.into_iter().filter(|mode| !fence.mode.is_compatible_with(*mode));
        keys.extend(against.map(|mode| (&fence.resource, mode)));
    }
    keys.sort_unstable();
    keys.dedup();
    let keys: Vec<String> =
        keys.iter().map(|(name, mode)| format!("({},'{mode}')", literal(name.as_str()))).collect();
    let locking = if is_locking { " FOR SHARE" } else { "" };
    format!(
        "SELECT resource, mode, token FROM unanimity_fencing_tokens \
         WHERE (resource, mode) IN ({}) ORDER BY resource, mode{locking}",
        keys.join(",")
    )
}

/// Runs a text that ends with [`read`], and judges. The inner result is the refusal.
pub(super) async fn judge(
    client: &Client,
    text: &str,
    shown: &[Fence],
) -> Result<Result<(), String>, Error> {
    let answers = client.simple_query(text).await?;
    let mut remembered: BTreeMap<ResourceId, FenceMemory> = BTreeMap::new();
    for answer in &answers {
        let SimpleQueryMessage::Row(row) = answer else { continue };
        let column = |index| row.get(index).unwrap_or_default();
        let resource = ResourceId::new(column(0)).map_err(|error| error.to_string());
        let mode = LockMode::parse(column(1)).ok_or_else(|| format!("the mode {:?}", column(1)));
        let token = column(2).parse().map_err(|_| format!("the token {:?}", column(2)));
        match (resource, mode, token) {
            (Ok(resource), Ok(mode), Ok(token)) => {
                remembered.entry(resource).or_default().raise(mode, token);
            }
            (Err(what), ..) | (_, Err(what), _) | (.., Err(what)) => {
                return Ok(Err(format!("the table unanimity_fencing_tokens has {what}")));
            }
        }
    }
    let judged = fence::check(shown, |resource| remembered.get(resource));
    Ok(judged.map(drop).map_err(|refusal| refusal.to_string()))
}

/// Why tokens could not be shown.
pub(super) fn not_shown(error: &Error) -> String {
    let cause = describe(error);
    // The server's own timeout, or ours, which has it cancel.
    let waited = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED];
    if error.code().is_some_and(|code| waited.contains(code)) {
        return format!(
            "waited in vain for what an earlier holder of the lock has prepared here ({cause}); \
             try again when that has ended"
        );
    }
    format!("its fencing tokens could not be checked: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_text_are_in_the_order_in_which_the_server_compares() {
        let fence =
            |name: &str, mode| Fence { resource: ResourceId::new(name).unwrap(), mode, token: 1 };
        let shown = [fence("b", LockMode::Shared), fence("a'", LockMode::Exclusive)];
        let text = read(&shown, true);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part} is not in {text}"));
        assert!(at("('a''','shared')") < at("('b','intent_exclusive')"));
        assert!(!text.contains("('b','shared')") && text.ends_with("FOR SHARE"));
        let text = raise(&shown, Flush::Now, Duration::from_secs(1));
        assert!(
            text.contains("('b','shared',1::numeric,ARRAY['','intent_exclusive','','exclusive'])")
        );
        assert!(text.contains("('b','exclusive',0::numeric,ARRAY['','','',''])"), "{text}");
    }
}
