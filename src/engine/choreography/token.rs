//! The routing slip as a message: what travels from store to store, and the last word of it.
//!
//! Not who handles it (`host`). Invariants: what was written comes back equal; the same stop of the
//! same walk has the same id, so that a bus which keeps ids drops the second; nothing that a bus
//! hands over makes this panic.

use std::sync::Arc;

use crate::events::BusEvent;
use crate::model::ids::{CoordinationId, StoreName};
use crate::model::record::Reason;
use crate::model::request::CoordinationRequest;
use crate::model::step::{StepState, StepSummary, Work};
use crate::model::value::Value;
use crate::protocol::RouteEnd;
use crate::protocol::choreography::Route;

/// The type of the last word.
pub(super) const ENDED: &str = "unanimity.ended";

/// The type of a message for whoever has a store.
pub(super) fn kind_for(store: &StoreName) -> String {
    format!("unanimity.step:{store}")
}

/// A slip that stands at one operation of its route.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) request: Arc<CoordinationRequest>,
    /// Under which number the slip was sent off.
    pub(super) walk: u32,
    /// The place on the route.
    pub(super) place: usize,
    /// Whether it goes forward or back.
    pub(super) work: Work,
    /// What operations gave, by their ids, in the order in which they were done.
    pub(super) results: Vec<(String, Value)>,
    /// Why it goes back: the operation that failed, and its words.
    pub(super) failure: Option<Failure>,
}

/// Why a slip goes back.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) operation: String,
    pub(super) message: String,
}

/// Where a slip goes after a stop.
pub(super) enum Next {
    /// To the next stop, or back to the one before.
    Stop(Token),
    /// Nowhere.
    End(RouteEnd),
}

fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

fn text(body: &Value, key: &str) -> Result<String, String> {
    let found = body.get(key).and_then(Value::as_text);
    found.map(str::to_owned).ok_or_else(|| format!("it has no text under '{key}'"))
}

fn number(body: &Value, key: &str) -> Result<u64, String> {
    let found = body.get(key).and_then(Value::as_int).and_then(|number| u64::try_from(number).ok());
    found.ok_or_else(|| format!("it has no whole number under '{key}'"))
}

impl Token {
    /// A slip at the beginning of its way.
    pub(super) fn first(request: Arc<CoordinationRequest>, walk: u32) -> Self {
        let (work, results) = (Work::Execute, Vec::new());
        Self { request, walk, place: 0, work, results, failure: None }
    }

    /// The index of the operation that it stands at.
    pub(super) fn operation(&self, route: &Route) -> Result<usize, String> {
        route
            .operation_at(self.place)
            .ok_or_else(|| format!("its route has no place {}", self.place))
    }

    pub(super) fn to_event(&self, route: &Route) -> Result<BusEvent, String> {
        let operation = &self.request.operations[self.operation(route)?];
        let request = serde_json::to_string(&*self.request).map_err(|error| error.to_string())?;
        let id = &self.request.id;
        let kind = kind_for(&operation.store);
        let count = |number: usize| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let failure = self.failure.as_ref().map_or(Value::Null, |failure| {
            Value::Map(vec![
                entry("operation_id", failure.operation.as_str().into()),
                entry("message", failure.message.as_str().into()),
            ])
        });
        let body = Value::Map(vec![
            entry("type", kind.as_str().into()),
            entry("coordination_id", id.as_str().into()),
            entry("walk", Value::Int(i64::from(self.walk))),
            entry("place", count(self.place)),
            entry("work", self.work.as_str().into()),
            entry("results", Value::Map(self.results.clone())),
            entry("failure", failure),
            entry("request", Value::Text(request)),
        ]);
        let (walk, place, work) = (self.walk, self.place, self.work.as_str());
        Ok(BusEvent {
            id: format!("{id}/{walk}/{place}/{work}"),
            kind,
            stream: id.to_string(),
            body,
        })
    }

    pub(super) fn from_event(event: &BusEvent) -> Result<Self, String> {
        let body = &event.body;
        let request: CoordinationRequest =
            serde_json::from_str(&text(body, "request")?).map_err(|error| error.to_string())?;
        let failure = match body.get("failure") {
            None | Some(Value::Null) => None,
            Some(failure) => Some(Failure {
                operation: text(failure, "operation_id")?,
                message: text(failure, "message")?,
            }),
        };
        Ok(Self {
            request: Arc::new(request),
            walk: u32::try_from(number(body, "walk")?).map_err(|error| error.to_string())?,
            place: usize::try_from(number(body, "place")?).map_err(|error| error.to_string())?,
            work: match text(body, "work")?.as_str() {
                "compensate" => Work::Compensate,
                _ => Work::Execute,
            },
            results: results(body),
            failure,
        })
    }

    /// After the operation was done, with what it gave.
    pub(super) fn done(mut self, route: &Route, operation: &str, result: Value) -> Next {
        self.results.push((operation.to_owned(), result));
        self.place += 1;
        if self.place < route.length() { Next::Stop(self) } else { Next::End(self.end()) }
    }

    /// After the operation failed for good: what it may have done, its host has undone.
    pub(super) fn failed(mut self, operation: &str, message: String) -> Next {
        self.failure = Some(Failure { operation: operation.to_owned(), message });
        self.work = Work::Compensate;
        self.back()
    }

    /// After the operation was undone, or has nothing to undo: to the one before it.
    pub(super) fn back(mut self) -> Next {
        match self.place.checked_sub(1) {
            Some(before) => {
                self.place = before;
                Next::Stop(self)
            }
            None => Next::End(self.end()),
        }
    }

    fn end(&self) -> RouteEnd {
        let undone = self.failure.as_ref().map(|failure| {
            let words = format!("operation '{}' failed: {}", failure.operation, failure.message);
            Reason::new("transaction.aborted.step", words)
        });
        let steps = self.request.operations.iter().map(|operation| self.summary(&operation.id));
        RouteEnd { undone, steps: steps.collect() }
    }

    fn summary(&self, operation: &str) -> StepSummary {
        let result = self.results.iter().find(|(id, _)| id == operation).map(|(_, value)| value);
        let failure = self.failure.as_ref().filter(|failure| failure.operation == operation);
        let state = match (result, &self.failure) {
            (Some(_), None) => StepState::Completed,
            (Some(_), Some(_)) => StepState::Compensated,
            (None, _) if failure.is_some() => StepState::Failed,
            (None, _) => StepState::Pending,
        };
        StepSummary {
            operation_id: operation.to_owned(),
            state,
            attempts: u32::from(state != StepState::Pending),
            compensation_attempts: u32::from(state == StepState::Compensated),
            result: result.cloned(),
            note: failure.map(|failure| failure.message.clone()),
            started_at: None,
            completed_at: None,
            compensation_started_at: None,
            compensated_at: None,
        }
    }
}

fn results(body: &Value) -> Vec<(String, Value)> {
    match body.get("results") {
        Some(Value::Map(results)) => results.clone(),
        _ => Vec::new(),
    }
}

/// The last word, for whoever answers for the saga.
pub(super) fn end_event(token: &Token, end: &RouteEnd) -> Result<BusEvent, String> {
    let id = &token.request.id;
    let undone = end.undone.as_ref().map_or(Value::Null, |reason| {
        Value::Map(vec![
            entry("code", reason.code.as_str().into()),
            entry("message", reason.message.as_str().into()),
        ])
    });
    let steps = serde_json::to_string(&end.steps).map_err(|error| error.to_string())?;
    let body = Value::Map(vec![
        entry("type", ENDED.into()),
        entry("coordination_id", id.as_str().into()),
        entry("success", Value::Bool(end.undone.is_none())),
        entry("undone", undone),
        entry("steps", Value::Text(steps)),
    ]);
    let (id, stream) = (format!("{id}/{}/end", token.walk), id.to_string());
    Ok(BusEvent { id, kind: ENDED.to_owned(), stream, body })
}

/// What the last word says, and of which saga.
pub(super) fn read_end(event: &BusEvent) -> Result<(CoordinationId, RouteEnd), String> {
    let body = &event.body;
    let id = CoordinationId::new(&text(body, "coordination_id")?);
    let undone = match body.get("undone") {
        None | Some(Value::Null) => None,
        Some(reason) => {
            Some(Reason { code: text(reason, "code")?, message: text(reason, "message")? })
        }
    };
    let steps = serde_json::from_str(&text(body, "steps")?).map_err(|error| error.to_string())?;
    Ok((id.map_err(|error| error.to_string())?, RouteEnd { undone, steps }))
}
