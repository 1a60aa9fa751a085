//! A question to a lock manager that nobody has to take back: release, status, and the like.
//!
//! Invariant: an answer that is there when the question returns comes back as it is, without a
//! future; every other one completes the future that was given instead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use unanimity::locks::LockError;
use unanimity::reply::{Lost, Reply};

use super::parts;
use crate::bridge::Shared;

/// The event loop on which a manager is asked.
pub(crate) struct Home {
    pub(crate) bridge: Arc<Shared>,
    pub(crate) create_future: Py<PyAny>,
}

type Make<T> = fn(Python<'_>, T) -> PyResult<Py<PyAny>>;

enum State<T> {
    Asked,
    Answered(Result<T, LockError>),
    Waited(Arc<Shared>, Py<PyAny>, Make<T>),
    Over,
}

struct Slot<T>(Mutex<State<T>>);

impl<T: Send + 'static> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, answer: Result<T, LockError>) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Over) {
            State::Waited(bridge, future, make) => {
                drop(state);
                complete(&bridge, future, make, answer);
            }
            _ => *state = State::Answered(answer),
        }
    }
}

fn complete<T: Send + 'static>(
    bridge: &Shared,
    future: Py<PyAny>,
    make: Make<T>,
    answer: Result<T, LockError>,
) {
    bridge.complete(
        future,
        Box::new(move |py| match answer {
            Ok(answer) => make(py, answer),
            Err(error) => Err(parts::raised(py, &error)),
        }),
    );
}

/// Asks: what `make` makes of the answer, or a future of it.
pub(crate) fn put<T>(
    py: Python<'_>,
    home: &Home,
    make: Make<T>,
    ask: impl FnOnce(Reply<Result<T, LockError>>),
) -> PyResult<Py<PyAny>>
where
    T: Send + 'static,
    Result<T, LockError>: Lost,
{
    let slot = Arc::new(Slot(Mutex::new(State::Asked)));
    let there = Arc::clone(&slot);
    ask(Reply::new(move |answer| there.arrive(answer)));
    if let Some(answer) = taken(&slot) {
        return answer
            .map_err(|error| parts::raised(py, &error))
            .and_then(|answer| make(py, answer));
    }
    let future = home.create_future.bind(py).call0()?.unbind();
    let mut state = slot.state();
    match std::mem::replace(&mut *state, State::Over) {
        State::Answered(answer) => {
            drop(state);
            complete(&home.bridge, future.clone_ref(py), make, answer);
        }
        _ => *state = State::Waited(Arc::clone(&home.bridge), future.clone_ref(py), make),
    }
    Ok(future)
}

fn taken<T: Send + 'static>(slot: &Slot<T>) -> Option<Result<T, LockError>> {
    let mut state = slot.state();
    if matches!(*state, State::Asked) {
        return None;
    }
    match std::mem::replace(&mut *state, State::Over) {
        State::Answered(answer) => Some(answer),
        _ => None,
    }
}
