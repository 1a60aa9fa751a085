//! Event buses as Python sees them: one class over the port, whichever adapter is behind it.
//!
//! Converts and passes on; shapes are in `parts`, a user's handler and its subscription in
//! `subscription`. Every method returns at once, and the answer arrives in a future. Invariants: a
//! method never blocks; a bus that a forked child inherited is refused.

mod parts;
mod subscription;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pyo3::prelude::*;
use unanimity::events::in_process::InProcessEventBus;
use unanimity::events::journal::JournalEventBus;
use unanimity::events::nats::{NatsEventBus, NatsOptions};
use unanimity::events::postgres::{PostgresBusOptions, PostgresEventBus};
use unanimity::events::{self, EventBusError, ParkedEvent, SubscriptionId};
use unanimity::reply::{Lost, Reply};

use crate::bridge::Bridge;
use crate::{errors, runtime};

pub(crate) use subscription::Subscribed;
use subscription::{EventSubscription, Unclaimed};

/// A bus of ours. It may be used from any event loop; a handler runs on the one that subscribed it.
#[pyclass(frozen)]
pub(crate) struct EventBus {
    bus: Arc<dyn events::EventBus>,
    closed: Arc<AtomicBool>,
    forks: u64,
    pid: u32,
}

// Constructors: one for each adapter.
#[pymethods]
impl EventBus {
    /// A bus of this process, whose queues hold `queue_max` events for each group.
    #[staticmethod]
    fn in_process(queue_max: usize) -> PyResult<Self> {
        let bus = InProcessEventBus::new(queue_max, runtime::handle(None)?);
        Ok(Self::new(Arc::new(bus)))
    }

    /// A bus in the file beside a journal's, which is made where it is missing.
    #[staticmethod]
    fn journal(py: Python<'_>, journal: PathBuf) -> PyResult<Self> {
        let runtime = runtime::handle(None)?;
        // A few reads and at most one commit, once; whoever holds the file may take longer.
        let opened =
            py.detach(|| JournalEventBus::open(&JournalEventBus::beside(&journal), runtime));
        let bus = opened.map_err(|error| errors::of_event_bus(py, &error))?;
        Ok(Self::new(Arc::new(bus)))
    }

    /// A bus in a PostgreSQL database; `patience`, in seconds, is for a server that is away.
    #[staticmethod]
    fn postgres(py: Python<'_>, dsn: &str, patience: f64) -> PyResult<Self> {
        let patience = parts::time(py, patience)?;
        let options = PostgresBusOptions { patience, ..PostgresBusOptions::default() };
        let bus = PostgresEventBus::open(dsn, options, runtime::handle(None)?);
        Ok(Self::new(Arc::new(bus.map_err(|error| parts::misfit(py, &error))?)))
    }

    /// A bus on a NATS server. `place`: url and stream; `counts`: partitions and replicas; `times`,
    /// in seconds: publishing, redelivery, how long events and ids are kept.
    #[staticmethod]
    fn nats(
        py: Python<'_>,
        place: (String, String),
        counts: (u32, usize),
        times: (f64, f64, f64, f64),
    ) -> PyResult<Self> {
        let options = NatsOptions {
            url: place.0,
            stream: place.1,
            partitions: counts.0,
            replicas: counts.1,
            publish_timeout: parts::time(py, times.0)?,
            redelivery: parts::time(py, times.1)?,
            retention: parts::time(py, times.2)?,
            duplicate_window: parts::time(py, times.3)?,
        };
        let bus = NatsEventBus::new(options, runtime::handle(None)?);
        Ok(Self::new(Arc::new(bus.map_err(|error| parts::misfit(py, &error))?)))
    }

    /// Takes an event; the future is told when it is kept.
    fn publish(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        event: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.check_process(py)?;
        let event = parts::event(event)?;
        self.bus.publish(event, answer_to(bridge, future, |py, ()| Ok(py.None())));
        Ok(())
    }

    /// Has events handed to `handler`; the future is given an `EventSubscription`. `wish`: type and
    /// group, None for all types and for a group of its own. `bounds`: how many tries, how many are
    /// out at once, seconds that one may take.
    fn subscribe(
        &self,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        wish: (Option<String>, Option<String>),
        handler: &Bound<'_, PyAny>,
        bounds: (u32, usize, f64),
    ) -> PyResult<()> {
        self.check_process(handler.py())?;
        let home = Arc::clone(&bridge.get().shared);
        let ask = parts::subscribe_ask(&home, wish, handler, bounds)?;
        let (bus, closed) = (Arc::clone(&self.bus), Arc::clone(&self.closed));
        let reply = Reply::new(move |answer: Result<SubscriptionId, EventBusError>| {
            let answer = answer.map(|id| Unclaimed::new(Subscribed::new(bus, id, closed), &home));
            home.complete(
                future,
                Box::new(move |py| match answer {
                    Ok(unclaimed) => {
                        let claimed = Py::new(py, EventSubscription::new(unclaimed.subscribed()))?;
                        unclaimed.claimed();
                        Ok(claimed.into_any())
                    }
                    Err(error) => Err(errors::of_event_bus(py, &error)),
                }),
            );
        });
        self.bus.subscribe(ask, reply);
        Ok(())
    }

    /// The events whose tries are spent, oldest first, at most so many.
    fn parked(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        limit: usize,
    ) -> PyResult<()> {
        self.check_process(py)?;
        let reply = answer_to(bridge, future, |py, parked: Vec<ParkedEvent>| {
            parts::parked_events(py, &parked)
        });
        self.bus.parked(limit, reply);
        Ok(())
    }

    /// Hands a parked event over again; the future is told whether there was one.
    fn redrive(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        event_id: String,
        group: String,
    ) -> PyResult<()> {
        self.check_process(py)?;
        self.bus.redrive(event_id, group, answer_to(bridge, future, parts::truth));
        Ok(())
    }

    /// Closes the bus on a thread of its own, then completes the future.
    fn close(&self, py: Python<'_>, bridge: &Bound<'_, Bridge>, future: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        let reply = answer_to(bridge, future, parts::truth);
        if self.closed.swap(true, Ordering::SeqCst) {
            reply.send(Ok(false));
            return Ok(());
        }
        let bus = Arc::clone(&self.bus);
        thread::Builder::new()
            .name("unanimity-close".to_owned())
            .spawn(move || {
                bus.close();
                reply.send(Ok(true));
            })
            .map(drop)
            .map_err(Into::into)
    }
}

impl EventBus {
    fn new(bus: Arc<dyn events::EventBus>) -> Self {
        runtime::close_bus_at_exit(&bus);
        let closed = Arc::new(AtomicBool::new(false));
        Self { bus, closed, forks: runtime::forks(), pid: std::process::id() }
    }

    /// The port, for an engine of this process.
    pub(crate) fn port(&self) -> Arc<dyn events::EventBus> {
        Arc::clone(&self.bus)
    }

    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.forks == runtime::forks() {
            return Ok(());
        }
        runtime::check_process(py, "this event bus", self.pid)
    }
}

/// A reply that completes a future with what `make` makes of the answer.
fn answer_to<T, F>(
    bridge: &Bound<'_, Bridge>,
    future: Py<PyAny>,
    make: F,
) -> Reply<Result<T, EventBusError>>
where
    T: Send + 'static,
    Result<T, EventBusError>: Lost,
    F: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
{
    let shared = Arc::clone(&bridge.get().shared);
    Reply::new(move |answer: Result<T, EventBusError>| {
        shared.complete(
            future,
            Box::new(move |py| match answer {
                Ok(answer) => make(py, answer),
                Err(error) => Err(errors::of_event_bus(py, &error)),
            }),
        );
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<EventBus>()?;
    module.add_class::<EventSubscription>()
}
