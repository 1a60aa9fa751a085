//! The last resource: which store of a request decides by a row of its own, and what it is asked.
//!
//! Not the rules (protocol) and not the row (the store's). Invariants: at most one store of a
//! request is the last resource, and none where a consensus service decides; it is named in the
//! request before the begin, and recovery goes by that name alone.

use std::sync::Arc;
use std::time::Duration;

use crate::crash;
use crate::model::ids::StoreName;
use crate::model::outcome::{Acknowledgement, Decision};
use crate::model::request::{CoordinationRequest, CoordinationType};
use crate::model::time::Timestamp;
use crate::participants::last_resource::{DecideAsk, Deciding, LastResourceUse, RowAsk};
use crate::participants::{Participant, PrepareAsk};
use crate::protocol::{Ask, Effect, Standing};
use crate::reply::Reply;

use super::asks::named_point;
use super::core::{Core, Fact};
use super::drive::State;
use super::observing::Watch;
use super::plan::Refusal;
use super::table::SlotKey;

/// A delivery to the last resource, which is a question about its row.
pub(super) struct RowQuestion {
    pub(super) key: SlotKey,
    pub(super) party: usize,
    pub(super) ask: Ask,
    pub(super) timeout: Duration,
}

/// Which store was chosen, and why it or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Its index among the request's stores.
    pub(super) last: Option<usize>,
    pub(super) why: String,
}

impl Choice {
    fn of(party: usize, why: String) -> Self {
        Self { last: Some(party), why }
    }

    fn none(why: impl Into<String>) -> Self {
        Self { last: None, why: why.into() }
    }
}

impl Core {
    /// Names the last resource in the request, where there is to be one.
    pub(super) fn choose_last_resource(
        &self,
        request: &mut Arc<CoordinationRequest>,
    ) -> Result<(), Refusal> {
        if let Some(party) = request.last_resource() {
            return self.check_enlisted(request, party);
        }
        // The common service has no store that could be one, and puts no words together.
        let can_be = |store: &dyn Participant| {
            store.last_resource().is_some_and(|last| last.usage() != LastResourceUse::Never)
        };
        if !self.ports.stores.iter().any(|(_, store, _)| can_be(&**store)) {
            return Ok(());
        }
        if let Some(last) = self.last_resource_of(request)?.last {
            let name = request.stores[last].clone();
            Arc::make_mut(request).set_last_resource(&name);
        }
        Ok(())
    }

    /// A transaction outside is to decide in the place of this store.
    fn check_enlisted(&self, request: &CoordinationRequest, party: usize) -> Result<(), Refusal> {
        let store = &request.stores[party];
        let found = self.ports.store(store).and_then(|found| found.last_resource());
        let refuse = |what: &str| {
            let message = format!("no connection can be enlisted for the store '{store}': {what}");
            Err(Refusal { code: "request.cannot_enlist", message })
        };
        if request.kind != CoordinationType::TwoPhaseCommit {
            return refuse("only two-phase commit has a last resource");
        }
        if self.ports.consensus.is_some() {
            return refuse("a consensus service decides here");
        }
        if found.is_none_or(|last| last.usage() == LastResourceUse::Never) {
            return refuse("it is no last resource; give it last_resource=\"auto\" or True");
        }
        if request.operations_of(store).next().is_some() {
            return refuse("it has operations in the request; run them on the connection");
        }
        match self.candidates(request, LastResourceUse::Always).first() {
            Some(other) => Err(two(store, &request.stores[*other])),
            None => Ok(()),
        }
    }

    /// Which store of the request is to be the last resource.
    pub(super) fn last_resource_of(
        &self,
        request: &CoordinationRequest,
    ) -> Result<Choice, Refusal> {
        if request.kind != CoordinationType::TwoPhaseCommit {
            return Ok(Choice::none("only two-phase commit has a last resource"));
        }
        let with = |wanted| self.candidates(request, wanted);
        match with(LastResourceUse::Always).as_slice() {
            [] => Ok(self.judge_auto(request, &with(LastResourceUse::Auto))),
            [only] if self.ports.consensus.is_none() => {
                Ok(Choice::of(*only, format!("'{}' is always one", request.stores[*only])))
            }
            [only, ..] if self.ports.consensus.is_some() => {
                Err(beside_consensus(&request.stores[*only]))
            }
            [first, second, ..] => Err(two(&request.stores[*first], &request.stores[*second])),
            [_] => unreachable!("there is a consensus service, or there is none"),
        }
    }

    /// The stores of the request that are used so and have work in it.
    fn candidates(&self, request: &CoordinationRequest, wanted: LastResourceUse) -> Vec<usize> {
        let is_one = |party: &usize| {
            let name = &request.stores[*party];
            let store = self.ports.store(name);
            let Some(last) = store.and_then(|store| store.last_resource()) else { return false };
            let always = wanted == LastResourceUse::Always;
            let mut operations = request.operations_of(name);
            last.usage() == wanted
                && operations.any(|operation| always || !last.only_reads(operation))
        };
        (0..request.stores.len()).filter(is_one).collect()
    }

    fn judge_auto(&self, request: &CoordinationRequest, able: &[usize]) -> Choice {
        let [only] = able else {
            return Choice::none(match able {
                [] => "no store with something to write in it may be one",
                _ => "several stores may be one, and all of them can prepare",
            });
        };
        if self.ports.consensus.is_some() {
            return Choice::none("the consensus service decides");
        }
        let name = &request.stores[*only];
        let is_single = |store: &StoreName| {
            self.ports.store(store).is_some_and(|store| store.abilities().single_writer)
        };
        // Single writers are asked by name, and the last resource comes last.
        let blocks = |other: &&StoreName| is_single(name) && is_single(other) && *other > name;
        if let Some(other) = request.stores.iter().find(blocks) {
            return Choice::none(format!(
                "'{name}' may be one, but has one writer at a time, and so has '{other}', which \
                 comes after it by name"
            ));
        }
        Choice::of(*only, format!("'{name}' is the only store that may be one"))
    }
}

fn two(first: &StoreName, second: &StoreName) -> Refusal {
    let message = format!(
        "the stores '{first}' and '{second}' are both always the last resource, and a coordination \
         has one: the store whose commit is the decision; give one of them \
         last_resource=\"auto\" or False, so that it is prepared"
    );
    Refusal { code: "request.two_last_resources", message }
}

fn beside_consensus(store: &StoreName) -> Refusal {
    let message = format!(
        "the store '{store}' is always the last resource, whose commit is the decision, but here a \
         consensus service decides; give it last_resource=\"auto\" or False, so that it is prepared"
    );
    Refusal { code: "request.last_resource_with_consensus", message }
}

impl State {
    /// Proposes to the last resource, or asks it what stands.
    pub(super) fn ask_last_resource(
        &mut self,
        core: &Core,
        key: SlotKey,
        (party, until): (usize, Timestamp),
        effect: &Effect,
    ) {
        let Some(entry) = self.table.get(key) else { return };
        let request = Arc::clone(entry.machine.request());
        let store = request.stores[party].clone();
        let watch = core.watch(&request);
        let participant = core.ports.store(&store).and_then(|found| found.last_resource());
        let Some(last) = participant else {
            let lost = match effect {
                Effect::Propose { .. } => Fact::Proposed { key, taken: false },
                _ => Fact::DecisionRead { key, standing: Standing::Unknown },
            };
            return core.post(lost);
        };
        let row = RowAsk { id: request.id.clone(), timeout: core.ports.options.commit_timeout };
        match effect {
            Effect::Propose { decision: Decision::Commit } => {
                crash::point("before_ask", &named_point("decide", store.as_str()));
                let timeout = until.since(core.clock.now());
                let attachment = entry.attachment.clone();
                let enlisted = entry.enlisted.take();
                let fences = core.fences(entry, party);
                let read_only = entry.machine.read_only_stores();
                let keeps_receipt = false;
                let work =
                    PrepareAsk { request, store, timeout, attachment, fences, keeps_receipt };
                let point = work.store.clone();
                let reply =
                    Reply::new(core.sender((point, watch), "decide", move |answer| match answer {
                        Deciding::Committed => Fact::Proposed { key, taken: true },
                        Deciding::Refused { reason } => Fact::ProposalRefused { key, reason },
                        Deciding::Unknown { message } => {
                            tracing::warn!(
                                message,
                                "a last resource's answer was lost; its row tells"
                            );
                            Fact::Proposed { key, taken: false }
                        }
                    }));
                let ask = DecideAsk { work, read_only };
                match enlisted {
                    Some(enlisted) => enlisted.decide(core.ports.journal.cluster(), ask, reply),
                    None => last.decide(ask, reply),
                }
            }
            Effect::Propose { decision: Decision::Abort } => {
                crash::point("before_ask", &named_point("forbid", store.as_str()));
                let reply = Reply::new(core.sender((store, watch), "forbid", move |standing| {
                    let taken = decision_in(&standing) == Some(Decision::Abort);
                    Fact::Proposed { key, taken }
                }));
                last.forbid(row, reply);
            }
            _ => {
                crash::point("before_ask", &named_point("read", store.as_str()));
                let reply = Reply::new(core.sender((store, watch), "read", move |standing| {
                    Fact::DecisionRead { key, standing }
                }));
                last.read(row, reply);
            }
        }
    }

    /// Tells the last resource a decision that it did not make, or may have forgotten to have made.
    pub(super) fn deliver_to_last(
        &self,
        core: &Core,
        question: RowQuestion,
        participant: &Arc<dyn Participant>,
    ) {
        let RowQuestion { key, party, ask, timeout } = question;
        let Some(entry) = self.table.look_at(key) else { return };
        let request = entry.machine.request();
        let store = request.stores[party].clone();
        let wanted = if ask == Ask::Commit { Decision::Commit } else { Decision::Abort };
        let place = store.clone();
        let reply = Reply::new(core.sender(
            (store, core.watch(request)),
            ask.as_str(),
            move |standing: Standing| {
                let answer = acknowledgement(&standing, wanted, &place);
                Fact::Acknowledged { key, party, answer }
            },
        ));
        let row = RowAsk { id: request.id.clone(), timeout };
        match participant.last_resource() {
            Some(last) if wanted == Decision::Commit => last.read(row, reply),
            Some(last) => last.forbid(row, reply),
            None => reply.send(Standing::Unknown),
        }
    }
}

fn decision_in(standing: &Standing) -> Option<Decision> {
    match standing {
        Standing::Decided { decision, .. } => Some(*decision),
        Standing::Open | Standing::Unknown => None,
    }
}

/// What its row says to a decision that stands.
fn acknowledgement(standing: &Standing, wanted: Decision, store: &StoreName) -> Acknowledgement {
    match decision_in(standing) {
        Some(decision) if decision == wanted => Acknowledgement::Done,
        Some(decision) => Acknowledgement::Failed {
            message: format!("its row in unanimity_decisions says {}", decision.as_str()),
        },
        None if *standing == Standing::Open && wanted == Decision::Commit => {
            Acknowledgement::NeverPrepared
        }
        None => Acknowledgement::Unknown {
            message: format!("the row of the last resource '{store}' could not be read"),
        },
    }
}

impl Core {
    /// A continuation that brings an answer of the last resource into the inbox.
    fn sender<T>(
        &self,
        (store, watch): (StoreName, Option<Watch>),
        question: &'static str,
        fact: impl FnOnce(T) -> Fact + Send + 'static,
    ) -> impl FnOnce(T) + Send + 'static {
        let this = self.this.clone();
        move |answer| {
            crash::point("after_ask", &named_point(question, store.as_str()));
            if let Some(core) = this.upgrade() {
                let fact = fact(answer);
                core.observe_row(watch.as_ref(), question, &fact);
                core.post(fact);
            }
        }
    }

    /// Tells observers what the row said, as if a consensus service had.
    fn observe_row(&self, watch: Option<&Watch>, question: &str, fact: &Fact) {
        let proposed = if question == "forbid" { Decision::Abort } else { Decision::Commit };
        match fact {
            Fact::Proposed { taken, .. } => self.observe_proposal(watch, proposed, *taken),
            Fact::ProposalRefused { .. } => self.observe_proposal(watch, proposed, false),
            Fact::DecisionRead { standing, .. } => self.observe_standing(watch, standing),
            // A delivery to it is a question about a row that was told already.
            _ => {}
        }
    }
}
