//! A client of a cluster as Python sees it: asks a node how it stands, and for changes of members.
//!
//! Converts and passes on. Every method returns at once, and the answer arrives in a future.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use unanimity::consensus::raft::transport::TransportError;
use unanimity::consensus::raft::{Failed, RaftClient as Client};

use super::node::Change;
use super::parts::{self, Trouble};
use crate::bridge::Bridge;
use crate::runtime;

/// Asks nodes of a cluster, and is none.
#[pyclass(frozen)]
pub(crate) struct RaftClient(Arc<Client>);

#[pymethods]
impl RaftClient {
    /// `security`: the files of TLS, or a secret, and whether neither is fine.
    #[new]
    fn new(
        py: Python<'_>,
        cluster: Option<String>,
        security: parts::SecurityParts,
    ) -> PyResult<Self> {
        let security = parts::security(py, security)?;
        let client = Client::new(cluster, security);
        Ok(Self(Arc::new(client.map_err(|error| Trouble::from(error).raised(py))?)))
    }

    /// How the node sees the cluster; the future is given a dict. `at`: the node, and for how many
    /// seconds it is waited for.
    fn status(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        at: (String, f64),
    ) -> PyResult<()> {
        let (at, patience) = (parts::address(py, &at.0)?, patience(py, at.1)?);
        let (client, shared) = (Arc::clone(&self.0), Arc::clone(&bridge.get().shared));
        runtime::handle(None)?.spawn(async move {
            let told = client.status(&at, patience).await;
            shared.complete(future, super::made(told, |py, report| parts::report(py, &report)));
        });
        Ok(())
    }

    /// Asks for a change, "add", "remove" or "transfer"; the future is told when it is made.
    fn change(
        &self,
        py: Python<'_>,
        bridge: &Bound<'_, Bridge>,
        future: Py<PyAny>,
        at: (String, f64),
        what: (&str, String),
    ) -> PyResult<()> {
        let (at, patience) = (parts::address(py, &at.0)?, patience(py, at.1)?);
        let change = match what {
            ("add", node) => Change::Add(parts::address(py, &node)?),
            ("remove", id) => Change::Remove(id),
            (_, id) => Change::Transfer(id),
        };
        let (client, shared) = (Arc::clone(&self.0), Arc::clone(&bridge.get().shared));
        runtime::handle(None)?.spawn(async move {
            let changed = match change {
                Change::Add(node) => client.add_node(&at, &node, patience).await,
                Change::Remove(id) => client.remove_node(&at, &id, patience).await,
                Change::Transfer(id) => client.transfer_leadership(&at, &id, patience).await,
            };
            shared.complete(future, super::made(changed, |py, ()| Ok(py.None())));
        });
        Ok(())
    }
}

fn patience(py: Python<'_>, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| parts::misfit(py, "timeout is no number of seconds; give one from 0"))
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        let code = match &failed {
            Failed::Cluster(_) => None,
            Failed::Transport(TransportError::Unreachable(_)) => Some("consensus.unreachable"),
            Failed::Transport(TransportError::Refused(_)) => Some("consensus.refused"),
            _ => Some("consensus.unknown"),
        };
        match (failed, code) {
            (Failed::Cluster(error), _) => error.into(),
            (other, code) => Self::new("ConsensusError", code.unwrap_or("consensus.failed"), other),
        }
    }
}
