//! Recovery: the same machine, built from its records. Not a second code path.
//!
//! Invariants: records are folded in the journal's order; a try without an answer in the journal
//! may have run; a machine that was built this way has asked nothing yet, and its first input is
//! [`crate::protocol::Input::Resumed`].

use std::sync::Arc;

use crate::model::outcome::Decision;
use crate::model::record::Record;
use crate::model::step::Work;
use crate::model::time::Timestamp;

use crate::protocol::track::{Progress, Track};

use super::{Effect, Plan, Rule, Saga};

impl Saga {
    /// A machine as its records tell it. `plan` holds the request and the (new) owner and epoch.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        let began_at = records.first().map_or(Timestamp(0), |(at, _)| *at);
        let mut machine = Self::new(plan, began_at);
        // Nobody waits: whoever asked died with the process, or asks again by the id.
        machine.answer_at = None;
        for (at, record) in records {
            machine.fold(*at, record);
        }
        machine.steps.tracks.iter_mut().for_each(Track::lost);
        machine
    }

    fn fold(&mut self, at: Timestamp, record: &Record) {
        match record {
            Record::Begin { .. } => {
                for step in self.first_steps() {
                    self.fold_started(at, step, Work::Execute, 1);
                }
            }
            Record::Decision { decision, reason, .. } => {
                self.decision = Some(*decision);
                self.reason.clone_from(reason);
                self.set_direction(at, *decision);
            }
            Record::StepStarted { step, work, attempt } => {
                self.fold_started(at, *step as usize, *work, *attempt);
            }
            Record::StepDone { step, work, result } => {
                let step = *step as usize;
                let Some(track) = self.steps.tracks.get_mut(step) else { return };
                let is_first = !track.is_done();
                track.settled(at, *work, Arc::clone(result));
                if *work == Work::Execute && is_first {
                    self.steps.done.push(step);
                }
            }
            Record::StepFailed { step, work, message, is_unknown, is_final } => {
                self.fold_failed(at, *step as usize, (*work, message), (*is_unknown, *is_final));
            }
            Record::Parked { step, work, message } => {
                let Some(track) = self.steps.tracks.get_mut(*step as usize) else { return };
                track.progress = Progress::Parked(*work);
                track.note = Some(message.clone());
            }
            Record::Redriven { step } => {
                let Some(track) = self.steps.tracks.get_mut(*step as usize) else { return };
                track.failures = 0;
                if let Progress::Parked(work) = track.progress {
                    track.progress = Progress::Out(work);
                }
            }
            _ => {}
        }
    }

    fn fold_started(&mut self, at: Timestamp, step: usize, work: Work, attempt: u32) {
        let Some(track) = self.steps.tracks.get_mut(step) else { return };
        // Of a try before it without an answer nobody knows.
        track.lost();
        track.asked_as(at, work, attempt);
        if work == Work::Execute && !self.steps.asked.contains(&step) {
            self.steps.asked.push(step);
        }
    }

    fn fold_failed(
        &mut self,
        at: Timestamp,
        step: usize,
        (work, message): (Work, &str),
        (is_unknown, is_final): (bool, bool),
    ) {
        let Some(track) = self.steps.tracks.get_mut(step) else { return };
        track.failed(work, message.to_owned(), is_unknown);
        let delay = self.plan.backoff.delay(track.failures - 1);
        track.progress = Progress::RetryAt(work, at + delay);
        if is_final && work == Work::Execute && self.decision != Some(Decision::Commit) {
            track.given_up(at);
        }
    }

    /// Goes on as the folded records have it. Locks, if any, are held.
    pub(super) fn go_on(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.steps.tracks.iter().any(Track::is_parked) {
            self.take(Rule::ResumedParked);
            self.finish_parked(now, &mut effects);
        } else {
            match self.decision {
                Some(Decision::Commit) => self.take(Rule::ResumedCommit),
                Some(Decision::Abort) => self.take(Rule::ResumedAbort),
                None if self.plan.consensus => {
                    self.take(Rule::ResumedUnread);
                    effects.push(Effect::ReadDecision);
                }
                None => self.take(Rule::ResumedExecuting),
            }
        }
        if self.decision.is_none() {
            self.wish_as_before();
        }
        self.proceed(now, &mut effects);
        effects
    }

    /// What made it turn round before the crash does so again.
    fn wish_as_before(&mut self) {
        let given_up = |track: &Track| track.progress == Progress::Failed;
        if let Some(step) = self.steps.tracks.iter().position(given_up) {
            let reason = self.step_reason(step);
            self.wish.get_or_insert(reason);
        }
    }
}
