//! The engine's tests, as one target: each further one would link everything again.
//!
//! One line for each subject; what a subject is stands in the header of its file.

#![allow(missing_docs)]

mod choreography;
mod configuration_page;
mod coverage;
mod events_durable;
mod events_nats;
mod events_projected;
mod fencing;
mod fencing_stopped;
mod journal_duties;
mod late_answers;
mod lock_table;
mod locks_postgres;
mod locks_zookeeper;
mod locks_zookeeper_faults;
mod locks_zookeeper_rate;
mod metrics_page;
mod observations;
mod postgres;
mod postgres_outbox;
mod postgres_rate;
mod postgres_receipts;
mod postgres_steps;
mod protocols_page;
mod recovery;
mod redis_restart;
mod scenarios;
mod simulation;
mod simulation_routes;
mod simulation_steps;
mod simulation_streams;
mod strong;
mod support;
mod tidy;
