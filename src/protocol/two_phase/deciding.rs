//! The decision: recorded by this machine, agreed with a consensus service, committed by a last
//! resource, found in the journal, or made by an operator.
//!
//! Invariants: a decision to commit is a forced record before anybody is told; an answer of the
//! consensus service, or of a last resource, that is lost is read again, never taken for abort.

use crate::model::ids::StoreName;
use crate::model::outcome::{Decision, Receipt, Vote};
use crate::model::record::{Durability, Reason, Record};
use crate::model::time::Timestamp;

use super::outcome::{overruled_reason, requested_reason};
use super::party::{Ballot, Delivery, Party};
use super::{Effect, ProtocolError, Rule, Standing, State, TwoPhase};

impl TwoPhase {
    pub(super) fn propose(&mut self, decision: Decision, effects: &mut Vec<Effect>) {
        self.proposal = decision;
        effects.push(Effect::Propose { decision });
    }

    /// Asks the last resource to commit, which is the decision.
    pub(super) fn propose_commit(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if let Some(last) = self.last {
            self.parties[last].prepare_asked(now);
        }
        self.propose(Decision::Commit, effects);
    }

    /// The decision is abort, by the first rule, or proposed to be, by the second. A last resource
    /// that was not asked yet has no part in it.
    pub(super) fn decide_abort(
        &mut self,
        now: Timestamp,
        reason: Reason,
        (alone, with_consensus): (Rule, Rule),
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.plan.consensus && self.last.is_none() {
            self.take(with_consensus);
            self.reason = Some(reason);
            self.propose(Decision::Abort, &mut effects);
        } else {
            self.take(alone);
            self.record_decision(now, Decision::Abort, Some(reason), &mut effects);
        }
        effects
    }

    pub(super) fn record_decision(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: Option<Reason>,
        effects: &mut Vec<Effect>,
    ) {
        let durability = match decision {
            Decision::Commit if self.last.is_none() => Durability::Forced,
            // The row of the last resource stands: after a crash it is read again.
            Decision::Commit | Decision::Abort => Durability::Accepted,
        };
        self.record_decision_as(now, decision, reason, durability, effects);
    }

    pub(super) fn record_decision_as(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: Option<Reason>,
        durability: Durability,
        effects: &mut Vec<Effect>,
    ) {
        self.reason = reason;
        self.answer_at_if_overruled = self.answer_at;
        let (reason, read_only) = (self.reason.clone(), self.read_only());
        let receipts = if decision == Decision::Commit { self.receipts() } else { Vec::new() };
        let record = Record::Decision { decision, reason, read_only, receipts };
        effects.push(Effect::Record { record, durability });
        self.deliver(now, decision, effects);
    }

    pub(super) fn read_only(&self) -> Vec<StoreName> {
        let read_only = self.parties.iter().filter(|party| party.has_voted(Ballot::ReadOnly));
        read_only.map(|party| party.store.clone()).collect()
    }

    fn receipts(&self) -> Vec<(StoreName, Receipt)> {
        let given = |party: &Party| Some((party.store.clone(), party.receipt.clone()?));
        self.parties.iter().filter_map(given).collect()
    }

    pub(super) fn abort_requested(&mut self, now: Timestamp, reason: String) -> Vec<Effect> {
        if self.state == State::Locking && !self.is_resumed() {
            return self.give_up_locking(requested_reason(&reason));
        }
        if self.state != State::Preparing {
            self.take(Rule::AbortTooLate);
            return Vec::new();
        }
        let reason = requested_reason(&reason);
        self.decide_abort(now, reason, (Rule::AbortAsked, Rule::AbortAskedPropose))
    }

    pub(super) fn proposed(&mut self, now: Timestamp, taken: bool) -> Vec<Effect> {
        if self.state != State::Proposing {
            self.take(Rule::Ignored);
            return Vec::new();
        }
        if taken {
            return self.follow_consensus(now, self.proposal);
        }
        self.take(Rule::ProposalLost);
        self.last_is_unheard(now);
        vec![Effect::ReadDecision]
    }

    /// The last resource rolled back, and nobody will ask it again.
    pub(super) fn proposal_refused(&mut self, now: Timestamp, reason: String) -> Vec<Effect> {
        let mut effects = Vec::new();
        let last = self.last.filter(|last| self.parties[*last].is_preparing());
        let (State::Proposing, Some(last)) = (self.state, last) else {
            self.take(Rule::Ignored);
            return effects;
        };
        self.take(Rule::LastRefused);
        let ballot = self.parties[last].voted(now, Vote::Abort { reason });
        let reason = self.vote_reason(last, ballot);
        self.record_decision(now, Decision::Abort, Some(reason), &mut effects);
        effects
    }

    /// What the last resource did is not known: it counts as asked, without an answer.
    fn last_is_unheard(&mut self, now: Timestamp) {
        if let Some(last) = self.last.filter(|last| self.parties[*last].is_preparing()) {
            let reason = "its answer was lost".to_owned();
            self.parties[last].voted(now, Vote::Unknown { reason });
        }
    }

    pub(super) fn decision_read(&mut self, now: Timestamp, standing: Standing) -> Vec<Effect> {
        let mut effects = Vec::new();
        match (self.state, standing) {
            (State::Reading, Standing::Decided { decision, read_only }) => {
                self.presume_read_only(&read_only);
                return self.follow_consensus(now, decision);
            }
            (State::Reading, Standing::Open) if self.proposal == Decision::Commit => {
                self.take(Rule::NothingStands);
                let reason = self.untaken_reason();
                self.reason.get_or_insert(reason);
                self.propose(Decision::Abort, &mut effects);
            }
            (State::Reading, _) => {
                self.take(Rule::StillOpen);
                self.read_again_at = now + self.plan.backoff.delay(self.doubt_attempts);
                self.doubt_attempts += 1;
                // The next time that nothing stands, abort is proposed again.
                self.proposal = Decision::Commit;
            }
            _ => self.take(Rule::Ignored),
        }
        effects
    }

    pub(super) fn follow_consensus(&mut self, now: Timestamp, decision: Decision) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(last) = self.last {
            self.parties[last].decided(now, decision);
        }
        let reason = match decision {
            Decision::Commit => {
                self.take(Rule::CommitTaken);
                None
            }
            Decision::Abort => {
                self.take(Rule::AbortTaken);
                Some(self.reason.take().unwrap_or_else(|| self.elsewhere_reason()))
            }
        };
        self.record_decision(now, decision, reason, &mut effects);
        effects
    }

    /// The journal holds a decision that was made elsewhere; what is asked already is asked anew.
    pub(super) fn overruled(
        &mut self,
        now: Timestamp,
        standing: Decision,
    ) -> Result<Vec<Effect>, ProtocolError> {
        let mut effects = Vec::new();
        let rule = match standing {
            Decision::Commit => Rule::OverruledCommit,
            Decision::Abort => Rule::OverruledAbort,
        };
        if self.decision == Some(standing) {
            self.take(Rule::Ignored);
            return Ok(effects);
        }
        if !rule.row().from.contains(&self.state) {
            return Err(self.impossible("Overruled"));
        }
        self.take(rule);
        self.reason = (standing == Decision::Abort).then(overruled_reason);
        self.answer_at = self.answer_at.or(self.answer_at_if_overruled.take());
        self.last_is_unheard(now);
        for party in &mut self.parties {
            party.delivery = Delivery::Undecided;
        }
        self.deliver(now, standing, &mut effects);
        Ok(effects)
    }

    pub(super) fn resolved(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: &str,
    ) -> Result<Vec<Effect>, ProtocolError> {
        let mut effects = Vec::new();
        let words =
            Reason::new("transaction.resolved", format!("resolved by an operator: {reason}"));
        match (self.state, self.decision) {
            (State::Locking, None) if decision == Decision::Abort && !self.is_resumed() => {
                return Ok(self.give_up_locking(words));
            }
            (State::Preparing, None) if decision == Decision::Abort => {
                return Ok(self.decide_abort(
                    now,
                    words,
                    (Rule::AbortAsked, Rule::AbortAskedPropose),
                ));
            }
            (State::Proposing | State::Reading | State::InDoubt, _) => {
                let commit = decision == Decision::Commit;
                self.take(if commit { Rule::ResolvedCommit } else { Rule::ResolvedAbort });
                self.last_is_unheard(now);
                let forced = Durability::Forced;
                self.record_decision_as(now, decision, Some(words), forced, &mut effects);
            }
            (State::Committing | State::Aborting, Some(standing)) if standing == decision => {
                self.take(Rule::ResolvedDelivery);
                self.answer_for_silent(standing, reason, &mut effects);
                self.reason = Some(words);
                self.end(now, Durability::Forced, &mut effects);
            }
            (State::Heuristic, _) => {
                self.take(Rule::ResolvedHeuristic);
                self.answer_for_silent(decision, reason, &mut effects);
                self.decision = Some(decision);
                self.reason = Some(words);
                self.end(now, Durability::Forced, &mut effects);
            }
            (_, Some(standing)) => {
                let (standing, asked) = (standing.as_str(), decision.as_str());
                return Err(ProtocolError::Contradicts { standing, asked });
            }
            _ => return Err(self.impossible("Resolved")),
        }
        Ok(effects)
    }
}
