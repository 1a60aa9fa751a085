//! The second phase: the decision is told to every store until it acknowledges, for ever.
//!
//! Invariants: nothing is told without a decision; only a store's own final word ends its delivery
//! otherwise than by an acknowledgement, and that needs an operator.

use crate::model::outcome::{Acknowledgement, Decision};
use crate::model::record::{Durability, Record};
use crate::model::request::ConsistencyLevel;
use crate::model::time::Timestamp;

use super::party::{Ballot, Delivery, Party, Prepare};
use super::{Ask, Effect, Rule, State, TwoPhase};

impl TwoPhase {
    /// The decision stands (or waits for its record): tell every store that must know.
    pub(super) fn deliver(
        &mut self,
        now: Timestamp,
        decision: Decision,
        effects: &mut Vec<Effect>,
    ) {
        self.decision = Some(decision);
        let wait_until = now
            + match decision {
                Decision::Commit => self.plan.commit_timeout,
                Decision::Abort => self.plan.abort_wait.min(self.plan.commit_timeout),
            };
        self.answer_at = self.answer_at.map(|at| at.min(wait_until));
        if self.plan.request.consistency == ConsistencyLevel::Eventual {
            self.answer(effects);
        }
        for party in 0..self.parties.len() {
            self.deliver_to(now, party, decision, effects);
        }
        self.end_if_settled(now, effects);
    }

    pub(super) fn deliver_to(
        &mut self,
        now: Timestamp,
        party: usize,
        decision: Decision,
        effects: &mut Vec<Effect>,
    ) {
        let is_last = self.last == Some(party);
        let party_state = &mut self.parties[party];
        match party_state.prepare {
            Prepare::Voted(Ballot::ReadOnly) => party_state.acknowledged(now),
            // What it has said itself needs not to be told.
            Prepare::Voted(Ballot::Decided) if decision == Decision::Commit => {
                party_state.acknowledged(now);
            }
            Prepare::Voted(Ballot::Abort) if is_last && decision == Decision::Abort => {
                party_state.acknowledged(now);
            }
            Prepare::NotAsked if decision == Decision::Abort => party_state.acknowledged(now),
            Prepare::Asked if decision == Decision::Commit || now < self.prepare_until => {
                party_state.delivery = Delivery::AfterVote;
            }
            _ => self.ask_delivery(now, party, decision, effects),
        }
    }

    pub(super) fn ask_delivery(
        &mut self,
        now: Timestamp,
        party: usize,
        decision: Decision,
        effects: &mut Vec<Effect>,
    ) {
        self.parties[party].delivery_asked(now);
        let ask = match decision {
            Decision::Commit => Ask::Commit,
            Decision::Abort => Ask::Abort,
        };
        effects.push(Effect::Ask { party, ask, timeout: self.plan.commit_timeout });
    }

    pub(super) fn acknowledge(
        &mut self,
        now: Timestamp,
        party: usize,
        answer: Acknowledgement,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let decision = match (self.decision, self.parties[party].delivery) {
            (Some(decision), Delivery::Asked) => decision,
            (Some(decision), Delivery::AskedEarly) => {
                self.take(Rule::ToldEarly);
                self.ask_delivery(now, party, decision, &mut effects);
                return effects;
            }
            _ => {
                self.take(Rule::Ignored);
                return effects;
            }
        };
        match answer {
            Acknowledgement::Done => {
                self.parties[party].acknowledged(now);
                self.settle(now, Rule::Acknowledged, &mut effects);
            }
            Acknowledgement::Unknown { message } => {
                self.take(Rule::DeliveryUnknown);
                let delay = self.plan.backoff.delay(self.parties[party].attempts - 1);
                self.parties[party].delivery = Delivery::RetryAt(now + delay);
                self.parties[party].note = Some(message);
            }
            Acknowledgement::NeverPrepared if decision == Decision::Abort => {
                self.parties[party].acknowledged(now);
                self.settle(now, Rule::Acknowledged, &mut effects);
            }
            Acknowledgement::NeverPrepared => {
                let message = "it says that it never prepared this coordination".to_owned();
                self.refuse(now, party, message, &mut effects);
            }
            Acknowledgement::Failed { message } => self.refuse(now, party, message, &mut effects),
        }
        effects
    }

    /// A store's final word is contrary to the decision.
    pub(super) fn refuse(
        &mut self,
        now: Timestamp,
        party: usize,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let expected = self.decision.expect("only a decided coordination is delivered");
        self.parties[party].delivery = Delivery::Refused;
        self.parties[party].note = Some(message.clone());
        let store = self.parties[party].store.clone();
        let alert = self.alert(&store, expected, &message);
        effects.push(Effect::Record {
            record: Record::Heuristic { store, expected, message },
            durability: Durability::Forced,
        });
        effects.push(Effect::Alert { message: alert });
        self.settle(now, Rule::StoreRefused, effects);
    }

    /// One more store has given its word; `rule` is the row for "others are missing".
    pub(super) fn settle(&mut self, now: Timestamp, rule: Rule, effects: &mut Vec<Effect>) {
        if self.state == State::Heuristic {
            let refused = rule == Rule::StoreRefused;
            self.take(if refused { rule } else { Rule::HeuristicAcknowledged });
        } else if self.parties.iter().all(Party::is_settled) {
            self.end_if_settled(now, effects);
        } else {
            self.take(rule);
        }
    }

    pub(super) fn end_if_settled(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let delivering = matches!(self.state, State::Committing | State::Aborting);
        if !delivering || !self.parties.iter().all(Party::is_settled) {
            return;
        }
        if self.parties.iter().any(|party| party.delivery == Delivery::Refused) {
            self.take(Rule::HeuristicEnd);
            self.finish_heuristic(now, effects);
            return;
        }
        let committed = self.state == State::Committing;
        self.take(if committed { Rule::CommitDone } else { Rule::AbortDone });
        self.end(now, Durability::Lazy, effects);
    }

    pub(super) fn ask_due_deliveries(
        &mut self,
        now: Timestamp,
        decision: Decision,
        effects: &mut Vec<Effect>,
    ) {
        for party in 0..self.parties.len() {
            if self.delivery_due(&self.parties[party]).is_some_and(|at| now >= at) {
                self.take(Rule::AskDeliveryAgain);
                self.ask_delivery(now, party, decision, effects);
            }
        }
    }

    /// When a party is to be told (again), if that depends on time.
    pub(super) fn delivery_due(&self, party: &Party) -> Option<Timestamp> {
        match party.delivery {
            Delivery::RetryAt(at) => Some(at),
            Delivery::AfterVote if self.decision == Some(Decision::Abort) => {
                Some(self.prepare_until)
            }
            _ => None,
        }
    }
}
