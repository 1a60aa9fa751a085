//! How the nodes of a cluster talk: a port, and framed TCP behind it.

mod port;

pub use port::{AddressError, Handler, PeerAddress, Transport, TransportError};
