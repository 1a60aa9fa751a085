//! What simulated processes do with a slip at a stop, as `engine/choreography/stop` does it.
//!
//! Each stop is one row of its journal: begun, then done or failed. What a saga of one step does in
//! between is `simulation_steps`' matter: here it asks its store, which has a barrier, until it
//! knows. Invariant: a row that has an end keeps it.

use unanimity::model::ids::InstanceId;
use unanimity::model::step::Work;

use super::bugs::Bug;
use super::bus::{Message, Slip, Word};
use super::process::Write;
use super::world::{Happening, World};

/// A stop: its saga, operation, and whether it does or undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StopId {
    pub(super) saga: usize,
    pub(super) operation: usize,
    pub(super) undoes: bool,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopEnd {
    Done,
    /// For good, and without an effect.
    Failed,
}

/// A stop as its journal has it.
pub(super) struct StopRow {
    owner: InstanceId,
    /// Its time is over: whatever it did is undone, and it has failed.
    gives_up: bool,
    pub(super) end: Option<StopEnd>,
}

/// What a store knows of an operation.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) is_done: bool,
    pub(super) is_undone: bool,
}

impl Cell {
    /// Whether its effect is there.
    pub(super) fn stands(&self) -> bool {
        self.is_done && !self.is_undone
    }
}

impl World {
    fn is_living(&self, owner: &InstanceId) -> bool {
        self.nodes.iter().any(|process| process.instance.as_ref() == Some(owner))
    }

    /// A slip comes: whatever the journal knows of the stop is its answer.
    pub(super) fn stop_comes(
        &mut self,
        node: usize,
        message: usize,
        slip: &Slip,
        operation: usize,
    ) {
        if self.dies_now(node) {
            return;
        }
        let undoes = slip.work == Work::Compensate;
        let stop = StopId { saga: slip.saga, operation, undoes };
        if let Some(waiting) = self.nodes[node].at_stops.get_mut(&stop) {
            waiting.push(message);
            return;
        }
        let row = self.stops.get(&stop).map(|row| (row.owner.clone(), row.end));
        match row {
            Some((_, Some(StopEnd::Done))) if self.bug == Some(Bug::JournalNotAsked) => {
                self.begin_stop(node, stop, message);
            }
            Some((_, Some(end))) => self.go_on(node, message, end),
            Some((owner, None)) if self.is_living(&owner) && self.bug == Some(Bug::TwoTakeOne) => {
                self.take_stop(node, stop, vec![message]);
            }
            // Whoever is at it, or takes it over, records how it ends.
            Some((_, None)) => self.fails(message),
            None => self.begin_stop(node, stop, message),
        }
    }

    fn begin_stop(&mut self, node: usize, stop: StopId, message: usize) {
        let refusals = self.climate.refusals;
        if !stop.undoes && self.chance(refusals) {
            // Nothing tells of it, so another try may succeed: it says nothing of the operation.
            return match self.bug {
                Some(Bug::RefusalTurnsBack) => self.go_on(node, message, StopEnd::Failed),
                _ => self.fails(message),
            };
        }
        self.write(node, Write::StopBegins { stop, message });
    }

    /// The begin is on disk, unless another one was first.
    pub(super) fn stop_begins(&mut self, node: usize, stop: StopId, message: usize) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let stands = !self.stops.contains_key(&stop) || self.bug == Some(Bug::JournalNotAsked);
        if !stands {
            return self.fails(message);
        }
        self.note(|| format!("n{node} begins {stop:?}"));
        self.stops.insert(stop, StopRow { owner, gives_up: false, end: None });
        if !self.dies_now(node) {
            self.take_stop(node, stop, vec![message]);
        }
    }

    fn take_stop(&mut self, node: usize, stop: StopId, waiting: Vec<usize>) {
        self.check_alone(node, stop);
        self.nodes[node].at_stops.insert(stop, waiting);
        self.ask_soon(node, stop);
    }

    fn ask_soon(&mut self, node: usize, stop: StopId) {
        let (life, delay) = (self.nodes[node].life, self.random.millis(1, 200));
        self.schedule(delay, Happening::StopAsks { node, life, stop });
    }

    /// Takes over the stops that a dead process of its journal was at.
    pub(super) fn adopt_stops(&mut self, node: usize, living: &[InstanceId]) {
        let Some(owner) = self.nodes[node].instance.clone() else { return };
        let life = self.nodes[node].life;
        let journal = self.nodes[node].journal;
        let rows = self.stops.iter();
        let left = rows.filter(|(stop, row)| {
            let is_here = self.journal_of(stop.saga, stop.operation) == journal;
            is_here && row.end.is_none() && !living.contains(&row.owner)
        });
        let left: Vec<StopId> = left.map(|(stop, _)| *stop).collect();
        for stop in left {
            if self.bug == Some(Bug::StopsNeverRecovered) || !self.lives(node, life) {
                return;
            }
            self.note(|| format!("n{node} adopts {stop:?}"));
            if let Some(row) = self.stops.get_mut(&stop) {
                row.owner = owner.clone();
            }
            self.take_stop(node, stop, Vec::new());
        }
    }

    /// Asks the store, until it has answered.
    pub(super) fn stop_asks(&mut self, node: usize, life: u64, stop: StopId) {
        if !self.lives(node, life) || !self.nodes[node].at_stops.contains_key(&stop) {
            return;
        }
        if self.dies_now(node) {
            return;
        }
        self.check_asking(stop);
        let gives_up = self.stops.get(&stop).is_some_and(|row| row.gives_up);
        let is_doomed = self.sagas[stop.saga].doomed.contains(&stop.operation) && !stop.undoes;
        let end = if is_doomed || gives_up { StopEnd::Failed } else { StopEnd::Done };
        let (is_lost_before, loss) = (self.chance(10), self.climate.loss);
        if !is_lost_before && !is_doomed {
            let cell = self.cells.entry((stop.saga, stop.operation)).or_default();
            if stop.undoes || gives_up {
                cell.is_undone = true;
            } else {
                cell.is_done = true;
            }
        }
        if self.dies_now(node) {
            return;
        }
        if is_lost_before || self.chance(loss) {
            if self.bug == Some(Bug::LostIsDone) {
                return self.write(node, Write::StopEnds { stop, end: StopEnd::Done });
            }
            // The direction is on disk before anything is undone.
            let is_late = !stop.undoes && self.chance(30);
            if let Some(row) = self.stops.get_mut(&stop) {
                row.gives_up |= is_late;
            }
            return self.ask_soon(node, stop);
        }
        self.write(node, Write::StopEnds { stop, end });
    }

    /// The end is on disk: those who wait for it go on.
    pub(super) fn stop_ends(&mut self, node: usize, stop: StopId, end: StopEnd) {
        let is_unrecorded = end == StopEnd::Failed && self.bug == Some(Bug::FailureNotRecorded);
        if is_unrecorded {
            self.stops.remove(&stop);
        } else if let Some(row) = self.stops.get_mut(&stop) {
            row.end = Some(end);
        }
        self.note(|| format!("{stop:?} ends: {end:?}"));
        if self.dies_now(node) {
            return;
        }
        for message in self.nodes[node].at_stops.remove(&stop).unwrap_or_default() {
            self.go_on(node, message, end);
        }
    }

    /// Sends what follows; the slip is acknowledged when the bus has it.
    fn go_on(&mut self, node: usize, message: usize, end: StopEnd) {
        let Some(slip) = self.bus.slip(message).cloned() else { return };
        let word = self.following(&slip, end);
        if self.bug == Some(Bug::AcknowledgedTooEarly) {
            self.acknowledge(message);
        }
        self.send(node, Message { word, follows: Some(message) });
    }

    pub(super) fn following(&self, slip: &Slip, end: StopEnd) -> Word {
        let mut next = slip.clone();
        let has_failed = slip.has_failed || end == StopEnd::Failed;
        next.has_failed = has_failed;
        if has_failed {
            next.work = Work::Compensate;
            let from_the_first = self.bug == Some(Bug::UndoneFromTheFirst);
            match slip.place.checked_sub(1) {
                Some(before) => next.place = before,
                None => return last_word(slip, false),
            }
            if from_the_first && !slip.has_failed {
                next.place = 0;
            }
            return Word::Slip(next);
        }
        next.place += 1;
        if next.place < self.sagas[slip.saga].route.length() {
            Word::Slip(next)
        } else {
            last_word(slip, true)
        }
    }
}

fn last_word(slip: &Slip, is_done: bool) -> Word {
    Word::End { saga: slip.saga, walk: slip.walk, is_done }
}
