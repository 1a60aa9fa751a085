//! The lines that coordinations stand in for keys of stores: entered and left for the machines.
//!
//! Not the order itself (`protocol::key_order`). Invariant: whoever leaves the table has left every
//! line, and the next in each has been told.

use std::sync::Arc;

use crate::protocol::Input;
use crate::protocol::key_order::TurnKey;

use super::core::{Core, Fact};
use super::drive::State;
use super::table::{Entry, SlotKey};

impl State {
    /// Stands in line for each of these keys.
    pub(super) fn enter_turns(&mut self, core: &Core, key: SlotKey, turns: &Arc<[TurnKey]>) {
        let Some(entry) = self.table.get(key) else { return };
        entry.turns = Some(Arc::clone(turns));
        for (turn, wanted) in turns.iter().enumerate() {
            if self.turns.enter(wanted, key) {
                // A fact like any other: it waits until the step that asked is done.
                core.post(Fact::TurnCame { key, turn });
            }
        }
    }

    /// Leaves one line.
    pub(super) fn leave_turn(&mut self, core: &Core, key: SlotKey, turn: usize) {
        let Some(entry) = self.table.get(key) else { return };
        let turns = entry.turns.as_deref().unwrap_or_default();
        let Some(left) = turns.get(turn).cloned() else { return };
        self.leave_line(core, key, &left);
    }

    fn leave_line(&mut self, core: &Core, key: SlotKey, left: &TurnKey) {
        let Some(next) = self.turns.leave(left, key) else { return };
        let Some(entry) = self.table.get(next) else { return };
        let mut turns = entry.turns.iter().flat_map(|turns| turns.iter());
        if let Some(turn) = turns.position(|turn| turn == left) {
            core.post(Fact::TurnCame { key: next, turn });
        }
    }

    /// A machine hears that it is first in a line.
    pub(super) fn turn_came(&mut self, core: &Core, key: SlotKey, turn: usize) {
        self.step(core, key, Input::TurnCame { turn });
    }

    /// Takes a coordination out of the table, and out of every line. One that was adopted under its
    /// id meanwhile is resumed now.
    pub(super) fn remove(&mut self, core: &Core, key: SlotKey) -> Option<Box<Entry>> {
        let entry = self.table.remove(key)?;
        core.observe_end(&entry);
        for left in entry.turns.iter().flat_map(|turns| turns.iter()) {
            self.leave_line(core, key, left);
        }
        self.resume_adopted(core, entry.id());
        Some(entry)
    }
}
