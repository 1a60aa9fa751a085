//! What a service is started with, and the start itself, on a thread of its own.
//!
//! Conversion and wiring. Invariant: a start that fails closes the journal that it opened.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use unanimity::engine::{self, EngineError, Options, Ports, RecoveryReport};
use unanimity::events::EventBus;
use unanimity::journal::{self, Journal, JournalOptions, ReplicatedJournal};
use unanimity::locks::LockManager;
use unanimity::model::ids::StoreName;
use unanimity::observe::{Observer, Pulse};
use unanimity::participants::Participant;
use unanimity::reply::Reply;

use crate::bridge::Shared;
use crate::consensus::Decider;
use crate::ports::{PythonAlerting, PythonListeners};
use crate::python_store::PythonStore;
use crate::runtime::Engine;
use crate::traces::Traces;
use crate::{errors, stores, watch};

/// What a start needs, taken by it.
pub(crate) struct Parts {
    /// Where it is; of no meaning where a cluster keeps it.
    pub(crate) journal: String,
    pub(crate) journal_options: JournalOptions,
    pub(crate) options: Options,
    pub(crate) stores: Vec<engine::NamedStore>,
    pub(crate) decider: Decider,
    pub(crate) locks: Arc<dyn LockManager>,
    pub(crate) event_bus: Option<Arc<dyn EventBus>>,
    pub(crate) listeners: PythonListeners,
    pub(crate) alerting: Option<Arc<PythonAlerting>>,
    /// Where events are counted for alert rules, if there are any.
    pub(crate) pulse: Option<Arc<Pulse>>,
    /// Who measures and traces.
    pub(crate) observers: Vec<Arc<dyn Observer>>,
}

pub(crate) fn start_engine(
    parts: Parts,
    runtime: tokio::runtime::Handle,
    bridge: &Shared,
    slot: &OnceLock<Arc<Engine>>,
) -> Result<(), EngineError> {
    let (location, settings) = (parts.journal, parts.journal_options);
    let open = || journal::open(&location, settings, false);
    let (journal, consensus, cluster) = match parts.decider {
        Decider::Cluster(log) => {
            let journal = ReplicatedJournal::open(Arc::clone(&log))?;
            (Arc::new(journal) as Arc<dyn Journal>, None, Some(log))
        }
        Decider::Service(consensus, cluster) => (open()?, Some(consensus), cluster),
        Decider::Journal => (open()?, None, None),
    };
    let closing = Arc::clone(&journal);
    let ports = Ports {
        journal,
        stores: parts.stores,
        consensus,
        locks: Some(parts.locks),
        bus: Some(watch::sink_of(parts.pulse, parts.listeners)),
        event_bus: parts.event_bus,
        alerting: parts.alerting.map(|alerting| alerting as _),
        observers: parts.observers,
        options: parts.options,
        runtime,
    };
    let (sender, recovered) = mpsc::channel();
    let reply = Reply::new(move |report: Result<RecoveryReport, EngineError>| {
        let _ = sender.send(report);
    });
    let engine = match engine::Coordinator::start(ports, reply) {
        Ok(coordinator) => {
            if let Some(cluster) = cluster {
                coordinator.hear(&*cluster);
            }
            Engine::started(coordinator)
        }
        Err(error) => {
            closing.close();
            return Err(error);
        }
    };
    let _ = slot.set(Arc::clone(&engine));
    if !bridge.remember(Arc::downgrade(&engine)) {
        engine.shut_down();
    }
    recovered.recv().unwrap_or(Err(EngineError::Closed)).map(drop)
}

pub(crate) fn named_store(
    bridge: &Arc<Shared>,
    name: &Bound<'_, PyAny>,
    store: &Bound<'_, PyAny>,
    traces: Option<&Arc<Traces>>,
) -> PyResult<engine::NamedStore> {
    let text: String = name.extract()?;
    let name = StoreName::new(&text).map_err(|error| {
        let message = format!("{text:?} cannot name a store: {error}");
        errors::exception(store.py(), "ConfigError", &message, &[])
    })?;
    Ok(match stores::participant(store)? {
        Some(native) => (name, native, true),
        None => {
            let is_exclusive = store.getattr("list_is_exclusive")?.is_truthy()?;
            let adapted = PythonStore::adapt(bridge, store, traces.cloned())?;
            let adapted: Arc<dyn Participant> = Arc::new(adapted);
            (name, adapted, is_exclusive)
        }
    })
}

pub(crate) fn number<'py, T>(config: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<T>>
where
    T: FromPyObjectOwned<'py>,
{
    match config.get_item(key)? {
        Some(value) if !value.is_none() => value.extract().map(Some).map_err(Into::into),
        _ => Ok(None),
    }
}

fn seconds(config: &Bound<'_, PyDict>, key: &str, default: Duration) -> PyResult<Duration> {
    let given: Option<f64> = number(config, key)?;
    Ok(given.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(default))
}

pub(crate) fn options(config: &Bound<'_, PyDict>) -> PyResult<Options> {
    let default = Options::default();
    Ok(Options {
        prepare_timeout: seconds(config, "prepare_phase_timeout_seconds", default.prepare_timeout)?,
        commit_timeout: seconds(config, "commit_phase_timeout_seconds", default.commit_timeout)?,
        lock_timeout: lock_timeout(config)?,
        concurrent_max: number(config, "max_concurrent_coordinations")?
            .unwrap_or(default.concurrent_max),
        queued_max: number(config, "max_queued_coordinations")?.unwrap_or(default.queued_max),
        recovery_interval: seconds(config, "recovery_interval_seconds", default.recovery_interval)?,
        orphan_interval: seconds(config, "orphan_interval_seconds", default.orphan_interval)?,
        retention: retention(config)?,
        retention_interval: seconds(
            config,
            "retention_interval_seconds",
            default.retention_interval,
        )?,
        ..default
    })
}

/// What counts events for alert rules: only where there are rules, which set the key.
pub(crate) fn pulse(config: &Bound<'_, PyDict>) -> PyResult<Option<Arc<Pulse>>> {
    let slow_ms: Option<f64> = number(config, "slow_after_ms")?;
    Ok(slow_ms.map(|slow_ms| Arc::new(Pulse::new(slow_ms))))
}

/// The shorter of the two bounds on waits for locks.
fn lock_timeout(config: &Bound<'_, PyDict>) -> PyResult<Option<Duration>> {
    let mut least: Option<Duration> = None;
    for key in ["lock_acquisition_timeout_seconds", "max_wait_time_seconds"] {
        let given: Option<f64> = number(config, key)?;
        let given = given.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        least = given.into_iter().chain(least).min();
    }
    Ok(least)
}

/// The age at which finished coordinations go: `None` was given for never.
fn retention(config: &Bound<'_, PyDict>) -> PyResult<Option<Duration>> {
    match config.get_item("finished_days")? {
        None => Ok(Options::default().retention),
        Some(days) if days.is_none() => Ok(None),
        Some(days) => Ok(Duration::try_from_secs_f64(days.extract::<f64>()? * 86_400.0).ok()),
    }
}

pub(crate) fn journal_options(config: &Bound<'_, PyDict>) -> PyResult<JournalOptions> {
    let mut options = JournalOptions::default();
    if let Some(batch) = number(config, "batch_size")? {
        options.batch_size_max = batch;
    }
    if let Some(wait) = number::<f64>(config, "batch_timeout_ms")? {
        let wait = Duration::try_from_secs_f64(wait / 1_000.0).unwrap_or(options.lazy_wait_max);
        options.lazy_wait_max = wait;
        options.open_wait_max = options.open_wait_max.min(wait);
    }
    let pool = &mut options.pool;
    pool.least = number(config, "min_connections")?.unwrap_or(pool.least);
    pool.most = number(config, "max_connections")?.unwrap_or(pool.most);
    pool.idle_max = seconds(config, "idle_timeout_seconds", pool.idle_max)?;
    Ok(options)
}
