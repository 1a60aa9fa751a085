//! What several tests of the engine need.

pub(crate) mod fenced;
pub(crate) mod postgres;
pub(crate) mod proxy;
