//! Random histories of steps against a naive oracle, in each native store of one process.
//!
//! Not deaths of the process (`kill_test.rs`): here a store is closed and opened again. A failure
//! prints its seed. Invariant: the oracle knows of the barrier only its promise.

use std::collections::BTreeMap;

use super::step_subject_test::{Change, Kind, Subject};
use super::test_kit::{Random, answer, step_ask, undone_by};
use super::*;

const HISTORIES: usize = 1_000;
const KEYS: [&str; 3] = ["a", "b", "c"];

/// An operation as the oracle sees it.
#[derive(Clone, Debug)]
struct Plan {
    key: &'static str,
    change: Change,
    compensation: Option<(&'static str, Change)>,
    /// What was answered when it was done, or undone.
    done: Option<Value>,
    undone: Option<Value>,
}

impl Plan {
    fn draw(random: &mut Random, number: i64) -> Self {
        let key = KEYS[random.below(KEYS.len())];
        let change = draw_change(random, number);
        let compensation = (random.below(4) > 0)
            .then(|| (KEYS[random.below(KEYS.len())], draw_change(random, -number)));
        Self { key, change, compensation, done: None, undone: None }
    }

    fn body(&self, subject: &Subject) -> Value {
        let compensation = match self.compensation {
            Some((key, change)) => subject.change(key, change),
            None => Value::Null,
        };
        undone_by(subject.change(self.key, self.change), compensation)
    }
}

fn draw_change(random: &mut Random, number: i64) -> Change {
    [Change::Put(number), Change::Put(number), Change::Delete, Change::Expect][random.below(4)]
}

/// What the store should hold, and what it should say.
#[derive(Default)]
struct Oracle(BTreeMap<&'static str, i64>);

impl Oracle {
    /// `None` where it must fail for good.
    fn ask(&mut self, subject: &Subject, plan: &mut Plan, work: Work) -> Option<Value> {
        match work {
            Work::Execute if plan.undone.is_some() => None,
            Work::Execute => {
                if plan.done.is_none() {
                    plan.done = self.apply(subject, plan.key, plan.change);
                }
                plan.done.clone()
            }
            Work::Compensate => {
                if plan.undone.is_none() {
                    plan.undone = match plan.compensation {
                        Some((key, change)) if plan.done.is_some() => {
                            self.apply(subject, key, change)
                        }
                        _ => Some(Value::Null),
                    };
                }
                plan.undone.clone()
            }
        }
    }

    fn apply(&mut self, subject: &Subject, key: &'static str, change: Change) -> Option<Value> {
        let existed = self.0.contains_key(key);
        match change {
            Change::Put(value) => drop(self.0.insert(key, value)),
            Change::Delete => drop(self.0.remove(key)),
            Change::Expect if existed => {}
            Change::Expect => return None,
        }
        Some(subject.result(change, existed))
    }
}

fn run(kind: Kind) {
    let mut random = Random::new();
    let mut subject = Subject::new(kind);
    let mut oracle = Oracle::default();
    for history in 0..HISTORIES {
        let number = i64::try_from(history).expect("a small number") + 1;
        let mut plans: Vec<Plan> = (0..2).map(|_| Plan::draw(&mut random, number)).collect();
        for _ in 0..3 + random.below(6) {
            let index = random.below(plans.len());
            let work = [Work::Execute, Work::Execute, Work::Compensate][random.below(3)];
            let bodies = plans.iter().map(|plan| plan.body(&subject)).collect();
            let mut ask = step_ask(&format!("h{history}"), work, bodies);
            ask.step = index;
            let got = answer(|reply| subject.participant().execute(ask, reply));
            let told = format!("history {history}, {work:?} of {index}: {:?}", plans[index]);
            match (oracle.ask(&subject, &mut plans[index], work), got) {
                (Some(result), StepAnswer::Done { result: got }) => {
                    assert_eq!(got, result, "{told}");
                }
                (None, StepAnswer::Failed { retryable: false, .. }) => {}
                (expected, got) => panic!("{told}: expected {expected:?}, got {got:?}"),
            }
            if kind.is_durable() && random.below(40) == 0 {
                subject.reopen();
            }
        }
        for key in KEYS {
            assert_eq!(subject.get(key), oracle.0.get(key).copied(), "history {history}, {key}");
        }
    }
}

#[test]
fn a_thousand_histories_in_memory() {
    run(Kind::Memory);
}

#[test]
fn a_thousand_histories_in_sqlite() {
    run(Kind::Sqlite);
}

#[test]
fn a_thousand_histories_in_files() {
    run(Kind::Files);
}

#[test]
fn a_thousand_histories_in_redis() {
    run(Kind::Redis);
}
