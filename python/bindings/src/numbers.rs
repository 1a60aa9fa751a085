//! Everything that a service counts and measures, gathered when somebody asks, and its shape in
//! Python.
//!
//! Not the counting (`Tally`, the engine, the journal) and not the text form (`_prometheus`).
//! Invariants: asking enters no user's code and waits for nobody but the engine, for a bounded
//! time; what a forked child inherited is not asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use unanimity::consensus::raft::RaftStatus;
use unanimity::engine::EngineError;
use unanimity::observe::Tally;
use unanimity::observe::metrics::{self, Across, Kind, Sample, Value};
use unanimity::reply::Reply;

use crate::logging;
use crate::ports::Told;
use crate::runtime::Engine;

/// How long the engine may take to say how much there is.
const ENGINE_WAIT: Duration = Duration::from_secs(5);

/// What the numbers of one service come from.
pub(crate) struct Sources {
    pub(crate) tally: Arc<Tally>,
    pub(crate) told: Arc<Told>,
    /// How the node stands that the service decides by, if it is one of ours.
    pub(crate) node: Option<Box<dyn Fn() -> Option<RaftStatus> + Send + Sync>>,
}

impl Sources {
    /// Everything, as it is now.
    pub(crate) fn samples(&self, engine: Option<&Arc<Engine>>) -> Vec<Sample> {
        let mut samples = self.tally.samples();
        if let Some(engine) = engine.filter(|engine| engine.is_of_this_process()) {
            samples.extend(of_engine(engine));
        }
        if let Some(status) = self.node.as_ref().and_then(|status| status()) {
            of_node(&status, &mut samples);
        }
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let under_way = self.told.under_way.load(Ordering::Relaxed) as u64;
        samples.extend([
            Sample::count(&metrics::EVENTS_UNDER_WAY, under_way),
            Sample::count(&metrics::EVENTS_DROPPED, load(&self.told.dropped)),
            Sample::count(&metrics::LISTENER_ERRORS, load(&self.told.bus_errors)).labelled(["bus"]),
            Sample::count(&metrics::LISTENER_ERRORS, self.told.collector_errors())
                .labelled(["metrics"]),
            Sample::count(&metrics::LOGS_DROPPED, logging::dropped()),
            Sample::plain(&metrics::BUILD, 1.0).labelled([env!("CARGO_PKG_VERSION")]),
        ]);
        samples
    }
}

fn of_engine(engine: &Engine) -> Vec<Sample> {
    let (sender, receiver) = mpsc::channel();
    engine.gauges(Reply::new(move |gauges: Result<Vec<Sample>, EngineError>| {
        let _ = sender.send(gauges);
    }));
    // Whichever thread steps machines answers within its round; it never waits for us.
    match receiver.recv_timeout(ENGINE_WAIT) {
        Ok(Ok(gauges)) => gauges,
        _ => vec![Sample::truth(&metrics::UP, false)],
    }
}

/// How a node stands.
pub(crate) fn of_node(status: &RaftStatus, samples: &mut Vec<Sample>) {
    let lag = status.last_log.saturating_sub(status.last_applied);
    samples.extend([
        Sample::truth(&metrics::RAFT_QUORUM, status.trouble.is_none()),
        Sample::truth(&metrics::RAFT_LEADER, status.state == "leader"),
        Sample::count(&metrics::RAFT_TERM, status.term),
        Sample::count(&metrics::RAFT_APPLIED, status.last_applied),
        Sample::count(&metrics::RAFT_LAG, lag),
        Sample::count(&metrics::RAFT_DROPPED, status.frames_dropped),
    ]);
    for member in status.members.iter().filter(|member| member.node.id != status.node_id) {
        samples.extend(member.lag.map(|lag| {
            Sample::count(&metrics::RAFT_MEMBER_LAG, lag).labelled([member.node.id.as_str()])
        }));
    }
}

/// `(name, labels, value)` for each; of a histogram the counts by bucket, and the sum.
pub(crate) fn to_python<'py>(py: Python<'py>, samples: &[Sample]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for sample in samples {
        let labels = PyTuple::new(py, &sample.labels)?;
        let value = match &sample.value {
            Value::Number(number) => number.into_pyobject(py)?.into_any(),
            Value::Histogram(reading) => {
                let scale = scale(sample.metric.kind);
                #[expect(clippy::cast_precision_loss, reason = "a sum for people")]
                let sum = reading.sum as f64 * scale;
                (reading.buckets.clone(), sum).into_pyobject(py)?.into_any()
            }
        };
        list.append((sample.metric.name, labels, value))?;
    }
    Ok(list)
}

fn scale(kind: Kind) -> f64 {
    if let Kind::Histogram(_, scale) = kind { scale } else { 1.0 }
}

/// The upper bounds of a histogram in its unit; none for what is no histogram.
#[expect(clippy::cast_precision_loss, reason = "bounds are small numbers")]
fn bounds(kind: Kind) -> Option<Vec<f64>> {
    match kind {
        // Divided, so that a tenth is the number next to a tenth.
        Kind::Histogram(bounds, scale) => {
            Some(bounds.iter().map(|bound| *bound as f64 / scale.recip().round()).collect())
        }
        _ => None,
    }
}

/// Every metric, as `(name, type, help, labels, across, bounds)`.
#[pyfunction]
fn metric_table(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for metric in metrics::all() {
        let across = match metric.across {
            Across::Sum => "sum",
            Across::Highest => "highest",
            Across::Lowest => "lowest",
        };
        let labels = PyTuple::new(py, metric.labels)?;
        let kind = metric.kind.as_str();
        list.append((metric.name, kind, metric.help, labels, across, bounds(metric.kind)))?;
    }
    Ok(list)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(metric_table, module)?)
}
