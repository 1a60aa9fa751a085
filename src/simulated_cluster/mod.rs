//! The whole cluster in one deterministic run, from a seed that is printed.
//!
//! Three processes with the real Raft node (openraft, our log and snapshots, our state), the real
//! replicated journal, and machines of two-phase commit that take their locks in the cluster, over
//! simulated stores. Not the engine and not the sockets: the driver is `support/driving`, and the
//! network stands behind the port `consensus::raft::transport`.
//!
//! Why not turmoil: what it adds is simulated sockets, and the port of the transport makes them
//! needless; its way to run many hosts on one thread is kept. Each process has a runtime of one
//! thread with a paused clock, and the world lets each run for a tick after the other. So a process
//! dies by dropping its runtime, and stalls by not being run. The network, the disk's cache, the
//! wall clocks and chance itself are by the seed (`crate::simulated`). Tokio and futures count
//! their sources of chance for each process of the system: a seed has a process of its own.
//!
//! Read `world` first. Invariant: the same seed gives the same trace, to the byte.

mod audit;
mod driver;
#[path = "../../tests/engine/support/driving.rs"]
mod driving;
mod ending;
mod locking;
mod misfortune;
mod network;
mod planted;
mod process;
#[path = "../../tests/engine/support/random.rs"]
mod random;
mod seeds_test;
mod store;
mod witness;
mod world;
