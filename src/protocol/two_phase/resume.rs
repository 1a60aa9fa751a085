//! Recovery: the same machine, built from its records. Not a second code path.
//!
//! Invariants: records are folded in the journal's order; a machine that was built this way has
//! asked nothing yet, and its first input is [`crate::protocol::Input::Resumed`].

use crate::model::ids::StoreName;
use crate::model::outcome::Decision;
use crate::model::record::{Reason, Record};
use crate::model::time::Timestamp;

use super::party::{Ballot, Delivery, Party, Prepare};
use super::{Effect, Plan, Rule, TwoPhase};

impl TwoPhase {
    /// A machine as its records tell it. `plan` holds the request and the (new) owner and epoch.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        let began_at = records.first().map_or(Timestamp(0), |(at, _)| *at);
        let mut machine = Self::new(plan, began_at);
        // Nobody waits: whoever asked died with the process, or asks again by the id.
        machine.answer_at = None;
        for (_, record) in records {
            machine.fold(record);
        }
        machine
    }

    fn fold(&mut self, record: &Record) {
        match record {
            Record::Decision { decision, reason, read_only, receipts } => {
                self.decision = Some(*decision);
                self.reason.clone_from(reason);
                for store in read_only {
                    self.party_of(store, |party| {
                        party.prepare = Prepare::Voted(Ballot::ReadOnly);
                        party.delivery = Delivery::Done;
                    });
                }
                for (store, receipt) in receipts {
                    self.party_of(store, |party| party.receipt = Some(receipt.clone()));
                }
            }
            Record::Heuristic { store, message, .. } => self.party_of(store, |party| {
                party.delivery = Delivery::Refused;
                party.note = Some(message.clone());
            }),
            // Those of steps are another machine's.
            _ => {}
        }
    }

    fn party_of(&mut self, store: &StoreName, change: impl FnOnce(&mut Party)) {
        if let Some(party) = self.parties.iter_mut().find(|party| party.store == *store) {
            change(party);
        }
    }

    /// Asks whatever is unanswered, as the folded records have it. Locks, if any, are held.
    pub(super) fn go_on(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let refused = self.parties.iter().any(|party| party.delivery == Delivery::Refused);
        match self.decision {
            Some(decision) if refused => {
                self.take(Rule::ResumedHeuristic);
                self.ask_unsettled(now, decision, &mut effects);
                self.finish_heuristic(now, &mut effects);
            }
            Some(decision) => {
                let commit = decision == Decision::Commit;
                self.take(if commit { Rule::ResumedCommit } else { Rule::ResumedAbort });
                self.ask_unsettled(now, decision, &mut effects);
                self.end_if_settled(now, &mut effects);
            }
            None if self.is_decided_elsewhere() => {
                self.take(Rule::ResumedUnread);
                self.presume_all_asked();
                effects.push(Effect::ReadDecision);
            }
            None => {
                self.take(Rule::ResumedUndecided);
                let message = "the process that ran it ended before a decision was made";
                let reason = Reason::new("transaction.aborted.recovery", message);
                self.presume_all_asked();
                self.record_decision(now, Decision::Abort, Some(reason), &mut effects);
            }
        }
        effects
    }

    /// Whether a store was asked is not in the journal, so every one counts as asked and lost.
    pub(super) fn presume_all_asked(&mut self) {
        for party in self.parties.iter_mut().filter(|p| p.prepare == Prepare::NotAsked) {
            party.prepare = Prepare::Voted(Ballot::Unknown);
        }
    }

    /// What the evidence says of stores whose votes this machine did not hear.
    pub(super) fn presume_read_only(&mut self, stores: &[StoreName]) {
        for party in self.parties.iter_mut().filter(|party| party.has_voted(Ballot::Unknown)) {
            if stores.contains(&party.store) {
                party.prepare = Prepare::Voted(Ballot::ReadOnly);
            }
        }
    }

    fn ask_unsettled(&mut self, now: Timestamp, decision: Decision, effects: &mut Vec<Effect>) {
        self.presume_all_asked();
        for party in 0..self.parties.len() {
            if !self.parties[party].is_settled() {
                self.ask_delivery(now, party, decision, effects);
            }
        }
    }
}
