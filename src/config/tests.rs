//! What is read, what wins, what is refused and how; the reader against whatever anybody writes.

mod files;
mod problems;
mod random;
mod table;

use std::collections::BTreeMap;
use std::io::Write as _;

use tempfile::NamedTempFile;

use super::{Config, Origin, Problems, Sources};
use crate::model::value::Value;

/// The original design's own file, but for the comments.
pub(super) const DESIGN: &str = r#"
coordination_service:
  database:
    connection_string: "postgresql://user:pass@localhost:5432/memory_os"
    connection_pool:
      min_connections: 5
      max_connections: 20
      idle_timeout_seconds: 300
  consensus:
    algorithm: "raft"
    cluster_nodes:
      - "coordination-node-1:7000"
      - "coordination-node-2:7000"
      - "coordination-node-3:7000"
    election_timeout_ms: 5000
    heartbeat_interval_ms: 1000
    log_compaction_threshold: 10000
  lock_manager:
    backend: "zookeeper"
    zookeeper:
      connection_string: "zk1:2181,zk2:2181,zk3:2181"
      session_timeout_ms: 30000
      lock_root_path: "/memory_os/locks"
    deadlock_detection:
      enabled: true
      detection_interval_seconds: 10
      max_wait_time_seconds: 300
  timeouts:
    default_transaction_timeout_seconds: 300
    prepare_phase_timeout_seconds: 30
    commit_phase_timeout_seconds: 60
    lock_acquisition_timeout_seconds: 30
  performance:
    max_concurrent_coordinations: 100
    coordination_worker_threads: 20
    batch_size: 50
    batch_timeout_ms: 100
  monitoring:
    metrics_enabled: true
    distributed_tracing_enabled: true
    trace_sampling_rate: 0.1
    alerts:
      high_failure_rate_threshold: 0.05
      high_latency_threshold_ms: 5000
      deadlock_rate_threshold_per_hour: 10
"#;

fn environment(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(bytes).expect("it can be written");
    file
}

/// Reads a file of that text, under variables.
fn read_in(text: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let file = file_of(text.as_bytes());
    let environment = environment(variables);
    let sources =
        Sources { file: Some(file.path()), environment: Some(&environment), ..Sources::default() };
    Config::read(sources).map_err(|Problems(mut problems)| {
        for problem in &mut problems {
            if let Origin::File { name, .. } = &mut problem.origin {
                *name = "F".to_owned();
            }
        }
        Problems(problems)
    })
}

fn read(text: &str) -> Result<Config, Problems> {
    read_in(text, &[])
}

/// Settings right below the root, as a file has them.
fn below_root(text: &str) -> String {
    format!("coordination_service:\n{text}")
}

fn value(config: &Config, path: &str) -> Value {
    config.get(path).unwrap_or_else(|| panic!("there is no key {path}")).value.clone()
}

/// The problems, each as a line.
fn told(text: &str) -> Vec<String> {
    told_in(text, &[])
}

fn told_in(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let problems = read_in(text, variables).expect_err("it is refused");
    problems.0.iter().map(ToString::to_string).collect()
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::Map(entries.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}
