//! What is asked on a new connection before anything else: who the server is, what it promises, and
//! that it may be written; and the scripts are given to it.
//!
//! Not the judgement (`settings`). Invariant: a refusal says what to change, and nothing that a
//! full server would refuse is asked of one that has been used before, so that it can be reached
//! to commit.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};

use super::link::{Link, describe};
use super::scope::VERSION_KEY;
use super::script::Script;
use super::settings::{self, Asked, Settings};
use super::sync;

/// The version of what the scripts keep.
const VERSION: &str = "1";

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, String> {
    let answer = connection.send_packed_command(command).await.and_then(Value::extract_error);
    answer.map_err(|error| describe(&error))
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

/// Asks for the server's word on itself.
pub(super) async fn info(connection: &mut MultiplexedConnection) -> Result<String, String> {
    let answer = ask(connection, &redis::cmd("INFO")).await;
    let info = answer.map_err(|what| format!("it does not tell what it is by INFO ({what})"))?;
    Ok(text(&info))
}

/// Judges the server by its INFO and by what CONFIG tells, if it may be asked; looks whether it can
/// be written.
pub(super) async fn settings(
    connection: &mut MultiplexedConnection,
    info: &str,
    link: &Link,
) -> Result<Settings, String> {
    let fields = settings::fields(info);
    if let Some(reason) = settings::unusable(&fields) {
        return Err(reason);
    }
    check_version(connection).await?;
    let asked = Asked {
        append_fsync: config(connection, "appendfsync").await,
        no_fsync_on_rewrite: config(connection, "no-appendfsync-on-rewrite").await,
    };
    let waits = wait(connection, &fields, &asked, link).await;
    Ok(settings::judge(&fields, &asked, waits))
}

async fn config(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let answer = ask(connection, redis::cmd("CONFIG").arg("GET").arg(name)).await.ok()?;
    let mut pairs = answer.as_map_iter()?;
    pairs.next().map(|(_, value)| text(value))
}

/// Whether the disk is waited for: it is wanted, it helps, and it works.
async fn wait(
    connection: &mut MultiplexedConnection,
    fields: &HashMap<&str, &str>,
    asked: &Asked,
    link: &Link,
) -> bool {
    if !link.waits_for_disk || !settings::may_wait(fields, asked) {
        return false;
    }
    match sync::probe(connection).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(server = link.label, error, "WAITAOF does not work on the Redis server");
            false
        }
    }
}

/// That nobody newer keeps other things here; and the first time, that it can be written.
async fn check_version(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let found = ask(connection, redis::cmd("GET").arg(VERSION_KEY)).await.map_err(denied)?;
    match text(&found).as_str() {
        VERSION => Ok(()),
        "" => {
            let set = redis::cmd("SET").arg(VERSION_KEY).arg(VERSION).arg("NX").to_owned();
            ask(connection, &set).await.map(drop).map_err(denied)
        }
        other => Err(format!(
            "the key {VERSION_KEY} says version {other}, and this version of unanimity knows \
             {VERSION}; use a newer one"
        )),
    }
}

fn denied(what: String) -> String {
    if !what.starts_with("NOPERM") {
        return what;
    }
    format!(
        "the keys unanimity:* cannot be used ({what}); the user needs all commands on strings, \
         hashes and sorted sets there, and EVAL"
    )
}

/// Gives the scripts to the server, and gets their hashes.
pub(super) async fn load(
    connection: &mut MultiplexedConnection,
    scripts: &[Script],
) -> Result<Vec<String>, String> {
    let mut hashes = Vec::with_capacity(scripts.len());
    for script in scripts {
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(script.source()).to_owned();
        let answer = ask(connection, &load).await;
        hashes.push(text(&answer.map_err(|what| format!("it takes no scripts ({what})"))?));
    }
    Ok(hashes)
}
