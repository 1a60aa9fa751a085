//! What the tasks of one manager share: the state, the lanes, who listens, and how they are told to
//! end.
//!
//! Not a task. Invariants: what a change of the state brings about is carried out after the state
//! is unlocked, so a reply or an ear may call the manager; effects of one change keep their order.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch as watched};

use super::PostgresLockOptions;
use super::errand::Errand;
use super::lane::Lane;
use super::link::Trouble;
use super::state::State;
use super::wait::{Effect, Ending, Session};
use crate::db::postgres::Server;
use crate::locks::many::OneByOne;
use crate::locks::{
    Deadlock, Grant, LockAsk, LockEar, LockError, LockId, RequesterId, ResourceId, WaitId,
};
use crate::reply::Reply;

/// Deadlocks that are remembered.
const DEADLOCKS_MAX: usize = 100;

/// See the header.
pub(super) struct Inner {
    pub(super) server: Server,
    pub(super) options: PostgresLockOptions,
    /// This manager's name in the names of its waits.
    pub(super) instance: String,
    pub(super) state: Mutex<State>,
    pub(super) lanes: Vec<Lane>,
    pub(super) ears: Mutex<Vec<Arc<dyn LockEar>>>,
    pub(super) deadlocks: Mutex<VecDeque<Deadlock>>,
    pub(super) session: watched::Sender<Option<i64>>,
    pub(super) is_closing: watched::Sender<bool>,
    pub(super) tick_wake: Notify,
    pub(super) watch_wake: Notify,
    pub(super) is_urgent: AtomicBool,
}

/// Locks it, also after a panic: nothing that holds one of these leaves it half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    /// What a manager begins with. Nothing is opened yet.
    pub(super) fn new(server: Server, options: PostgresLockOptions) -> Result<Self, String> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| error.to_string())?;
        let name = format!("PostgreSQL at {}", server.label);
        Ok(Self {
            server,
            options,
            instance: format!("{:016x}", u64::from_ne_bytes(random)),
            state: Mutex::new(State::new(name, options.session_timeout)),
            lanes: (0..options.connections).map(|_| Lane::default()).collect(),
            ears: Mutex::default(),
            deadlocks: Mutex::default(),
            session: watched::Sender::new(None),
            is_closing: watched::Sender::new(false),
            tick_wake: Notify::new(),
            watch_wake: Notify::new(),
            is_urgent: AtomicBool::new(false),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn server_name(&self) -> String {
        format!("PostgreSQL at {}", self.server.label)
    }

    pub(super) fn session_id(&self) -> Option<i64> {
        *self.session.borrow()
    }

    pub(super) async fn session_comes(&self) {
        // The sender lives as long as this.
        let _ = self.session.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) async fn session_ends(&self, session: i64) {
        let _ = self.session.subscribe().wait_for(|now| *now != Some(session)).await;
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.is_closing.borrow()
    }

    pub(super) async fn closing(&self) {
        let _ = self.is_closing.subscribe().wait_for(|is_closing| *is_closing).await;
    }

    pub(super) fn lane_of(&self, resource: &ResourceId) -> usize {
        let mut hasher = DefaultHasher::new();
        resource.hash(&mut hasher);
        let lanes = self.lanes.len() as u64;
        usize::try_from(hasher.finish() % lanes).unwrap_or(0)
    }

    pub(super) fn takes_urgency(&self) -> bool {
        self.is_urgent.swap(false, Ordering::AcqRel)
    }

    pub(super) fn begin_session(&self, session: Session) {
        self.keep_session(session);
        self.session.send_replace(Some(session.id));
    }

    pub(super) fn keep_session(&self, session: Session) {
        let mut out = Vec::new();
        self.state().keep_session(session, &mut out);
        self.carry_out(out);
    }

    pub(super) fn lose_session(&self, session: i64, reason: &str) {
        let mut out = Vec::new();
        {
            let mut state = self.state();
            if state.session.is_some_and(|now| now.id == session) {
                state.lose_session(reason, &mut out);
            }
        }
        self.carry_out(out);
    }

    /// The connection that keeps the session is lost.
    pub(super) fn cut_off(&self) {
        let mut out = Vec::new();
        self.state().is_cut_off(&mut out);
        self.carry_out(out);
    }

    /// Notes why something did not come about. `session` is the one that was used, if any.
    pub(super) fn in_trouble(&self, trouble: Trouble, session: Option<i64>) {
        let message = match trouble {
            Trouble::SessionOver => {
                let reason = "its session was silent for too long and was ended";
                return session.into_iter().for_each(|id| self.lose_session(id, reason));
            }
            Trouble::Broken(message) => {
                self.state().trouble = Some(message);
                return;
            }
            Trouble::Refused(message) => message,
        };
        let mut out = Vec::new();
        {
            let mut state = self.state();
            state.trouble = Some(message);
            state.refuse_all(&mut out);
        }
        self.carry_out(out);
        for lane in &self.lanes {
            self.refuse(lane.take_all(|errand| errand.began().is_some()));
        }
    }

    pub(super) fn carry_out(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(reply, answer) => reply.send(answer),
                Effect::Push(resource, errand) => {
                    self.lanes[self.lane_of(&resource)].push(errand);
                }
                Effect::Lost(lock_id, requester, reason) => {
                    for ear in self.ears() {
                        ear.lost(&lock_id, &requester, &reason);
                    }
                }
                Effect::Suspended(lock_id, requester, until) => {
                    for ear in self.ears() {
                        ear.suspended(&lock_id, &requester, until);
                    }
                }
                Effect::Resumed(lock_id, requester) => {
                    for ear in self.ears() {
                        ear.resumed(&lock_id, &requester);
                    }
                }
                Effect::Watch { is_urgent } => {
                    self.is_urgent.fetch_or(is_urgent, Ordering::AcqRel);
                    self.watch_wake.notify_one();
                }
                Effect::Tick => self.tick_wake.notify_one(),
                Effect::SessionOver => {
                    self.session.send_replace(None);
                }
            }
        }
    }

    pub(super) fn ears(&self) -> Vec<Arc<dyn LockEar>> {
        lock(&self.ears).clone()
    }

    pub(super) fn tell_deadlock(&self, deadlock: Deadlock) {
        for ear in self.ears() {
            ear.deadlock(&deadlock);
        }
        let mut deadlocks = lock(&self.deadlocks);
        deadlocks.push_front(deadlock);
        deadlocks.truncate(DEADLOCKS_MAX);
    }

    pub(super) fn end(&self, number: u64, ending: Ending) {
        let mut out = Vec::new();
        self.state().end(number, ending, Instant::now(), &mut out);
        self.carry_out(out);
    }
}

impl OneByOne for Inner {
    fn acquire_one(&self, ask: LockAsk, reply: Reply<Result<Grant, LockError>>) -> WaitId {
        if ask.lease.is_some_and(|lease| lease.is_zero()) {
            let message = "a lease of no length holds nothing; give a longer one, or none".into();
            reply.send(Err(LockError::Invalid { message }));
            return WaitId(0);
        }
        let mut out = Vec::new();
        let number = {
            let mut state = self.state();
            if state.is_closed {
                out.push(Effect::Answer(reply, Err(LockError::Closed)));
                0
            } else {
                state.begin(ask, reply, Instant::now(), &mut out)
            }
        };
        self.carry_out(out);
        WaitId(number)
    }

    fn release_one(
        &self,
        lock_id: &LockId,
        requester: &RequesterId,
        reply: Reply<Result<bool, LockError>>,
    ) {
        if self.is_closing() {
            return reply.send(Err(LockError::Closed));
        }
        let Some((resource, ..)) = LockId::parse(lock_id.as_str()) else {
            return reply.send(Ok(false));
        };
        if let Some(held) = self.state().held.get_mut(lock_id)
            && held.ask.requester == *requester
        {
            held.is_leaving = true;
        }
        let errand = Errand::release(lock_id.clone(), requester.clone(), Some(reply));
        self.lanes[self.lane_of(&resource)].push(errand);
    }

    fn cancel_one(&self, wait: WaitId) {
        self.end(wait.0, Ending::Cancelled);
    }
}
