//! What several tests of the engine need.

pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod random;
