//! The engine's handle as Python sees it. Every method returns at once; answers arrive in futures.
//!
//! Converts and passes on. Invariant: whatever becomes of a call, its future is completed, unless
//! the loop is closed before. It is long because all that a service asks is a method of one class.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use unanimity::engine::dead_letters::DeadLetter;
use unanimity::engine::open_work::OpenWork;
use unanimity::engine::{self, EngineError, Found, RecoveryReport, Waiter};
use unanimity::journal::StoredCoordination;
use unanimity::model::ids::{CoordinationId, StoreName};
use unanimity::model::outcome::{CoordinationResult, Decision, Outcome, OutcomeKind};
use unanimity::observe::{Observer, Pulse, Tally};
use unanimity::participants::Attachment;
use unanimity::reply::{Lost, Reply};

use crate::bridge::{Bridge, Shared};
use crate::call::Caller;
use crate::convert::to_value;
use crate::enlisted::EnlistedTransaction;
use crate::events::EventBus;
use crate::numbers::{self, Sources};
use crate::ports::{PythonAlerting, PythonListeners};
use crate::request::{Unreadable, request_parts};
use crate::runtime::Engine;
use crate::start::{self, Parts};
use crate::streams::Streams;
use crate::traces::Tracer;
use crate::{consensus, errors, explain, locks, records, runtime, traces, watch};

/// A store's name, and the method that decides in its place.
type Decider = (String, Py<PyAny>);

/// A coordinator that belongs to one event loop.
#[pyclass(frozen)]
pub(crate) struct Coordinator {
    bridge: Arc<Shared>,
    parts: Mutex<Option<Parts>>,
    engine: Arc<OnceLock<Arc<Engine>>>,
    workers: Option<usize>,
    alerting: Option<Arc<PythonAlerting>>,
    pulse: Option<Arc<Pulse>>,
    numbers: Sources,
}

/// A reply that completes a future with what `make` makes of the answer.
pub(crate) fn answer_to<T, F>(
    bridge: &Arc<Shared>,
    future: Py<PyAny>,
    make: F,
) -> Reply<Result<T, EngineError>>
where
    T: Send + 'static,
    Result<T, EngineError>: Lost,
    F: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
{
    let bridge = Arc::clone(bridge);
    Reply::new(move |answer: Result<T, EngineError>| {
        bridge.complete(
            future,
            Box::new(move |py| match answer {
                Ok(answer) => make(py, answer),
                Err(error) => Err(errors::of_engine(py, &error)),
            }),
        );
    })
}

fn result_to(bridge: &Arc<Shared>, future: Py<PyAny>) -> Waiter {
    answer_to(bridge, future, move |py, result: CoordinationResult| told(py, &result, None))
}

fn told(
    py: Python<'_>,
    result: &CoordinationResult,
    attachment: Option<&Attachment>,
) -> PyResult<Py<PyAny>> {
    let caller = Caller::of(attachment);
    let cause = caller.filter(|_| !result.outcome.is_success()).and_then(|caller| {
        let cause = caller.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.as_ref().map(|cause| cause.clone_ref(py))
    });
    records::result(py, result, cause.as_ref())
}

#[pymethods]
impl Coordinator {
    #[new]
    #[pyo3(signature = (
        bridge, *, journal, stores, config, consensus, lock_manager, event_bus, carrier, metrics,
        alerting, is_measured, tracer
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords, as the Python constructor has them")]
    fn new(
        bridge: &Bound<'_, Bridge>,
        journal: Option<String>,
        stores: &Bound<'_, PyDict>,
        config: &Bound<'_, PyDict>,
        consensus: Option<Bound<'_, PyAny>>,
        lock_manager: Option<Bound<'_, PyAny>>,
        event_bus: Option<Bound<'_, PyAny>>,
        carrier: Option<PyRef<'_, EventBus>>,
        metrics: Option<Bound<'_, PyAny>>,
        alerting: Option<Bound<'_, PyAny>>,
        is_measured: bool,
        tracer: Option<PyRef<'_, Tracer>>,
    ) -> PyResult<Self> {
        let shared = Arc::clone(&bridge.get().shared);
        let traces = tracer.map(|tracer| Arc::clone(&tracer.0));
        let mut named = Vec::new();
        for (name, store) in stores {
            named.push(start::named_store(&shared, &name, &store, traces.as_ref())?);
        }
        let workers: Option<usize> = start::number(config, "coordination_worker_threads")?;
        let decider = consensus::decider_of(&shared, consensus.as_ref(), journal.is_none())?;
        let tally = Arc::new(Tally::new(named.iter().map(|(name, ..)| name.clone())));
        let (bus, collector) = (event_bus.as_ref(), metrics.as_ref());
        let alerting = alerting.map(|a| PythonAlerting::adapt(&shared, &a).map(Arc::new));
        let (alerting, pulse) = (alerting.transpose()?, start::pulse(config)?);
        let listeners = PythonListeners::adapt(&shared, &tally, bus, collector, alerting.clone())?;
        let (told, node) = (listeners.told(), consensus::status_of(consensus.as_ref()));
        let counts = is_measured.then(|| Arc::clone(&tally) as Arc<dyn Observer>).into_iter();
        let parts = Parts {
            journal: journal.unwrap_or_default(),
            journal_options: start::journal_options(config)?,
            options: start::options(config)?,
            stores: named,
            decider,
            locks: locks::port_of(&shared, lock_manager.as_ref())?,
            event_bus: carrier.map(|bus| bus.port()),
            listeners,
            alerting: alerting.clone(),
            pulse: pulse.clone(),
            observers: counts.chain(traces.map(|traces| traces as _)).collect(),
        };
        Ok(Self {
            bridge: shared,
            parts: Mutex::new(Some(parts)),
            engine: Arc::new(OnceLock::new()),
            workers: workers.map(|workers| workers.min(2)),
            alerting,
            pulse,
            numbers: Sources { tally, told, node },
        })
    }

    /// Opens journal and stores on a thread of its own, recovers, then completes the future.
    fn start(&self, future: Py<PyAny>) -> PyResult<()> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(parts) = parts else { return Ok(()) };
        let runtime = runtime::handle(self.workers)?;
        let engine = Arc::clone(&self.engine);
        let reply = answer_to(&self.bridge, future, |py, ()| Ok(py.None()));
        let bridge = Arc::clone(&self.bridge);
        thread::Builder::new()
            .name("unanimity-start".to_owned())
            .spawn(move || {
                let start = || start::start_engine(parts, runtime, &bridge, &engine);
                reply.send(catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|panic| {
                    let message = errors::panic_words(panic.as_ref()).to_owned();
                    Err(EngineError::Internal { message })
                }));
            })
            .map(drop)
            .map_err(Into::into)
    }

    /// Coordinates a request; `context` is the one in which store coroutines run, `trace` what its
    /// metadata tell of its trace, unless they do already, and `enlisted` a store's name with the
    /// method that decides in its place.
    #[pyo3(signature = (request, context, future, trace = None, enlisted = None))]
    #[expect(clippy::too_many_arguments, reason = "positions, as the stub has them")]
    fn coordinate(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyAny>,
        context: Py<PyAny>,
        future: Py<PyAny>,
        trace: Option<&Bound<'_, PyDict>>,
        enlisted: Option<Decider>,
    ) -> PyResult<()> {
        errors::guarded(py, || {
            let notes = trace.map(traces::notes_of).transpose()?.unwrap_or_default();
            self.submit(py, request, (context, enlisted), (future, notes))
        })
    }

    /// What would be done with a request; see `explain.rs`.
    fn explain(&self, py: Python<'_>, request: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        explain::explain(py, self.engine(py)?, request)
    }

    fn status(&self, py: Python<'_>, id: &str, future: Py<PyAny>) -> PyResult<()> {
        let Some(id) = self.known_id(py, id, &future) else { return Ok(()) };
        let reply = answer_to(&self.bridge, future, |py, found: Option<CoordinationResult>| {
            found.map_or_else(|| Ok(py.None()), |result| records::result(py, &result, None))
        });
        self.engine(py)?.status(id, reply);
        Ok(())
    }

    fn wait_for(&self, py: Python<'_>, id: &str, future: Py<PyAny>) -> PyResult<()> {
        let id = checked_id(py, id)?;
        self.engine(py)?.wait_for(id, result_to(&self.bridge, future));
        Ok(())
    }

    fn abort(&self, py: Python<'_>, id: &str, reason: String, future: Py<PyAny>) -> PyResult<()> {
        let id = checked_id(py, id)?;
        let reply = answer_to(&self.bridge, future, |py, aborted: bool| {
            Ok(aborted.into_pyobject(py)?.to_owned().into_any().unbind())
        });
        self.engine(py)?.abort(id, reason, reply);
        Ok(())
    }

    /// The ids of what this process drives now.
    fn active(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let (sender, receiver) = mpsc::channel();
        self.engine(py)?.active(Reply::new(move |ids: Result<Vec<CoordinationId>, _>| {
            let _ = sender.send(ids);
        }));
        // Whichever thread steps machines answers within its round; it never waits for us.
        let ids = py.detach(move || receiver.recv()).unwrap_or(Err(EngineError::Closed));
        let ids = ids.map_err(|error| errors::of_engine(py, &error))?;
        Ok(ids.iter().map(ToString::to_string).collect())
    }

    fn recover(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        let reply = answer_to(&self.bridge, future, |py, report: RecoveryReport| {
            records::report(py, &report)
        });
        self.engine(py)?.recover(reply);
        Ok(())
    }

    fn resolve(
        &self,
        py: Python<'_>,
        id: &str,
        outcome: &str,
        reason: String,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let id = checked_id(py, id)?;
        let decision = decision(py, outcome)?;
        let waiter = result_to(&self.bridge, future);
        self.engine(py)?.resolve(id, decision, reason, waiter);
        Ok(())
    }

    /// Everything that is counted and measured, as it is now. May be called from any thread.
    fn numbers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let samples = py.detach(|| self.numbers.samples(self.engine.get()));
        numbers::to_python(py, &samples)
    }

    /// What the journal tells of events.
    fn streams(&self) -> Streams {
        Streams::new(&self.bridge, &self.engine)
    }

    fn dead_letters(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        let reply = answer_to(&self.bridge, future, |py, letters: Vec<DeadLetter>| {
            records::dead_letters(py, &letters)
        });
        self.engine(py)?.dead_letters(reply);
        Ok(())
    }

    fn redrive(
        &self,
        py: Python<'_>,
        operation_id: String,
        coordination_id: Option<&str>,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let coordination = coordination_id.map(|id| checked_id(py, id)).transpose()?;
        let reply = answer_to(&self.bridge, future, |py, redriven: bool| {
            Ok(redriven.into_pyobject(py)?.to_owned().into_any().unbind())
        });
        self.engine(py)?.redrive(operation_id, coordination, reply);
        Ok(())
    }

    fn history(
        &self,
        py: Python<'_>,
        filter: &Bound<'_, PyDict>,
        future: Py<PyAny>,
    ) -> PyResult<()> {
        let filter = records::filter(filter)?;
        let reply = answer_to(&self.bridge, future, |py, found: Vec<StoredCoordination>| {
            records::list(py, &found)
        });
        self.engine(py)?.history(filter, reply);
        Ok(())
    }

    fn describe(&self, py: Python<'_>, id: &str, future: Py<PyAny>) -> PyResult<()> {
        let Some(id) = self.known_id(py, id, &future) else { return Ok(()) };
        let reply = answer_to(&self.bridge, future, |py, found: Option<Found>| {
            found.map_or_else(|| Ok(py.None()), |found| records::stored(py, &found.stored))
        });
        self.engine(py)?.look_at(id, reply);
        Ok(())
    }

    /// What happened since the last look, and what is parked, or not delivered after `age` seconds.
    fn look(&self, py: Python<'_>, age: f64, future: Py<PyAny>) -> PyResult<()> {
        // First of all: a reply that is dropped would complete the future as well.
        let engine = self.engine(py)?;
        let pulse = self.pulse.clone();
        let reply = answer_to(&self.bridge, future, move |py, open: OpenWork| {
            let beat = pulse.map(|pulse| pulse.look()).unwrap_or_default();
            watch::look(py, &beat, &open)
        });
        let age = Duration::try_from_secs_f64(age).unwrap_or_default();
        engine.open_work(age, reply);
        Ok(())
    }

    /// Hands an alert to the alerting service; whether there was a place for it.
    fn alert(&self, alert: &Bound<'_, PyDict>) -> PyResult<bool> {
        let Some(alerting) = &self.alerting else { return Ok(false) };
        let alert = to_value(alert).map_err(|bad| PyValueError::new_err(bad.describe("alert")))?;
        Ok(alerting.send(alert))
    }

    fn journal_status(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<()> {
        let reply = answer_to(&self.bridge, future, |py, status| records::status(py, &status));
        self.engine(py)?.journal_status(reply);
        Ok(())
    }

    /// Waits for what runs, at most `timeout` seconds, then closes the journal.
    #[pyo3(signature = (future, timeout))]
    fn close(&self, py: Python<'_>, future: Py<PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let engine = Arc::clone(self.engine(py)?);
        let wait = timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let reply = answer_to(&self.bridge, future, |py, ()| Ok(py.None()));
        let (sender, idle) = mpsc::channel();
        engine.close(Reply::new(move |closed: Result<(), EngineError>| {
            let _ = sender.send(closed);
        }));
        thread::Builder::new()
            .name("unanimity-close".to_owned())
            .spawn(move || {
                // Idle or not: what is not finished now is finished by the next process.
                let _ = idle.recv_timeout(wait.unwrap_or(engine::Coordinator::CLOSE_WAIT));
                engine.shut_down();
                reply.send(Ok(()));
            })
            .map(drop)
            .map_err(Into::into)
    }
}

impl Coordinator {
    fn submit(
        &self,
        py: Python<'_>,
        request: &Bound<'_, PyAny>,
        (context, enlisted): (Py<PyAny>, Option<Decider>),
        (future, trace): (Py<PyAny>, Vec<(String, String)>),
    ) -> PyResult<()> {
        let engine = self.engine(py)?;
        match request_parts(request) {
            Ok((mut parts, operations)) => {
                if !trace.is_empty() {
                    traces::put_notes(&mut parts.metadata, trace);
                }
                let caller = Caller { context, operations, cause: Mutex::new(None) };
                let attachment: Attachment = Arc::new(caller);
                let waiter = self.counted(future, Some(Arc::clone(&attachment)));
                let Some((store, callable)) = enlisted else {
                    engine.coordinate(parts, Some(attachment), waiter);
                    return Ok(());
                };
                let store = StoreName::new(&store).map_err(|error| {
                    errors::exception(py, "InvalidRequest", &error.to_string(), &[])
                })?;
                let enlisted = EnlistedTransaction::new(&self.bridge, callable, &store);
                let deciding = (&store, Arc::new(enlisted) as _);
                engine.coordinate_enlisted(parts, deciding, Some(attachment), waiter);
            }
            Err(Unreadable::Raised(error)) => return Err(error),
            Err(Unreadable::Refused(id, message)) => {
                let waiter = self.counted(future, None);
                let id = CoordinationId::new(&id).or_else(|_| CoordinationId::new("(no id)"));
                let Ok(id) = id else { return Ok(()) };
                let outcome = Outcome::refused("request.invalid", message, 0);
                let stores = Vec::new();
                waiter.send(Ok(CoordinationResult { id, outcome, duration_ms: 0, stores }));
            }
        }
        Ok(())
    }

    /// Tells a caller the result; one that never began is counted.
    fn counted(&self, future: Py<PyAny>, attachment: Option<Attachment>) -> Waiter {
        let tally = Arc::clone(&self.numbers.tally);
        answer_to(&self.bridge, future, move |py, result: CoordinationResult| {
            if result.outcome.kind == OutcomeKind::Refused {
                tally.note_refused(result.outcome.code.as_deref().unwrap_or("request.refused"));
            }
            told(py, &result, attachment.as_ref())
        })
    }

    fn engine(&self, py: Python<'_>) -> PyResult<&Arc<Engine>> {
        self.engine.get().ok_or_else(|| {
            errors::exception(py, "ServiceClosed", "the service is not started", &[])
        })
    }

    /// An id that cannot exist is answered at once: there is nothing under it.
    fn known_id(&self, py: Python<'_>, id: &str, future: &Py<PyAny>) -> Option<CoordinationId> {
        let known = CoordinationId::new(id).ok();
        if known.is_none() {
            self.bridge.complete(future.clone_ref(py), Box::new(|py| Ok(py.None())));
        }
        known
    }
}

pub(crate) fn checked_id(py: Python<'_>, id: &str) -> PyResult<CoordinationId> {
    CoordinationId::new(id).map_err(|error| {
        let message = format!("coordination_id cannot be used: {error}");
        errors::exception(py, "InvalidRequest", &message, &[])
    })
}

pub(crate) fn decision(py: Python<'_>, outcome: &str) -> PyResult<Decision> {
    Decision::parse(outcome).ok_or_else(|| {
        let message = format!("outcome is {outcome:?}; use \"commit\" or \"abort\"");
        errors::exception(py, "InvalidRequest", &message, &[])
    })
}
