//! From the question "can you commit this?" to a vote.
//!
//! What is judged and staged is one script's (`scripts/prepare.lua`); here it is asked, and its
//! words are read. Invariants: a vote of abort is given only when the server kept nothing; a vote
//! to commit only when what it promises is as durable as the server's settings can make it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::crash;
use crate::model::lock::{Fence, LockMode};
use crate::model::outcome::Vote;
use crate::participants::PrepareAsk;
use crate::protocol::fence::{self, Refusal};

use super::link::Trouble;
use super::operation::Task;
use super::scope::Scope;
use super::script::{Call, Script, Words};
use super::{Inner, deadline};

/// Answers a prepare.
pub(super) async fn vote(inner: &Inner, ask: &PrepareAsk) -> Vote {
    let Some(scope) = inner.scope() else {
        return abort(format!("the Redis store '{}' was not attached", inner.name));
    };
    let tasks: Result<Vec<Task<'_>>, String> =
        ask.operations().map(|operation| Task::read(operation, &inner.prefix)).collect();
    let tasks = match tasks {
        Ok(tasks) if tasks.is_empty() => return Vote::ReadOnly,
        Ok(tasks) => tasks,
        Err(reason) => return abort(reason),
    };
    crash::point("store_prepare", scope.store.as_str());
    let by = deadline(ask.timeout);
    let vote = match inner.link.run(&call(&scope, ask, &tasks), by).await {
        Ok(words) => read(&words, ask, &tasks),
        Err(Trouble::Refused(reason)) => abort(reason),
        Err(Trouble::Failed(reason) | Trouble::Lost(reason)) => Vote::Unknown { reason },
    };
    settled(inner, &scope, ask, vote, by).await
}

fn abort(reason: String) -> Vote {
    Vote::Abort { reason }
}

/// What the script is asked.
fn call(scope: &Arc<Scope>, ask: &PrepareAsk, tasks: &[Task<'_>]) -> Call {
    let mut call = Call::new(Script::Prepare, scope);
    call.text(ask.id()).text(scope.holder(ask.id())).text(ask.fences.len());
    for Fence { resource, mode, token } in ask.fences.iter() {
        let against = LockMode::ALL.into_iter().filter(|other| !mode.is_compatible_with(*other));
        let against: Vec<&str> = against.map(LockMode::as_str).collect();
        call.text(resource).text(mode).text(format_args!("{token:020}")).text(against.join(","));
    }
    call.text(tasks.len());
    for task in tasks {
        task.add_to(&mut call);
    }
    call
}

fn read(words: &Words, ask: &PrepareAsk, tasks: &[Task<'_>]) -> Vote {
    let of_task = |say: &dyn Fn(&Task<'_>) -> String| match words.of(1, tasks) {
        Some(task) => abort(say(task)),
        None => not_understood(words),
    };
    match words.text(0).as_str() {
        "commit" => Vote::Commit,
        "read_only" => Vote::ReadOnly,
        "held" => of_task(&|task| task.held_by(&words.text(2))),
        "check" => of_task(&|task| task.check_failed(&words.text(2))),
        "forbidden" => of_task(&|task| task.forbidden()),
        "late" => late(words, &ask.fences),
        "stands" => abort(stands(words)),
        // Something is kept, so this is no vote to abort.
        "prepared" => Vote::Unknown {
            reason: format!("the transaction '{}' is prepared here already", ask.id()),
        },
        "committed" => abort(format!("the transaction '{}' was committed here before", ask.id())),
        "shut" => abort(format!("the transaction '{}' was aborted here before", ask.id())),
        _ => not_understood(words),
    }
}

fn not_understood(words: &Words) -> Vote {
    let reason = format!("the server's answer '{}' is not understood", words.text(0));
    Vote::Unknown { reason }
}

/// A token that comes too late, in the words that all stores have for it.
fn late(words: &Words, shown: &[Fence]) -> Vote {
    let mode = LockMode::parse(&words.text(2));
    let standing = words.text(3).parse().ok();
    let (Some(fence), Some(standing_mode), Some(standing)) = (words.of(1, shown), mode, standing)
    else {
        return not_understood(words);
    };
    let (resource, mode, token) = (fence.resource.clone(), fence.mode, fence.token);
    abort(Refusal { resource, mode, token, standing_mode, standing }.to_string())
}

fn stands(words: &Words) -> String {
    use crate::model::lock::ResourceId;
    let resource = ResourceId::new(&words.text(1)).ok();
    let mode = LockMode::parse(&words.text(2));
    let token = words.text(3).parse().ok();
    let holder = words.text(4);
    match (resource, mode, token) {
        (Some(resource), Some(mode), Some(token)) => {
            fence::describe_standing(&Fence { resource, mode, token }, &holder)
        }
        _ => format!("the prepared transaction '{holder}' stands on a lock that this one needs"),
    }
}

/// Waits for the server's disk before something is promised.
async fn settled(inner: &Inner, scope: &Scope, ask: &PrepareAsk, vote: Vote, by: Instant) -> Vote {
    let has_written = match vote {
        Vote::Commit => true,
        Vote::ReadOnly => !ask.fences.is_empty(),
        _ => false,
    };
    if has_written && let Err(reason) = inner.link.settle(by).await {
        return Vote::Unknown { reason };
    }
    if vote == Vote::Commit {
        crash::point("store_staged", scope.store.as_str());
    }
    vote
}
