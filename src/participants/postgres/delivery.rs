//! Commit, abort, and the list of what is prepared.
//!
//! Not the timeout of a question: the caller cuts these off. Invariants: "never prepared" and
//! "committed before" are said only from the receipt or the marker; an abort is acknowledged only
//! when nothing is prepared and nothing of it can be prepared any more.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::crash;
use crate::model::ids::CoordinationId;
use crate::model::outcome::{Acknowledgement, Receipt};
use crate::participants::DeliveryAsk;

use super::gid::{Gid, Scope};
use super::marker::{self, Mark};
use super::pool::Lease;
use super::receipt::{self, Fate};
use super::statement::literal;
use crate::db::postgres::describe;

/// Commits what is prepared under the gid.
pub(super) async fn commit(
    lease: &mut Lease,
    scope: &Scope,
    gid: &Gid,
    receipt: Option<&Receipt>,
) -> Acknowledgement {
    crash::point("store_commit", scope.store.as_str());
    let text = format!("COMMIT PREPARED {}", literal(&gid.text));
    let answer = lease.session().client.batch_execute(&text).await;
    match answer {
        Ok(()) => {
            crash::point("store_committed", scope.store.as_str());
            lease.clean();
            Acknowledgement::Done
        }
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            let client = &lease.session().client;
            let answer = match receipt {
                Some(receipt) => receipt::fate(client, receipt).await.map(commit_from_fate),
                None => marker::read(client, gid).await.map(commit_from),
            };
            answer.map_or_else(
                |error| unknown(&error),
                |answer| {
                    lease.clean();
                    answer
                },
            )
        }
        Err(error) => {
            lease.clean();
            unknown(&error)
        }
    }
}

fn commit_from(mark: Mark) -> Acknowledgement {
    match mark {
        Mark::Committed => Acknowledgement::Done,
        Mark::None => Acknowledgement::NeverPrepared,
        Mark::Fenced => {
            Acknowledgement::Failed { message: "it was aborted here before".to_owned() }
        }
    }
}

fn commit_from_fate(fate: Fate) -> Acknowledgement {
    match fate {
        Fate::Committed => Acknowledgement::Done,
        Fate::RolledBack => Acknowledgement::NeverPrepared,
        Fate::Unknown => not_told(),
    }
}

fn not_told() -> Acknowledgement {
    Acknowledgement::Unknown {
        message: "nothing is prepared under its gid, and the server does not tell what became of \
                  its transaction"
            .to_owned(),
    }
}

/// Rolls back what is prepared under the gid; where nothing is, nothing can be afterwards.
pub(super) async fn abort(
    lease: &mut Lease,
    scope: &Scope,
    gid: &Gid,
    ask: &DeliveryAsk,
) -> Acknowledgement {
    crash::point("store_abort", scope.store.as_str());
    let client = &lease.session().client;
    let text = format!("ROLLBACK PREPARED {}", literal(&gid.text));
    let answer = match client.batch_execute(&text).await {
        Ok(()) => Acknowledgement::Done,
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
            match shut(client, gid, ask).await {
                Ok(answer) => answer,
                // A transaction may be open on the connection; it is closed with the lease.
                Err(error) => return unknown(&error),
            }
        }
        Err(error) => unknown(&error),
    };
    crash::point("store_aborted", scope.store.as_str());
    lease.clean();
    answer
}

/// Sees that nothing can be prepared under the gid any more.
async fn shut(client: &Client, gid: &Gid, ask: &DeliveryAsk) -> Result<Acknowledgement, Error> {
    let mark = marker::fence(client, gid, ask.id.as_str()).await?;
    match (&ask.receipt, mark) {
        (Some(receipt), Mark::Fenced) => {
            let committed = receipt::fate(client, receipt).await? == Fate::Committed;
            Ok(abort_from(if committed { Mark::Committed } else { mark }))
        }
        _ => Ok(abort_from(mark)),
    }
}

fn abort_from(mark: Mark) -> Acknowledgement {
    match mark {
        Mark::Fenced => Acknowledgement::Done,
        Mark::Committed => {
            Acknowledgement::Failed { message: "it was committed here before".to_owned() }
        }
        Mark::None => Acknowledgement::Unknown {
            message: "its marker was removed while it was looked at".to_owned(),
        },
    }
}

fn unknown(error: &tokio_postgres::Error) -> Acknowledgement {
    Acknowledgement::Unknown { message: describe(error) }
}

/// The ids of what is prepared in this database under this scope.
pub(super) async fn list(lease: &mut Lease, scope: &Scope) -> Result<Vec<CoordinationId>, String> {
    let (plain, hashed) = (literal(&scope.plain), literal(&scope.hashed));
    let text = format!(
        "SELECT p.gid, g.coordination_id FROM pg_prepared_xacts p \
         LEFT JOIN unanimity_gids g ON g.gid = p.gid \
         WHERE p.database = current_database() \
         AND (starts_with(p.gid, {plain}) OR starts_with(p.gid, {hashed}))"
    );
    let answers = lease.session().client.simple_query(&text).await;
    let answers = answers.map_err(|error| describe(&error))?;
    lease.clean();
    let mut ids = Vec::new();
    for answer in &answers {
        let SimpleQueryMessage::Row(row) = answer else { continue };
        let gid = row.get(0).unwrap_or_default();
        let kept = row.get(1).and_then(|id| CoordinationId::new(id).ok());
        let Some(id) = scope.id_of(gid).or(kept) else {
            tracing::warn!(
                gid,
                "a prepared transaction has no row in unanimity_gids, so its coordination is not \
                 known; somebody removed it, and ROLLBACK PREPARED by hand is what is left"
            );
            continue;
        };
        ids.push(id);
    }
    Ok(ids)
}
