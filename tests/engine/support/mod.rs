//! What several tests of the engine need.

pub mod postgres;
