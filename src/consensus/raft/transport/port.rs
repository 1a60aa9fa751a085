//! The port between the nodes of a cluster: one asks, the other answers, in bytes.
//!
//! Not a protocol: what the bytes mean is the node's business. Duties of an adapter:
//! 1. A call ends within its timeout, with the peer's answer or with an error.
//! 2. [`TransportError::TooLarge`], and [`TransportError::Refused`], mean that the request was not
//!    handed over. After the other errors it may have been.
//! 3. `from` is the id that the peer has proved, not one that it only claims, where the transport
//!    can prove ids at all (TLS; a shared secret proves membership alone).
//! 4. Requests of one peer may be handled side by side and in any order.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::model::ids::ID_CHARACTERS_MAX;

/// A node: its id, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// Its id; `host:port` where none was given.
    pub id: String,
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl PeerAddress {
    /// `host:port`, as it is dialled.
    pub fn place(&self) -> String {
        place(&self.host, self.port)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        if self.id == place { f.write_str(&place) } else { write!(f, "{}={place}", self.id) }
    }
}

impl FromStr for PeerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why| AddressError { text: text.to_owned(), why };
        let (id, place) = match text.split_once('=') {
            Some((id, place)) => (Some(id.trim()), place.trim()),
            None => (None, text.trim()),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let port = port.parse().map_err(|_| wrong("its port is no number up to 65535"))?;
        if port == 0 {
            return Err(wrong("its port is 0, where nobody can be found"));
        }
        let host = unbracketed(host).ok_or_else(|| wrong("its host is none"))?;
        let id = id.map_or_else(|| self::place(host, port), str::to_owned);
        if id.is_empty() || id.contains(char::is_control) {
            return Err(wrong("its id is empty, or has control characters"));
        }
        if id.chars().count() > ID_CHARACTERS_MAX {
            return Err(wrong("its id has more than 128 characters"));
        }
        Ok(Self { id, host: host.to_owned(), port })
    }
}

fn place(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The host without the brackets of IPv6; `None` where it cannot be one.
fn unbracketed(host: &str) -> Option<&str> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = inner {
        return inner.parse::<std::net::Ipv6Addr>().is_ok().then_some(inner);
    }
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.chars().all(is_name)).then_some(host)
}

/// Text that names no node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no address of a node: {why}; give \"host:port\" or \"id=host:port\"")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody listens there, or the connection broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The peer is not the one that was meant, or does not take us for one of its cluster.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// The request or its answer is over the bound of a frame.
    #[error("too large: {0}")]
    TooLarge(String),
    /// This side was closed.
    #[error("the transport is closed")]
    Closed,
}

/// Asks other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Hands a request to a node and waits for its answer, at most for `timeout`.
    fn call(
        &self,
        to: &PeerAddress,
        request: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>>;
}

/// Answers other nodes, and clients.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request of the node `from`.
    fn handle(&self, from: String, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;

    /// Answers a client: one that has the secret, or a certificate of the authority, and is no
    /// node. Nothing that only nodes may say is to be taken from it.
    fn handle_client(&self, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_an_id() {
        let named: PeerAddress = "a=db-1.example:7000".parse().unwrap();
        assert_eq!((named.id.as_str(), named.place().as_str()), ("a", "db-1.example:7000"));
        let plain: PeerAddress = "127.0.0.1:7000".parse().unwrap();
        assert_eq!(plain.id, "127.0.0.1:7000");
        let six: PeerAddress = "b=[::1]:7000".parse().unwrap();
        assert_eq!((six.host.as_str(), six.place().as_str()), ("::1", "[::1]:7000"));
        for address in [named, plain, six] {
            assert_eq!(address.to_string().parse::<PeerAddress>().unwrap(), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_reason() {
        let bad = [
            ("", "has no port"),
            ("one", "has no port"),
            ("one:", "is no number"),
            ("one:port", "is no number"),
            ("one:70000", "is no number"),
            ("one:0", "is 0"),
            (":7000", "host is none"),
            ("::1:7000", "host is none"),
            ("http://one:7000", "host is none"),
            ("a b:7000", "host is none"),
            ("=one:7000", "id is empty"),
            ("a\u{7}=one:7000", "control characters"),
        ];
        for (text, why) in bad {
            let error = text.parse::<PeerAddress>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("give \"host:port\""), "{text}: {error}");
        }
        assert!(format!("{}=one:7000", "x".repeat(129)).parse::<PeerAddress>().is_err());
    }
}
