//! Commit, abort, the list of what is prepared, and markers that may go.
//!
//! What is done is a script's. Invariants: "never prepared" is said only where neither staging nor
//! marker is there; an abort is acknowledged only when nothing is staged and nothing of it can be
//! staged any more; both only when they are as durable as the server's settings can make them.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::crash;
use crate::model::ids::CoordinationId;
use crate::model::outcome::Acknowledgement;
use crate::participants::{DeliveryAsk, barrier};

use super::link::Trouble;
use super::scope::Scope;
use super::script::{Call, Script, Words};
use super::{Inner, deadline};

/// How many markers go with one command.
const FORGOTTEN_AT_ONCE: usize = 500;
const FORGET_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes what is prepared visible.
pub(super) async fn commit(inner: &Inner, ask: &DeliveryAsk) -> Acknowledgement {
    let Some(scope) = inner.scope() else { return not_attached() };
    crash::point("store_commit", scope.store.as_str());
    let mut call = Call::new(Script::Commit, &scope);
    call.text(&ask.id).text(scope.holder(&ask.id));
    let answer = deliver(inner, &call, ask.timeout, |word| match word {
        "done" => Some(Acknowledgement::Done),
        "never" => Some(Acknowledgement::NeverPrepared),
        "shut" => Some(failed("it was aborted here before")),
        _ => None,
    })
    .await;
    crash::point("store_committed", scope.store.as_str());
    answer
}

/// Drops what is prepared; where nothing is, nothing can be afterwards.
pub(super) async fn abort(inner: &Inner, ask: &DeliveryAsk) -> Acknowledgement {
    let Some(scope) = inner.scope() else { return not_attached() };
    crash::point("store_abort", scope.store.as_str());
    let mut call = Call::new(Script::Abort, &scope);
    call.text(&ask.id).text(scope.holder(&ask.id)).text(barrier::KEPT.as_secs());
    let answer = deliver(inner, &call, ask.timeout, |word| match word {
        "done" => Some(Acknowledgement::Done),
        "committed" => Some(failed("it was committed here before")),
        _ => None,
    })
    .await;
    crash::point("store_aborted", scope.store.as_str());
    answer
}

fn failed(message: &str) -> Acknowledgement {
    Acknowledgement::Failed { message: message.to_owned() }
}

fn unknown(message: impl Into<String>) -> Acknowledgement {
    Acknowledgement::Unknown { message: message.into() }
}

fn not_attached() -> Acknowledgement {
    unknown("it was not attached")
}

/// Both may be asked twice, so a connection that broke is no reason to give up at once.
async fn deliver(
    inner: &Inner,
    call: &Call,
    timeout: Duration,
    read: impl Fn(&str) -> Option<Acknowledgement>,
) -> Acknowledgement {
    let by = deadline(timeout);
    let words = match repeated(inner, call, by).await {
        Ok(words) => words,
        Err(trouble) => return unknown(trouble.message()),
    };
    let word = words.text(0);
    let Some(answer) = read(&word) else {
        return unknown(format!("the server's answer '{word}' is not understood"));
    };
    match inner.link.settle(by).await {
        Ok(()) => answer,
        Err(message) => unknown(message),
    }
}

/// Asks, and once more where the answer was lost.
pub(super) async fn repeated(inner: &Inner, call: &Call, by: Instant) -> Result<Words, Trouble> {
    match inner.link.run(call, by).await {
        Err(Trouble::Lost(_)) if Instant::now() < by => inner.link.run(call, by).await,
        answer => answer,
    }
}

/// The ids of what is prepared under this scope.
pub(super) async fn list(
    inner: &Inner,
    scope: &Scope,
    by: Instant,
) -> Result<Vec<CoordinationId>, String> {
    let answer = inner.link.ask(redis::cmd("HKEYS").arg(scope.prepared()), by).await;
    let answer = answer.map_err(Trouble::message)?;
    let fields = answer.as_sequence().unwrap_or_default().iter();
    let texts = fields.filter_map(|field| match field {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    });
    Ok(texts.filter_map(|text| CoordinationId::new(text).ok()).collect())
}

/// Removes markers. One that stays is harmless, so a failure is only noted.
pub(super) async fn forget(inner: &Inner, scope: &Scope, ids: &[CoordinationId]) {
    crash::point("store_forget", scope.store.as_str());
    for portion in ids.chunks(FORGOTTEN_AT_ONCE) {
        let mut command = redis::cmd("ZREM");
        command.arg(scope.committed());
        for id in portion {
            command.arg(id.as_str());
        }
        if let Err(trouble) = inner.link.ask(&command, deadline(FORGET_TIMEOUT)).await {
            let error = trouble.message();
            tracing::debug!(error, "markers could not be removed, and stay");
            return;
        }
    }
    crash::point("store_forgotten", scope.store.as_str());
}
