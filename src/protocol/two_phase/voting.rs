//! The first phase: stores are asked to prepare, and their votes are counted.
//!
//! Not the decision itself. Invariant: commit is proposed or recorded only when every store has
//! voted and none against.

use std::sync::Arc;

use crate::model::event::CoordinationEvent;
use crate::model::outcome::{Decision, Vote};
use crate::model::record::{Durability, Record};
use crate::model::time::Timestamp;

use super::party::{Ballot, Delivery, Party, Prepare};
use super::{Ask, Effect, Rule, State, TwoPhase};

impl TwoPhase {
    /// Records the begin and asks whoever can be asked.
    pub(super) fn begin(&mut self, now: Timestamp, locks: Vec<u64>) -> Vec<Effect> {
        let all_list = self.plan.parties.iter().all(|party| party.lists_prepared);
        // Where the decision lives must be known before there can be one.
        let is_swept = all_list && self.last.is_none();
        let request = Arc::clone(&self.plan.request);
        let mut effects = vec![
            Effect::Record {
                record: Record::Begin {
                    request: Arc::clone(&request),
                    owner: self.plan.owner.clone(),
                    epoch: self.plan.epoch,
                    locks,
                },
                durability: if is_swept { Durability::Accepted } else { Durability::Forced },
            },
            Effect::Publish(CoordinationEvent::Started {
                id: request.id.clone(),
                kind: request.kind,
                stores: request.stores.clone(),
                at: now,
            }),
        ];
        for party in 0..self.parties.len() {
            if !self.parties[party].single_writer && self.last != Some(party) {
                self.ask_prepare(now, party, &mut effects);
            }
        }
        self.ask_next_single_writer(now, &mut effects);
        if self.is_one_phase() {
            self.propose_commit(now, &mut effects);
        }
        effects
    }

    /// Whether there is nobody but the last resource: nobody prepares.
    pub(super) fn is_one_phase(&self) -> bool {
        self.last.is_some() && self.parties.len() == 1
    }

    pub(super) fn ask_prepare(&mut self, now: Timestamp, party: usize, effects: &mut Vec<Effect>) {
        self.parties[party].prepare_asked(now);
        let timeout = self.prepare_until.since(now);
        effects.push(Effect::Ask { party, ask: Ask::Prepare, timeout });
    }

    /// One at a time, by name: the next is asked when the one before has voted for it.
    pub(super) fn ask_next_single_writer(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let waits = |party: &Party| party.single_writer && party.is_preparing();
        if self.parties.iter().any(waits) {
            return;
        }
        let next = (0..self.parties.len())
            .filter(|party| {
                let party = &self.parties[*party];
                party.single_writer && party.prepare == Prepare::NotAsked
            })
            .filter(|party| self.last != Some(*party))
            .min_by(|a, b| self.parties[*a].store.cmp(&self.parties[*b].store));
        if let Some(party) = next {
            self.ask_prepare(now, party, effects);
        }
    }

    pub(super) fn vote(&mut self, now: Timestamp, party: usize, vote: Vote) -> Vec<Effect> {
        if !self.parties[party].is_preparing() || self.last == Some(party) {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        let ballot = self.parties[party].voted(now, vote);
        if self.state != State::Preparing {
            return self.late_vote(now, party, ballot);
        }
        match ballot {
            Ballot::Abort | Ballot::Unknown => {
                let reason = self.vote_reason(party, ballot);
                let rules = (Rule::VoteAgainst, Rule::VoteAgainstPropose);
                self.decide_abort(now, reason, rules)
            }
            Ballot::Commit | Ballot::ReadOnly | Ballot::Decided => self.vote_for(now),
        }
    }

    pub(super) fn vote_for(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let voted = |party: &Party| matches!(party.prepare, Prepare::Voted(_));
        let mut parties = self.parties.iter().enumerate();
        if !parties.all(|(index, party)| voted(party) || self.last == Some(index)) {
            self.take(Rule::VoteCounted);
            self.ask_next_single_writer(now, &mut effects);
        } else if self.last.is_some() {
            self.take(Rule::AllYesPropose);
            self.propose_commit(now, &mut effects);
        } else if self.parties.iter().all(|party| party.has_voted(Ballot::ReadOnly)) {
            self.take(Rule::AllReadOnly);
            self.decision = Some(Decision::Commit);
            self.end(now, Durability::Lazy, &mut effects);
        } else if self.plan.consensus {
            self.take(Rule::AllYesPropose);
            self.propose(Decision::Commit, &mut effects);
        } else {
            self.take(Rule::AllYes);
            self.record_decision(now, Decision::Commit, None, &mut effects);
        }
        effects
    }

    /// A vote that nobody waited for: what is decided must reach its store after it.
    pub(super) fn late_vote(
        &mut self,
        now: Timestamp,
        party: usize,
        ballot: Ballot,
    ) -> Vec<Effect> {
        self.take(Rule::LateVote);
        let mut effects = Vec::new();
        let told_before =
            !matches!(self.parties[party].delivery, Delivery::Undecided | Delivery::AfterVote);
        match (self.decision, ballot) {
            (None, _) => {}
            (Some(_), Ballot::ReadOnly) => self.parties[party].acknowledged(now),
            // It kept nothing, and was told to keep nothing.
            (Some(Decision::Abort), Ballot::Abort) if told_before => {}
            // One question at a time: else the answer to the first would be taken for the second's.
            (Some(_), _) if self.parties[party].delivery == Delivery::Asked => {
                self.parties[party].delivery = Delivery::AskedEarly;
            }
            (Some(decision), _) => self.deliver_to(now, party, decision, &mut effects),
        }
        self.end_if_settled(now, &mut effects);
        effects
    }
}
