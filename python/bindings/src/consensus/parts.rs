//! Arguments, errors and answers of a node, in Python's shapes. Conversion only.
//!
//! Invariant: a secret is in no message.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use unanimity::cluster::ClusterError;
use unanimity::consensus::raft::transport::{
    PeerAddress, Secret, Security, SetupError, TlsFiles, TransportCounts,
};
use unanimity::consensus::raft::{MemberStatus, NodeReport, RaftError, RaftStatus};
use unanimity::model::ids::{ClusterId, CoordinationId};
use unanimity::model::outcome::Decision;
use unanimity::protocol::replica::StandingDecision;

use crate::convert::{BadValue, from_value};
use crate::errors;

/// What becomes an exception, made where Python is not.
pub(super) struct Trouble {
    class: &'static str,
    code: &'static str,
    message: String,
}

impl Trouble {
    pub(super) fn new(class: &'static str, code: &'static str, message: impl ToString) -> Self {
        Self { class, code, message: message.to_string() }
    }

    pub(super) fn closed(message: String) -> Self {
        Self::new("ServiceClosed", "service.closed", message)
    }

    pub(super) fn internal(words: String) -> Self {
        Self::new("InternalError", "internal", words)
    }

    pub(super) fn raised(self, py: Python<'_>) -> PyErr {
        errors::exception(py, self.class, &self.message, &[("code", self.code)])
    }
}

impl From<ClusterError> for Trouble {
    fn from(error: ClusterError) -> Self {
        let (class, code) = match error {
            ClusterError::NoQuorum { .. } => ("NoQuorum", "consensus.no_quorum"),
            ClusterError::Unknown { .. } => ("ConsensusError", "consensus.unknown"),
            ClusterError::Stopped { .. } => ("ConsensusError", "consensus.stopped"),
            ClusterError::Closed => ("ServiceClosed", "service.closed"),
            _ => ("ConsensusError", "consensus.failed"),
        };
        Self::new(class, code, error)
    }
}

impl From<RaftError> for Trouble {
    fn from(error: RaftError) -> Self {
        let (class, code) = match error {
            RaftError::Config(_) => ("ConfigError", "config.invalid"),
            RaftError::Data { .. } => ("ConfigError", "config.data_dir"),
            RaftError::Io { .. } => ("ConsensusError", "consensus.disk"),
            RaftError::Membership(_) => ("ConsensusError", "consensus.membership"),
            RaftError::NoAnswer(_) => ("ConsensusError", "consensus.unknown"),
            RaftError::Stopped(_) => ("ConsensusError", "consensus.stopped"),
            _ => ("ConsensusError", "consensus.failed"),
        };
        Self::new(class, code, error)
    }
}

impl From<SetupError> for Trouble {
    fn from(error: SetupError) -> Self {
        let code = match error {
            SetupError::Bind { .. } => "config.address",
            SetupError::Tls { .. } | SetupError::TlsName(_) => "config.tls",
            SetupError::Exposed(_) => "config.insecure",
            _ => "config.invalid",
        };
        Self::new("ConfigError", code, error)
    }
}

/// An argument that Python's own checks should have refused, or leave to us.
pub(super) fn misfit(py: Python<'_>, message: &str) -> PyErr {
    errors::exception(py, "ConfigError", message, &[])
}

/// Evidence that cannot be kept.
pub(super) fn unfit(py: Python<'_>, bad: BadValue) -> PyErr {
    let message = bad.describe("evidence");
    let refused = || errors::exception(py, "InvalidRequest", &message, &[]);
    bad.raised.unwrap_or_else(refused)
}

pub(super) fn address(py: Python<'_>, node: &str) -> PyResult<PeerAddress> {
    node.parse().map_err(|error: unanimity::consensus::raft::transport::AddressError| {
        misfit(py, &error.to_string())
    })
}

pub(super) fn addresses(py: Python<'_>, nodes: &[String]) -> PyResult<Vec<PeerAddress>> {
    if nodes.is_empty() {
        return Err(misfit(py, "cluster_nodes is empty; give at least this node"));
    }
    nodes.iter().map(|node| address(py, node)).collect()
}

/// Host and port.
pub(super) fn place(py: Python<'_>, listen: &str) -> PyResult<(String, u16)> {
    let address = address(py, listen)?;
    Ok((address.host, address.port))
}

/// The name of a cluster.
pub(super) fn cluster(py: Python<'_>, name: &str) -> PyResult<ClusterId> {
    if name.contains(char::is_control) {
        return Err(misfit(py, "cluster has control characters; give a name that can be read"));
    }
    ClusterId::new(name)
        .map_err(|error| misfit(py, &format!("{name:?} cannot name a cluster: {error}")))
}

/// Certificate, key and authority, or a secret, and whether neither is fine.
pub(super) type SecurityParts = (Option<(PathBuf, PathBuf, PathBuf)>, Option<Vec<u8>>, bool);

pub(super) fn security(py: Python<'_>, parts: SecurityParts) -> PyResult<Security> {
    Ok(match parts {
        (Some((certificate, key, authority)), ..) => {
            Security::Tls(TlsFiles { certificate, key, authority })
        }
        (None, Some(secret), _) => {
            Security::Secret(Secret::new(&secret).ok_or_else(|| misfit(py, "secret is too short"))?)
        }
        (None, None, trusted) => Security::Open { trusted },
    })
}

pub(super) fn id(object: &Bound<'_, PyAny>) -> PyResult<CoordinationId> {
    let text = text(object, "coordination_id")?;
    crate::coordinator::checked_id(object.py(), text.to_str()?)
}

pub(super) fn decision(object: &Bound<'_, PyAny>) -> PyResult<Decision> {
    let text = text(object, "decision")?;
    let text = text.to_str()?;
    Decision::parse(text).ok_or_else(|| {
        let message = format!("decision is {text:?}; use \"COMMIT\" or \"ABORT\"");
        errors::exception(object.py(), "InvalidRequest", &message, &[])
    })
}

fn text<'a, 'py>(object: &'a Bound<'py, PyAny>, what: &str) -> PyResult<&'a Bound<'py, PyString>> {
    object.cast::<PyString>().map_err(|_| {
        let kind = object.get_type().name().map_or_else(|_| "?".into(), |name| name.to_string());
        pyo3::exceptions::PyTypeError::new_err(format!("{what} is a {kind}; give a str"))
    })
}

pub(super) fn truth(py: Python<'_>, truth: bool) -> PyResult<Py<PyAny>> {
    Ok(truth.into_pyobject(py)?.to_owned().into_any().unbind())
}

/// The dict of `get_consensus_status`; its time is a number yet.
pub(super) fn standing(py: Python<'_>, standing: &StandingDecision) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("decision", standing.decision.as_str())?;
    dict.set_item("evidence", from_value(py, &standing.evidence)?)?;
    dict.set_item("term", standing.term)?;
    dict.set_item("index", standing.index)?;
    dict.set_item("decided_at", standing.decided_at.0)?;
    Ok(dict.into_any().unbind())
}

/// How a node sees the cluster.
pub(super) fn status(
    py: Python<'_>,
    status: &RaftStatus,
    counts: TransportCounts,
) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("node_id", &status.node_id)?;
    dict.set_item("state", status.state)?;
    dict.set_item("term", status.term)?;
    dict.set_item("voted_for", &status.voted_for)?;
    dict.set_item("leader_id", &status.leader)?;
    dict.set_item("commit_index", status.commit_index)?;
    dict.set_item("last_applied", status.last_applied)?;
    dict.set_item("members", members(py, &status.members)?)?;
    dict.set_item("trouble", &status.trouble)?;
    dict.set_item("connections", counts.connections)?;
    dict.set_item("refused", counts.refused)?;
    dict.set_item("garbage", counts.garbage)?;
    dict.set_item("crowded", counts.crowded)?;
    dict.set_item("unfinished", counts.unfinished)?;
    dict.set_item("calls_refused", counts.calls_refused)?;
    Ok(dict.into_any().unbind())
}

/// How a node sees the cluster, as it told a client: the same keys, without what its door counts.
pub(super) fn report(py: Python<'_>, report: &NodeReport) -> PyResult<Py<PyAny>> {
    let dict = PyDict::new(py);
    dict.set_item("node_id", &report.node_id)?;
    dict.set_item("state", &report.state)?;
    dict.set_item("term", report.term)?;
    dict.set_item("voted_for", &report.voted_for)?;
    dict.set_item("leader_id", &report.leader)?;
    dict.set_item("commit_index", report.commit_index)?;
    dict.set_item("last_applied", report.last_applied)?;
    dict.set_item("members", members(py, &report.members)?)?;
    dict.set_item("trouble", &report.trouble)?;
    Ok(dict.into_any().unbind())
}

fn members<'py>(py: Python<'py>, members: &[MemberStatus]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for member in members {
        let one = PyDict::new(py);
        one.set_item("id", &member.node.id)?;
        one.set_item("address", member.node.place())?;
        one.set_item("role", if member.is_voter { "voter" } else { "learner" })?;
        one.set_item("lag", member.lag)?;
        list.append(one)?;
    }
    Ok(list)
}

/// Term, vote, commit index, last applied, state, leader.
pub(super) type Facts = (u64, Option<String>, u64, u64, &'static str, Option<String>);

/// What the properties of a node that runs say.
pub(super) fn facts(status: RaftStatus) -> Facts {
    let RaftStatus { term, voted_for, commit_index, last_applied, state, leader, .. } = status;
    (term, voted_for, commit_index, last_applied, state, leader)
}

/// The fields of `LogEntry`, for each decision.
pub(super) fn recent(py: Python<'_>, status: &RaftStatus) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for (id, made) in &status.decisions {
        let evidence = from_value(py, &made.evidence)?;
        let (decision, at) = (made.decision.as_str(), made.decided_at.0);
        list.append((made.term, made.index, id.as_str(), decision, evidence, at))?;
    }
    Ok(list.into_any().unbind())
}
