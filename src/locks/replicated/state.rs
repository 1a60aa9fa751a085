//! What this process knows of its own waits and locks, under the manager's mutex.
//!
//! Not what is proposed and heard (shared), and no clock (watch). Invariants: a wait is answered
//! once, because who answers takes it out; tellings leave in the order in which they were put in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Deadlock, Grant, LockAsk, LockEar, LockError, LockId, RequesterId, WaitId};
use crate::model::lock::{LockMode, ResourceId};
use crate::protocol::replica::Command;
use crate::reply::Reply;

/// How many of the last deadlocks are kept.
const DEADLOCKS_MAX: usize = 100;

/// Who waits for the answer to an ask.
pub(super) enum Answerer {
    One(Reply<Result<Grant, LockError>>),
    Many(Reply<Result<Vec<Grant>, LockError>>),
}

/// An ask that is not answered.
pub(super) struct Wait {
    pub(super) answerer: Answerer,
    pub(super) asks: Vec<LockAsk>,
    /// The asks in the order in which the cluster takes them.
    pub(super) order: Vec<usize>,
    pub(super) asked_at: Instant,
    /// Whether the cluster has said that it waits; its answer is under way until then.
    pub(super) is_waiting: bool,
}

impl Wait {
    /// What the cluster takes for it, in one order for everybody.
    pub(super) fn wanted(&self) -> Vec<(ResourceId, LockMode)> {
        let wish = |at: &usize| (self.asks[*at].resource.clone(), self.asks[*at].mode);
        self.order.iter().map(wish).collect()
    }

    /// All of an ask are wanted at once, so the shortest time counts.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.asks.iter().filter_map(|ask| ask.timeout).min()
    }

    pub(super) fn lease(&self) -> Option<Duration> {
        self.asks.iter().filter_map(|ask| ask.lease).min()
    }

    pub(super) fn requester(&self) -> &RequesterId {
        &self.asks[0].requester
    }

    fn in_the_order_of_the_asks(&self, grants: Vec<Grant>) -> Vec<Grant> {
        let mut numbered: Vec<(usize, Grant)> = self.order.iter().copied().zip(grants).collect();
        numbered.sort_by_key(|(at, _)| *at);
        numbered.into_iter().map(|(_, grant)| grant).collect()
    }
}

/// A lock that was told to be held.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) requester: RequesterId,
    /// When its own lease ends; `None` where it lasts as long as the session.
    pub(super) until: Option<Instant>,
}

/// What is to be carried out, and is proposed until it was.
pub(super) struct Owed {
    command: Command,
    /// Who hears of a release.
    pub(super) reply: Option<Reply<Result<bool, LockError>>>,
    /// An earlier try may have been carried out.
    pub(super) is_doubtful: bool,
}

impl Owed {
    pub(super) fn release(
        lock_id: LockId,
        requester: RequesterId,
        reply: Option<Reply<Result<bool, LockError>>>,
    ) -> Self {
        let command = Command::Release { lock_id, requester };
        Self { command, reply, is_doubtful: false }
    }

    pub(super) fn give_up(wait: WaitId) -> Self {
        Self { command: Command::GiveUp { wait }, reply: None, is_doubtful: false }
    }

    pub(super) fn command(&self) -> Command {
        self.command.clone()
    }

    /// The wait that is given up by it.
    pub(super) fn wait(&self) -> Option<WaitId> {
        match &self.command {
            Command::GiveUp { wait } => Some(*wait),
            _ => None,
        }
    }

    pub(super) fn lock_id(&self) -> Option<&LockId> {
        match &self.command {
            Command::Release { lock_id, .. } => Some(lock_id),
            _ => None,
        }
    }
}

/// What somebody is told once the mutex is free.
pub(super) enum Telling {
    Granted(Wait, Vec<Grant>),
    Refused(Wait, LockError),
    Released(Reply<Result<bool, LockError>>, Result<bool, LockError>),
    Lost(LockId, RequesterId, String),
    Suspended(LockId, RequesterId, Instant),
    Resumed(LockId, RequesterId),
    Deadlock(Deadlock),
}

impl Telling {
    pub(super) fn tell(self, ears: &[Arc<dyn LockEar>]) {
        match self {
            Self::Granted(wait, grants) => {
                let mut grants = wait.in_the_order_of_the_asks(grants);
                match wait.answerer {
                    Answerer::Many(reply) => reply.send(Ok(grants)),
                    Answerer::One(reply) => {
                        reply.send(grants.pop().ok_or(LockError::Cancelled));
                    }
                }
            }
            Self::Refused(wait, error) => match wait.answerer {
                Answerer::Many(reply) => reply.send(Err(error)),
                Answerer::One(reply) => reply.send(Err(error)),
            },
            Self::Released(reply, answer) => reply.send(answer),
            Self::Lost(id, requester, reason) => {
                for ear in ears {
                    ear.lost(&id, &requester, &reason);
                }
            }
            Self::Suspended(id, requester, until) => {
                for ear in ears {
                    ear.suspended(&id, &requester, until);
                }
            }
            Self::Resumed(id, requester) => {
                for ear in ears {
                    ear.resumed(&id, &requester);
                }
            }
            Self::Deadlock(deadlock) => {
                for ear in ears {
                    ear.deadlock(&deadlock);
                }
            }
        }
    }
}

/// Everything under the mutex.
#[allow(clippy::struct_excessive_bools, reason = "they change apart from each other")]
pub(super) struct State {
    pub(super) waits: HashMap<WaitId, Wait>,
    pub(super) held: HashMap<LockId, Held>,
    /// In the order in which it is to be carried out.
    pub(super) owed: Vec<Owed>,
    /// What is owed is under way.
    pub(super) is_paying: bool,
    pub(super) pay_at: Option<Instant>,
    pub(super) ears: Vec<Arc<dyn LockEar>>,
    /// The latest first.
    pub(super) deadlocks: VecDeque<Deadlock>,
    pub(super) next_wait: u64,
    /// When the last proposal left that is known to have kept the session alive.
    pub(super) proven: Option<Instant>,
    /// When the last one left that should.
    pub(super) tried: Option<Instant>,
    /// When the first one left since then.
    pub(super) unanswered: Option<Instant>,
    pub(super) is_suspended: bool,
    pub(super) is_closed: bool,
    pub(super) tellings: VecDeque<Telling>,
    pub(super) is_telling: bool,
}

impl State {
    pub(super) fn new(first_wait: u64) -> Self {
        Self {
            waits: HashMap::new(),
            held: HashMap::new(),
            owed: Vec::new(),
            is_paying: false,
            pay_at: None,
            ears: Vec::new(),
            deadlocks: VecDeque::new(),
            next_wait: first_wait,
            proven: None,
            tried: None,
            unanswered: None,
            is_suspended: false,
            is_closed: false,
            tellings: VecDeque::new(),
            is_telling: false,
        }
    }

    /// Whether there is anything for which the session must last.
    pub(super) fn is_idle(&self) -> bool {
        self.waits.is_empty() && self.held.is_empty() && self.owed.is_empty()
    }

    pub(super) fn refuse(&mut self, wait: WaitId, error: LockError) {
        if let Some(wait) = self.waits.remove(&wait) {
            self.tellings.push_back(Telling::Refused(wait, error));
        }
    }

    /// Tells a wait that it is granted; false where nobody waits for it any more.
    pub(super) fn grant(
        &mut self,
        wait: WaitId,
        grants: Vec<Grant>,
        until: Option<Instant>,
    ) -> bool {
        let Some(told) = self.waits.remove(&wait) else { return false };
        for grant in &grants {
            let requester = told.requester().clone();
            self.held.insert(grant.lock_id.clone(), Held { requester, until });
        }
        self.tellings.push_back(Telling::Granted(told, grants));
        true
    }

    pub(super) fn lose(&mut self, lock_id: &LockId, reason: &str) -> Option<RequesterId> {
        let held = self.held.remove(lock_id)?;
        let requester = held.requester.clone();
        self.tellings.push_back(Telling::Lost(lock_id.clone(), requester, reason.to_owned()));
        Some(held.requester)
    }

    pub(super) fn exchange(&mut self, lock_id: &LockId, grant: &Grant) {
        if let Some(held) = self.held.remove(lock_id) {
            self.held.insert(grant.lock_id.clone(), held);
        }
    }

    pub(super) fn found(&mut self, deadlock: &Deadlock, is_ours: bool) {
        self.deadlocks.truncate(DEADLOCKS_MAX - 1);
        self.deadlocks.push_front(deadlock.clone());
        if is_ours {
            self.tellings.push_back(Telling::Deadlock(deadlock.clone()));
        }
    }

    /// The session was certain to last when this proposal left.
    pub(super) fn prove(&mut self, sent: Instant) {
        self.proven = self.proven.max(Some(sent));
        self.unanswered = None;
        if std::mem::take(&mut self.is_suspended) {
            let held = self.held.iter();
            let resumed =
                held.map(|(id, held)| Telling::Resumed(id.clone(), held.requester.clone()));
            self.tellings.extend(resumed);
        }
    }
}
