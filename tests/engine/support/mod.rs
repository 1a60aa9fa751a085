//! What several tests of the engine need.

pub(crate) mod agenda;
pub(crate) mod driving;
pub(crate) mod fenced;
pub(crate) mod keeper_proxy;
pub(crate) mod lock_caller;
pub(crate) mod nats;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod redis;
pub(crate) mod seeds;
pub(crate) mod zookeeper;
