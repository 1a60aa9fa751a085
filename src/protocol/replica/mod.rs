//! The replicated state: what every node of a cluster knows alike, because it carries out the same
//! entries in the same order.
//!
//! # Theory of operation
//!
//! A state machine in the sense of Schneider ("Implementing Fault-Tolerant Services Using the State
//! Machine Approach", 1990): [`Replica::apply`] takes one entry of the log and gives the answers to
//! its proposals and what it means for others. Not the log, not the network, not a clock: the
//! time of the cluster is in the entries.
//!
//! # Invariants
//!
//! - The same entries give the same state, answers and effects, on every node.
//! - The first decision on an id stands for ever, whoever proposes another.
//! - A proposal is carried out once, however often it stands in the log.
//! - [`Replica::restore`] of [`Replica::snapshot`] is the same state.
//! - A session ends only behind the proposals of its last entry, so one that is renewed in it
//!   lives.

mod command;
mod ledger;
mod locks;
mod sessions;
#[cfg(test)]
mod tests;

pub use command::{Answer, Command, Coordination, Effect, Entry, Proposal, StandingDecision};
pub use ledger::FINISHED_MAX;
pub use locks::WAITS_MAX;
pub use sessions::NUMBER_KEPT;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::ledger::{Ledger, Place};
use self::locks::{Locks, Step, Wish};
use self::sessions::Sessions;
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::lock::{Grant, LockId, RequesterId, WaitId};
use crate::model::time::Timestamp;
use crate::protocol::lock_table::LockTable;

/// The most by which one entry moves the time of the cluster.
pub const STEP_MAX: Duration = Duration::from_secs(1);

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What came of one proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Whose.
    pub instance: InstanceId,
    /// Which of its proposals.
    pub number: u64,
    /// One answer for each command; `None` if it was carried out by an entry before.
    pub answers: Option<Vec<Answer>>,
}

/// The state of the cluster as one node knows it.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// The last entry that was carried out.
    applied: Position,
    now: Timestamp,
    sessions: Sessions,
    ledger: Ledger,
    locks: Locks,
}

impl Replica {
    /// The state before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries out the entry at `position`, the one behind the last.
    pub fn apply(
        &mut self,
        position: Position,
        entry: &Entry,
        effects: &mut Vec<Effect>,
    ) -> Vec<Answered> {
        if self.now == Timestamp::default() {
            self.now = entry.at;
        }
        self.now = self.now + entry.elapsed.min(STEP_MAX);
        self.applied = position;
        self.locks.begin(position.index, Step::new(self.now, effects));
        let proposals = entry.proposals.iter();
        let answered = proposals.map(|proposal| self.carry_out(proposal, effects)).collect();
        for instance in self.sessions.expire(self.now) {
            let reason = "its process did not say in time that it lives";
            self.end_session(instance, Some(reason), effects);
        }
        answered
    }

    fn carry_out(&mut self, proposal: &Proposal, effects: &mut Vec<Effect>) -> Answered {
        let Proposal { instance, number, commands } = proposal;
        let is_new = self.sessions.is_new(self.now, instance, *number);
        let obey = |command| self.obey(instance, command, effects);
        let answers = is_new.then(|| commands.iter().map(obey).collect());
        Answered { instance: instance.clone(), number: *number, answers }
    }

    fn obey(
        &mut self,
        instance: &InstanceId,
        command: &Command,
        effects: &mut Vec<Effect>,
    ) -> Answer {
        let place = Place { position: self.applied, now: self.now };
        match command {
            Command::Decide { id, decision, evidence } => {
                Answer::Standing(self.ledger.decide(place, id, *decision, || evidence.clone()))
            }
            Command::KeepAlive { lease } => {
                self.sessions.keep_alive(instance, self.now + *lease);
                Answer::Done
            }
            Command::Leave => {
                self.sessions.end(instance);
                self.end_session(instance.clone(), None, effects);
                Answer::Done
            }
            Command::Append { id, epoch, at, record } => {
                self.ledger.append(place, id, *epoch, (*at, record))
            }
            Command::Adopt { .. } | Command::Acquire { .. } if !self.sessions.has(instance) => {
                Answer::NoSession
            }
            Command::Adopt { stores } => {
                let Self { ledger, sessions, now, .. } = self;
                let is_alive = |owner: &InstanceId| sessions.has(owner);
                Answer::Adopted(ledger.adopt(*now, instance, stores, is_alive))
            }
            Command::Forget { before, at_most } => {
                Answer::Count(self.ledger.forget(*before, *at_most))
            }
            locks => self.obey_lock(instance, locks, Step::new(place.now, effects)),
        }
    }

    fn obey_lock(&mut self, instance: &InstanceId, command: &Command, step: Step<'_>) -> Answer {
        let yes_or_no = |is_so: bool| if is_so { Answer::Yes } else { Answer::No };
        match command {
            Command::GiveUp { wait } => {
                self.locks.give_up(instance, *wait, step);
                Answer::Done
            }
            Command::Release { lock_id, requester } => {
                yes_or_no(self.locks.release(lock_id, requester, step))
            }
            Command::ReleaseAll { requester } => {
                Answer::Count(self.locks.release_all(instance, requester, step))
            }
            Command::Downgrade { lock_id, requester, mode } => {
                let grant = self.locks.downgrade(lock_id, requester, *mode, step);
                grant.map_or(Answer::No, |grant| Answer::Granted(vec![grant]))
            }
            Command::Renew { lock_id, lease } => yes_or_no(self.locks.renew(lock_id, *lease, step)),
            acquire => match wish(instance, self.now, acquire) {
                Some(wish) => self.locks.acquire(wish, step),
                None => Answer::Done,
            },
        }
    }

    fn end_session(
        &mut self,
        instance: InstanceId,
        reason: Option<&str>,
        effects: &mut Vec<Effect>,
    ) {
        self.locks.end_session(&instance, reason, Step::new(self.now, effects));
        effects.push(Effect::SessionEnded { instance });
    }

    /// The last entry that was carried out.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// The time of the cluster.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// When an entry is needed, be it an empty one, because something ends by then.
    pub fn deadline(&self) -> Option<Timestamp> {
        let ends = [self.sessions.deadline(), self.locks.table().deadline()];
        ends.into_iter().flatten().min()
    }

    /// The decision that stands on an id.
    pub fn decision(&self, id: &CoordinationId) -> Option<&Arc<StandingDecision>> {
        self.ledger.decision(id)
    }

    /// The coordination of an id, open or ended.
    pub fn coordination(&self, id: &CoordinationId) -> Option<&Arc<Coordination>> {
        self.ledger.coordination(id)
    }

    /// Every coordination that is not forgotten, by its id.
    pub fn coordinations(&self) -> impl Iterator<Item = &Arc<Coordination>> {
        self.ledger.all()
    }

    /// Those without an end, in the order in which they began.
    pub fn open_coordinations(&self) -> impl Iterator<Item = &Arc<Coordination>> {
        self.ledger.open()
    }

    /// The processes that have a session.
    pub fn instances(&self) -> impl Iterator<Item = &InstanceId> {
        self.sessions.alive()
    }

    /// When the session of a process ends, by the cluster's time; `None` where it has none.
    pub fn session_until(&self, instance: &InstanceId) -> Option<Timestamp> {
        self.sessions.until(instance)
    }

    /// The lock table, to look at.
    pub fn lock_table(&self) -> &LockTable {
        self.locks.table()
    }

    /// The process that holds a lock.
    pub fn holder_of(&self, lock_id: &LockId) -> Option<&InstanceId> {
        self.locks.holder_of(lock_id)
    }

    /// For whom a lock is held.
    pub fn requester_of(&self, lock_id: &LockId) -> Option<&RequesterId> {
        self.locks.requester_of(lock_id)
    }

    /// What a wait of a process was granted, and is still held; for one whose answer was lost.
    pub fn grants_of(&self, instance: &InstanceId, wait: WaitId) -> Vec<Grant> {
        self.locks.grants_of(instance, wait)
    }

    /// Whether a wait of a process goes on.
    pub fn is_waiting(&self, instance: &InstanceId, wait: WaitId) -> bool {
        self.locks.is_waiting(instance, wait)
    }

    /// The whole state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let kept = Snapshot {
            applied: self.applied,
            now: self.now,
            sessions: self.sessions.clone(),
            ledger: self.ledger.image(),
            locks: self.locks.clone(),
        };
        serde_json::to_vec(&kept).expect("names and values are text")
    }

    /// The state of a snapshot.
    pub fn restore(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let Snapshot { applied, now, sessions, ledger, locks } = serde_json::from_slice(bytes)?;
        Ok(Self { applied, now, sessions, ledger: Ledger::of_image(ledger), locks })
    }
}

fn wish(instance: &InstanceId, now: Timestamp, command: &Command) -> Option<Wish> {
    let Command::Acquire {
        wait,
        requester,
        wanted,
        timeout,
        lease,
        working_since,
        is_protected,
        coordination,
    } = command
    else {
        return None;
    };
    Some(Wish {
        instance: instance.clone(),
        wait: *wait,
        requester: requester.clone(),
        wanted: wanted.clone(),
        until: timeout.map(|timeout| now + timeout),
        lease: *lease,
        working_since: working_since.unwrap_or(now),
        is_protected: *is_protected,
        coordination: coordination.clone(),
        grants: Vec::new(),
    })
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    applied: Position,
    now: Timestamp,
    sessions: Sessions,
    ledger: ledger::Image,
    locks: Locks,
}
