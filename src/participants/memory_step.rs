//! Steps in the store in memory: one operation, done at once under the store's mutex.
//!
//! Not the barrier's rules (`barrier.rs`). Like everything of this store its rows die with the
//! process. Invariants: effect and row come under one hold of the mutex; a key that a prepared
//! transaction holds is neither read nor written; the rows are bounded, and the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;

use super::ExecuteAsk;
use super::barrier::{self, Standing, Verdict};
use super::key_value::{Action, read_operation};
use super::memory::{Slot, State};
use crate::model::ids::{ClusterId, CoordinationId, StoreName};
use crate::model::step::StepAnswer;
use crate::model::value::Value;

/// How many operations have rows at most; an operation's row is a few hundred bytes.
const OPERATIONS_MAX: usize = 1 << 18;

/// Whose rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    cluster: Option<ClusterId>,
    store: StoreName,
    coordination: CoordinationId,
    operation: String,
}

/// The rows of all operations.
#[derive(Default)]
pub(super) struct Barrier {
    rows: HashMap<Arc<Key>, Standing, RandomState>,
    /// In the order of their first rows.
    order: VecDeque<(Arc<Key>, Instant)>,
}

impl Barrier {
    fn standing(&self, key: &Key) -> Standing {
        self.rows.get(key).cloned().unwrap_or_default()
    }

    fn record(&mut self, key: Key, standing: Standing) {
        if let Some(known) = self.rows.get_mut(&key) {
            *known = standing;
            return;
        }
        let key = Arc::new(key);
        self.rows.insert(Arc::clone(&key), standing);
        self.order.push_back((key, Instant::now()));
        self.purge();
    }

    fn purge(&mut self) {
        for _ in 0..barrier::PURGED_MAX {
            let is_over = |(_, since): &(_, Instant)| since.elapsed() > barrier::KEPT;
            if self.order.len() <= OPERATIONS_MAX && !self.order.front().is_some_and(is_over) {
                return;
            }
            if let Some((oldest, _)) = self.order.pop_front() {
                self.rows.remove(&oldest);
            }
        }
    }
}

impl State {
    /// Does a step, or finds that it was done.
    pub(super) fn step(&mut self, ask: &ExecuteAsk) -> StepAnswer {
        let operation = ask.operation();
        let key = Key {
            cluster: self.cluster.clone(),
            store: operation.store.clone(),
            coordination: ask.id().clone(),
            operation: operation.id.clone(),
        };
        let standing = self.barrier.standing(&key);
        match standing.judge(ask.work) {
            Verdict::Answer(answer) => answer,
            Verdict::RecordEmpty => {
                self.barrier.record(key, Standing::emptied());
                barrier::done(&Value::Null)
            }
            Verdict::Perform => match self.perform(ask, &standing) {
                Ok(result) => {
                    let answer = barrier::done(&result);
                    self.barrier.record(key, standing.with(ask.work, result));
                    answer
                }
                Err(answer) => answer,
            },
        }
    }

    fn perform(&mut self, ask: &ExecuteAsk, standing: &Standing) -> Result<Value, StepAnswer> {
        let refuse = |what: String| barrier::failed(format!("{} {what}", barrier::name_of(ask)));
        let Some(operation) = standing.operation(ask).map_err(refuse)? else {
            return Ok(Value::Null);
        };
        let operation = read_operation(&operation).map_err(refuse)?;
        let slot = self.slots.get(operation.key);
        if let Some(holder) = slot.and_then(|slot| slot.holder.as_ref()) {
            let what = format_args!("the prepared transaction '{holder}' holds it");
            return Err(barrier::try_again(barrier::of_work(ask, operation.refuse(what))));
        }
        let existed = slot.is_some_and(|slot| slot.value.is_some());
        self.check(&[operation]).map_err(|what| barrier::failed(barrier::of_work(ask, what)))?;
        match operation.action {
            Action::Put(value) => {
                let slot = Slot { value: Some(value.clone()), holder: None };
                self.slots.insert(operation.key.to_owned(), slot);
            }
            Action::Delete => drop(self.slots.remove(operation.key)),
            Action::Check(_) => {}
        }
        Ok(barrier::key_result(existed))
    }
}
