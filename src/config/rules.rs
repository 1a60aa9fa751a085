//! What must hold between settings. Each rule is a function over all of them.
//!
//! Invariant: a rule says nothing where a setting that it reads could not be read; that was told.

use super::Setting;
use super::problem::{Origin, Problem};
use super::secret::quoted;
use crate::model::value::Value;

const SECRET_BYTES_MIN: usize = 16;

/// All settings, as a rule sees them.
struct All<'a> {
    settings: &'a [Setting],
    broken: &'a [&'static str],
}

impl All<'_> {
    /// `None` where it could not be read.
    fn get(&self, path: &str) -> Option<&Setting> {
        if self.broken.contains(&path) {
            return None;
        }
        self.settings.iter().find(|setting| setting.key.path == path)
    }

    fn int(&self, path: &str) -> Option<i64> {
        self.get(path)?.value.as_int()
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.value.as_text()
    }

    fn texts(&self, path: &str) -> Option<Vec<&str>> {
        Some(self.get(path)?.value.as_list()?.iter().filter_map(Value::as_text).collect())
    }

    fn is_readable(&self, paths: &[&str]) -> bool {
        paths.iter().all(|path| !self.broken.contains(path))
    }

    fn blame(&self, path: &'static str, message: impl Into<String>, hint: &str) -> Option<Problem> {
        let setting = self.get(path)?;
        let origin = setting.origin.clone();
        Some(Problem { origin, key: path.to_owned(), message: message.into(), hint: hint.into() })
    }

    /// As `blame`, at the one of the two that somebody gave.
    fn blame_given(
        &self,
        paths: [&'static str; 2],
        message: impl Fn(&'static str) -> String,
        hint: &str,
    ) -> Option<Problem> {
        let is_given = |path: &str| self.get(path).is_some_and(|s| s.origin != Origin::Default);
        let path = if is_given(paths[0]) { paths[0] } else { paths[1] };
        self.blame(path, message(path), hint)
    }
}

pub(super) fn check(settings: &[Setting], broken: &[&'static str]) -> Vec<Problem> {
    let all = All { settings, broken };
    let mut problems = Vec::new();
    for rule in [pool, heartbeat, algorithm, this_node, backend, servers, bus, tls, secret, digest]
    {
        problems.extend(rule(&all));
    }
    nodes(&all, &mut problems);
    problems
}

fn pool(all: &All<'_>) -> Option<Problem> {
    const MIN: &str = "database.connection_pool.min_connections";
    const MAX: &str = "database.connection_pool.max_connections";
    let (min, max) = (all.int(MIN)?, all.int(MAX)?);
    let message = |path| match path {
        MIN => format!("is {min}, and max_connections is {max}"),
        _ => format!("is {max}, and min_connections is {min}"),
    };
    if min <= max {
        return None;
    }
    all.blame_given([MIN, MAX], message, "give a least number that is not above the greatest")
}

fn heartbeat(all: &All<'_>) -> Option<Problem> {
    const HEARTBEAT: &str = "consensus.heartbeat_interval_ms";
    const ELECTION: &str = "consensus.election_timeout_ms";
    let (heartbeat, election) = (all.int(HEARTBEAT)?, all.int(ELECTION)?);
    let message = |path| match path {
        HEARTBEAT => format!(
            "is {heartbeat}, and election_timeout_ms is {election}: a lost heartbeat would lead to \
             an election"
        ),
        _ => format!(
            "is {election}, and heartbeat_interval_ms is {heartbeat}: a lost heartbeat would lead \
             to an election"
        ),
    };
    if 2 * heartbeat <= election {
        return None;
    }
    let hint = "give an election timeout of at least two heartbeats, better five";
    all.blame_given([HEARTBEAT, ELECTION], message, hint)
}

/// The ids of the cluster's nodes; `None` where they could not be read.
fn node_ids<'a>(all: &'a All<'_>) -> Option<Vec<&'a str>> {
    let id = |node: &&'a str| node.split_once('=').map_or(*node, |(id, _)| id);
    Some(all.texts("consensus.cluster_nodes")?.iter().map(id).collect())
}

fn shown(text: &str) -> String {
    quoted(None, &Value::Text(text.to_owned()))
}

fn nodes(all: &All<'_>, problems: &mut Vec<Problem>) {
    const NODES: &str = "consensus.cluster_nodes";
    let Some(nodes) = all.texts(NODES) else { return };
    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for node in nodes {
        let (id, place) = node.split_once('=').unwrap_or((node, node));
        let port = place.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let is_place = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        if id.is_empty() || !is_place {
            let message = format!("has {}, which is no address of a node", shown(node));
            problems.extend(all.blame(NODES, message, "write host:port or id=host:port"));
        }
        if ids.contains(&id) || places.contains(&place) {
            let message = format!("has {}, whose id or address another one has", shown(node));
            problems.extend(all.blame(NODES, message, "give each node its own"));
        }
        ids.push(id);
        places.push(place);
    }
}

fn algorithm(all: &All<'_>) -> Option<Problem> {
    let is_raft = all.text("consensus.algorithm") == Some("raft");
    if !is_raft || !node_ids(all)?.is_empty() {
        return None;
    }
    let hint = "name the nodes of the cluster, or use local";
    all.blame("consensus.algorithm", "is raft, and cluster_nodes names no node", hint)
}

fn this_node(all: &All<'_>) -> Option<Problem> {
    let (ids, this) = (node_ids(all)?, all.text("node_id")?);
    if ids.is_empty() || ids.contains(&this) {
        return None;
    }
    let message = format!("is {}, which is none of consensus.cluster_nodes", shown(this));
    let hint = format!("give one of {}, or add it to the list of every node", ids.join(", "));
    all.blame("node_id", message, &hint)
}

fn backend(all: &All<'_>) -> Option<Problem> {
    const BACKEND: &str = "lock_manager.backend";
    match all.text(BACKEND)? {
        "zookeeper" if all.is_readable(&["lock_manager.zookeeper.connection_string"]) => {
            if all.text("lock_manager.zookeeper.connection_string").is_some() {
                return None;
            }
            let hint = "give lock_manager.zookeeper.connection_string, such as zk1:2181,zk2:2181";
            all.blame(BACKEND, "is zookeeper, and no server is named", hint)
        }
        "postgres" => {
            let places = ["lock_manager.postgres.connection_string", "database.connection_string"];
            if !all.is_readable(&places) || places.iter().any(|path| all.text(path).is_some()) {
                return None;
            }
            let hint =
                "give database.connection_string, or lock_manager.postgres.connection_string";
            all.blame(BACKEND, "is postgres, and no database is named", hint)
        }
        "raft" => {
            if !node_ids(all)?.is_empty() && all.text("consensus.algorithm") != Some("local") {
                return detection_in_cluster(all);
            }
            let hint = "give consensus.cluster_nodes, with consensus.algorithm raft";
            all.blame(BACKEND, "is raft, and there is no cluster", hint)
        }
        _ => None,
    }
}

/// The cluster's lock table is the same on every node, whatever one of them is told.
fn detection_in_cluster(all: &All<'_>) -> Option<Problem> {
    const ENABLED: &str = "lock_manager.deadlock_detection.enabled";
    if all.get(ENABLED)?.value != Value::Bool(false) {
        return None;
    }
    let hint = "leave it out, or use another backend";
    all.blame(ENABLED, "is false, and locks in the cluster always find deadlocks", hint)
}

fn servers(all: &All<'_>) -> Option<Problem> {
    const DATABASE: &str = "database.connection_string";
    let text = all.text(DATABASE)?;
    let scheme = text.split_once("://").map(|(scheme, _)| scheme)?;
    if matches!(scheme, "postgresql" | "postgres") {
        return None;
    }
    let hint = "give postgresql://user:password@host:5432/database";
    all.blame(DATABASE, format!("is a {scheme}:// address, which cannot be used"), hint)
}

fn bus(all: &All<'_>) -> Option<Problem> {
    const BACKEND: &str = "event_bus.backend";
    let is_there = |path: &str| all.text(path).is_some();
    match all.text(BACKEND)? {
        "nats" if all.is_readable(&["event_bus.url"]) && !is_there("event_bus.url") => {
            all.blame(BACKEND, "is nats, and no server is named", "give event_bus.url")
        }
        "postgres"
            if all.is_readable(&["event_bus.url", "database.connection_string"])
                && !is_there("event_bus.url")
                && !is_there("database.connection_string") =>
        {
            let hint = "give database.connection_string, or event_bus.url";
            all.blame(BACKEND, "is postgres, and no database is named", hint)
        }
        "journal" => {
            let journal = all.text("journal");
            let is_file = |journal: &str| !journal.starts_with("postgres") && journal != "memory:";
            if journal.is_none_or(is_file) {
                return None;
            }
            let hint = "give a path for journal, or use in_process or postgres";
            all.blame(BACKEND, "is journal, and the journal is no file", hint)
        }
        _ => None,
    }
}

fn tls(all: &All<'_>) -> Option<Problem> {
    let paths = ["tls.certificate", "tls.key", "tls.authority"];
    let given = paths.into_iter().find(|path| all.text(path).is_some())?;
    if let Some(missing) = paths.into_iter().find(|path| all.text(path).is_none())
        && all.is_readable(&paths)
    {
        let message = format!("is given, and {missing} is not");
        return all.blame(given, message, "give all three, or none");
    }
    all.text("secret")?;
    all.blame(given, "is given, and secret too", "give one of them; tls says more")
}

fn secret(all: &All<'_>) -> Option<Problem> {
    let count = all.text("secret")?.len();
    if count >= SECRET_BYTES_MIN {
        return None;
    }
    let hint = "give at least 16, such as those of `python -c 'import secrets; \
                print(secrets.token_urlsafe(32))'`";
    all.blame("secret", format!("has {count} bytes"), hint)
}

fn digest(all: &All<'_>) -> Option<Problem> {
    const USER: &str = "lock_manager.zookeeper.user";
    const PASSWORD: &str = "lock_manager.zookeeper.password";
    if !all.is_readable(&[USER, PASSWORD]) {
        return None;
    }
    let (given, missing) = match (all.text(USER), all.text(PASSWORD)) {
        (Some(_), None) => (USER, PASSWORD),
        (None, Some(_)) => (PASSWORD, USER),
        _ => return None,
    };
    all.blame(given, format!("is given, and {missing} is not"), "give both, or neither")
}
