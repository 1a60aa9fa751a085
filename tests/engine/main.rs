//! The engine's tests: one target, a module for each subject.

#![allow(missing_docs)]

mod postgres;
mod postgres_rate;
mod support;
