//! The records of steps as effects, and when they need to be on disk.
//!
//! Not the rules of when there is one (the machines). Invariant: what says how a step ended is on
//! disk before anything but records follows it: by a forced record of the same batch, or by itself.

use std::sync::Arc;

use crate::model::record::{Durability, Record};
use crate::model::step::Work;
use crate::model::value::Value;

use super::Effect;

/// A step as records number it.
pub(super) fn number(step: usize) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}

fn lazy(record: Record) -> Effect {
    Effect::Record { record, durability: Durability::Lazy }
}

/// The intents of tries that begin together: one batch, which the last one forces.
pub(super) fn started(work: Work, tries: &[(usize, u32)]) -> impl Iterator<Item = Effect> {
    tries.iter().enumerate().map(move |(at, (step, attempt))| Effect::Record {
        record: Record::StepStarted { step: number(*step), work, attempt: *attempt },
        durability: if at + 1 == tries.len() { Durability::Forced } else { Durability::Lazy },
    })
}

/// It is done, or undone.
pub(super) fn done(step: usize, work: Work, result: Arc<Value>) -> Effect {
    lazy(Record::StepDone { step: number(step), work, result })
}

/// A try failed.
pub(super) fn failed(
    step: usize,
    work: Work,
    message: String,
    (is_unknown, is_final): (bool, bool),
) -> Effect {
    lazy(Record::StepFailed { step: number(step), work, message, is_unknown, is_final })
}

/// Its tries are spent.
pub(super) fn parked(step: usize, work: Work, message: String) -> Effect {
    let record = Record::Parked { step: number(step), work, message };
    Effect::Record { record, durability: Durability::Forced }
}

/// An operator wants it to be tried again, or has settled it.
pub(super) fn redriven(step: usize) -> Effect {
    lazy(Record::Redriven { step: number(step) })
}

/// Forces what no later record of its batch forces.
pub(super) fn settle_durability(effects: &mut [Effect]) {
    // Backwards: what is forced by this covers what stands before it.
    let mut is_covered = false;
    for effect in effects.iter_mut().rev() {
        let Effect::Record { record, durability } = effect else {
            is_covered = false;
            continue;
        };
        let needs_disk = matches!(
            record,
            Record::StepDone { .. }
                | Record::Redriven { .. }
                | Record::StepFailed { is_final: true, .. }
        );
        if needs_disk && !is_covered {
            *durability = Durability::Forced;
        }
        is_covered |= *durability == Durability::Forced;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mut effects: Vec<Effect>) -> Vec<Durability> {
        settle_durability(&mut effects);
        let durability = |effect: &Effect| match effect {
            Effect::Record { durability, .. } => Some(*durability),
            _ => None,
        };
        effects.iter().filter_map(durability).collect()
    }

    #[test]
    fn one_sync_serves_a_batch_and_nothing_goes_without() {
        use Durability::{Forced, Lazy};
        let done = || done(0, Work::Execute, Arc::new(Value::Null));
        let failed = |is_final| failed(0, Work::Execute, "no".into(), (false, is_final));
        assert_eq!(shown(vec![done(), done()]), [Lazy, Forced]);
        assert_eq!(shown(vec![done(), failed(false)]), [Forced, Lazy]);
        assert_eq!(shown(vec![failed(true), Effect::Close, done()]), [Forced, Forced]);
        let mut batch = vec![redriven(0), done()];
        batch.extend(started(Work::Execute, &[(1, 1), (2, 1)]));
        assert_eq!(shown(batch), [Lazy, Lazy, Lazy, Forced]);
    }
}
