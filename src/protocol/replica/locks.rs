//! The locks of the cluster: the lock table, and whose the grants and waits are.
//!
//! Not the rules of one lock (`protocol/lock_table`). A wish for several locks takes them all at
//! once where all are free, and otherwise one after the other in the order of the ask, holding what
//! it has: whoever asks in one canonical order can wait in no circle with others who do.
//!
//! Invariants: of a wish that is refused nothing is held; leases begin when the last of its locks
//! is held; a token is at least the index of its entry, and is never given twice.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::command::{Answer, Effect};
use crate::model::ids::{CoordinationId, InstanceId};
use crate::model::lock::{Grant, LockError, LockId, LockMode, RequesterId, ResourceId, WaitId};
use crate::model::time::Timestamp;
use crate::protocol::lock_table::{self, Ask, LockTable};

/// How many asks may wait at once.
pub const WAITS_MAX: usize = 100_000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) instance: InstanceId,
    pub(super) wait: WaitId,
    pub(super) requester: RequesterId,
    pub(super) wanted: Vec<(ResourceId, LockMode)>,
    /// When the wait ends; `None` for never.
    pub(super) until: Option<Timestamp>,
    pub(super) lease: Option<Duration>,
    pub(super) working_since: Timestamp,
    pub(super) is_protected: bool,
    pub(super) coordination: Option<CoordinationId>,
    /// What is held so far, in the order of `wanted`.
    pub(super) grants: Vec<Grant>,
}

/// One lock that is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    instance: InstanceId,
    wait: WaitId,
    requester: RequesterId,
    coordination: Option<CoordinationId>,
    grant: Grant,
}

/// The table, and who is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Locks {
    table: LockTable,
    /// Wishes that wait, by their place in the table.
    wishes: BTreeMap<WaitId, Wish>,
    held: BTreeMap<LockId, Held>,
    last_turn: u64,
}

impl Default for Locks {
    fn default() -> Self {
        let table = LockTable::new(WAITS_MAX, 1);
        Self { table, wishes: BTreeMap::new(), held: BTreeMap::new(), last_turn: 0 }
    }
}

/// One step: when, and what the table still has to tell.
pub(super) struct Step<'a> {
    now: Timestamp,
    told: Vec<lock_table::Effect>,
    effects: &'a mut Vec<Effect>,
}

impl<'a> Step<'a> {
    pub(super) fn new(now: Timestamp, effects: &'a mut Vec<Effect>) -> Self {
        Self { now, told: Vec::new(), effects }
    }
}

/// What becomes of a wish for now.
enum Went {
    Granted(Wish),
    Refused(LockError),
    Waits,
}

impl Locks {
    pub(super) fn table(&self) -> &LockTable {
        &self.table
    }

    /// The entry at this index begins.
    pub(super) fn begin(&mut self, index: u64, mut step: Step<'_>) {
        self.table.raise_tokens(index);
        if self.table.deadline().is_some_and(|due| due <= step.now) {
            self.table.time_reached(step.now, &mut step.told);
            self.tell(&mut step);
        }
    }

    pub(super) fn acquire(&mut self, wish: Wish, mut step: Step<'_>) -> Answer {
        let is_used = |it: &Wish| it.instance == wish.instance && it.wait == wish.wait;
        if self.wishes.values().any(is_used) {
            let message = format!("the wait {} is in use; give each its own number", wish.wait.0);
            return Answer::Refused(LockError::Invalid { message });
        }
        let answer = match self.start(wish, &mut step) {
            Went::Granted(wish) => Answer::Granted(wish.grants),
            Went::Refused(error) => Answer::Refused(error),
            Went::Waits => Answer::Waits,
        };
        self.tell(&mut step);
        answer
    }

    fn start(&mut self, mut wish: Wish, step: &mut Step<'_>) -> Went {
        let asks: Vec<Ask<'_>> =
            (0..wish.wanted.len()).map(|at| ask(&wish, at, step.now)).collect();
        let at_once = self.table.ask_many(step.now, &asks, &mut step.told);
        match at_once {
            Err(error) => Went::Refused(error),
            Ok(None) => self.go_on(wish, step),
            Ok(Some(grants)) => {
                for grant in &grants {
                    self.hold(&wish, grant);
                }
                wish.grants = grants;
                self.complete(&wish, step);
                Went::Granted(wish)
            }
        }
    }

    /// Takes the next lock, and the next, as long as they are free.
    fn go_on(&mut self, mut wish: Wish, step: &mut Step<'_>) -> Went {
        while wish.grants.len() < wish.wanted.len() {
            self.last_turn += 1;
            let turn = WaitId(self.last_turn);
            let next = ask(&wish, wish.grants.len(), step.now);
            match self.table.ask(step.now, turn, &next, &mut step.told) {
                lock_table::Answer::Granted(grant) => {
                    self.hold(&wish, &grant);
                    wish.grants.push(grant);
                }
                lock_table::Answer::Refused(error) => {
                    self.give_back(&wish, step);
                    return Went::Refused(error);
                }
                lock_table::Answer::Waits => {
                    self.wishes.insert(turn, wish);
                    return Went::Waits;
                }
            }
        }
        self.complete(&wish, step);
        Went::Granted(wish)
    }

    fn hold(&mut self, wish: &Wish, grant: &Grant) {
        let held = Held {
            instance: wish.instance.clone(),
            wait: wish.wait,
            requester: wish.requester.clone(),
            coordination: wish.coordination.clone(),
            grant: grant.clone(),
        };
        self.held.insert(grant.lock_id.clone(), held);
    }

    fn complete(&mut self, wish: &Wish, step: &mut Step<'_>) {
        let Some(lease) = wish.lease else { return };
        for grant in &wish.grants {
            self.table.renew(step.now, &grant.lock_id, lease, &mut step.told);
        }
    }

    fn give_back(&mut self, wish: &Wish, step: &mut Step<'_>) {
        for grant in wish.grants.iter().rev() {
            self.let_go(&grant.lock_id, &wish.requester, step);
        }
    }

    fn let_go(&mut self, lock_id: &LockId, requester: &RequesterId, step: &mut Step<'_>) -> bool {
        let is_released = self.table.release(step.now, lock_id, requester, &mut step.told);
        if is_released {
            self.held.remove(lock_id);
        }
        is_released
    }

    /// Carries out what the table told, until it tells nothing more.
    fn tell(&mut self, step: &mut Step<'_>) {
        let mut told = VecDeque::new();
        loop {
            told.extend(step.told.drain(..));
            let Some(effect) = told.pop_front() else { return };
            match effect {
                lock_table::Effect::Granted { wait, grant } => self.granted(wait, grant, step),
                lock_table::Effect::Refused { wait, error } => {
                    if let Some(wish) = self.wishes.remove(&wait) {
                        self.give_back(&wish, step);
                        refused(&wish, error, step);
                    }
                }
                lock_table::Effect::Lost { lock_id, requester, reason } => {
                    if let Some(Held { instance, .. }) = self.held.remove(&lock_id) {
                        step.effects.push(Effect::Lost { instance, lock_id, requester, reason });
                    }
                }
                lock_table::Effect::Deadlock(found) => step.effects.push(Effect::Deadlock(found)),
            }
        }
    }

    fn granted(&mut self, turn: WaitId, grant: Grant, step: &mut Step<'_>) {
        let Some(mut wish) = self.wishes.remove(&turn) else { return };
        self.hold(&wish, &grant);
        wish.grants.push(grant);
        let whose = wish.clone();
        match self.go_on(wish, step) {
            Went::Waits => {}
            Went::Refused(error) => refused(&whose, error, step),
            Went::Granted(Wish { instance, wait, grants, .. }) => {
                step.effects.push(Effect::Granted { instance, wait, grants });
            }
        }
    }

    pub(super) fn give_up(&mut self, instance: &InstanceId, wait: WaitId, mut step: Step<'_>) {
        let is_it = |it: &Wish| it.instance == *instance && it.wait == wait;
        let turn = self.wishes.iter().find(|(_, wish)| is_it(wish)).map(|(turn, _)| *turn);
        if let Some(turn) = turn {
            self.table.cancel(step.now, turn, &mut step.told);
            self.tell(&mut step);
        }
    }

    pub(super) fn release(
        &mut self,
        lock_id: &LockId,
        requester: &RequesterId,
        mut step: Step<'_>,
    ) -> bool {
        let is_released = self.let_go(lock_id, requester, &mut step);
        self.tell(&mut step);
        is_released
    }

    /// Lets go of all that a process holds for a requester, and ends its waits; how many it held.
    pub(super) fn release_all(
        &mut self,
        instance: &InstanceId,
        requester: &RequesterId,
        mut step: Step<'_>,
    ) -> u64 {
        self.withdraw(|wish| wish.instance == *instance && wish.requester == *requester, &mut step);
        let is_his = |held: &&Held| held.instance == *instance && held.requester == *requester;
        let held: Vec<LockId> =
            self.held.values().filter(is_his).map(|held| held.grant.lock_id.clone()).collect();
        for lock_id in held.iter().rev() {
            self.let_go(lock_id, requester, &mut step);
        }
        self.tell(&mut step);
        held.len() as u64
    }

    pub(super) fn downgrade(
        &mut self,
        lock_id: &LockId,
        requester: &RequesterId,
        mode: LockMode,
        mut step: Step<'_>,
    ) -> Option<Grant> {
        let whose = (lock_id, requester);
        let grant = self.table.downgrade(step.now, whose, mode, &mut step.told);
        if let Some(grant) = &grant
            && let Some(held) = self.held.remove(lock_id)
        {
            self.held.insert(grant.lock_id.clone(), Held { grant: grant.clone(), ..held });
        }
        self.tell(&mut step);
        grant
    }

    pub(super) fn renew(&mut self, lock_id: &LockId, lease: Duration, mut step: Step<'_>) -> bool {
        let is_held = self.table.renew(step.now, lock_id, lease, &mut step.told);
        self.tell(&mut step);
        is_held
    }

    /// The session of a process ended: its waits are over, and its locks are free. It is told of
    /// them for `reason`, unless it knows.
    pub(super) fn end_session(
        &mut self,
        instance: &InstanceId,
        reason: Option<&str>,
        mut step: Step<'_>,
    ) {
        self.withdraw(|wish| wish.instance == *instance, &mut step);
        let whose = self.held.values().filter(|held| held.instance == *instance);
        let held: Vec<(LockId, RequesterId)> =
            whose.map(|held| (held.grant.lock_id.clone(), held.requester.clone())).collect();
        for (lock_id, requester) in held {
            self.let_go(&lock_id, &requester, &mut step);
            if let Some(reason) = reason {
                let (instance, reason) = (instance.clone(), reason.to_owned());
                step.effects.push(Effect::Lost { instance, lock_id, requester, reason });
            }
        }
        self.tell(&mut step);
    }

    /// Ends waits. All are taken out before anybody is told; one that is granted meanwhile, because
    /// another one of them went, gives its lock back.
    fn withdraw(&mut self, is_meant: impl Fn(&Wish) -> bool, step: &mut Step<'_>) {
        let meant = self.wishes.iter().filter(|(_, wish)| is_meant(wish));
        let turns: Vec<WaitId> = meant.map(|(turn, _)| *turn).collect();
        for turn in turns {
            let Some(wish) = self.wishes.remove(&turn) else { continue };
            if !self.table.cancel(step.now, turn, &mut step.told)
                && let Some(grant) = granted_to(turn, &step.told)
            {
                self.table.release(step.now, &grant, &wish.requester, &mut step.told);
            }
            self.give_back(&wish, step);
            refused(&wish, LockError::Cancelled, step);
        }
    }

    /// What a wait of a process was granted, and is still held.
    pub(super) fn grants_of(&self, instance: &InstanceId, wait: WaitId) -> Vec<Grant> {
        let own = |held: &&Held| held.instance == *instance && held.wait == wait;
        let mut grants: Vec<Grant> =
            self.held.values().filter(own).map(|held| held.grant.clone()).collect();
        grants.sort_by_key(|grant| grant.fencing_token);
        grants
    }

    pub(super) fn is_waiting(&self, instance: &InstanceId, wait: WaitId) -> bool {
        self.wishes.values().any(|wish| wish.instance == *instance && wish.wait == wait)
    }

    pub(super) fn requester_of(&self, lock_id: &LockId) -> Option<&RequesterId> {
        self.held.get(lock_id).map(|held| &held.requester)
    }

    pub(super) fn holder_of(&self, lock_id: &LockId) -> Option<&InstanceId> {
        self.held.get(lock_id).map(|held| &held.instance)
    }
}

/// The ask for one lock of a wish. Its lease begins when the wish is complete.
fn ask(wish: &Wish, at: usize, now: Timestamp) -> Ask<'_> {
    let (resource, mode) = &wish.wanted[at];
    Ask {
        resource,
        mode: *mode,
        requester: &wish.requester,
        timeout: wish.until.map(|until| until.since(now)),
        // A lease of nothing is refused by the table.
        lease: wish.lease.filter(Duration::is_zero),
        working_since: wish.working_since,
        is_protected: wish.is_protected,
    }
}

fn refused(wish: &Wish, error: LockError, step: &mut Step<'_>) {
    let (instance, wait) = (wish.instance.clone(), wish.wait);
    step.effects.push(Effect::Refused { instance, wait, error });
}

/// The lock that a wait was granted, by what the table told.
fn granted_to(turn: WaitId, told: &[lock_table::Effect]) -> Option<LockId> {
    told.iter().find_map(|effect| match effect {
        lock_table::Effect::Granted { wait, grant } if *wait == turn => Some(grant.lock_id.clone()),
        _ => None,
    })
}
