//! What must hold in every run: at every question, at every word on the bus, and when all is over.
//!
//! Not the world and not the rules. Each check names its invariant in words, for the trace. All
//! compare what is done with what is on the disks, since that is all that a crash leaves.

use std::time::Duration;

use unanimity::model::outcome::OutcomeKind;
use unanimity::protocol::Machine;

use super::bus::Word;
use super::stop::{Cell, StopEnd, StopId};
use super::world::World;

impl World {
    fn end_of(&self, saga: usize, operation: usize, undoes: bool) -> Option<StopEnd> {
        self.stops.get(&StopId { saga, operation, undoes })?.end
    }

    /// The operations of a saga in the order of its route.
    fn on_route(&self, saga: usize) -> Vec<usize> {
        let route = &self.sagas[saga].route;
        (0..route.length()).filter_map(|place| route.operation_at(place)).collect()
    }

    /// Exactly one process is at a stop.
    pub(super) fn check_alone(&mut self, node: usize, stop: StopId) {
        let other = (0..self.nodes.len())
            .find(|other| *other != node && self.nodes[*other].at_stops.contains_key(&stop));
        if let Some(other) = other {
            self.fail(format!("n{node} and n{other} are both at {stop:?}"));
        }
    }

    /// A store is asked behind the intent, once it is its turn, and never again once it is done.
    pub(super) fn check_asking(&mut self, stop: StopId) {
        let StopId { saga, operation, undoes } = stop;
        let Some(row) = self.stops.get(&stop) else {
            return self.fail(format!("{stop:?} is asked without its intent on disk"));
        };
        if row.end.is_some() {
            return self.fail(format!("{stop:?} is asked although its end is on disk"));
        }
        let cell = self.cells.get(&(saga, operation));
        if !undoes && cell.is_some_and(Cell::stands) && self.has_been_done(stop) {
            return self.fail(format!("{stop:?} is asked again although it was done"));
        }
        let trouble = if undoes {
            self.trouble_with_undoing(saga, operation)
        } else {
            self.trouble_with_doing(saga, operation)
        };
        if let Some(trouble) = trouble {
            self.fail(format!("{stop:?} is asked {trouble}"));
        }
    }

    /// Whether something on the disks follows from its having been done.
    fn has_been_done(&self, stop: StopId) -> bool {
        let order = self.on_route(stop.saga);
        let place = order.iter().position(|it| *it == stop.operation);
        let later = order.iter().skip(place.map_or(0, |place| place + 1));
        later.clone().any(|later| {
            let later = StopId { saga: stop.saga, operation: *later, undoes: false };
            self.stops.contains_key(&later)
        })
    }

    fn trouble_with_doing(&self, saga: usize, operation: usize) -> Option<String> {
        let order = self.on_route(saga);
        let before = order.iter().take_while(|it| **it != operation);
        for before in before {
            if self.end_of(saga, *before, false) != Some(StopEnd::Done) {
                return Some(format!("before o{before} is done on disk"));
            }
        }
        None
    }

    fn trouble_with_undoing(&self, saga: usize, operation: usize) -> Option<String> {
        let order = self.on_route(saga);
        let mut behind = order.iter().skip_while(|it| **it != operation).skip(1);
        for later in behind.by_ref() {
            match self.end_of(saga, *later, false) {
                Some(StopEnd::Failed) => return None,
                Some(StopEnd::Done) if self.end_of(saga, *later, true).is_some() => {}
                found => return Some(format!("while o{later} is {found:?} on disk")),
            }
        }
        Some("although nothing failed".to_owned())
    }

    /// A slip is let go of only when what follows is on the bus.
    pub(super) fn check_acknowledged(&mut self, message: usize) {
        let Some(slip) = self.bus.slip(message).cloned() else { return };
        let all = [StopEnd::Done, StopEnd::Failed];
        let follows = all.into_iter().any(|end| self.bus.has(&self.following(&slip, end)));
        if !follows {
            self.fail(format!("{slip:?} is acknowledged, and nothing follows"));
        }
    }

    /// The last word is true.
    pub(super) fn check_word(&mut self, word: &Word) {
        let Word::End { saga, is_done, .. } = *word else { return };
        for operation in self.on_route(saga) {
            let is_forward = self.end_of(saga, operation, false) == Some(StopEnd::Done);
            let is_back = self.end_of(saga, operation, true).is_some();
            if is_done && (!is_forward || is_back) {
                return self.fail(format!("c{saga} is told as done, and o{operation} is not"));
            }
            if !is_done && is_forward && !is_back {
                return self.fail(format!("c{saga} is told as undone, and o{operation} is done"));
            }
        }
    }

    /// Nothing is sent before the beginning is on disk.
    pub(super) fn check_walking(&mut self, saga: usize) {
        if !self.rows.contains_key(&saga) {
            self.fail(format!("c{saga} is sent on its way, and is not on disk"));
        }
    }

    /// A caller hears of an end only when it is one.
    pub(super) fn check_telling(&mut self, saga: usize, kind: OutcomeKind) {
        let stands =
            |operation: &usize| self.cells.get(&(saga, *operation)).is_some_and(Cell::stands);
        let order = self.on_route(saga);
        let is_true = match kind {
            OutcomeKind::Committed => self.rows.get(&saga).is_some_and(|row| {
                // An eventual one is told when it is accepted.
                row.outcome.is_none() || order.iter().all(stands)
            }),
            OutcomeKind::Aborted => !order.iter().any(stands),
            _ => true,
        };
        if !is_true {
            self.fail(format!("c{saga} is told as {kind:?}, and is not"));
        }
    }

    /// Callers are answered in their time.
    pub(super) fn check_callers(&mut self) {
        let now = self.now;
        let forgotten = self.nodes.iter().flat_map(|node| &node.driven).find(|(_, driven)| {
            let waited = now.since(driven.held.machine.began_at());
            let patience = driven.held.machine.request().timeout + Duration::from_secs(2);
            driven.caller_waits && waited > patience && !driven.held.waits_for_record
        });
        if let Some((saga, _)) = forgotten {
            self.fail(format!("the caller of c{saga} is not answered in time"));
        }
    }

    /// Everything that is not over, in words.
    pub(super) fn what_is_open(&self) -> String {
        let mut open = Vec::new();
        for (node, process) in self.nodes.iter().enumerate() {
            open.extend(process.driven.keys().map(|saga| format!("n{node} drives c{saga}")));
            open.extend(process.at_stops.keys().map(|stop| format!("n{node} is at {stop:?}")));
        }
        let rows = self.rows.iter().filter(|(_, row)| row.outcome.is_none());
        open.extend(rows.map(|(saga, _)| format!("c{saga} has no end")));
        let stops = self.stops.iter().filter(|(_, row)| row.end.is_none());
        open.extend(stops.map(|(stop, _)| format!("{stop:?} has no end")));
        if self.bus.open() > 0 {
            open.push(format!("{} slips are on the bus", self.bus.open()));
        }
        open.join("; ")
    }

    /// Everywhere alike.
    pub(super) fn check_the_end(&mut self) {
        for saga in 0..self.sagas.len() {
            let Some(row) = self.rows.get(&saga) else {
                // Its process died before the beginning was on disk.
                if self.cells.keys().any(|(other, _)| *other == saga) {
                    return self.fail(format!("c{saga} was never begun, and has effects"));
                }
                continue;
            };
            let Some(kind) = row.outcome.as_ref().map(|outcome| outcome.kind) else {
                return self.fail(format!("c{saga} has no end"));
            };
            let is_committed = kind == OutcomeKind::Committed;
            for operation in self.on_route(saga) {
                let stands = self.cells.get(&(saga, operation)).is_some_and(Cell::stands);
                if stands != is_committed {
                    let trouble = format!("c{saga} ended as {kind:?}, o{operation}: {stands}");
                    return self.fail(trouble);
                }
            }
            let told = self.told.get(&saga).cloned().unwrap_or_default();
            let contrary = if is_committed { OutcomeKind::Aborted } else { OutcomeKind::Committed };
            let is_eventual = self.sagas[saga].request.consistency.as_str() == "eventual";
            if told.contains(&contrary) && !is_eventual {
                return self.fail(format!("c{saga} was told as {contrary:?}, and ended otherwise"));
            }
        }
    }
}
