//! What a node says when its transport is made, and what can be wrong with it.
//!
//! Without TLS and without a secret anybody who reaches the port is a node of the cluster. So this
//! is allowed on loopback addresses only, unless the options say that the network is trusted.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::port::PeerAddress;
use super::proof::Secret;

/// The largest frame, unless the options say otherwise.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The largest frame of a client: what it asks is a few words.
pub(super) const CLIENT_FRAME_BYTES_MAX: usize = 64 * 1024;

/// The files of mutual TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of this node, and those between it and the authority. Its subject
    /// alternative names hold the node's id (of `host:port` the host); it serves both sides.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
    /// The certificates of the authorities that sign those of the nodes.
    pub authority: PathBuf,
}

/// How the nodes of a cluster know each other. The same at all of them.
#[derive(Clone, Debug)]
pub enum Security {
    /// By nothing. On a loopback address, or on a network that is `trusted`.
    Open {
        /// Whoever reaches the port may be a node.
        trusted: bool,
    },
    /// By a secret. Nobody without it is answered, and nothing can be changed on the way; but it
    /// can be read.
    Secret(Secret),
    /// By certificates of one authority.
    Tls(TlsFiles),
}

/// How a transport behaves.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// This node, and where others find it.
    pub own: PeerAddress,
    /// The id of the cluster, where it is known. Two that know different ones refuse each other.
    pub cluster: Option<String>,
    /// Where it listens, when that is not where others find it.
    pub listen: Option<(String, u16)>,
    /// How the nodes know each other.
    pub security: Security,
    /// The largest frame.
    pub frame_bytes_max: usize,
    /// How long a connection may take until both sides know each other.
    pub greeting_timeout: Duration,
    /// How many connections may be in their greeting at once.
    pub greetings_max: usize,
    /// How many connections of nodes may be open at once.
    pub connections_max: usize,
    /// How many connections of clients may be open at once; they take none of the nodes' places.
    pub clients_max: usize,
    /// How many calls to one peer may be without an answer at once; further ones wait.
    pub calls_max: usize,
    /// The longest time between two tries to reach a peer.
    pub reconnect_max: Duration,
    /// How long a peer may say nothing to calls before the connection is given up.
    pub silence_max: Duration,
}

impl TransportOptions {
    /// The options of a node, with all that can be left out left out.
    pub fn new(own: PeerAddress, security: Security) -> Self {
        Self {
            own,
            cluster: None,
            listen: None,
            security,
            frame_bytes_max: FRAME_BYTES_MAX,
            greeting_timeout: Duration::from_secs(5),
            greetings_max: 32,
            connections_max: 256,
            clients_max: 16,
            calls_max: 1_024,
            reconnect_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(2),
        }
    }

    /// How many bytes of requests may be under way on one connection, in the units of
    /// [`bytes_units`]: always enough for the largest frame.
    pub(super) fn bytes_max(&self) -> usize {
        2 * bytes_units(self.frame_bytes_max) as usize
    }

    /// Where it listens.
    pub(super) fn listens(&self) -> (&str, u16) {
        match &self.listen {
            Some((host, port)) => (host, *port),
            None => (&self.own.host, self.own.port),
        }
    }
}

/// A number of bytes in units of a kibibyte, as semaphores can count them.
pub(super) fn bytes_units(bytes: usize) -> u32 {
    u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX)
}

/// Why a transport cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The address cannot be listened at.
    #[error("node {node} cannot listen at {place}: {reason}")]
    Bind {
        /// The node.
        node: String,
        /// The address.
        place: String,
        /// What is wrong, and how to mend it.
        reason: String,
    },
    /// A file of TLS.
    #[error("tls: {what} {path}: {reason}", path = path.display())]
    Tls {
        /// Which of the files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        reason: String,
    },
    /// A node's id that no certificate can hold.
    #[error(
        "tls: no certificate can hold the node id \"{0}\"; give the node an id of letters, digits, \
         dots and dashes"
    )]
    TlsName(String),
    /// Open, and to be found by others.
    #[error(
        "without tls and without a secret only loopback addresses are allowed, and {0} is none; \
         give tls or a secret to all nodes, or say insecure if whoever reaches this network may be \
         a node"
    )]
    Exposed(String),
}

/// Whether only this machine reaches the host.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the security allows to speak with a host, or to listen there.
pub(super) fn check_exposure(security: &Security, host: &str) -> Result<(), SetupError> {
    let is_bare = matches!(security, Security::Open { trusted: false });
    if is_bare && !is_loopback(host) {
        return Err(SetupError::Exposed(host.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_security_only_loopback_addresses_are_allowed() {
        let open = Security::Open { trusted: false };
        for host in ["127.0.0.1", "127.8.9.1", "::1", "localhost"] {
            check_exposure(&open, host).unwrap();
        }
        for host in ["0.0.0.0", "::", "10.0.0.1", "db-1", "localhost.example"] {
            let error = check_exposure(&open, host).unwrap_err().to_string();
            assert!(error.contains(host) && error.contains("give tls or a secret"), "{error}");
            check_exposure(&Security::Open { trusted: true }, host).unwrap();
            let secret = Secret::new(b"sixteen bytes...").unwrap();
            check_exposure(&Security::Secret(secret), host).unwrap();
        }
    }
}
