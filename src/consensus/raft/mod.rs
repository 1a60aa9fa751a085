//! A cluster that keeps decisions by the Raft protocol.

pub mod transport;
