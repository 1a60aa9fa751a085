//! The decision: recorded by this machine, agreed with a consensus service, found in the journal,
//! or wished for by a caller or an operator.
//!
//! Invariants: it is a forced record before anything follows from it; an answer of the consensus
//! service that is lost is read again, never taken for abort.

use crate::model::outcome::Decision;
use crate::model::record::{Durability, Reason, Record};
use crate::model::request::ConsistencyLevel;
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;

use crate::protocol::Standing;
use crate::protocol::track::Progress;

use super::outcome::{self, requested_reason};
use super::{BeforeDecision, Effect, ProtocolError, Rule, Saga, State};

impl Saga {
    pub(super) fn decide_commit(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        if self.plan.consensus {
            self.take(Rule::CommitPropose);
            self.propose(Decision::Commit, effects);
        } else {
            self.take(Rule::Commit);
            self.decided(now, Decision::Commit, None, effects);
        }
    }

    /// Turns round, unless a pivot that cannot be undone may have been done.
    pub(super) fn turn(&mut self, now: Timestamp, reason: Reason, effects: &mut Vec<Effect>) {
        let is_operators = reason.code == outcome::RESOLVED;
        if let Some(pivot) = self.pivot_at_risk() {
            match self.steps.tracks[pivot].progress {
                Progress::Out(_) => return self.take(Rule::TurnWaits),
                _ if is_operators => {}
                Progress::Failed => {
                    self.take(Rule::PivotParked);
                    let message = self.steps.tracks[pivot].note.clone().unwrap_or_default();
                    return self.park(now, pivot, Work::Execute, message, effects);
                }
                Progress::Waiting => {
                    self.take(Rule::StepsReady);
                    self.ask(now, Work::Execute, &[pivot], effects);
                    return self.take(Rule::TurnWaits);
                }
                _ => return self.take(Rule::TurnWaits),
            }
        }
        if self.plan.consensus {
            self.take(Rule::TurnPropose);
            self.propose(Decision::Abort, effects);
        } else {
            self.take(Rule::Turn);
            self.decided(now, Decision::Abort, Some(reason), effects);
        }
    }

    /// The caller's time is over.
    pub(super) fn turn_for_time(&mut self, now: Timestamp) -> Reason {
        let reason = self.timeout_reason();
        self.wish = Some(reason.clone());
        let until = now + self.plan.abort_wait;
        self.answer_at = self.answer_at.map(|at| at.max(until));
        reason
    }

    /// Records the decision and does what follows from it.
    fn decided(
        &mut self,
        now: Timestamp,
        decision: Decision,
        reason: Option<Reason>,
        effects: &mut Vec<Effect>,
    ) {
        self.before_decision = Some(Box::new(BeforeDecision {
            steps: self.steps.clone(),
            answer_at: self.answer_at,
            since: Vec::new(),
        }));
        let record = Record::Decision {
            decision,
            reason: reason.clone(),
            read_only: Vec::new(),
            receipts: Vec::new(),
        };
        effects.push(Effect::Record { record, durability: Durability::Forced });
        self.decision = Some(decision);
        self.reason = reason;
        self.follow(now, decision, effects);
    }

    /// A decision stands, or waits for its record.
    fn follow(&mut self, now: Timestamp, decision: Decision, effects: &mut Vec<Effect>) {
        self.wish = None;
        if decision == Decision::Abort {
            let until = now + self.plan.abort_wait;
            self.answer_at = self.answer_at.map(|at| at.max(until));
        }
        self.set_direction(now, decision);
        let behind_decision = effects.len();
        self.proceed(now, effects);
        let is_early = self.plan.request.consistency == ConsistencyLevel::Eventual
            && !matches!(self.state, State::Ended | State::Parked);
        if is_early && self.answer_at.take().is_some() {
            effects.insert(behind_decision, Effect::Answer(self.outcome()));
        }
    }

    /// After a commit nothing counts as failed; after an abort nothing is tried again.
    pub(super) fn set_direction(&mut self, now: Timestamp, decision: Decision) {
        for track in &mut self.steps.tracks {
            track.failures = 0;
        }
        self.keep_direction(now, decision);
    }

    pub(super) fn keep_direction(&mut self, now: Timestamp, decision: Decision) {
        for track in &mut self.steps.tracks {
            match (decision, track.progress) {
                (Decision::Commit, Progress::Failed) => track.progress = Progress::Waiting,
                (
                    Decision::Abort,
                    Progress::RetryAt(Work::Execute, _) | Progress::Parked(Work::Execute),
                ) => track.given_up(now),
                _ => {}
            }
        }
    }

    /// Remembers what an overruled decision would have to be told again.
    pub(super) fn note_answer_since_decision(
        &mut self,
        step: usize,
        work: Work,
        attempt: u32,
        answer: &StepAnswer,
    ) {
        let Some(before) = &mut self.before_decision else { return };
        if before.steps.tracks[step].is_awaited(work, attempt) {
            before.since.push((step, answer.clone()));
        } else {
            // It was asked behind the decision, so the decision stands.
            self.before_decision = None;
        }
    }

    /// The journal holds a decision that was made elsewhere. What was listed behind the own one was
    /// never carried out, so it is as if it had not been listed.
    pub(super) fn overruled(
        &mut self,
        now: Timestamp,
        standing: Decision,
    ) -> Result<Vec<Effect>, ProtocolError> {
        if self.decision == Some(standing) {
            return Ok(self.ignored());
        }
        let rule = match standing {
            Decision::Commit => Rule::OverruledCommit,
            Decision::Abort => Rule::OverruledAbort,
        };
        let before = self.before_decision.take();
        let Some(before) = before.filter(|_| rule.row().from.contains(&self.state)) else {
            return Err(self.impossible("Overruled"));
        };
        self.take(rule);
        self.decision = Some(standing);
        self.reason = (standing == Decision::Abort).then(outcome::overruled_reason);
        self.steps = before.steps;
        self.answer_at = self.answer_at.or(before.answer_at);
        let mut effects = Vec::new();
        for (step, answer) in before.since {
            self.take_answer(now, step, Work::Execute, answer, &mut effects);
        }
        self.follow(now, standing, &mut effects);
        Ok(effects)
    }

    pub(super) fn abort_requested(&mut self, now: Timestamp, words: &str) -> Vec<Effect> {
        let reason = requested_reason(words);
        let is_undecided = self.decision.is_none();
        match self.state {
            State::Locking if !self.locking.resumed => self.give_up_locking(reason),
            State::Locking | State::Executing if is_undecided => self.wish_abort(now, reason),
            _ => {
                self.take(Rule::AbortTooLate);
                Vec::new()
            }
        }
    }

    pub(super) fn wish_abort(&mut self, now: Timestamp, reason: Reason) -> Vec<Effect> {
        self.take(Rule::AbortAsked);
        if reason.code == outcome::RESOLVED {
            self.wish = Some(reason);
        } else {
            self.wish.get_or_insert(reason);
        }
        let mut effects = Vec::new();
        self.proceed(now, &mut effects);
        effects
    }

    fn propose(&mut self, decision: Decision, effects: &mut Vec<Effect>) {
        self.agreement.is_vain = false;
        self.agreement.proposal = Some(decision);
        effects.push(Effect::Propose { decision });
    }

    pub(super) fn proposed(&mut self, now: Timestamp, taken: bool) -> Vec<Effect> {
        match self.agreement.proposal {
            Some(proposal) if self.state == State::Proposing && taken => {
                self.follow_consensus(now, proposal)
            }
            _ if self.state == State::Proposing => {
                self.take(Rule::ProposalLost);
                vec![Effect::ReadDecision]
            }
            _ => self.ignored(),
        }
    }

    pub(super) fn decision_read(&mut self, now: Timestamp, standing: Standing) -> Vec<Effect> {
        if self.state != State::Reading {
            return self.ignored();
        }
        let mut effects = Vec::new();
        // What cannot be undone is not proposed to be aborted.
        let next = if self.pivot_done_for_good() { Decision::Commit } else { Decision::Abort };
        match (standing, self.agreement.proposal) {
            (Standing::Decided { decision, .. }, _) => return self.follow_consensus(now, decision),
            (Standing::Open, None) => {
                self.take(Rule::NothingProposed);
                self.proceed(now, &mut effects);
            }
            (Standing::Open, Some(before)) if before != next || self.agreement.is_vain => {
                self.take(Rule::NothingStands);
                self.wish.get_or_insert_with(outcome::untaken_reason);
                self.propose(next, &mut effects);
            }
            (standing, _) => {
                self.take(Rule::StillOpen);
                let delay = self.plan.backoff.delay(self.agreement.doubts);
                self.agreement.read_again_at = Some(now + delay);
                self.agreement.doubts += 1;
                self.agreement.is_vain = standing == Standing::Open;
            }
        }
        effects
    }

    fn follow_consensus(&mut self, now: Timestamp, decision: Decision) -> Vec<Effect> {
        let mut effects = Vec::new();
        let reason = match decision {
            Decision::Commit => {
                self.take(Rule::CommitTaken);
                None
            }
            Decision::Abort => {
                self.take(Rule::AbortTaken);
                Some(self.wish.take().unwrap_or_else(outcome::consensus_reason))
            }
        };
        self.decided(now, decision, reason, &mut effects);
        effects
    }

    /// An operator decides what the consensus service does not.
    pub(super) fn resolve_doubt(
        &mut self,
        now: Timestamp,
        decision: Decision,
        words: Reason,
    ) -> Vec<Effect> {
        let is_commit = decision == Decision::Commit;
        self.take(if is_commit { Rule::ResolvedCommit } else { Rule::ResolvedAbort });
        self.agreement.read_again_at = None;
        let mut effects = Vec::new();
        self.decided(now, decision, Some(words), &mut effects);
        effects
    }
}
