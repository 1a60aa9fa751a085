//! What the manager asks the cluster for.
//!
//! Not what it hears (hearing), what it owes (owing), nor its clock (watch). Invariants: a grant is
//! told only when it is known that the session lasted while it was on its way, and that the cluster
//! has it still; of an ask whose answer was lost nothing stays behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::super::{Grant, LockAsk, LockError, LockId, RequesterId, WaitId};
use super::state::{Answerer, Owed, State, Telling, Wait};
use crate::cluster::{ClusterError, ReplicatedLog};
use crate::protocol::replica::{Answer, Command};
use crate::reply::Reply;

pub(super) const SESSION_ENDED: &str = "this process was away for too long, and its session ended";

/// What all parts of the manager share.
pub(super) struct Shared {
    pub(super) itself: Weak<Self>,
    pub(super) log: Arc<dyn ReplicatedLog>,
    pub(super) handle: Handle,
    /// How long a session lasts that is not kept alive.
    pub(super) lease: Duration,
    pub(super) alarm: Arc<Notify>,
    pub(super) own_waits: u64,
    state: Mutex<State>,
}

/// Why the cluster gave no answer, as a lock manager says it.
pub(super) fn trouble(server: String, error: &ClusterError) -> LockError {
    match error {
        ClusterError::Closed => LockError::Closed,
        error => LockError::Unavailable { server, message: error.to_string() },
    }
}

impl Shared {
    pub(super) fn new(log: Arc<dyn ReplicatedLog>, handle: Handle) -> Arc<Self> {
        // Several managers of one process share its instance, and hear of each other's waits: the
        // upper half of a wait's number says whose it is.
        let mut bytes = [0; 8];
        // Without chance from the system the clock will do: it only has to be another number.
        let clock = |_| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(since.subsec_nanos()) << 32
        };
        let first = getrandom::fill(&mut bytes).map_or_else(clock, |()| u64::from_le_bytes(bytes));
        Arc::new_cyclic(|itself| Self {
            itself: itself.clone(),
            lease: log.lease(),
            log,
            handle,
            alarm: Arc::default(),
            own_waits: first >> 32,
            state: Mutex::new(State::new(first >> 32 << 32)),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nobody else's code runs under it, so nothing stops halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the mutex go, and tells what is to be told, one after the other, by one thread.
    pub(super) fn tell<'s>(&'s self, mut state: MutexGuard<'s, State>) {
        if std::mem::replace(&mut state.is_telling, true) {
            return;
        }
        while let Some(telling) = state.tellings.pop_front() {
            let ears = state.ears.clone();
            drop(state);
            telling.tell(&ears);
            state = self.lock();
        }
        state.is_telling = false;
    }

    /// Has commands carried out, with the session kept alive in front of them.
    pub(super) fn put(
        &self,
        commands: Vec<Command>,
        then: impl FnOnce(Result<Vec<Answer>, LockError>) + Send + 'static,
    ) {
        let server = self.log.location();
        self.put_raw(commands, move |answers, _| {
            then(answers.map_err(|error| trouble(server, &error)));
        });
    }

    pub(super) fn put_raw(
        &self,
        commands: Vec<Command>,
        then: impl FnOnce(Result<Vec<Answer>, ClusterError>, Instant) + Send + 'static,
    ) {
        let sent = Instant::now();
        let mut all = Vec::with_capacity(commands.len() + 1);
        all.push(Command::KeepAlive { lease: self.lease });
        all.extend(commands);
        let mut state = self.lock();
        state.tried = Some(sent);
        state.unanswered.get_or_insert(sent);
        drop(state);
        let itself = self.itself.clone();
        let reply = Reply::new(move |answers: Result<Vec<Answer>, ClusterError>| {
            let answers = answers.map(|mut answers| answers.split_off(1.min(answers.len())));
            if let (Ok(_), Some(shared)) = (&answers, itself.upgrade()) {
                let mut state = shared.lock();
                state.prove(sent);
                shared.tell(state);
            }
            then(answers, sent);
        });
        self.log.propose(all, reply);
    }

    pub(super) fn acquire(&self, asks: Vec<LockAsk>, answerer: Answerer) -> WaitId {
        let mut order: Vec<usize> = (0..asks.len()).collect();
        order.sort_by_key(|at| (&asks[*at].resource, asks[*at].mode));
        let asked_at = Instant::now();
        let wait = Wait { answerer, asks, order, asked_at, is_waiting: false };
        let mut state = self.lock();
        state.next_wait += 1;
        let id = WaitId(state.next_wait);
        if wait.asks.is_empty() || state.is_closed {
            let telling = if wait.asks.is_empty() {
                Telling::Granted(wait, Vec::new())
            } else {
                Telling::Refused(wait, LockError::Closed)
            };
            state.tellings.push_back(telling);
            self.tell(state);
            return id;
        }
        let command = acquire_command(id, &wait);
        state.waits.insert(id, wait);
        drop(state);
        let itself = self.itself.clone();
        self.put_raw(vec![command], move |answers, sent| {
            if let Some(shared) = itself.upgrade() {
                shared.asked(id, answers, sent);
            }
        });
        self.alarm.notify_one();
        id
    }

    /// The answer to an ask.
    fn asked(&self, id: WaitId, answers: Result<Vec<Answer>, ClusterError>, sent: Instant) {
        let error = match answers.map(|mut answers| answers.pop()) {
            Ok(Some(Answer::Granted(grants))) => return self.granted(id, grants, sent),
            Ok(Some(Answer::Waits)) => {
                if let Some(wait) = self.lock().waits.get_mut(&id) {
                    wait.is_waiting = true;
                }
                return;
            }
            Ok(Some(Answer::Refused(error))) => error,
            Ok(_) => self.ended(),
            Err(ClusterError::Unknown { message }) => return self.settle(id, message),
            Err(error) => trouble(self.log.location(), &error),
        };
        let mut state = self.lock();
        state.refuse(id, error);
        self.tell(state);
    }

    pub(super) fn ended(&self) -> LockError {
        LockError::Unavailable { server: self.log.location(), message: SESSION_ENDED.to_owned() }
    }

    /// The cluster granted it in an entry behind `sent`, and the session lasted then.
    fn granted(&self, id: WaitId, grants: Vec<Grant>, sent: Instant) {
        // The same entry may have ended the session after the grant.
        let are_held = self.are_held(&grants);
        let mut state = self.lock();
        if are_held {
            let lease = state.waits.get(&id).and_then(Wait::lease);
            if !state.grant(id, grants.clone(), lease.map(|lease| sent + lease)) {
                return self.give_back(state, &grants);
            }
        } else {
            state.refuse(id, self.ended());
        }
        self.tell(state);
        // Its lease may end before the clock would look again.
        self.alarm.notify_one();
    }

    fn are_held(&self, grants: &[Grant]) -> bool {
        let own = self.log.instance();
        let mut are_held = false;
        self.log.glance(&mut |replica| {
            are_held = grants.iter().all(|grant| replica.holder_of(&grant.lock_id) == Some(own));
        });
        are_held
    }

    /// A grant that was waited for: told when an answer behind it proves the session.
    pub(super) fn came(&self, id: WaitId, grants: Vec<Grant>) {
        let state = self.lock();
        let Some(wait) = state.waits.get(&id) else { return self.give_back(state, &grants) };
        let renewals = wait.lease().map_or_else(Vec::new, |lease| {
            let renew = |grant: &Grant| Command::Renew { lock_id: grant.lock_id.clone(), lease };
            grants.iter().map(renew).collect()
        });
        drop(state);
        let itself = self.itself.clone();
        self.put_raw(renewals, move |answers, sent| {
            let Some(shared) = itself.upgrade() else { return };
            match answers {
                Ok(_) => shared.granted(id, grants, sent),
                Err(error) => {
                    let mut state = shared.lock();
                    state.refuse(id, trouble(shared.log.location(), &error));
                    shared.give_back(state, &grants);
                }
            }
        });
    }

    /// Whether an ask was carried out is not known: it is given up, and what it got given back.
    fn settle(&self, id: WaitId, message: String) {
        let itself = self.itself.clone();
        self.put_raw(vec![Command::GiveUp { wait: id }], move |answers, _| {
            let Some(shared) = itself.upgrade() else { return };
            // An answer is behind the ask, which is never carried out after it.
            let mut grants = Vec::new();
            shared.log.glance(&mut |replica| {
                grants = replica.grants_of(shared.log.instance(), id);
            });
            let mut state = shared.lock();
            let error = ClusterError::Unknown { message };
            state.refuse(id, trouble(shared.log.location(), &error));
            if answers.is_err() {
                state.owed.push(Owed::give_up(id));
                state.pay_at = Some(Instant::now() + super::watch::PAUSE);
            }
            shared.give_back(state, &grants);
            shared.alarm.notify_one();
        });
    }

    pub(super) fn cancel(&self, id: WaitId) {
        if !self.lock().waits.contains_key(&id) {
            return;
        }
        let itself = self.itself.clone();
        self.put_raw(vec![Command::GiveUp { wait: id }], move |answers, _| {
            let Some(shared) = itself.upgrade() else { return };
            // Where it was carried out, an effect has answered already, or a grant is on its way.
            if answers.is_err() {
                let mut state = shared.lock();
                state.refuse(id, LockError::Cancelled);
                state.owed.push(Owed::give_up(id));
                shared.tell(state);
                shared.alarm.notify_one();
            }
        });
    }

    pub(super) fn release_all(
        &self,
        requester: &RequesterId,
        reply: Reply<Result<usize, LockError>>,
    ) {
        let requester = requester.clone();
        let itself = self.itself.clone();
        let command = Command::ReleaseAll { requester: requester.clone() };
        self.put(vec![command], move |answers| {
            if let (Ok(_), Some(shared)) = (&answers, itself.upgrade()) {
                shared.lock().held.retain(|_, held| held.requester != requester);
            }
            reply.send(answers.map(|mut answers| match answers.pop() {
                Some(Answer::Count(count)) => usize::try_from(count).unwrap_or(usize::MAX),
                _ => 0,
            }));
        });
    }

    pub(super) fn renew(
        &self,
        lock_id: &LockId,
        lease: Duration,
        reply: Reply<Result<bool, LockError>>,
    ) {
        let (itself, id, server) = (self.itself.clone(), lock_id.clone(), self.log.location());
        let command = Command::Renew { lock_id: lock_id.clone(), lease };
        self.put_raw(vec![command], move |answers, sent| {
            let is_held = answers.map(|mut answers| answers.pop() == Some(Answer::Yes));
            if let (Ok(true), Some(shared)) = (&is_held, itself.upgrade())
                && let Some(held) = shared.lock().held.get_mut(&id)
            {
                held.until = Some(sent + lease);
            }
            reply.send(is_held.map_err(|error| trouble(server, &error)));
        });
    }

    /// Ends every wait and lets go of every lock; what is to be carried out, or `None` where that
    /// was done before.
    pub(super) fn shut(&self) -> Option<Vec<Owed>> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.is_closed, true) {
            return None;
        }
        let waits: Vec<WaitId> = state.waits.keys().copied().collect();
        let mut owed = std::mem::take(&mut state.owed);
        for wait in waits {
            owed.push(Owed::give_up(wait));
            state.refuse(wait, LockError::Closed);
        }
        let held = std::mem::take(&mut state.held).into_iter();
        owed.extend(held.map(|(id, held)| Owed::release(id, held.requester, None)));
        for reply in owed.iter_mut().filter_map(|owed| owed.reply.take()) {
            state.tellings.push_back(Telling::Released(reply, Err(LockError::Closed)));
        }
        self.tell(state);
        self.alarm.notify_one();
        Some(owed)
    }
}

fn acquire_command(id: WaitId, wait: &Wait) -> Command {
    let first = &wait.asks[0];
    Command::Acquire {
        wait: id,
        requester: first.requester.clone(),
        wanted: wait.wanted(),
        timeout: wait.timeout(),
        lease: wait.lease(),
        working_since: wait.asks.iter().filter_map(|ask| ask.working_since).min(),
        is_protected: wait.asks.iter().any(|ask| ask.is_protected),
        coordination: first.coordination.clone(),
    }
}
