//! A process takes locks in the cluster: for its machines, and for guests that lock a whole store.
//!
//! What a lock manager over the port `cluster` owes: an answer that was lost is settled (the wait
//! is given up, and what it was granted all the same is found in the state), what was granted to
//! nobody is given back, and effects that a snapshot swallowed are read from the state. Invariants
//! that are checked here: what is told as granted was granted by an entry; a wait that was granted
//! is woken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::driving::Driving as _;
use super::process::{Process, Word};
use super::world::{Address, Happening, NAMES, World};
use crate::cluster::{ClusterError, ReplicatedLog as _};
use crate::model::lock::{Fence, Grant, LockError, LockMode, RequesterId, ResourceId, WaitId};
use crate::model::record::Reason;
use crate::protocol::lock_plan::LockWish;
use crate::protocol::replica::{Answer, Command, Effect};
use crate::protocol::{Input, Machine as _};
use crate::reply::Reply;

/// For how long something is left alone that failed.
const PAUSE: Duration = Duration::from_millis(200);

/// For whom locks are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Machine(Address),
    Guest(u64),
}

impl Who {
    fn requester(&self, node: usize, life: u64) -> RequesterId {
        match self {
            Self::Machine(of) => RequesterId::from(&of.id),
            Self::Guest(number) => {
                let name = format!("guest {number} on {} in {life}", NAMES[node]);
                RequesterId::new(&name).expect("it is short")
            }
        }
    }
}

struct Wait {
    /// `None` when nobody wants it any more.
    who: Option<Who>,
    requester: RequesterId,
    /// The machine has to have them, for as long as it takes.
    is_owed: bool,
    /// The cluster said that it waits.
    is_queued: bool,
    /// Effects may have been missed.
    is_blind: bool,
}

struct Hold {
    who: Who,
    requester: RequesterId,
    grants: Vec<Grant>,
}

/// What a process holds and waits for, by the number of the wait.
#[derive(Default)]
pub(super) struct Locks {
    last_wait: u64,
    waits: BTreeMap<u64, Wait>,
    holds: BTreeMap<u64, Hold>,
}

impl Locks {
    pub(super) fn is_idle(&self) -> bool {
        self.waits.is_empty() && self.holds.is_empty()
    }

    pub(super) fn told(&self) -> String {
        let waits: Vec<_> = self.waits.values().map(|it| (&it.who, &it.requester)).collect();
        let holds: Vec<_> = self.holds.values().map(|it| &it.requester).collect();
        format!("waits for {waits:?}, holds {holds:?}")
    }
}

/// What is wanted, and how.
struct Wish {
    wanted: Vec<(ResourceId, LockMode)>,
    timeout: Option<Duration>,
    lease: Option<Duration>,
}

fn propose(process: &Process, commands: Vec<Command>) {
    let (inbox, again) = (process.inbox.clone(), commands.clone());
    let reply = Reply::new(move |answers: Result<Vec<Answer>, ClusterError>| {
        if answers.is_err() {
            inbox.put(Word::Again(again));
        }
    });
    process.log.propose(commands, reply);
}

fn release(process: &Process, requester: &RequesterId, grants: &[Grant]) {
    let release = |grant: &Grant| Command::Release {
        lock_id: grant.lock_id.clone(),
        requester: requester.clone(),
    };
    let commands: Vec<Command> = grants.iter().rev().map(release).collect();
    if !commands.is_empty() {
        propose(process, commands);
    }
}

impl World {
    pub(super) fn acquire(
        &mut self,
        of: &Address,
        locks: &Arc<[LockWish]>,
        timeout: Option<Duration>,
    ) {
        let wanted = locks.iter().map(|wish| (wish.resource.clone(), wish.mode)).collect();
        let wish = Wish { wanted, timeout, lease: None };
        self.ask_for(of.node, Who::Machine(of.clone()), wish);
    }

    fn ask_for(&mut self, node: usize, who: Who, wish: Wish) {
        let (life, now) = (self.nodes[node].life, self.now);
        let requester = who.requester(node, life);
        let Some(process) = self.alive(node, life) else { return };
        process.locks.last_wait += 1;
        let wait = process.locks.last_wait;
        let is_owed = wish.timeout.is_none();
        let command = Command::Acquire {
            wait: WaitId(wait),
            requester: requester.clone(),
            wanted: wish.wanted,
            timeout: wish.timeout,
            lease: wish.lease,
            working_since: Some(now),
            is_protected: is_owed,
            coordination: None,
        };
        let who = Some(who);
        let entry = Wait { who, requester, is_owed, is_queued: false, is_blind: false };
        process.locks.waits.insert(wait, entry);
        let inbox = process.inbox.clone();
        let reply = Reply::new(move |result| inbox.put(Word::LockAnswer { wait, result }));
        process.log.propose(vec![command], reply);
    }

    /// A guest wants a whole store for a while, or two, in an order that may close a circle.
    pub(super) fn guest(&mut self, node: usize, number: u64) {
        if self.waits_for(node, &Happening::Guest { node, number }) {
            return;
        }
        let store = self.random.below(self.stores.len());
        let count = if self.random.chance(30) { 2 } else { 1 };
        let mode = if self.random.chance(70) { LockMode::Shared } else { LockMode::Exclusive };
        let downwards = self.stores[..=store].iter().rev().take(count);
        let wanted = downwards.map(|store| (ResourceId::from(&store.name), mode)).collect();
        let lease = self.random.chance(50).then(|| self.random.millis(200, 1_500));
        let timeout = Some(self.random.millis(0, 3_000));
        self.ask_for(node, Who::Guest(number), Wish { wanted, timeout, lease });
    }

    pub(super) fn guest_leaves(&mut self, node: usize, life: u64, wait: u64) {
        if self.waits_for(node, &Happening::GuestLeaves { node, life, wait }) {
            return;
        }
        let Some(process) = self.alive(node, life) else { return };
        if let Some(hold) = process.locks.holds.remove(&wait) {
            release(process, &hold.requester, &hold.grants);
        }
    }

    pub(super) fn lock_answered(
        &mut self,
        node: usize,
        wait: u64,
        result: Result<Vec<Answer>, ClusterError>,
    ) {
        let answer = result.map(|answers| answers.into_iter().next());
        match answer {
            Ok(Some(Answer::Granted(grants))) => self.granted(node, wait, grants),
            Ok(Some(Answer::Refused(error))) => self.refused(node, wait, &error.to_string()),
            Ok(Some(Answer::Waits)) => {
                let life = self.nodes[node].life;
                let process = self.alive(node, life);
                let found = process.and_then(|process| process.locks.waits.get_mut(&wait));
                if let Some(found) = found {
                    found.is_queued = true;
                }
            }
            Ok(_) => self.refused(node, wait, "it has no session"),
            Err(ClusterError::NoQuorum { message }) => self.refused(node, wait, &message),
            Err(_) => self.settle(node, self.nodes[node].life, wait),
        }
    }

    /// Finds out what became of a wait: it is given up, and behind that the state tells.
    pub(super) fn settle(&mut self, node: usize, life: u64, wait: u64) {
        if self.waits_for(node, &Happening::Settles { node, life, wait }) {
            return;
        }
        let Some(process) = self.alive(node, life) else { return };
        let inbox = process.inbox.clone();
        let reply = Reply::new(move |answers: Result<Vec<Answer>, ClusterError>| {
            inbox.put(Word::Settled { wait, is_heard: answers.is_ok() });
        });
        process.log.propose(vec![Command::GiveUp { wait: WaitId(wait) }], reply);
    }

    pub(super) fn settled(&mut self, node: usize, wait: u64, is_heard: bool) {
        let life = self.nodes[node].life;
        if !is_heard {
            return self.schedule(PAUSE, Happening::Settles { node, life, wait });
        }
        let Some(process) = self.alive(node, life) else { return };
        let Some(found) = process.locks.waits.get(&wait) else { return };
        let (is_queued, is_blind) = (found.is_queued, found.is_blind);
        let (own, mut grants) = (process.instance(), Vec::new());
        process.log.glance(&mut |replica| grants = replica.grants_of(&own, WaitId(wait)));
        if grants.is_empty() {
            return self.refused(node, wait, "the wait was given up");
        }
        if is_queued && !is_blind {
            self.witness.fail(format!("{} was not woken: its wait {wait} is granted", NAMES[node]));
        }
        self.granted(node, wait, grants);
    }

    fn granted(&mut self, node: usize, wait: u64, grants: Vec<Grant>) {
        let life = self.nodes[node].life;
        for grant in &grants {
            if !self.audit.was_granted(&grant.lock_id) {
                let (name, lock) = (NAMES[node], &grant.lock_id);
                self.witness.fail(format!("{name} is told of {lock}, that no majority granted"));
            }
        }
        let Some(process) = self.alive(node, life) else { return };
        let Some(Wait { who, requester, .. }) = process.locks.waits.remove(&wait) else { return };
        let Some(who) = who else { return release(process, &requester, &grants) };
        let tokens = grants.iter().map(|grant| grant.fencing_token).collect();
        process.locks.holds.insert(wait, Hold { who: who.clone(), requester, grants });
        self.witness.count("granted");
        match who {
            Who::Machine(of) => self.step_if_there(&of, Input::Locked { tokens }),
            Who::Guest(_) => {
                let stays = self.random.millis(50, 1_500);
                self.schedule(stays, Happening::GuestLeaves { node, life, wait });
            }
        }
    }

    fn refused(&mut self, node: usize, wait: u64, why: &str) {
        let life = self.nodes[node].life;
        let Some(process) = self.alive(node, life) else { return };
        let Some(found) = process.locks.waits.remove(&wait) else { return };
        let Some(Who::Machine(of)) = found.who else { return };
        self.witness.count("refused");
        if found.is_owed {
            return self.schedule(PAUSE, Happening::AsksAgain { of });
        }
        let reason = Reason::new("transaction.aborted.locks_unavailable", why);
        self.step_if_there(&of, Input::LockRefused { reason });
    }

    pub(super) fn asks_again(&mut self, of: &Address) {
        if self.waits_for(of.node, &Happening::AsksAgain { of: of.clone() }) {
            return;
        }
        let who = Who::Machine(of.clone());
        let Some(process) = self.alive(of.node, of.life) else { return };
        if process.locks.waits.values().any(|wait| wait.who.as_ref() == Some(&who)) {
            return;
        }
        let Some(held) = self.held(of) else { return };
        let locks = Arc::clone(held.machine.locks());
        self.acquire(of, &locks, None);
    }

    /// What the cluster says without being asked.
    pub(super) fn lock_effect(&mut self, node: usize, effect: Effect) {
        match effect {
            Effect::Granted { wait, grants, .. } => self.granted(node, wait.0, grants),
            Effect::Refused { wait, error, .. } => {
                let is_given_up = error == LockError::Cancelled;
                let why = if is_given_up { "given up".to_owned() } else { error.to_string() };
                self.refused(node, wait.0, &why);
            }
            Effect::Lost { lock_id, reason, .. } => {
                let message = format!("{lock_id}: {reason}");
                self.lost(node, message, |grant| grant.lock_id == lock_id);
            }
            Effect::Deadlock(_) | Effect::SessionEnded { .. } => {}
        }
    }

    fn lost(&mut self, node: usize, message: String, is_it: impl Fn(&Grant) -> bool) {
        let life = self.nodes[node].life;
        let Some(process) = self.alive(node, life) else { return };
        let mut losers = Vec::new();
        for hold in process.locks.holds.values_mut() {
            let before = hold.grants.len();
            hold.grants.retain(|grant| !is_it(grant));
            if hold.grants.len() < before {
                losers.push(hold.who.clone());
            }
        }
        process.locks.holds.retain(|_, hold| !hold.grants.is_empty());
        for who in losers {
            self.witness.count("lost");
            if let Who::Machine(of) = who {
                self.step_if_there(&of, Input::LockLost { message: message.clone() });
            }
        }
    }

    /// The state came whole: what it meant on the way is read from it.
    pub(super) fn state_replaced(&mut self, node: usize) {
        self.witness.count("snapshots taken over");
        let life = self.nodes[node].life;
        let Some(process) = self.alive(node, life) else { return };
        let own = process.instance();
        let (mut gone, mut over) = (Vec::new(), Vec::new());
        process.log.glance(&mut |replica| {
            let held = process.locks.holds.values().flat_map(|hold| &hold.grants);
            let is_gone = |grant: &&Grant| replica.holder_of(&grant.lock_id) != Some(&own);
            gone = held.filter(is_gone).map(|grant| grant.lock_id.clone()).collect();
            let waits = process.locks.waits.iter().filter(|(_, wait)| wait.is_queued);
            let is_over = |wait: u64| !replica.is_waiting(&own, WaitId(wait));
            over = waits.map(|(wait, _)| *wait).filter(|wait| is_over(*wait)).collect();
        });
        for wait in process.locks.waits.values_mut() {
            wait.is_blind = true;
        }
        for lock_id in gone {
            self.lost(node, "it was lost meanwhile".to_owned(), |grant| grant.lock_id == lock_id);
        }
        for wait in over {
            self.settle(node, life, wait);
        }
    }

    /// Lets go of all that is held or waited for by one.
    pub(super) fn give_up_locks(&mut self, node: usize, who: &Who) {
        let life = self.nodes[node].life;
        let Some(process) = self.alive(node, life) else { return };
        let mut waits = Vec::new();
        for (wait, found) in &mut process.locks.waits {
            if found.who.as_ref() == Some(who) {
                found.who = None;
                waits.push(*wait);
            }
        }
        let held: Vec<u64> = process
            .locks
            .holds
            .iter()
            .filter(|(_, hold)| hold.who == *who)
            .map(|(wait, _)| *wait)
            .collect();
        for wait in held {
            if let Some(hold) = process.locks.holds.remove(&wait) {
                release(process, &hold.requester, &hold.grants);
            }
        }
        for wait in waits {
            self.settle(node, life, wait);
        }
    }

    pub(super) fn propose(&mut self, node: usize, life: u64, commands: Vec<Command>) {
        let happening = Happening::Proposes { node, life, commands: commands.clone() };
        if self.waits_for(node, &happening) {
            return;
        }
        if let Some(process) = self.alive(node, life) {
            propose(process, commands);
        }
    }

    /// What a store is shown of the locks under which it is asked.
    pub(super) fn fences(&mut self, of: &Address, party: usize, wishes: &[LockWish]) -> Vec<Fence> {
        let who = Who::Machine(of.clone());
        let Some(process) = self.alive(of.node, of.life) else { return Vec::new() };
        let holds = process.locks.holds.values().filter(|hold| hold.who == who);
        let grants: Vec<&Grant> = holds.flat_map(|hold| &hold.grants).collect();
        let shown = wishes.iter().filter(|wish| wish.party == party).filter_map(|wish| {
            let is_its =
                |grant: &&&Grant| grant.resource == wish.resource && grant.mode == wish.mode;
            let token = grants.iter().find(is_its)?.fencing_token;
            Some(Fence { resource: wish.resource.clone(), mode: wish.mode, token })
        });
        shown.collect()
    }
}
