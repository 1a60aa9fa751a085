//! How to reach `ZooKeeper`, and as whom. Parsed once, before anything is opened.
//!
//! Not a connection. Invariant: a password is in no message and in no `Debug` text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zookeeper_client::Acls;

use crate::model::lock::LockError;
use crate::model::time::Timestamp;

/// What a manager is told.
#[derive(Clone)]
pub struct ZooKeeperOptions {
    /// `host:port,host:port/chroot`.
    pub connection: String,
    /// Under which node, below the chroot, the resources stand.
    pub lock_root_path: String,
    /// What is asked of the server, which may grant less or more.
    pub session_timeout: Duration,
    /// As whom; the nodes then belong to this user alone.
    pub credentials: Option<ZooKeeperCredentials>,
    /// How often deadlocks across processes are looked for while something waits.
    pub detection_interval: Duration,
    /// Whether they are looked for at all; otherwise they end by the timeouts of those who wait.
    pub detects: bool,
}

/// A user of the digest scheme.
#[derive(Clone)]
pub struct ZooKeeperCredentials {
    /// Who.
    pub user: String,
    /// The password.
    pub password: String,
}

impl ZooKeeperOptions {
    /// The defaults of everything but the servers.
    pub fn new(connection: &str) -> Self {
        Self {
            connection: connection.to_owned(),
            lock_root_path: "/memory_os/locks".to_owned(),
            session_timeout: Duration::from_secs(30),
            credentials: None,
            detection_interval: Duration::from_secs(1),
            detects: true,
        }
    }
}

/// The options, checked.
pub(super) struct Server {
    /// The hosts, as the driver takes them.
    pub(super) hosts: String,
    /// Chroot and lock root: an absolute path without a slash at its end.
    pub(super) root: String,
    pub(super) options: ZooKeeperOptions,
}

impl Server {
    pub(super) fn parse(options: ZooKeeperOptions) -> Result<Self, LockError> {
        let text = options.connection.trim();
        let (hosts, chroot) = text.split_at(text.find('/').unwrap_or(text.len()));
        check_hosts(hosts)?;
        let root = format!("{}{}", normal_path(chroot)?, normal_path(&options.lock_root_path)?);
        if root.is_empty() {
            return Err(invalid("lock_root_path is the root itself; give a node such as /locks"));
        }
        if root == "/zookeeper" || root.starts_with("/zookeeper/") {
            return Err(invalid("/zookeeper is the server's own; give another lock_root_path"));
        }
        if options.session_timeout.is_zero() || options.detection_interval.is_zero() {
            return Err(invalid("session_timeout and detection_interval must be above zero"));
        }
        if let Some(credentials) = &options.credentials
            && (credentials.user.is_empty() || credentials.user.contains(':'))
        {
            return Err(invalid("the user of the digest scheme must not be empty or hold a ':'"));
        }
        Ok(Self { hosts: hosts.to_owned(), root, options })
    }

    pub(super) fn label(&self) -> String {
        format!("ZooKeeper at {}", self.hosts)
    }

    pub(super) fn unavailable(&self, message: &str) -> LockError {
        LockError::Unavailable { server: self.label(), message: message.to_owned() }
    }

    /// Who may touch the nodes.
    pub(super) fn acls(&self) -> Acls<'static> {
        if self.options.credentials.is_some() { Acls::creator_all() } else { Acls::anyone_all() }
    }

    pub(super) fn path(&self, container: &str) -> String {
        format!("{}/{container}", self.root)
    }
}

fn invalid(message: &str) -> LockError {
    LockError::Invalid { message: message.to_owned() }
}

fn check_hosts(hosts: &str) -> Result<(), LockError> {
    for host in hosts.split(',') {
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']'));
        let is_port = port.is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        let has_name = !port.map_or(host, |(name, _)| name).is_empty();
        if !is_port || !has_name || host.contains(char::is_whitespace) {
            return Err(invalid(&format!(
                "'{host}' is no server of a ZooKeeper connection string; give \
                 host:port,host:port/chroot"
            )));
        }
    }
    Ok(())
}

/// A path without its last slash; empty for the root.
fn normal_path(path: &str) -> Result<String, LockError> {
    let inner = path.trim_matches('/');
    let is_name = |name: &str| {
        !name.is_empty() && name != "." && name != ".." && !name.contains(char::is_control)
    };
    if !inner.is_empty() && !inner.split('/').all(is_name) {
        return Err(invalid(&format!("'{path}' is no path of ZooKeeper nodes")));
    }
    Ok(if inner.is_empty() { String::new() } else { format!("/{inner}") })
}

/// The wall clock, for people and for the ages in the nodes.
pub(super) fn wall_now() -> Timestamp {
    Timestamp(0) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(connection: &str, root: &str) -> Result<Server, LockError> {
        let lock_root_path = root.to_owned();
        Server::parse(ZooKeeperOptions { lock_root_path, ..ZooKeeperOptions::new(connection) })
    }

    #[test]
    fn a_connection_string_names_hosts_and_a_chroot() {
        let server = parse("h1:2181,[::1]:9,h3/a/b", "/locks/").unwrap();
        assert_eq!(server.hosts, "h1:2181,[::1]:9,h3");
        assert_eq!(server.path("c"), "/a/b/locks/c");
        assert_eq!(parse("h", "/memory_os/locks").unwrap().root, "/memory_os/locks");
        assert_eq!(parse("h/a", "/").unwrap().root, "/a");
    }

    #[test]
    fn what_cannot_be_reached_is_refused_by_name() {
        for (connection, root) in [
            ("", "/a"),
            ("h:x", "/a"),
            ("h:0", "/a"),
            (":1", "/a"),
            ("a,,b", "/a"),
            ("h", "/"),
            ("h", "/a/../b"),
            ("h//", "//"),
            ("h", "/zookeeper/a"),
        ] {
            let refused = parse(connection, root);
            assert!(matches!(refused, Err(LockError::Invalid { .. })), "{connection} {root}");
        }
    }
}
