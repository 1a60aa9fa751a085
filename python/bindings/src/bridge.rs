//! The way between Rust's threads and one event loop, in batches.
//!
//! Rust threads put completions and calls into a queue and write to one file descriptor; the loop
//! reads it and takes the whole queue on its own thread. While somebody on the loop is about to
//! take the queue anyway (`awake`), nothing is written. Not the lanes that run store coroutines:
//! those are Python's, in `_bridge.py`.
//!
//! Invariants: nothing here attaches to the interpreter; a queue that is not empty has been
//! announced, or somebody is `awake` who takes it, whatever Python code raises on the way; after
//! `close` everything that comes is dropped, and replies inside it say that their answers are lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::call::{Call, Expected, Started};
use crate::events::Subscribed;
use crate::runtime::Engine;
use crate::wake::Bell;
use crate::{errors, logging};

/// Makes the value that a future is completed with, on the loop's thread.
pub(crate) type Make = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

pub(crate) enum Item {
    /// Completes a future.
    Complete { future: Py<PyAny>, make: Make },
    /// Runs something short that must not suspend; what it raises is logged.
    Run(Box<dyn FnOnce(Python<'_>) -> PyResult<()> + Send>),
    /// Calls a method, in a lane.
    Call(Call),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    awake: bool,
    closed: bool,
}

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    bell: Bell,
    /// Log records wait in their own place; this says that some do.
    has_logs: AtomicBool,
    /// The engines whose calls come this way: they cannot live on without the loop.
    engines: Mutex<Vec<Weak<Engine>>>,
    /// The subscriptions whose handlers run on the loop.
    subscriptions: Mutex<Vec<Arc<Subscribed>>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, item: Item) {
        let mut queue = self.queue();
        if queue.closed {
            drop(queue);
            // Dropped outside the lock: a reply inside it may lead to another push.
            drop(item);
            return;
        }
        queue.items.push_back(item);
        let announce = !std::mem::replace(&mut queue.awake, true);
        drop(queue);
        if announce {
            self.bell.ring();
        }
    }

    /// Remembers an engine that ends with the loop; false when the loop has ended already.
    pub(crate) fn remember(&self, engine: Weak<Engine>) -> bool {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|known| known.strong_count() > 0);
        engines.push(engine);
        drop(engines);
        !self.queue().closed
    }

    /// Remembers a subscription that ends with the loop; false when the loop has ended already.
    pub(crate) fn remember_subscription(&self, subscribed: &Arc<Subscribed>) -> bool {
        let mut known = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| !known.is_over());
        known.push(Arc::clone(subscribed));
        drop(known);
        !self.queue().closed
    }

    fn end_subscriptions(&self) {
        let known = {
            let mut known = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *known)
        };
        for subscribed in known {
            subscribed.end();
        }
    }

    pub(crate) fn complete(&self, future: Py<PyAny>, make: Make) {
        self.push(Item::Complete { future, make });
    }

    pub(crate) fn has_logs(&self) {
        if !self.has_logs.swap(true, Ordering::SeqCst) {
            let mut queue = self.queue();
            if !queue.closed && !std::mem::replace(&mut queue.awake, true) {
                drop(queue);
                self.bell.ring();
            }
        }
    }

    /// The next item; `None` also says that nobody is awake any more.
    fn take(&self) -> Option<Item> {
        let mut queue = self.queue();
        let item = queue.items.pop_front();
        queue.awake = item.is_some();
        item
    }
}

/// One event loop's end of the way.
#[pyclass(frozen)]
pub(crate) struct Bridge {
    pub(crate) shared: Arc<Shared>,
    expected: Mutex<Expected>,
}

#[pymethods]
impl Bridge {
    #[new]
    fn new() -> PyResult<Self> {
        let bell = Bell::new().map_err(|error| {
            PyOSError::new_err(format!("cannot open a file descriptor to wake the loop: {error}"))
        })?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            bell,
            has_logs: AtomicBool::new(false),
            engines: Mutex::new(Vec::new()),
            subscriptions: Mutex::new(Vec::new()),
        });
        logging::send_to(&shared);
        Ok(Self { shared, expected: Mutex::new(Expected::default()) })
    }

    /// The descriptor that the loop reads.
    fn fileno(&self) -> i32 {
        self.shared.bell.fileno()
    }

    /// The descriptor was readable: completes futures up to the first call of a store. True when
    /// a lane has to go on.
    fn woken(&self, py: Python<'_>) -> PyResult<bool> {
        self.shared.bell.clear();
        self.hand_over_logs(py)?;
        loop {
            let mut queue = self.shared.queue();
            if let Some(Item::Call(_)) = queue.items.front() {
                return Ok(true);
            }
            let item = queue.items.pop_front();
            queue.awake = item.is_some();
            drop(queue);
            match item {
                Some(Item::Complete { future, make }) => self.complete(py, &future, make)?,
                Some(Item::Run(run)) => self.go_on(py, errors::guarded(py, || run(py)))?,
                Some(Item::Call(_)) => unreachable!("calls are left to the lanes"),
                None => break,
            }
        }
        // What was logged on the way: nobody is awake any more, so what comes from here on rings.
        self.hand_over_logs(py)?;
        Ok(false)
    }

    /// The next call for a lane, as `(token, method, arguments, keywords, context, is_async,
    /// timeout)`; completes futures on the way. `None` when there is nothing left: the lane may
    /// rest.
    fn next_call<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        while let Some(item) = self.shared.take() {
            match item {
                Item::Complete { future, make } => self.complete(py, &future, make)?,
                Item::Run(run) => self.go_on(py, errors::guarded(py, || run(py)))?,
                Item::Call(call) => {
                    let started = errors::guarded(py, || call.start(py, &self.expected));
                    if let Ok(Some(ready)) = started {
                        return Ok(Some(ready));
                    }
                    self.go_on(py, started.map(drop))?;
                }
            }
        }
        // As in `woken`.
        self.hand_over_logs(py)?;
        Ok(None)
    }

    /// The lane that called last suspends: true when another lane has to go on.
    fn lane_suspends(&self) -> bool {
        self.expected().begun();
        let mut queue = self.shared.queue();
        queue.awake = !queue.items.is_empty();
        queue.awake
    }

    /// A lane dies with what ends the program: if it had taken a call and not come to it yet, that
    /// call's answer is lost.
    fn lane_dies(&self, py: Python<'_>) -> PyResult<()> {
        let lost = self.expected().take_fresh();
        let told = errors::guarded(py, || {
            drop(lost);
            Ok(())
        });
        self.go_on(py, told)
    }

    /// A lane has ended, perhaps cancelled before it took what it was started for.
    fn lane_ended(&self) {
        if self.lane_suspends() {
            self.shared.bell.ring();
        }
    }

    /// A store's method returned this.
    fn answer(&self, py: Python<'_>, token: u64, answer: &Bound<'_, PyAny>) -> PyResult<()> {
        self.tell(py, token, |call| call.returned(answer))
    }

    /// A store's method raised this.
    fn raised(&self, py: Python<'_>, token: u64, error: &Bound<'_, PyAny>) -> PyResult<()> {
        self.tell(py, token, |call| {
            call.raised(error);
            Ok(())
        })
    }

    /// The loop is gone: nothing is delivered any more, and the engines that called through it
    /// close their journals, so that others may go on with what they left.
    fn close(&self, py: Python<'_>) {
        let items = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            std::mem::take(&mut queue.items)
        };
        let abandoned = std::mem::take(&mut *self.expected());
        let engines = {
            let mut engines = self.shared.engines.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *engines)
        };
        py.detach(|| {
            self.shared.end_subscriptions();
            for engine in engines.iter().filter_map(Weak::upgrade) {
                engine.shut_down();
            }
        });
        drop((items, abandoned));
    }
}

impl Bridge {
    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever waits for a call's answer; nobody does when the bridge was closed meanwhile.
    fn tell(
        &self,
        py: Python<'_>,
        token: u64,
        tell: impl FnOnce(Started) -> PyResult<()>,
    ) -> PyResult<()> {
        let call = self.expected().take(token);
        let told = errors::guarded(py, || call.map_or(Ok(()), tell));
        self.go_on(py, told)
    }

    fn hand_over_logs(&self, py: Python<'_>) -> PyResult<()> {
        if self.shared.has_logs.swap(false, Ordering::SeqCst) {
            let handed_over = logging::hand_over(py);
            // Logging the trouble of logging would have no end.
            if let Err(error) = self.unless_it_ends_the_program(py, handed_over)? {
                error.write_unraisable(py, None);
            }
        }
        Ok(())
    }

    fn complete(&self, py: Python<'_>, future: &Py<PyAny>, make: Make) -> PyResult<()> {
        self.go_on(py, set(py, future, make))
    }

    /// What somebody's code raised is no reason to stop: it is logged.
    fn go_on(&self, py: Python<'_>, result: PyResult<()>) -> PyResult<()> {
        if let Err(error) = self.unless_it_ends_the_program(py, result)? {
            tracing::warn!("a listener raised: {error}");
        }
        Ok(())
    }

    /// Ctrl-C and `sys.exit()` go on to whoever runs the loop. Should the loop go on all the same,
    /// the descriptor tells it that there is more in the queue.
    fn unless_it_ends_the_program(
        &self,
        py: Python<'_>,
        result: PyResult<()>,
    ) -> PyResult<PyResult<()>> {
        match result {
            Err(error) if errors::ends_the_program(py, &error) => {
                self.lane_ended();
                Err(error)
            }
            other => Ok(other),
        }
    }
}

fn set(py: Python<'_>, future: &Py<PyAny>, make: Make) -> PyResult<()> {
    let future = future.bind(py);
    // A future that was cancelled meanwhile is nobody's any more.
    if future.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    match errors::guarded(py, || make(py)) {
        Ok(value) => future.call_method1(pyo3::intern!(py, "set_result"), (value,))?,
        Err(error) => {
            future.call_method1(pyo3::intern!(py, "set_exception"), (error.into_value(py),))?
        }
    };
    Ok(())
}
