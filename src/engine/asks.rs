//! Questions to stores, to the consensus service and to operators: an effect becomes a call of a
//! port, and its answer a fact.
//!
//! Invariant: the answer goes to the slot that asked; a slot that is used again does not hear it.

use std::sync::Arc;
use std::time::Duration;

use crate::consensus::Proposal;
use crate::crash;
use crate::model::outcome::{Acknowledgement, Vote};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::step::{StepAnswer, Work};
use crate::model::value::Value;
use crate::observe::{Alert, Severity};
use crate::participants::{DeliveryAsk, ExecuteAsk, PrepareAsk};
use crate::protocol::{Ask, Effect};
use crate::reply::Reply;

use super::core::{Core, Fact};
use super::drive::State;
use super::observing::Asked;
use super::table::{Entry, SlotKey};

impl State {
    pub(super) fn ask(
        &mut self,
        core: &Core,
        key: SlotKey,
        party: usize,
        ask: Ask,
        timeout: Duration,
    ) {
        let Some(entry) = self.table.get(key) else { return };
        let request = entry.machine.request();
        let store = request.stores[party].clone();
        crash::point("before_ask", &format_point(ask, store.as_str()));
        let Some(participant) = core.ports.store(&store) else {
            let message = format!("this service has no store named '{store}'");
            let fact =
                Fact::Acknowledged { key, party, answer: Acknowledgement::Unknown { message } };
            core.post(fact);
            return;
        };
        let (this, watch) = (core.this.clone(), core.watch(request));
        let attachment = entry.attachment.clone();
        if ask == Ask::Prepare {
            let request = Arc::clone(request);
            let point = store.clone();
            let reply = Reply::new(move |vote: Vote| {
                crash::point("after_ask", &format_point(ask, point.as_str()));
                if let Some(core) = this.upgrade() {
                    core.observe_call(watch.as_ref(), Asked::by_vote(ask, &point), &vote);
                    core.post(Fact::Voted { key, party, vote });
                }
            });
            let fences = core.fences(entry, party);
            // With a consensus service the decision stands before its record does.
            let keeps_receipt = core.ports.consensus.is_none();
            let ask = PrepareAsk { request, store, timeout, attachment, fences, keeps_receipt };
            participant.prepare(ask, reply);
            return;
        }
        let receipt = entry.machine.receipt(party);
        let delivery = DeliveryAsk { id: request.id.clone(), timeout, attachment, receipt };
        let reply = Reply::new(move |answer: Acknowledgement| {
            crash::point("after_ask", &format_point(ask, store.as_str()));
            if let Some(core) = this.upgrade() {
                core.observe_call(watch.as_ref(), Asked::by_vote(ask, &store), &answer);
                core.post(Fact::Acknowledged { key, party, answer });
            }
        });
        match ask {
            Ask::Commit => participant.commit(delivery, reply),
            _ => participant.abort(delivery, reply),
        }
    }

    /// Asks for one operation, or for its undoing.
    pub(super) fn execute(&mut self, core: &Core, key: SlotKey, ask: StepAsk) {
        let Some(entry) = self.table.get(key) else { return };
        let StepAsk { step, work, attempt, context, timeout } = ask;
        let request = Arc::clone(entry.machine.request());
        let asked = asked_of(&request, work);
        let store = request.operations[step].store.clone();
        let point = step_point(work, &request.operations[step].id);
        crash::point("before_ask", &point);
        let (this, watch) = (core.this.clone(), core.watch(&request));
        let reply = Reply::new(move |answer: StepAnswer| {
            crash::point("after_ask", &point);
            if let Some(core) = this.upgrade() {
                if let Some(watch) = &watch {
                    let asked = Asked::by_step(watch.request(), step, asked, attempt);
                    core.observe_call(Some(watch), asked, &answer);
                }
                core.post(Fact::StepAnswered { key, step, work, attempt, answer });
            }
        });
        let Some(participant) = core.ports.store(&store) else {
            let message = format!("this service has no store named '{store}'");
            return reply.send(StepAnswer::Unknown { message });
        };
        let attachment = entry.attachment.clone();
        let work = asked;
        let ask = ExecuteAsk { request, step, work, attempt, context, timeout, attachment };
        participant.execute(ask, reply);
    }

    pub(super) fn ask_consensus(&mut self, core: &Core, key: SlotKey, effect: Effect) {
        let (Some(entry), Some(consensus)) = (self.table.get(key), &core.ports.consensus) else {
            return;
        };
        let (this, watch) = (core.this.clone(), core.watch(entry.machine.request()));
        if let Effect::Propose { decision } = effect {
            let evidence = evidence(entry);
            let reply = Reply::new(move |answer| {
                let taken = answer == Proposal::Taken;
                if let Some(core) = this.upgrade() {
                    core.observe_proposal(watch.as_ref(), decision, taken);
                    core.post(Fact::Proposed { key, taken });
                }
            });
            consensus.propose(entry.id(), decision, evidence, reply);
        } else {
            let reply = Reply::new(move |standing| {
                if let Some(core) = this.upgrade() {
                    core.observe_standing(watch.as_ref(), &standing);
                    core.post(Fact::DecisionRead { key, standing });
                }
            });
            consensus.read(entry.id(), reply);
        }
    }

    pub(super) fn alert(&mut self, core: &Core, key: SlotKey, message: String) {
        let Some(entry) = self.table.get(key) else { return };
        let code = entry.machine.view().outcome.code.unwrap_or_default();
        tracing::error!(
            coordination = %entry.id(),
            code,
            trouble = message,
            "manual intervention required"
        );
        if let Some(alerting) = &core.ports.alerting {
            alerting.raise(Alert {
                severity: Severity::High,
                title: "Manual intervention required".to_owned(),
                message,
                coordination: entry.id().clone(),
            });
        }
    }
}

/// What is asked of a participant for a step.
pub(super) struct StepAsk {
    pub(super) step: usize,
    pub(super) work: Work,
    pub(super) attempt: u32,
    pub(super) context: Vec<(usize, Arc<Value>)>,
    pub(super) timeout: Duration,
}

/// At a stop of a choreographed saga that goes back, doing the one operation is undoing it.
fn asked_of(request: &CoordinationRequest, work: Work) -> Work {
    let goes_back = request.root.is_some() && request.kind == CoordinationType::EventualConsistency;
    if goes_back { Work::Compensate } else { work }
}

/// `compensate:charge`, only put together when somebody looks.
fn step_point(work: Work, operation: &str) -> String {
    if crash::is_armed() { format!("{}:{operation}", work.as_str()) } else { String::new() }
}

/// `prepare:payments`, only put together when somebody looks.
fn format_point(ask: Ask, store: &str) -> String {
    if crash::is_armed() { format!("{}:{store}", ask.as_str()) } else { String::new() }
}

/// What a consensus service is told besides the decision.
fn evidence(entry: &Entry) -> Value {
    let view = entry.machine.view();
    let votes = view.stores.iter().map(|store| {
        let vote = store.vote.as_deref().map_or(Value::Null, Value::from);
        (store.store.as_str().to_owned(), vote)
    });
    Value::Map(vec![("votes".to_owned(), Value::Map(votes.collect()))])
}
