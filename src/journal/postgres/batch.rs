//! What is written at once, column by column: one round trip for as many records as wait.
//!
//! Not the rules (judge). The order of the parameters is that of `unanimity_journal_write` in
//! `db/migrations/postgres_journal`. Invariant: all of it is written or nothing, and nothing when
//! a row is not as its draft says.

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::judge::Draft;
use super::link::{Link, Outcome, Trouble};
use super::values::{At, names, numbers, text};
use crate::journal::StoredCoordination;
use crate::journal::progress::{Progress, error_message};
use crate::model::outcome::Decision;
use crate::model::value::Value;

/// How many parameters the function has.
const PARAMETERS: usize = 65;

type Parameter<'b> = &'b (dyn ToSql + Sync);
type Parameters<'b> = Vec<Parameter<'b>>;

/// Prepares the one statement that writes.
pub(super) async fn prepare(link: &Link) -> Outcome<Statement> {
    let marks: Vec<String> = (1..=PARAMETERS).map(|number| format!("${number}")).collect();
    let sql = format!("SELECT unanimity_journal_write({})", marks.join(","));
    super::link::patient(link.client.prepare(&sql)).await
}

/// Writes these drafts.
pub(super) async fn write<'a>(
    link: &Link,
    statement: &Statement,
    drafts: impl Iterator<Item = &'a Draft>,
) -> Outcome<()> {
    let mut batch = Batch::default();
    for draft in drafts {
        batch.push(draft)?;
    }
    link.ask(statement, &batch.parameters()).await.map(drop)
}

#[derive(Default)]
struct Batch<'a> {
    begins: Begins<'a>,
    /// Of those that begin.
    begun: States<'a>,
    moved: States<'a>,
    known: Vec<i64>,
    kept: Kept<'a>,
    operations: Operations<'a>,
    first: Steps<'a>,
    progress: Steps<'a>,
}

/// What only a begin has.
#[derive(Default)]
struct Begins<'a> {
    kinds: Vec<&'static str>,
    stores: Vec<String>,
    operations: Vec<String>,
    consistencies: Vec<&'static str>,
    metadata: Vec<String>,
    created: Vec<At>,
    begun_by: Vec<&'a str>,
    begun_epochs: Vec<i32>,
    timeouts: Vec<i64>,
    locks: Vec<String>,
}

/// How a coordination stands.
#[derive(Default)]
struct States<'a> {
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    names: Vec<&'static str>,
    updated: Vec<At>,
    completed: Vec<Option<At>>,
    errors: Vec<Option<String>>,
    owners: Vec<&'a str>,
    epochs: Vec<i32>,
    decisions: Vec<Option<&'static str>>,
    reason_codes: Vec<Option<String>>,
    reason_messages: Vec<Option<String>>,
    outcomes: Vec<Option<String>>,
    stores: Vec<String>,
    steps: Vec<String>,
}

#[derive(Default)]
struct Kept<'a> {
    ids: Vec<&'a str>,
    versions: Vec<i64>,
    epochs: Vec<i32>,
    kinds: Vec<&'static str>,
    at: Vec<At>,
    bodies: Vec<&'a str>,
}

/// What an operation is.
#[derive(Default)]
struct Operations<'a> {
    stores: Vec<&'a str>,
    kinds: Vec<String>,
    bodies: Vec<String>,
    sequences: Vec<i32>,
    retries_max: Vec<i64>,
    created: Vec<At>,
}

/// How far an operation is.
#[derive(Default)]
struct Steps<'a> {
    coordinations: Vec<&'a str>,
    ids: Vec<&'a str>,
    states: Vec<&'static str>,
    retries: Vec<i64>,
    errors: Vec<Option<String>>,
    executed: Vec<Option<At>>,
    completed: Vec<Option<At>>,
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Outcome<String> {
    serde_json::to_string(value).map_err(|error| Trouble::Data(error.to_string()))
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

impl<'a> Batch<'a> {
    fn push(&mut self, draft: &'a Draft) -> Outcome<()> {
        let stored = &draft.stored;
        match &draft.before {
            None => {
                self.begins.push(draft)?;
                self.begun.push(stored, draft.version)?;
                self.operations.push(stored)?;
                self.first.push(stored, None);
            }
            Some(before) => {
                self.known.push(draft.known);
                self.moved.push(stored, draft.version)?;
                // Of two-phase commit the end tells what became of each operation.
                if draft.is_ended() || !stored.steps.is_empty() {
                    self.progress.push(stored, Some(before));
                }
            }
        }
        if !draft.is_ended() {
            self.kept.push(draft);
        }
        Ok(())
    }

    /// In the order of the function's arguments.
    fn parameters(&self) -> Parameters<'_> {
        let (begin, begun, moved) = (&self.begins, &self.begun, &self.moved);
        let (kept, of, first, step) = (&self.kept, &self.operations, &self.first, &self.progress);
        let mut all: Parameters<'_> = Vec::with_capacity(PARAMETERS);
        all.extend([&begun.ids as Parameter<'_>, &begin.kinds, &begin.stores, &begin.operations]);
        all.extend([&begun.names as Parameter<'_>, &begin.consistencies, &begin.metadata]);
        all.extend([&begin.created as Parameter<'_>, &begun.updated, &begun.completed]);
        all.extend([&begun.errors as Parameter<'_>, &begun.versions, &begun.owners]);
        all.extend([&begun.epochs as Parameter<'_>, &begin.begun_by, &begin.begun_epochs]);
        all.extend([&begin.timeouts as Parameter<'_>, &begin.locks, &begun.decisions]);
        all.extend([&begun.reason_codes as Parameter<'_>, &begun.reason_messages]);
        all.extend([&begun.outcomes as Parameter<'_>, &begun.stores, &begun.steps]);
        all.extend([&moved.ids as Parameter<'_>, &self.known, &moved.versions, &moved.names]);
        all.extend([&moved.updated as Parameter<'_>, &moved.completed, &moved.errors]);
        all.extend([&moved.owners as Parameter<'_>, &moved.epochs, &moved.decisions]);
        all.extend([&moved.reason_codes as Parameter<'_>, &moved.reason_messages]);
        all.extend([&moved.outcomes as Parameter<'_>, &moved.stores, &moved.steps]);
        all.extend([&kept.ids as Parameter<'_>, &kept.versions, &kept.epochs, &kept.kinds]);
        all.extend([&kept.at as Parameter<'_>, &kept.bodies]);
        all.extend([&first.coordinations as Parameter<'_>, &first.ids, &of.stores, &of.kinds]);
        all.extend([&of.bodies as Parameter<'_>, &of.sequences, &of.retries_max, &of.created]);
        all.extend([&first.states as Parameter<'_>, &first.retries, &first.errors]);
        all.extend([&first.executed as Parameter<'_>, &first.completed]);
        all.extend([&step.coordinations as Parameter<'_>, &step.ids, &step.states]);
        all.extend([&step.retries as Parameter<'_>, &step.errors, &step.executed]);
        all.push(&step.completed);
        all
    }
}

impl<'a> Begins<'a> {
    fn push(&mut self, draft: &'a Draft) -> Outcome<()> {
        let (stored, request) = (&draft.stored, &*draft.stored.request);
        let bodies: Vec<&Value> =
            request.operations.iter().map(|operation| &operation.body).collect();
        self.kinds.push(request.kind.as_str());
        self.stores.push(names(&request.stores));
        self.operations.push(json(&bodies)?);
        self.consistencies.push(request.consistency.as_str());
        self.metadata.push(json(&request.metadata)?);
        self.created.push(At(stored.created_at));
        self.begun_by.push(draft.begun_by.as_str());
        self.begun_epochs.push(signed(draft.begun_epoch));
        self.timeouts.push(i64::try_from(request.timeout.as_micros()).unwrap_or(i64::MAX / 2));
        self.locks.push(numbers(&stored.locks));
        Ok(())
    }
}

impl<'a> States<'a> {
    fn push(&mut self, stored: &'a StoredCoordination, version: i64) -> Outcome<()> {
        let reason = stored.reason.as_ref();
        self.ids.push(stored.request.id.as_str());
        self.versions.push(version);
        self.names.push(stored.state.as_str());
        self.updated.push(At(stored.updated_at));
        self.completed.push(stored.completed_at.map(At));
        self.errors.push(error_message(stored).map(text));
        self.owners.push(stored.owner.as_str());
        self.epochs.push(signed(stored.epoch));
        self.decisions.push(stored.decision.map(Decision::as_str));
        self.reason_codes.push(reason.map(|reason| text(&reason.code)));
        self.reason_messages.push(reason.map(|reason| text(&reason.message)));
        self.outcomes.push(stored.outcome.as_ref().map(json).transpose()?);
        self.stores.push(json(&stored.stores)?);
        self.steps.push(json(&stored.steps)?);
        Ok(())
    }
}

impl<'a> Kept<'a> {
    fn push(&mut self, draft: &'a Draft) {
        for kept in &draft.records {
            self.ids.push(draft.stored.request.id.as_str());
            self.versions.push(kept.version);
            self.epochs.push(signed(kept.epoch));
            self.kinds.push(kept.kind);
            self.at.push(At(kept.at));
            self.bodies.push(&kept.body);
        }
    }
}

impl<'a> Operations<'a> {
    fn push(&mut self, stored: &'a StoredCoordination) -> Outcome<()> {
        for (sequence, operation) in stored.request.operations.iter().enumerate() {
            let retries_max = operation.body.get("max_retries").and_then(Value::as_int);
            self.stores.push(operation.store.as_str());
            self.kinds.push(text(&operation.kind));
            self.bodies.push(json(&operation.body)?);
            self.sequences.push(i32::try_from(sequence).unwrap_or(i32::MAX));
            self.retries_max.push(retries_max.unwrap_or(3));
            self.created.push(At(stored.created_at));
        }
        Ok(())
    }
}

impl<'a> Steps<'a> {
    /// Takes those that are not as far as they were.
    fn push(&mut self, stored: &'a StoredCoordination, before: Option<&StoredCoordination>) {
        for (sequence, operation) in stored.request.operations.iter().enumerate() {
            let progress = Progress::at(stored, sequence, operation);
            let was = before.map(|before| Progress::at(before, sequence, operation));
            if was.is_some_and(|was| was == progress) {
                continue;
            }
            self.coordinations.push(stored.request.id.as_str());
            self.ids.push(&operation.id);
            self.states.push(progress.state);
            self.retries.push(i64::from(progress.retry_count));
            self.errors.push(progress.error_message.map(text));
            self.executed.push(progress.executed_at.map(At));
            self.completed.push(progress.completed_at.map(At));
        }
    }
}
