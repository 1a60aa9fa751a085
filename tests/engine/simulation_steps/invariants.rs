//! What must hold in every run: at every question, on the way, and when everything is over.
//!
//! Not the world and not the rules. Each check names its invariant in words, for the trace. All
//! compare what is done with what is on the disk, since that is all that a crash leaves.

use std::sync::Arc;

use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::{Decision, OutcomeKind};
use unanimity::model::step::{StepState, Work};
use unanimity::model::value::Value;
use unanimity::protocol::key_order::TurnKey;
use unanimity::protocol::saga::Undo;

use super::disk::Row;
use super::participant::CellKey;
use super::world::{Address, Kind, World};

impl World {
    pub(super) fn check_asking(&mut self, of: &Address, asked: (usize, Work, u32)) {
        let (step, work, attempt) = asked;
        let name = format!("{} o{step} {} {attempt}", of.id, work.as_str());
        if self.driven(of).is_some_and(|it| !it.held.machine.locks().is_empty() && !it.has_locks) {
            return self.fail(format!("{name} is asked without locks"));
        }
        let Some(row) = self.disk.rows.get(&of.id) else {
            return self.fail(format!("{name} is asked, and nothing is on disk"));
        };
        let is_intended = row.has_intent(asked) || attempt == 1 && self.is_first(&of.id, asked);
        if !is_intended {
            return self.fail(format!("{name} is asked without its intent on disk"));
        }
        if row.is_done(step, work) {
            return self.fail(format!("{name} is asked again although it is done on disk"));
        }
        let trouble = match (self.kind, work) {
            (Kind::Saga, Work::Execute) => self.trouble_with_step(of, row, step),
            (Kind::Saga, Work::Compensate) => self.trouble_with_undoing(of, row, step),
            (Kind::Eventual, _) => self.trouble_with_turn(&of.id, row, step),
        };
        if let Some(trouble) = trouble {
            self.fail(format!("{name} is asked {trouble}"));
        }
    }

    /// Whether the begin is the intent of its first try.
    fn is_first(&self, id: &CoordinationId, (step, work, _): (usize, Work, u32)) -> bool {
        let is_first = match self.kind {
            Kind::Saga => self.steps[id][step].depends_on.is_empty(),
            Kind::Eventual => {
                let operations = &self.disk.rows[id].request.operations;
                let key = TurnKey::of(&operations[step]);
                !operations[..step].iter().any(|before| TurnKey::of(before) == key)
            }
        };
        work == Work::Execute && is_first
    }

    fn trouble_with_step(&self, of: &Address, row: &Row, step: usize) -> Option<String> {
        if self.is_decided(&of.id, Decision::Abort) && !self.resolved.contains(&of.id) {
            return Some("although it is decided to abort".to_owned());
        }
        let missing = self.steps[&of.id][step]
            .depends_on
            .iter()
            .find(|before| !row.is_done(**before, Work::Execute));
        if let Some(before) = missing {
            return Some(format!("before o{before} is done on disk"));
        }
        let is_pivot = |other: usize| self.steps[&of.id][other].is_pivot;
        let is_committed = self.is_decided(&of.id, Decision::Commit);
        if self.depends_on(&of.id, step, is_pivot)
            && !is_committed
            && !self.resolved.contains(&of.id)
        {
            return Some("behind the pivot before the commit is on disk".to_owned());
        }
        None
    }

    fn trouble_with_undoing(&self, of: &Address, row: &Row, step: usize) -> Option<String> {
        if !self.is_decided(&of.id, Decision::Abort) {
            return Some("without a decision to abort on disk".to_owned());
        }
        let driven = self.nodes[of.node].driven.get(&of.id)?;
        if !driven.out.is_empty() {
            return Some(format!("while tries are out: {:?}", driven.out));
        }
        let done = row.done();
        let is_open = |other: &usize| {
            self.steps[&of.id][*other].undo == Undo::Asked && !row.is_done(*other, Work::Compensate)
        };
        let behind = match done.iter().position(|other| *other == step) {
            Some(place) => done[place + 1..].iter().copied().find(is_open),
            None => None,
        };
        behind.map(|other| format!("before o{other}, which was done later, is undone"))
    }

    fn trouble_with_turn(&self, id: &CoordinationId, row: &Row, step: usize) -> Option<String> {
        let key = TurnKey::of(&row.request.operations[step]);
        for (other_id, other) in &self.disk.rows {
            if other.order > row.order {
                continue;
            }
            for (at, operation) in other.request.operations.iter().enumerate() {
                let is_before = other.order < row.order || at < step;
                let is_settled = other.is_done(at, Work::Execute) || other.is_given_up(at);
                if is_before && !is_settled && TurnKey::of(operation) == key {
                    return Some(format!("before {other_id} o{at} of the same key, as {id}"));
                }
            }
        }
        None
    }

    pub(super) fn check_context(
        &mut self,
        of: &Address,
        step: usize,
        work: Work,
        context: &[(usize, Arc<Value>)],
    ) {
        if self.kind == Kind::Eventual {
            return;
        }
        let has = |wanted: usize| context.iter().any(|(at, _)| *at == wanted);
        let is_whole = match work {
            Work::Execute => self.steps[&of.id][step].depends_on.iter().all(|it| has(*it)),
            Work::Compensate => {
                let done = self.disk.rows.get(&of.id).map(Row::done).unwrap_or_default();
                !done.contains(&step) || context.last().is_some_and(|(at, _)| *at == step)
            }
        };
        if !is_whole {
            self.fail(format!("{} o{step} is asked without the results before it", of.id));
        }
    }

    /// An operation was done just now.
    pub(super) fn check_run(&mut self, key: &CellKey) {
        let runs = self.participants.cell(key).runs;
        if self.participants.has_barrier && runs > 1 {
            self.fail(format!("{} o{} was done twice in spite of the barrier", key.0, key.1));
        }
    }

    /// Record before you tell, the caller.
    pub(super) fn check_telling(&mut self, of: &Address, kind: OutcomeKind) {
        let standing = self.disk.decision(&of.id);
        let is_accepted = self.kind == Kind::Eventual && self.disk.rows.contains_key(&of.id);
        if kind == OutcomeKind::Committed && standing != Some(Decision::Commit) && !is_accepted {
            self.fail(format!("{} is told as committed, the journal has {standing:?}", of.id));
        }
        if kind == OutcomeKind::Aborted && standing != Some(Decision::Abort) {
            self.fail(format!("{} is told as aborted, the journal has {standing:?}", of.id));
        }
    }

    /// Callers are answered in their time.
    pub(super) fn check_callers(&mut self) {
        let now = self.now;
        let forgotten = self.nodes.iter().flat_map(|node| &node.driven).find(|(_, driven)| {
            let waited = now.since(driven.held.machine.began_at());
            let patience =
                driven.held.machine.request().timeout + std::time::Duration::from_secs(2);
            driven.caller_waits && waited > patience && !driven.held.waits_for_record
        });
        if let Some((id, driven)) = forgotten {
            let state = driven.held.machine.view().state;
            self.fail(format!("the caller of {id} is not answered in time, state {state:?}"));
        }
    }

    /// Everything that is not over, in words.
    pub(super) fn what_is_open(&self) -> String {
        let mut open = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            for (id, driven) in &process.driven {
                open.push(format!("n{node} drives {id} in {:?}", driven.held.machine.view().state));
            }
            if process.queue.len() + process.committing.len() > 0 {
                open.push(format!("n{node} has records on their way"));
            }
        }
        for (id, row) in &self.disk.rows {
            if row.outcome.is_none() {
                open.push(format!("{id} has no end"));
            }
        }
        if self.participants.cells.values().any(|cell| cell.on_the_way > 0) {
            open.push("questions are on their way".to_owned());
        }
        open.join("; ")
    }

    pub(super) fn check_the_end(&mut self) {
        let mut broken = Vec::new();
        for (id, row) in &self.disk.rows {
            let Some(outcome) = &row.outcome else { continue };
            let is_committed = outcome.kind == OutcomeKind::Committed;
            for step in 0..row.request.operations.len() {
                let stands = self.participants.stands(&(id.clone(), step));
                let is_free = match self.kind {
                    Kind::Saga => !is_committed && self.undo_of(id, step) == Undo::Nothing,
                    Kind::Eventual => row.is_given_up(step),
                };
                if stands != is_committed && !is_free {
                    broken.push(format!("{id} o{step} stands: {stands}, end {:?}", outcome.kind));
                }
            }
            let told = self.told.get(id).cloned().unwrap_or_default();
            let contrary = if is_committed { OutcomeKind::Aborted } else { OutcomeKind::Committed };
            if told.contains(&contrary) {
                broken.push(format!("{id} was told as {contrary:?}, and ended otherwise"));
            }
            let agreed = self.consensus.get(id).copied();
            if self.climate.has_consensus && !self.resolved.contains(id) && row.decision() != agreed
            {
                broken.push(format!("{id}: {:?} stands, agreed {agreed:?}", row.decision()));
            }
        }
        self.check_summaries(&mut broken);
        if !broken.is_empty() {
            self.fail(broken.join("; "));
        }
    }

    /// The end says of every step what became of it.
    fn check_summaries(&self, broken: &mut Vec<String>) {
        for (id, row) in &self.disk.rows {
            let Some((_, last)) = row.records.last() else { continue };
            let unanimity::model::record::Record::End { steps, .. } = last else { continue };
            for (step, summary) in steps.iter().enumerate() {
                let is_right = match summary.state {
                    StepState::Completed => row.is_done(step, Work::Execute),
                    StepState::Compensated => row.is_done(step, Work::Compensate),
                    StepState::Pending | StepState::Failed => !row.is_done(step, Work::Execute),
                    _ => false,
                };
                if !is_right {
                    broken.push(format!("{id} o{step} ends as {:?}, falsely", summary.state));
                }
            }
        }
    }
}
