//! One wish for locks, from the question to the moment when the caller has the answer.
//!
//! Invariants: whoever is granted a lock and is not there any more (cancelled, gone with his loop)
//! gives it back; an answer that is there when the question returns costs no future; a wait that is
//! given up is given up in the manager too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use unanimity::locks::{Grant, LockError, LockManager, RequesterId, WaitId};
use unanimity::reply::Reply;

use super::parts;
use crate::bridge::Shared;

/// What the caller is given for a grant.
pub(crate) enum Shape {
    /// A `LockAcquisitionResult`, also for a refusal that needs no repair.
    Result,
    /// An `ActiveLock`; refusals are raised.
    Active,
    /// A list of `ActiveLock` in this order of the canonical one; refusals are raised.
    Many(Vec<usize>),
}

impl Shape {
    /// One grant.
    pub(crate) fn one(
        &self,
        py: Python<'_>,
        grant: &Grant,
        requester: &RequesterId,
    ) -> PyResult<Py<PyAny>> {
        match self {
            Self::Result => parts::granted(py, grant),
            _ => parts::active(py, grant, requester),
        }
    }
}

pub(crate) enum Granted {
    One(Grant),
    Many(Vec<Grant>),
}

impl Granted {
    fn grants(&self) -> &[Grant] {
        match self {
            Self::One(grant) => std::slice::from_ref(grant),
            Self::Many(grants) => grants,
        }
    }
}

type Answer = Result<Granted, LockError>;

enum State {
    /// No answer yet, and the question has not returned yet.
    Asked,
    /// The caller waits.
    Waited {
        bridge: Arc<Shared>,
        future: Py<PyAny>,
        id: WaitId,
    },
    /// Answered, and not with the caller yet.
    Answered(Answer),
    /// With the caller, who may be cancelled before he sees it.
    HandedOver(Option<Granted>),
    GivenUp,
}

pub(crate) struct Wait {
    manager: Arc<dyn LockManager>,
    requester: RequesterId,
    shape: Shape,
    state: Mutex<State>,
}

impl Wait {
    pub(crate) fn new(
        manager: &Arc<dyn LockManager>,
        requester: RequesterId,
        shape: Shape,
    ) -> Arc<Self> {
        let manager = Arc::clone(manager);
        Arc::new(Self { manager, requester, shape, state: Mutex::new(State::Asked) })
    }

    pub(crate) fn reply_one(self: &Arc<Self>) -> Reply<Result<Grant, LockError>> {
        let wait = Arc::clone(self);
        Reply::new(move |answer: Result<Grant, LockError>| wait.arrive(answer.map(Granted::One)))
    }

    pub(crate) fn reply_many(self: &Arc<Self>) -> Reply<Result<Vec<Grant>, LockError>> {
        let wait = Arc::clone(self);
        Reply::new(move |answer: Result<Vec<Grant>, LockError>| {
            wait.arrive(answer.map(Granted::Many));
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any thread: the manager answers.
    fn arrive(self: Arc<Self>, answer: Answer) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::GivenUp) {
            State::GivenUp => {
                drop(state);
                self.give_back(answer.ok());
            }
            State::Waited { bridge, future, .. } => {
                *state = State::Answered(answer);
                drop(state);
                let wait = Arc::clone(&self);
                bridge.complete(future, Box::new(move |py| wait.hand_over(py)));
            }
            // A reply is used once, so the rest cannot be.
            _ => *state = State::Answered(answer),
        }
    }

    /// The answer, where it came before the question returned.
    pub(crate) fn take_now(&self) -> Option<Answer> {
        let mut state = self.state();
        if matches!(*state, State::Asked) {
            return None;
        }
        match std::mem::replace(&mut *state, State::HandedOver(None)) {
            State::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// From here on the answer completes `future`.
    pub(crate) fn wait_in(self: &Arc<Self>, bridge: &Arc<Shared>, future: Py<PyAny>, id: WaitId) {
        let mut state = self.state();
        if matches!(*state, State::Asked) {
            *state = State::Waited { bridge: Arc::clone(bridge), future, id };
            return;
        }
        drop(state);
        let wait = Arc::clone(self);
        bridge.complete(future, Box::new(move |py| wait.hand_over(py)));
    }

    /// On the loop: the answer as the caller wants it.
    fn hand_over(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut state = self.state();
        let answer = match std::mem::replace(&mut *state, State::HandedOver(None)) {
            State::Answered(answer) => answer,
            other => {
                *state = other;
                // Nobody looks at it: the future was cancelled.
                return Ok(py.None());
            }
        };
        drop(state);
        let made = self.make(py, &answer);
        match (made, answer) {
            (Ok(made), answer) => {
                *self.state() = State::HandedOver(answer.ok());
                Ok(made)
            }
            (Err(error), answer) => {
                self.give_back(answer.ok());
                Err(error)
            }
        }
    }

    /// An answer that never had to wait, as the caller wants it.
    pub(crate) fn made(&self, py: Python<'_>, answer: Answer) -> PyResult<Py<PyAny>> {
        self.make(py, &answer).inspect_err(|_| self.give_back(answer.ok()))
    }

    fn make(&self, py: Python<'_>, answer: &Answer) -> PyResult<Py<PyAny>> {
        match (answer, &self.shape) {
            (Err(error), Shape::Result) => parts::refused(py, error),
            (Err(error), _) => Err(parts::raised(py, error)),
            (Ok(Granted::Many(grants)), Shape::Many(order)) => {
                parts::active_many(py, grants, order, &self.requester)
            }
            (Ok(granted), shape) => shape.one(py, &granted.grants()[0], &self.requester),
        }
    }

    /// The caller is not there any more. `was_seen`: an answer that he has had is his all the same.
    fn give_up(&self, was_seen: bool) {
        let mut state = self.state();
        if was_seen && matches!(*state, State::HandedOver(_)) {
            return;
        }
        match std::mem::replace(&mut *state, State::GivenUp) {
            State::Waited { id, .. } => {
                drop(state);
                self.manager.cancel(id);
            }
            State::Answered(Ok(granted)) | State::HandedOver(Some(granted)) => {
                drop(state);
                self.give_back(Some(granted));
            }
            _ => {}
        }
    }

    fn give_back(&self, granted: Option<Granted>) {
        for grant in granted.iter().flat_map(Granted::grants) {
            let lock_id = grant.lock_id.clone();
            let told = Reply::new(move |answer: Result<bool, LockError>| {
                if let Err(error) = answer {
                    tracing::warn!("lock {lock_id} was granted too late; giving it back: {error}");
                }
            });
            self.manager.release(&grant.lock_id, &self.requester, told);
        }
    }
}

/// What a caller awaits: `future`; who stops awaiting it calls `give_up`.
#[pyclass(frozen)]
pub(crate) struct LockWait {
    wait: Arc<Wait>,
    #[pyo3(get)]
    future: Py<PyAny>,
}

impl LockWait {
    pub(crate) fn new(wait: Arc<Wait>, future: Py<PyAny>) -> Self {
        Self { wait, future }
    }
}

#[pymethods]
impl LockWait {
    /// The caller was cancelled: nothing is to be left of this.
    fn give_up(&self) {
        self.wait.give_up(false);
    }
}

impl Drop for LockWait {
    fn drop(&mut self) {
        // A coroutine that was thrown away with its loop never says so.
        self.wait.give_up(true);
    }
}
