//! Steps in the file store: one operation on one key, done at once with its row of the barrier.
//!
//! Not the barrier's rules (`barrier.rs`) and not its files (`files_barrier.rs`). Invariants: the
//! root's lock is held from the first look to the last write, so steps and prepares of all
//! processes go one after the other; a key that a prepared transaction holds, or a path above or
//! below it, is neither read nor written.

use std::io;

use super::ExecuteAsk;
use super::barrier::{self, Standing, Verdict};
use super::files::Opened;
use super::files_barrier::{RowFile, Trouble};
use super::files_key::{self, Found};
use super::files_plan;
use super::files_stage::Guard;
use super::key_value::read_operation;
use crate::crash;
use crate::model::operation::Operation;
use crate::model::step::StepAnswer;
use crate::model::value::Value;

impl Opened {
    /// Does a step, or finds that it was done.
    pub(super) fn step(&self, ask: &ExecuteAsk) -> StepAnswer {
        let explain = |error: io::Error| format!("{}: {error}", self.area.root.display());
        let guard = match self.area.lock() {
            Ok(guard) => guard,
            Err(error) => return barrier::try_again(explain(error)),
        };
        let found =
            self.barrier.finish(&guard, &self.area).and_then(|()| self.barrier.read(&guard, ask));
        let standing = match found {
            Ok(standing) => standing,
            // An earlier try may have been done.
            Err(error) => return barrier::unknown(explain(error)),
        };
        let answer = match standing.judge(ask.work) {
            Verdict::Answer(answer) => return answer,
            Verdict::RecordEmpty => {
                let row = self.barrier.row(ask, Standing::emptied(), None);
                self.record(&guard, &row, None, Value::Null)
            }
            Verdict::Perform => match standing.operation(ask) {
                Ok(Some(operation)) => self.perform(&guard, ask, &standing, &operation),
                Ok(None) => {
                    let row = self.barrier.row(ask, standing.with(ask.work, Value::Null), None);
                    self.record(&guard, &row, None, Value::Null)
                }
                Err(what) => barrier::failed(format!("{} {what}", barrier::name_of(ask))),
            },
        };
        self.barrier.purge_now_and_then(&guard);
        answer
    }

    fn perform(
        &self,
        guard: &Guard,
        ask: &ExecuteAsk,
        standing: &Standing,
        operation: &Operation,
    ) -> StepAnswer {
        let operation = match read_operation(operation) {
            Ok(operation) => operation,
            Err(what) => return barrier::failed(format!("{} {what}", barrier::name_of(ask))),
        };
        if let Err(what) = files_plan::check_operation(&operation) {
            return barrier::failed(barrier::of_work(ask, operation.refuse(what)));
        }
        if let Err(what) = self.check_free(&[operation], &[]) {
            return barrier::try_again(barrier::of_work(ask, what));
        }
        let existed = matches!(files_key::find(&self.area.root, operation.key), Ok(Found::File(_)));
        let operations = [operation];
        let mut plan = match files_plan::plan(&self.area.root, &operations) {
            Ok(plan) => plan,
            Err(what) => return barrier::failed(barrier::of_work(ask, what)),
        };
        crash::point("store_step", self.area.store_name());
        let (effect, content) = (plan.effects.pop(), plan.contents.pop().flatten());
        let result = barrier::key_result(existed);
        let row = self.barrier.row(ask, standing.with(ask.work, result.clone()), effect);
        self.record(guard, &row, content, result)
    }

    fn record(
        &self,
        guard: &Guard,
        row: &RowFile,
        content: Option<&[u8]>,
        result: Value,
    ) -> StepAnswer {
        let place = self.area.root.display();
        match self.barrier.record(guard, &self.area, row, content) {
            Ok(()) => {
                crash::point("store_step_committed", self.area.store_name());
                StepAnswer::Done { result }
            }
            Err(Trouble::Nothing(error)) => barrier::try_again(format!("{place}: {error}")),
            Err(Trouble::Unclear(error)) => barrier::unknown(format!(
                "a step could not be moved into place under {place}: {error}; mend that, and it \
                 is tried again"
            )),
        }
    }
}
