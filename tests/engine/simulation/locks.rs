//! A simulated lock manager: who holds what, who waits, and all that can go wrong with it.
//!
//! Not the managers of `unanimity::locks`, but a naive one with their duties: all locks of a wish
//! are granted together, first come, first served. It is asked by one process alone and dies with
//! it, or is shared, and a dead process's locks stay until its session ends. Refusals, lost locks,
//! slow and missing answers come by the seed. Invariants checked here: a store is asked only under
//! its coordination's locks; two coordinations that conflict are never between their first ask and
//! their end at once; one that lost a lock before its decision does not commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use unanimity::model::ids::CoordinationId;
use unanimity::model::outcome::Decision;
use unanimity::model::record::{Reason, Record};
use unanimity::model::request::CoordinationRequest;
use unanimity::protocol::lock_plan::{LockWish, locks_of};
use unanimity::protocol::two_phase::State;
use unanimity::protocol::{Input, Machine};

use super::bugs::Bug;
use super::world::{Address, Happening, World};

/// A wish that is granted, or waits.
#[derive(Clone)]
struct Claim {
    of: Address,
    /// The life of the process that asked: its session.
    life: u64,
    locks: Arc<[LockWish]>,
}

/// The manager, and what is known of how well it keeps coordinations apart.
#[derive(Default)]
pub(super) struct Locks {
    holds: Vec<Claim>,
    waits: Vec<Claim>,
    token: u64,
    /// Those between their first ask and their end.
    exposed: BTreeMap<CoordinationId, Arc<[LockWish]>>,
    /// Those of which the manager took a lock away, until they hold it again.
    robbed: BTreeSet<CoordinationId>,
    /// Pairs that came together by a robbery: a crash, or the loss of an end, does not part them.
    overlaps: BTreeSet<BTreeSet<CoordinationId>>,
    /// Runs that were deposed: their locks stay until the coordination has ended.
    kept: Vec<Address>,
    robbed_runs: BTreeSet<u64>,
    /// Runs that were robbed while votes were gathered.
    robbed_undecided: BTreeSet<u64>,
    /// How often one had to wait for another.
    pub(super) conflicts: usize,
}

fn conflicts(ours: &[LockWish], theirs: &[LockWish]) -> bool {
    ours.iter().any(|our| {
        let stands_in_the_way = |their: &LockWish| {
            their.resource == our.resource && !their.mode.is_compatible_with(our.mode)
        };
        theirs.iter().any(stands_in_the_way)
    })
}

impl Claim {
    fn bars(&self, other: &Self) -> bool {
        self.of.id != other.of.id && conflicts(&self.locks, &other.locks)
    }
}

impl Locks {
    /// By a holder, or by one who waits before it; but who waits for a holder of the same id cannot
    /// hold that one up, or each would wait for the other.
    fn is_barred(&self, index: usize) -> bool {
        let wait = &self.waits[index];
        let mut own = self.holds.iter().filter(|hold| hold.of.id == wait.of.id);
        let goes_ahead_of = |earlier: &Claim| own.any(|hold| hold.bars(earlier));
        let is_in_the_way = |earlier: &&Claim| earlier.bars(wait);
        let mut waits = self.waits[..index].iter().filter(is_in_the_way);
        self.holds.iter().any(|hold| hold.bars(wait)) || !waits.all(goes_ahead_of)
    }
}

impl World {
    pub(super) fn locks_of(&self, request: &CoordinationRequest) -> Arc<[LockWish]> {
        if self.climate.has_locks { locks_of(request).into() } else { Arc::default() }
    }

    pub(super) fn acquire(
        &mut self,
        of: &Address,
        locks: Arc<[LockWish]>,
        timeout: Option<Duration>,
    ) {
        let may_end = timeout.is_some();
        if self.bug == Some(Bug::PreparesBeforeLocked) {
            self.step(of, Input::Locked { tokens: Vec::new() });
        }
        if may_end && self.chance(2) {
            self.note(|| "the lock manager will not answer".to_owned());
            return;
        }
        if self.chance(4) {
            return self.answer_refused(of, "it cannot be reached");
        }
        let life = self.nodes[of.node].life;
        self.locks.waits.push(Claim { of: of.clone(), life, locks });
        self.grant_locks();
        if self.locks.waits.last().is_some_and(|wait| wait.of == *of) {
            self.locks.conflicts += 1;
            if may_end && self.chance(10) {
                self.locks.waits.pop();
                return self.answer_refused(of, "a deadlock was found");
            }
        }
        if let Some(timeout) = timeout {
            self.schedule(timeout, Happening::LockWaitEnds { of: of.clone() });
        }
    }

    /// Grants what nobody bars, in the order of asking.
    fn grant_locks(&mut self) {
        let mut index = 0;
        while index < self.locks.waits.len() {
            if self.locks.is_barred(index) {
                index += 1;
                continue;
            }
            let granted = self.locks.waits.remove(index);
            self.note(|| {
                format!("   locks of {} are granted to n{}", granted.of.id, granted.of.node)
            });
            let to = granted.of.clone();
            self.locks.holds.push(granted);
            if self.climate.locks_are_shared && self.chance(8) {
                let soon = self.random.chance(60);
                let later = self.random.millis(1, if soon { 60 } else { 4_000 });
                self.schedule(later, Happening::LockIsLost { of: to.clone() });
            }
            self.answer_locks(to, None);
        }
    }

    fn answer_refused(&mut self, of: &Address, words: &str) {
        let reason = Reason::new("transaction.aborted.locks_unavailable", words);
        self.answer_locks(of.clone(), Some(reason));
    }

    fn answer_locks(&mut self, to: Address, refused: Option<Reason>) {
        let delay = if self.climate.locks_are_shared { self.delay() } else { Duration::ZERO };
        self.schedule(delay, Happening::LocksAnswered { to, refused });
    }

    pub(super) fn lock_wait_ends(&mut self, of: &Address) {
        let before = self.locks.waits.len();
        self.locks.waits.retain(|wait| wait.of != *of);
        if self.locks.waits.len() < before {
            self.answer_refused(of, "the time was up");
            self.grant_locks();
        }
    }

    pub(super) fn locks_answered(&mut self, to: &Address, refused: Option<Reason>) {
        let is_awaited =
            self.driven(to).is_some_and(|driven| driven.machine.state() == State::Locking);
        match refused {
            Some(reason) if is_awaited => {
                self.step(to, Input::LockRefused { reason });
            }
            Some(_) => {}
            None if is_awaited => {
                self.locks.token += 1;
                let tokens = vec![self.locks.token];
                self.step(to, Input::Locked { tokens });
            }
            None if self.bug == Some(Bug::PreparesBeforeLocked) => {}
            // Granted to one that is gone. A dead process cannot say so; its session ends.
            None => self.release_locks_if_alive(to),
        }
    }

    fn release_locks_if_alive(&mut self, of: &Address) {
        let life = self.nodes[of.node].life;
        if self.locks.holds.iter().any(|hold| hold.of == *of && hold.life == life) {
            self.release_locks(of);
        }
    }

    /// Gives back what is held, and gives up what is waited for.
    pub(super) fn release_locks(&mut self, of: &Address) {
        self.locks.holds.retain(|hold| hold.of != *of);
        self.locks.waits.retain(|wait| wait.of != *of);
        self.grant_locks();
    }

    /// Another owner goes on, and may not hold the locks yet.
    pub(super) fn keep_locks(&mut self, of: &Address) {
        self.locks.kept.push(of.clone());
    }

    pub(super) fn keeps_locks(&self, of: &Address) -> bool {
        self.locks.kept.contains(of)
    }

    /// Lets go of what was kept for coordinations that have ended since.
    pub(super) fn release_kept_locks(&mut self) {
        let is_over =
            |of: &Address| self.disk.rows.get(&of.id).is_some_and(|r| r.outcome.is_some());
        let (over, kept) = self.locks.kept.clone().into_iter().partition(is_over);
        self.locks.kept = kept;
        let over: Vec<Address> = over;
        for of in over {
            self.release_locks(&of);
        }
    }

    /// The process has died: a manager of its own has died with it.
    pub(super) fn session_breaks(&mut self, node: usize, life: u64) {
        if self.climate.locks_are_shared {
            let timeout = self.random.millis(1, 8_000);
            self.schedule(timeout, Happening::LockSessionEnds { node, life });
        } else {
            self.session_ends(node, life);
        }
    }

    pub(super) fn session_ends(&mut self, node: usize, life: u64) {
        let is_its = |claim: &Claim| claim.of.node == node && claim.life == life;
        self.locks.waits.retain(|wait| !is_its(wait));
        let gone: Vec<_> = self.locks.holds.iter().filter(|hold| is_its(hold)).cloned().collect();
        self.locks.holds.retain(|hold| !is_its(hold));
        for hold in gone {
            // Alone, nobody can be granted what it held before it has taken that again itself.
            let is_held_anew = self.locks.holds.iter().any(|held| held.of.id == hold.of.id);
            if self.nodes.len() > 1 && !is_held_anew {
                self.rob(&hold.of);
            }
        }
        self.grant_locks();
    }

    fn rob(&mut self, of: &Address) {
        self.locks.robbed_runs.insert(of.run);
        self.locks.robbed.insert(of.id.clone());
    }

    /// A lease ended though its holder lives; he hears of it before anybody else is granted it.
    pub(super) fn lock_is_lost(&mut self, of: &Address) {
        if self.is_calm() || !self.locks.holds.iter().any(|hold| hold.of == *of) {
            return;
        }
        self.locks.holds.retain(|hold| hold.of != *of);
        self.rob(of);
        let state = self.driven(of).map(|driven| driven.machine.state());
        if state == Some(State::Preparing) && !self.climate.has_consensus {
            self.locks.robbed_undecided.insert(of.run);
        }
        if self.bug != Some(Bug::LostLockIgnored) {
            let message = "its lease ended".to_owned();
            self.step(of, Input::LockLost { message });
        }
        self.grant_locks();
    }

    /// A store is about to be asked.
    pub(super) fn check_locks(&mut self, of: &Address) {
        let Some(driven) = self.driven(of) else { return };
        let request = Arc::clone(driven.machine.request());
        let locks = self.locks_of(&request);
        if locks.is_empty() {
            return;
        }
        if self.locks.holds.iter().any(|hold| hold.of == *of) {
            self.locks.robbed.remove(&of.id);
        } else if self.locks.robbed_runs.contains(&of.run) {
            // Also where another process has taken it over meanwhile, under locks of its own.
            self.locks.robbed.insert(of.id.clone());
        } else {
            self.fail(format!("a store is asked for {} without its locks", of.id));
        }
        self.check_nobody_is_near(&of.id, &locks);
        self.locks.exposed.insert(of.id.clone(), locks);
    }

    fn check_nobody_is_near(&mut self, id: &CoordinationId, locks: &[LockWish]) {
        let Locks { exposed, robbed, overlaps, .. } = &mut self.locks;
        let mut clash = None;
        for (other, theirs) in exposed.iter() {
            let pair = BTreeSet::from([id.clone(), other.clone()]);
            if other == id || !conflicts(locks, theirs) || overlaps.contains(&pair) {
                continue;
            }
            if robbed.contains(id) || robbed.contains(other) {
                overlaps.insert(pair);
            } else {
                clash = Some(other.clone());
            }
        }
        if let Some(other) = clash {
            self.fail(format!("{id} and {other} are under way at once on one key"));
        }
    }

    /// It has ended, by its own word.
    pub(super) fn is_exposed_no_more(&mut self, id: &CoordinationId) {
        self.locks.exposed.remove(id);
        self.locks.robbed.remove(id);
    }

    /// A process has let go of it: it is under way only if another will go on with it.
    pub(super) fn is_dropped(&mut self, id: &CoordinationId) {
        let is_driven = self.nodes.iter().any(|node| node.driven.contains_key(id));
        let is_open = self.disk.rows.get(id).is_some_and(|row| row.outcome.is_none());
        if !is_driven && !is_open {
            self.is_exposed_no_more(id);
        }
    }

    /// One that lost a lock before its decision aborts.
    pub(super) fn check_deciding(&mut self, of: &Address, record: &Record) {
        let commits = matches!(record, Record::Decision { decision: Decision::Commit, .. });
        if commits && self.locks.robbed_undecided.contains(&of.run) {
            self.fail(format!("{} lost a lock before its decision, and commits", of.id));
        }
    }
}
