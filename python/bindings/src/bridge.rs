//! The way between Rust's threads and one event loop, in batches.
//!
//! Rust threads put completions and calls into a queue and write to one file descriptor; the loop
//! reads it and takes the whole queue on its own thread. While somebody on the loop is about to
//! take the queue anyway (`awake`), nothing is written. Not the lanes that run store coroutines:
//! those are Python's, in `_bridge.py`.
//!
//! Invariants: nothing here attaches to the interpreter; what is in the queue when `awake` is
//! false has been announced; after `close` everything that comes is dropped, and replies inside it
//! say that their answers are lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd};

use crate::call::{Call, Expected};
use crate::logging;

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
    descriptor: OwnedFd,
    /// Log records wait in their own place; this says that some do.
    has_logs: AtomicBool,
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
            self.announce();
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
                self.announce();
            }
        }
    }

    fn announce(&self) {
        // Full or gone can only mean that the loop is told already, or never will be.
        let _ = rustix::io::write(&self.descriptor, &1_u64.to_ne_bytes());
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
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let descriptor = eventfd(0, flags).map_err(|error| {
            PyOSError::new_err(format!("cannot open a file descriptor to wake the loop: {error}"))
        })?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            descriptor,
            has_logs: AtomicBool::new(false),
        });
        logging::send_to(&shared);
        Ok(Self { shared, expected: Mutex::new(Expected::default()) })
    }

    /// The descriptor that the loop reads.
    fn fileno(&self) -> i32 {
        self.shared.descriptor.as_raw_fd()
    }

    /// The descriptor was readable: completes futures up to the first call of a store. True when
    /// a lane has to go on.
    fn woken(&self, py: Python<'_>) -> PyResult<bool> {
        let mut count = [0_u8; 8];
        let _ = rustix::io::read(&self.shared.descriptor, &mut count);
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
                Some(Item::Complete { future, make }) => complete(py, &future, make)?,
                Some(Item::Run(run)) => log_trouble(py, run(py)),
                Some(Item::Call(_)) => unreachable!("calls are left to the lanes"),
                None => return Ok(false),
            }
        }
    }

    /// The next call for a lane, as `(token, method, argument, context, is_async, timeout)`;
    /// completes futures on the way. `None` when there is nothing left: the lane may rest.
    fn next_call<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        while let Some(item) = self.shared.take() {
            match item {
                Item::Complete { future, make } => complete(py, &future, make)?,
                Item::Run(run) => log_trouble(py, run(py)),
                Item::Call(call) => {
                    let mut expected = self.expected();
                    if let Some(ready) = call.start(py, &mut expected)? {
                        return Ok(Some(ready));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The lane that called last suspends: true when another lane has to go on.
    fn lane_suspends(&self) -> bool {
        let mut queue = self.shared.queue();
        queue.awake = !queue.items.is_empty();
        queue.awake
    }

    /// A store's method returned this.
    fn answer(&self, token: u64, answer: &Bound<'_, PyAny>) {
        let call = self.expected().take(token);
        if let Some(call) = call {
            call.returned(answer);
        }
    }

    /// A store's method raised this.
    fn raised(&self, token: u64, error: &Bound<'_, PyAny>) {
        let call = self.expected().take(token);
        if let Some(call) = call {
            call.raised(error);
        }
    }

    /// The loop is closing: nothing is delivered any more.
    fn close(&self) {
        let items = {
            let mut queue = self.shared.queue();
            queue.closed = true;
            std::mem::take(&mut queue.items)
        };
        drop(items);
        let abandoned = std::mem::take(&mut *self.expected());
        drop(abandoned);
    }
}

impl Bridge {
    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hand_over_logs(&self, py: Python<'_>) -> PyResult<()> {
        if self.shared.has_logs.swap(false, Ordering::SeqCst) {
            logging::hand_over(py)?;
        }
        Ok(())
    }
}

fn log_trouble(py: Python<'_>, result: PyResult<()>) {
    if let Err(error) = result {
        tracing::warn!("a listener raised: {}", error.value(py));
    }
}

fn complete(py: Python<'_>, future: &Py<PyAny>, make: Make) -> PyResult<()> {
    let future = future.bind(py);
    // A future that was cancelled meanwhile is nobody's any more.
    if future.call_method0(pyo3::intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    match make(py) {
        Ok(value) => future.call_method1(pyo3::intern!(py, "set_result"), (value,))?,
        Err(error) => {
            future.call_method1(pyo3::intern!(py, "set_exception"), (error.into_value(py),))?
        }
    };
    Ok(())
}
