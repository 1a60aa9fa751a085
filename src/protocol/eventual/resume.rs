//! Recovery: the same machine, built from its records. Not a second code path.
//!
//! Invariants: records are folded in the journal's order; a try without an answer in the journal
//! may have run; a machine that was built this way stands in no line yet, and enters only those in
//! which it has something left to do.

use std::sync::Arc;

use crate::model::record::Record;
use crate::model::step::Work;
use crate::model::time::Timestamp;

use crate::protocol::track::{Progress, Track};

use super::delivering::is_settled;
use super::{Effect, Eventual, Plan, Rule};

impl Eventual {
    /// A machine as its records tell it. `plan` holds the request and the (new) owner and epoch.
    pub fn from_records(plan: Plan, records: &[(Timestamp, Record)]) -> Self {
        let began_at = records.first().map_or(Timestamp(0), |(at, _)| *at);
        let mut machine = Self::new(plan, began_at);
        // Nobody waits: whoever asked died with the process, or asks again by the id.
        machine.answer_at = None;
        for (at, record) in records {
            machine.fold(*at, record);
        }
        for track in &mut machine.tracks {
            track.lost();
            // When the turn has come, what waited for its backoff has waited long enough.
            if track.retry_at().is_some() {
                track.progress = Progress::Waiting;
            }
        }
        let tracks = &machine.tracks;
        machine.lines.retain(|line| line.steps.iter().any(|step| !is_settled(&tracks[*step])));
        machine
    }

    fn fold(&mut self, at: Timestamp, record: &Record) {
        let step_of = |record: &Record| match record {
            Record::StepStarted { step, .. }
            | Record::StepDone { step, .. }
            | Record::StepFailed { step, .. }
            | Record::Parked { step, .. }
            | Record::Redriven { step } => Some(*step as usize),
            _ => None,
        };
        if matches!(record, Record::Begin { .. }) {
            for line in &self.lines {
                self.tracks[line.steps[0]].asked_as(at, Work::Execute, 1);
            }
        }
        let Some(track) = step_of(record).and_then(|step| self.tracks.get_mut(step)) else {
            return;
        };
        match record {
            Record::StepStarted { work, attempt, .. } => {
                track.lost();
                track.asked_as(at, *work, *attempt);
            }
            Record::StepDone { work, result, .. } => track.settled(at, *work, Arc::clone(result)),
            Record::StepFailed { work, message, is_unknown, is_final, .. } => {
                track.failed(*work, message.clone(), *is_unknown);
                track.progress = Progress::RetryAt(*work, at);
                if *is_final {
                    track.given_up(at);
                }
            }
            Record::Parked { work, message, .. } => {
                track.progress = Progress::Parked(*work);
                track.note = Some(message.clone());
            }
            Record::Redriven { .. } => {
                track.failures = 0;
                track.progress = Progress::Waiting;
            }
            _ => {}
        }
    }

    /// Goes on as the folded records have it.
    pub(super) fn go_on(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        let is_parked = self.tracks.iter().any(Track::is_parked);
        self.take(if is_parked { Rule::ResumedParked } else { Rule::Resumed });
        self.enter_lines(&mut effects);
        if is_parked {
            self.finish_parked(now, &mut effects);
        }
        self.end_if_settled(now, &mut effects);
        effects
    }
}
