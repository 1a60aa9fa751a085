//! How the nodes of a cluster talk: a port, and framed TCP behind it.
//!
//! Not consensus: requests and answers are bytes here, and nothing is asked twice. Read it in this
//! order: `port` (what it is for others), `network` (the whole), `greet` with `hello`, `proof` and
//! `tls` (who is let in), `frame` and `message` (what is on the wire), `peer` (the side that asks),
//! `listener` (the side that answers), `client` (who asks and is no node).
//!
//! What a trusted network means: with a secret each frame is sealed, so nobody without it can take
//! part or change anything, but whoever can listen reads what is decided. With TLS nobody can. With
//! neither, whoever reaches the port is a node; that is for one machine alone, and for networks of
//! which the options say so.
//!
//! Invariants: nothing of a stranger reaches the node, and a stranger learns nothing but that it is
//! refused; sizes, times and numbers are bounded before anything is allocated for them; garbage
//! ends the connection that it came on and nothing else.

mod client;
#[cfg(test)]
mod client_test;
mod counts;
mod frame;
#[cfg(test)]
mod frame_test;
mod greet;
mod hello;
mod link;
mod listener;
mod message;
mod network;
#[cfg(test)]
mod network_test;
mod options;
mod peer;
mod port;
mod proof;
#[cfg(test)]
mod stranger_test;
#[cfg(test)]
mod test_kit;
mod tls;
#[cfg(test)]
mod tls_test;

pub use client::Client;
pub use counts::TransportCounts;
pub use network::Network;
pub use options::{FRAME_BYTES_MAX, Security, SetupError, TlsFiles, TransportOptions};
pub use port::{AddressError, Handler, PeerAddress, Transport, TransportError};
pub use proof::Secret;
