//! A Python object as a participant: questions become calls for the loop.
//!
//! Invariant: nothing is called here; a call waits in the bridge's queue for the loop's thread.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::model::ids::{ClusterId, CoordinationId, StoreName};
use unanimity::model::operation::Operation;
use unanimity::model::outcome::{Acknowledgement, Vote};
use unanimity::model::request::CoordinationType;
use unanimity::model::step::{StepAnswer, Work};
use unanimity::model::value::Value;
use unanimity::observe;
use unanimity::participants::{
    Abilities, DeliveryAsk, EventAsk, ExecuteAsk, Participant, ParticipantError, PrepareAsk,
};
use unanimity::reply::Reply;

use crate::bridge::{Item, Shared};
use crate::call::{Answers, Argument, Call, Method};
use crate::traces::{TracedCall, Traces};

/// A user's object, seen as a participant.
pub(crate) struct PythonStore {
    bridge: Arc<Shared>,
    name: String,
    traces: Option<Arc<Traces>>,
    prepare: Option<Arc<Method>>,
    commit: Option<Arc<Method>>,
    abort: Option<Arc<Method>>,
    list_prepared: Option<Arc<Method>>,
    execute: Option<Arc<Method>>,
    compensate: Option<Arc<Method>>,
    apply: Option<Arc<Method>>,
    /// Types of operations that it undoes without being told how.
    compensable: HashSet<String>,
    /// Types that a `compensation` may have, `None` for any.
    compensation_types: Option<HashSet<String>>,
}

impl PythonStore {
    /// From the adapter that Python made (`_stores.PythonStore`).
    pub(crate) fn adapt(
        bridge: &Arc<Shared>,
        adapter: &Bound<'_, PyAny>,
        traces: Option<Arc<Traces>>,
    ) -> PyResult<Self> {
        let name: String = adapter.getattr("name")?.extract()?;
        let owner = format!("store '{name}'");
        let method = |attribute: &str, flag: &str, public: &'static str| -> PyResult<_> {
            let callable = adapter.getattr(attribute)?;
            if callable.is_none() {
                return Ok(None);
            }
            let is_async = adapter.getattr(flag)?.is_truthy()?;
            let callable = callable.unbind();
            Ok(Some(Arc::new(Method { callable, is_async, owner: owner.clone(), name: public })))
        };
        Ok(Self {
            bridge: Arc::clone(bridge),
            traces,
            prepare: method("prepare", "prepare_is_async", "prepare_transaction")?,
            commit: method("commit", "commit_is_async", "commit_transaction")?,
            abort: method("abort", "abort_is_async", "abort_transaction")?,
            list_prepared: method("list_prepared", "list_is_async", "list_prepared_transactions")?,
            execute: method("execute", "execute_is_async", "execute_operation")?,
            compensate: method("compensate", "compensate_is_async", "compensate_operation")?,
            apply: method("apply", "apply_is_async", "apply_event")?,
            compensable: adapter.getattr("compensable")?.extract()?,
            compensation_types: adapter.getattr("compensation_types")?.extract()?,
            name,
        })
    }

    /// The argument of a call, with its place in the coordination's trace if that is traced.
    fn traced(
        &self,
        coordination: &CoordinationId,
        call: observe::Call,
        operation: Option<&str>,
        argument: Argument,
    ) -> Argument {
        let (traces, call) = (self.traces.as_ref(), call.as_str());
        match TracedCall::of(traces, coordination, call, &self.name, operation) {
            Some(traced) => Argument::Traced(Box::new((traced, argument))),
            None => argument,
        }
    }

    fn deliver(
        &self,
        call: observe::Call,
        method: Option<&Arc<Method>>,
        ask: DeliveryAsk,
        reply: Reply<Acknowledgement>,
    ) {
        let Some(method) = method else {
            let message = format!("store '{}' has no method to be told the decision", self.name);
            return reply.send(Acknowledgement::Unknown { message });
        };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            argument: self.traced(&ask.id, call, None, Argument::Id(ask.id.clone())),
            attachment: ask.attachment,
            timeout: ask.timeout,
            answers: Answers::Acknowledgement(reply),
        }));
    }
}

impl Participant for PythonStore {
    fn abilities(&self) -> Abilities {
        Abilities { lists_prepared: self.list_prepared.is_some(), single_writer: false }
    }

    fn missing_for(&self, kind: CoordinationType) -> Option<&'static str> {
        let by_votes = [
            (&self.prepare, "prepare_transaction"),
            (&self.commit, "commit_transaction"),
            (&self.abort, "abort_transaction"),
        ];
        let by_steps = [(&self.execute, "execute_operation")];
        let by_events = [(&self.apply, "apply_event")];
        let needed = match kind {
            CoordinationType::TwoPhaseCommit => by_votes.as_slice(),
            CoordinationType::EventSourcing => by_events.as_slice(),
            _ => by_steps.as_slice(),
        };
        needed.iter().find(|(method, _)| method.is_none()).map(|(_, name)| *name)
    }

    fn can_compensate(&self, operation: &Operation) -> bool {
        match operation.body.get("compensation") {
            Some(Value::Null) => true,
            None => self.compensate.is_some() && self.compensable.contains(&operation.kind),
            Some(undoing) => {
                let kind = undoing.get("type").and_then(Value::as_text);
                let types = self.compensation_types.as_ref();
                self.compensate.is_some()
                    && matches!(undoing, Value::Map(_))
                    && types.is_none_or(|types| kind.is_some_and(|kind| types.contains(kind)))
            }
        }
    }

    fn attach(&self, _cluster: &ClusterId, _name: &StoreName) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn prepare(&self, ask: PrepareAsk, reply: Reply<Vote>) {
        let Some(method) = &self.prepare else {
            let reason = format!("store '{}' has no prepare_transaction()", self.name);
            return reply.send(Vote::Abort { reason });
        };
        let request = Arc::clone(&ask.request);
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            attachment: ask.attachment.clone(),
            timeout: ask.timeout,
            argument: self.traced(
                &request.id,
                observe::Call::Prepare,
                None,
                Argument::Prepare(Box::new(ask)),
            ),
            answers: Answers::Vote(reply),
        }));
    }

    fn commit(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.deliver(observe::Call::Commit, self.commit.as_ref(), ask, reply);
    }

    fn abort(&self, ask: DeliveryAsk, reply: Reply<Acknowledgement>) {
        self.deliver(observe::Call::Abort, self.abort.as_ref(), ask, reply);
    }

    fn execute(&self, ask: ExecuteAsk, reply: Reply<StepAnswer>) {
        let (method, name) = match ask.work {
            Work::Execute => (&self.execute, "execute_operation"),
            Work::Compensate => (&self.compensate, "compensate_operation"),
        };
        let Some(method) = method else {
            let message = format!("store '{}' has no {name}()", self.name);
            return reply.send(StepAnswer::Failed { message, retryable: false });
        };
        let (request, step, work) = (Arc::clone(&ask.request), ask.step, ask.work);
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            attachment: ask.attachment.clone(),
            timeout: ask.timeout,
            argument: self.traced(
                &request.id,
                work.into(),
                Some(&request.operations[step].id),
                Argument::Execute(Box::new(ask)),
            ),
            answers: Answers::Step(reply),
        }));
    }

    fn apply_event(&self, ask: EventAsk, reply: Reply<Acknowledgement>) {
        let Some(method) = &self.apply else {
            let message = format!("store '{}' has no apply_event()", self.name);
            return reply.send(Acknowledgement::Failed { message });
        };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            attachment: None,
            timeout: ask.timeout,
            argument: self.traced(
                &ask.event.coordination,
                observe::Call::Apply,
                Some(ask.event.stream.as_str()),
                Argument::Event(Arc::clone(&ask.event)),
            ),
            answers: Answers::Applied(reply),
        }));
    }

    fn list_prepared(&self, reply: Reply<Result<Vec<CoordinationId>, ParticipantError>>) {
        let Some(method) = &self.list_prepared else { return reply.send(Ok(Vec::new())) };
        self.bridge.push(Item::Call(Call {
            method: Arc::clone(method),
            argument: Argument::Nothing,
            attachment: None,
            timeout: Duration::from_secs(30),
            answers: Answers::List(reply),
        }));
    }
}
