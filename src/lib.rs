//! unanimity: several stores change as one, or none does.
//!
//! This crate is the engine; it knows nothing of Python. Read it from below:
//!
//! - [`model`] (layer 0): the words, plain data.
//! - [`protocol`] (layer 1): the rules, pure state machines. Start with its law.
//! - [`db`] (layer 1): connections to databases, migrations.
//! - [`config`] (layer 0): what may be set, and where it is read from.
//! - [`cluster`] (layer 1): the port of a replicated log.
//! - [`journal`], [`locks`], [`participants`], [`consensus`], [`events`] (layer 2): ports and
//!   adapters that never meet each other.
//! - [`engine`] (layer 3): the only part that drives: it steps machines and carries out effects.
//!
//! The bridge to Python (`python/bindings`, layer 4) and the package people import
//! (`python/unanimity`, layer 5) stand on top. `tests/engine/tidy.rs` holds the layers as data.

/// Files that tests inside and beside this crate share call it by its name.
#[cfg(test)]
extern crate self as unanimity;

pub mod cluster;
pub mod config;
pub mod consensus;
pub mod crash;
pub mod db;
pub mod engine;
pub mod events;
pub mod histogram;
pub mod journal;
pub mod locks;
pub mod model;
pub mod observe;
pub mod participants;
pub mod protocol;
pub mod reply;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulated_cluster;
