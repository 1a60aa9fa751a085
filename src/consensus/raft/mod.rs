//! A cluster that keeps one state on several nodes by the Raft protocol.
//!
//! Not the protocol itself: that is openraft's, and stays in this folder. Not the state either
//! (`protocol/replica`). Read `node` first: it holds the rest together. `log_store` is what has
//! to be on the disk, `state_machine` carries entries out, `message` is what nodes say to each
//! other over the port `transport`, `membership` changes who belongs to the cluster.
//!
//! Invariants:
//! - What was answered is on the disks of a majority.
//! - A node that cannot write down what it promises stops.
//! - The id of a node that left is never used again.

#[cfg(test)]
mod chaos_test;
mod client;
#[cfg(test)]
mod client_test;
#[cfg(test)]
mod cluster_test;
mod error;
mod identity;
mod log_store;
mod membership;
mod message;
mod node;
mod options;
mod peers;
#[cfg(test)]
mod seeded;
mod server;
#[cfg(test)]
pub(crate) mod simulated;
mod state_machine;
mod status;
#[cfg(test)]
mod storage_test;
#[cfg(test)]
mod test_kit;
pub mod transport;
mod types;

pub use client::{Failed, NodeReport, RaftClient};
pub use error::RaftError;
pub use node::RaftNode;
pub use options::RaftOptions;
pub use status::{MemberStatus, RaftStatus};
