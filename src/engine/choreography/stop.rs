//! What is done with a slip at a stop: the operation, or its undoing, and then the way on.
//!
//! Doing is a saga of one step, undoing an eventual coordination of one operation: so both are
//! recorded, retried, parked and resumed as those are, and a repetition gives the first outcome.
//! Invariants: the slip is acknowledged when the next message is on the bus, and not before; it
//! goes back from what failed only when the failure is in the journal.

use std::sync::Arc;

use crate::events::{BusEvent, EventBusError, Handled};
use crate::model::ids::CoordinationId;
use crate::model::outcome::{CoordinationResult, OutcomeKind, TransactionState};
use crate::model::request::{ConsistencyLevel, CoordinationRequest, CoordinationType, STOP_KEY};
use crate::model::step::Work;
use crate::model::trace::trace_notes;
use crate::model::value::Value;
use crate::protocol::choreography::Route;
use crate::reply::Reply;

use super::token::{Next, Token, end_event};
use crate::engine::core::{Core, Fact};
use crate::engine::error::EngineError;
use crate::engine::{Found, Waiter};

/// Keys that only the route reads.
const ROUTE_KEYS: [&str; 4] = ["on", "emits", "depends_on", "pivot"];

/// Refusals that say nothing of the operation: the slip comes again.
const BUSY: [&str; 2] = ["request.overloaded", "request.journal_unavailable"];

/// A slip at a stop, and whoever waits for the bus to hear of it.
struct Visit {
    token: Token,
    route: Route,
    operation: usize,
    reply: Reply<Handled>,
}

fn failed(message: impl std::fmt::Display) -> Handled {
    Handled::Failed { message: message.to_string() }
}

impl Core {
    /// Does what a slip asks for here, and sends it on.
    pub(super) fn stop(self: &Arc<Self>, token: Token, reply: Reply<Handled>) {
        let route = Route::check(&token.request, |_| true).map_err(|error| error.to_string());
        let visit = route.and_then(|route| {
            let operation = token.operation(&route)?;
            Ok((route, operation))
        });
        let (route, operation) = match visit {
            Ok(visit) => visit,
            Err(message) => return reply.send(failed(message)),
        };
        let request = match stop_request(&token, operation) {
            Ok(request) => Arc::new(request),
            Err(message) => return reply.send(failed(message)),
        };
        let visit = Visit { token, route, operation, reply };
        let (this, id) = (self.this.clone(), request.id.clone());
        let waiter: Waiter = Reply::new(move |result: Result<CoordinationResult, EngineError>| {
            if let Some(core) = this.upgrade() {
                core.stop_answered(visit, id, result);
            }
        });
        self.post(Fact::Submitted { request, attachment: None, waiter });
    }

    /// The first answer, or the end that was waited for after it.
    fn stop_answered(
        self: &Arc<Self>,
        visit: Visit,
        id: CoordinationId,
        result: Result<CoordinationResult, EngineError>,
    ) {
        let outcome = match result {
            Ok(result) => result.outcome,
            Err(error) => return visit.reply.send(failed(error)),
        };
        let is_busy = outcome.code.as_deref().is_some_and(|code| BUSY.contains(&code));
        match (outcome.kind, outcome.state) {
            (OutcomeKind::Refused, _) if is_busy => {
                visit.reply.send(failed(outcome.message.unwrap_or_default()));
            }
            (OutcomeKind::Committed, TransactionState::Committed) => self.stop_done(visit, id),
            (OutcomeKind::Aborted, TransactionState::Aborted)
                if visit.token.work == Work::Execute =>
            {
                self.stop_aborted(visit, id, outcome.message.unwrap_or_default());
            }
            // For what it is: no other try of it is taken either.
            (OutcomeKind::Refused, _) if visit.token.work == Work::Execute => {
                self.stop_failed(visit, outcome.message);
            }
            // Whoever mends or redrives what is parked here lets the slip go on: it comes again.
            (OutcomeKind::Heuristic | OutcomeKind::Refused, _) => {
                visit.reply.send(failed(outcome.message.unwrap_or_default()));
            }
            _ => {
                let (this, asked) = (self.this.clone(), id.clone());
                let waiter = Reply::new(move |result: Result<CoordinationResult, EngineError>| {
                    if let Some(core) = this.upgrade() {
                        core.stop_answered(visit, asked, result);
                    }
                });
                self.post(Fact::WaitAsked { id, waiter });
            }
        }
    }

    /// The slip goes back only when the journal tells why: what could not even be begun, because
    /// somebody else had its locks, might be done by another slip of the same saga.
    fn stop_aborted(self: &Arc<Self>, visit: Visit, id: CoordinationId, message: String) {
        let this = self.this.clone();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let Some(core) = this.upgrade() else { return };
            match found {
                Ok(Some(_)) => core.stop_failed(visit, Some(message)),
                Ok(None) => visit.reply.send(failed(message)),
                Err(error) => visit.reply.send(failed(error)),
            }
        });
        self.post(Fact::LookedAt { id, reply });
    }

    fn stop_failed(self: &Arc<Self>, visit: Visit, message: Option<String>) {
        let words = message.unwrap_or_else(|| "it gave no reason".to_owned());
        let operation = visit.token.request.operations[visit.operation].id.clone();
        let next = visit.token.clone().failed(&operation, words);
        self.send_on(visit, next, None);
    }

    fn stop_done(self: &Arc<Self>, visit: Visit, id: CoordinationId) {
        if visit.token.work == Work::Compensate {
            let next = visit.token.clone().back();
            return self.send_on(visit, next, None);
        }
        let this = self.this.clone();
        let reply = Reply::new(move |found: Result<Option<Found>, EngineError>| {
            let Some(core) = this.upgrade() else { return };
            let result = match found {
                Ok(Some(found)) => found.stored.steps.into_iter().next().and_then(|s| s.result),
                Ok(None) => None,
                Err(error) => return visit.reply.send(failed(error)),
            };
            let result = result.unwrap_or_default();
            let operation = visit.token.request.operations[visit.operation].id.clone();
            let event = emitted(&visit, &operation, &result);
            let next = visit.token.clone().done(&visit.route, &operation, result);
            core.send_on(visit, next, Some(event));
        });
        self.post(Fact::LookedAt { id, reply });
    }

    /// Publishes what follows, then acknowledges.
    fn send_on(self: &Arc<Self>, visit: Visit, next: Next, emitted: Option<BusEvent>) {
        let following = match &next {
            Next::Stop(token) => token.to_event(&visit.route),
            Next::End(end) => end_event(&visit.token, end),
        };
        let following = match following {
            Ok(event) => event,
            Err(message) => return visit.reply.send(failed(message)),
        };
        let Some(bus) = self.ports.event_bus.clone() else { return };
        let first = emitted.unwrap_or_else(|| following.clone());
        let reply = visit.reply;
        let then = Arc::clone(&bus);
        bus.publish(
            first,
            Reply::new(move |answer: Result<(), EventBusError>| match answer {
                Ok(()) => then.publish(
                    following,
                    Reply::new(move |answer: Result<(), EventBusError>| {
                        reply.send(answer.map_or_else(failed, |()| Handled::Done));
                    }),
                ),
                Err(error) => reply.send(failed(error)),
            }),
        );
    }
}

/// What the operation's own event says to whoever else listens.
fn emitted(visit: &Visit, operation: &str, result: &Value) -> BusEvent {
    let kind = visit.route.event_of(visit.operation).to_owned();
    let id = &visit.token.request.id;
    let body = Value::Map(vec![
        ("type".to_owned(), kind.as_str().into()),
        ("coordination_id".to_owned(), id.as_str().into()),
        ("operation_id".to_owned(), operation.into()),
        ("result".to_owned(), result.clone()),
    ]);
    BusEvent { id: format!("{id}/{operation}/emits"), kind, stream: id.to_string(), body }
}

/// The stop as a coordination of this process's journal.
fn stop_request(token: &Token, operation: usize) -> Result<CoordinationRequest, String> {
    let saga = &token.request;
    let stop = &saga.operations[operation];
    let Value::Map(keys) = &stop.body else { return Err("an operation is no map".to_owned()) };
    let mut body: Vec<(String, Value)> = keys
        .iter()
        .filter(|(key, _)| !ROUTE_KEYS.contains(&key.as_str()) && key != "operation_id")
        // "True" told the route what this store knows for itself.
        .filter(|(key, value)| !(key == "compensation" && matches!(value, Value::Bool(true))))
        .cloned()
        .collect();
    body.push(("operation_id".to_owned(), stop.id.as_str().into()));
    let undoes = token.work == Work::Compensate;
    let suffix = if undoes { "~undo" } else { "" };
    let id = CoordinationId::new(&format!("{}~{operation}{suffix}", saga.id));
    let notes = Value::Map(vec![
        ("coordination_id".to_owned(), saga.id.as_str().into()),
        ("results".to_owned(), Value::Map(token.results.clone())),
    ]);
    // It goes on with the saga's trace.
    let trace = trace_notes(&saga.metadata).cloned();
    let metadata = trace.chain([(STOP_KEY.to_owned(), notes)]).collect();
    let operation = crate::model::operation::Operation { body: Value::Map(body), ..stop.clone() };
    Ok(CoordinationRequest {
        id: id.map_err(|error| error.to_string())?,
        kind: match token.work {
            Work::Execute => CoordinationType::SagaOrchestration,
            Work::Compensate => CoordinationType::EventualConsistency,
        },
        stores: vec![stop.store.clone()],
        operations: vec![operation],
        timeout: saga.timeout,
        consistency: if undoes { ConsistencyLevel::Session } else { saga.consistency },
        metadata: Value::Map(metadata),
        root: Some(saga.id.clone()),
    })
}
