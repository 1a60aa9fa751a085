//! The inbox, and whoever brings something into it does the work.
//!
//! There is no task per coordination and no thread of the engine's own. A fact is put into the
//! inbox; the thread that brought it tries to take the state, and steps machines until the inbox
//! is empty. A thread that finds the state taken leaves its fact and goes: the holder looks again
//! before and after it lets go. So a fact is handled where it arises (the loop's thread, the
//! journal's writer, a store's thread), without a hop, and nobody waits for a lock.
//!
//! Invariants: machines are stepped under the state's lock only; nothing that is called under it
//! blocks, or calls a user's code; after a panic the engine is broken for good and says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Notify;

use crate::events::SubscriptionId;
use crate::journal::{Answer, AnswerSink, JournalError};
use crate::model::ids::CoordinationId;
use crate::model::lock::{Grant, LockError, LockId, RequesterId};
use crate::model::outcome::{Acknowledgement, Decision, Vote};
use crate::model::request::CoordinationRequest;
use crate::model::step::{StepAnswer, Work};
use crate::model::time::Timestamp;
use crate::observe::metrics::Sample;
use crate::participants::Attachment;
use crate::protocol::lock_plan::LockWish;
use crate::protocol::{RouteEnd, Standing};
use crate::reply::Reply;

use super::clock::Clock;
use super::drive::State;
use super::error::EngineError;
use super::open_work::OpenWork;
use super::projections::{News, Signals};
use super::table::SlotKey;
use super::{Found, Ports, Waiter};

/// Something that happened.
pub(super) enum Fact {
    Submitted {
        request: Arc<CoordinationRequest>,
        attachment: Option<Attachment>,
        waiter: Waiter,
    },
    Answered(Vec<(u64, Answer)>),
    Voted {
        key: SlotKey,
        party: usize,
        vote: Vote,
    },
    Acknowledged {
        key: SlotKey,
        party: usize,
        answer: Acknowledgement,
    },
    StepAnswered {
        key: SlotKey,
        step: usize,
        work: Work,
        attempt: u32,
        answer: StepAnswer,
    },
    Projection(News),
    TurnCame {
        key: SlotKey,
        turn: usize,
    },
    LocksAnswered {
        key: SlotKey,
        asker: RequesterId,
        result: Result<Vec<Grant>, LockError>,
    },
    LockLost {
        lock_id: LockId,
        requester: RequesterId,
        reason: String,
    },
    AdmissionOpens,
    Proposed {
        key: SlotKey,
        taken: bool,
    },
    DecisionRead {
        key: SlotKey,
        standing: Standing,
    },
    TimeReached,
    AbortAsked {
        id: CoordinationId,
        reason: String,
        reply: Reply<Result<bool, EngineError>>,
    },
    WaitAsked {
        id: CoordinationId,
        waiter: Waiter,
    },
    ResolveAsked {
        id: CoordinationId,
        decision: Decision,
        reason: String,
        waiter: Waiter,
    },
    RedriveAsked {
        operation_id: String,
        coordination: Option<CoordinationId>,
        reply: Reply<Result<bool, EngineError>>,
    },
    LookedAt {
        id: CoordinationId,
        reply: Reply<Result<Option<Found>, EngineError>>,
    },
    Adopted {
        open: Vec<crate::journal::OpenCoordination>,
        report: super::recovery::Collector,
    },
    Listed {
        store: usize,
        ids: Vec<CoordinationId>,
    },
    RouteEnded {
        id: CoordinationId,
        end: RouteEnd,
    },
    Orphaned {
        store: usize,
        id: CoordinationId,
        decision: Decision,
    },
    Followed {
        id: CoordinationId,
        found: Result<Option<Found>, EngineError>,
    },
    WaitElsewhere {
        id: CoordinationId,
        waiter: Waiter,
    },
    ActiveAsked(Reply<Result<Vec<CoordinationId>, EngineError>>),
    OpenWorkAsked {
        age: Duration,
        reply: Reply<Result<OpenWork, EngineError>>,
    },
    GaugesAsked(Reply<Result<Vec<Sample>, EngineError>>),
    Patrol,
    Closing(Reply<Result<(), EngineError>>),
    Dropped,
}

impl Fact {
    /// An engine that broke down answers whoever asks, and hears nothing else.
    fn refuse(self, error: &EngineError) {
        match self {
            Self::Submitted { waiter, .. }
            | Self::WaitAsked { waiter, .. }
            | Self::ResolveAsked { waiter, .. }
            | Self::WaitElsewhere { waiter, .. } => waiter.send(Err(error.clone())),
            Self::AbortAsked { reply, .. } | Self::RedriveAsked { reply, .. } => {
                reply.send(Err(error.clone()));
            }
            Self::LookedAt { reply, .. } => reply.send(Err(error.clone())),
            Self::ActiveAsked(reply) => reply.send(Err(error.clone())),
            Self::OpenWorkAsked { reply, .. } => reply.send(Err(error.clone())),
            Self::GaugesAsked(reply) => reply.send(Err(error.clone())),
            // Nothing runs any more.
            Self::Closing(reply) => reply.send(Ok(())),
            _ => {}
        }
    }
}

/// What all parts of the engine share.
pub(super) struct Core {
    inbox: Mutex<Vec<Fact>>,
    state: Mutex<State>,
    /// Why nothing is decided here any more.
    broken: OnceLock<EngineError>,
    /// When the timer task is to wake; `i64::MAX` for never.
    pub(super) armed: AtomicI64,
    pub(super) timer: Notify,
    pub(super) closed: AtomicBool,
    pub(super) clock: Clock,
    pub(super) ports: Ports,
    /// Wakes projections and those who wait for events.
    pub(super) signals: Arc<Signals>,
    /// For those that lock nothing.
    pub(super) no_locks: Arc<[LockWish]>,
    /// How many deadlocks the lock manager has told of.
    pub(super) deadlocks: AtomicU64,
    /// Whether the journal can be written, as far as it has said.
    pub(super) journal_writes: AtomicBool,
    /// Where this process takes slips of choreographed sagas.
    pub(super) subscriptions: Mutex<Vec<SubscriptionId>>,
    /// Itself, for the replies that it hands out.
    pub(super) this: Weak<Core>,
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded data are replaced or drained whole; a panic leaves nothing half done in them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) fn new(ports: Ports) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            inbox: Mutex::new(Vec::new()),
            state: Mutex::new(State::new(ports.locks.is_none())),
            broken: OnceLock::new(),
            armed: AtomicI64::new(i64::MAX),
            timer: Notify::new(),
            closed: AtomicBool::new(false),
            clock: Clock::start(),
            ports,
            signals: Arc::default(),
            no_locks: Arc::default(),
            deadlocks: AtomicU64::new(0),
            journal_writes: AtomicBool::new(true),
            subscriptions: Mutex::new(Vec::new()),
            this: this.clone(),
        })
    }

    /// Brings a fact, and does whatever it leads to unless another thread is at it.
    pub(super) fn post(&self, fact: Fact) {
        open(&self.inbox).push(fact);
        self.run();
    }

    fn run(&self) {
        loop {
            let mut state = match self.state.try_lock() {
                Ok(state) => state,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.drain(&mut state);
            let owes_work = std::mem::take(&mut state.owes_work);
            drop(state);
            if owes_work {
                self.work_at_journal();
            }
            // Whoever posted while the state was held has gone away; look again for it.
            if open(&self.inbox).is_empty() {
                return;
            }
        }
    }

    /// Does the journal's work where nobody else is at it: see [`crate::journal::Journal::work`].
    fn work_at_journal(&self) {
        if can_wait() {
            // Sockets and timers of this runtime are served by another thread meanwhile.
            tokio::task::block_in_place(|| self.ports.journal.work(true));
        } else {
            self.ports.journal.work(false);
        }
    }

    fn drain(&self, state: &mut State) {
        loop {
            // The two lists change places, so that neither is made anew for every fact.
            let mut taken = std::mem::take(&mut state.taken);
            std::mem::swap(&mut taken, &mut *open(&self.inbox));
            if taken.is_empty() {
                state.taken = taken;
                break;
            }
            let mut facts = taken.drain(..);
            if self.broken.get().is_none() {
                let work = AssertUnwindSafe(|| {
                    for fact in &mut facts {
                        state.handle(self, fact);
                    }
                    state.flush(self);
                });
                if let Err(panic) = catch_unwind(work) {
                    self.break_down(state, panic.as_ref());
                }
            }
            if let Some(error) = self.broken.get() {
                facts.by_ref().for_each(|fact| fact.refuse(error));
            }
            drop(facts);
            state.taken = taken;
        }
        self.arm(state.next_timer());
    }

    /// A rule of ours was broken: nothing more is decided here, and everybody is told. What is
    /// recorded is finished by recovery.
    fn break_down(&self, state: &mut State, panic: &(dyn std::any::Any + Send)) {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let message = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        tracing::error!(panic = message, "the engine broke down and stops deciding");
        let error = EngineError::Internal { message: message.to_owned() };
        let error = self.broken.get_or_init(|| error);
        for waiter in state.everybody() {
            waiter.send(Err(error.clone()));
        }
        if let Some(closing) = state.closing.take() {
            closing.send(Ok(()));
        }
    }

    fn arm(&self, next: Option<Timestamp>) {
        let at = next.map_or(i64::MAX, |next| next.0);
        // The timer task needs waking only when it would sleep too long; one that wakes too early
        // costs less than a wake with every coordination.
        if self.armed.load(Ordering::SeqCst) > at {
            self.armed.store(at, Ordering::SeqCst);
            self.timer.notify_one();
        }
    }
}

/// Whether this thread may wait for a disk: one of a runtime that has others may.
pub(super) fn can_wait() -> bool {
    let here = Handle::try_current();
    here.is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// The engine's ear at the journal. Not the engine itself: that holds the journal, and neither
/// would ever go.
pub(super) struct Ear(pub(super) Weak<Core>);

impl AnswerSink for Ear {
    fn answered(&self, answers: Vec<(u64, Answer)>) {
        if let Some(core) = self.0.upgrade() {
            core.post(Fact::Answered(answers));
        }
    }

    fn events_appended(&self, _through: u64) {
        if let Some(core) = self.0.upgrade() {
            core.signals.appended.notify_waiters();
        }
    }

    fn owner_died(&self) {
        if let Some(core) = self.0.upgrade() {
            core.recover(super::recovery::Collector::new(None));
        }
    }

    fn health_changed(&self, trouble: Option<JournalError>) {
        if let Some(core) = self.0.upgrade() {
            core.journal_writes.store(trouble.is_none(), Ordering::Relaxed);
        }
        match trouble {
            Some(error) => {
                let code = "journal.unavailable";
                tracing::error!(code, %error, "the journal cannot be written");
            }
            None => tracing::info!("the journal can be written again"),
        }
    }
}
