//! The managers that have a server: made on our own threads, and closed at exit.
//!
//! Conversion of options. Invariant: nothing is opened here; the manager does that when it is first
//! asked.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::locks::LockManager;
use unanimity::locks::postgres::{PostgresLockManager, PostgresLockOptions};
use unanimity::locks::zookeeper::{ZooKeeperCredentials, ZooKeeperLockManager, ZooKeeperOptions};

use super::parts;
use crate::{errors, runtime};

/// Seconds that Python has checked.
fn time(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| errors::exception(py, "ConfigError", &error.to_string(), &[]))
}

/// Without a search for deadlocks the interval still says how often the rest is looked after.
fn detection(py: Python<'_>, seconds: Option<f64>) -> PyResult<Duration> {
    seconds.map_or(Ok(Duration::from_secs(1)), |seconds| time(py, seconds))
}

pub(super) fn postgres(
    py: Python<'_>,
    dsn: &str,
    (session_timeout, detection_interval): (f64, Option<f64>),
    connections: usize,
) -> PyResult<Arc<dyn LockManager>> {
    let options = PostgresLockOptions {
        session_timeout: time(py, session_timeout)?,
        detection_interval: detection(py, detection_interval)?,
        detects: detection_interval.is_some(),
        connections,
    };
    let manager = PostgresLockManager::new(dsn, options, runtime::handle(None)?);
    let manager: Arc<dyn LockManager> = Arc::new(manager.map_err(|e| parts::misfit(py, &e))?);
    runtime::close_at_exit(&manager);
    Ok(manager)
}

pub(super) fn zookeeper(
    py: Python<'_>,
    connection: String,
    lock_root_path: String,
    (session_timeout, detection_interval): (f64, Option<f64>),
    credentials: Option<(String, String)>,
) -> PyResult<Arc<ZooKeeperLockManager>> {
    let options = ZooKeeperOptions {
        connection,
        lock_root_path,
        session_timeout: time(py, session_timeout)?,
        credentials: credentials.map(|(user, password)| ZooKeeperCredentials { user, password }),
        detection_interval: detection(py, detection_interval)?,
        detects: detection_interval.is_some(),
    };
    let manager = ZooKeeperLockManager::new(options, runtime::handle(None)?);
    Ok(Arc::new(manager.map_err(|error| parts::misfit(py, &error))?))
}
