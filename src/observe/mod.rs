//! What operators are told at once (the port `Alerting`), what metrics and traces are made of
//! (`observation`, the port `Observer`), metrics (`metrics`, `tally`), what alert rules look at
//! (`pulse`), and pictures of what people look at (`graph`, `graph_svg`, `steps_svg`). Not the log:
//! that is `tracing`.
//!
//! Duties of an adapter: `raise` returns at once and never fails.

mod graph;
mod graph_svg;
mod layout;
pub mod metrics;
mod observation;
mod pulse;
mod steps_svg;
mod svg_box;
mod tally;
#[cfg(test)]
mod tally_test;

pub use graph::{Node, Picture};
pub use observation::{Act, Call, Ending, Observation, Observer};
pub use pulse::{Beat, Failure, LostMajority, Pulse};
pub use steps_svg::{StepBox, StepPicture};
pub use tally::Tally;

use crate::model::ids::CoordinationId;

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody should look.
    Medium,
    /// Somebody must act.
    High,
}

impl Severity {
    /// The public name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// How urgent.
    pub severity: Severity,
    /// In a few words.
    pub title: String,
    /// What happened, and what to do.
    pub message: String,
    /// Which coordination it is about.
    pub coordination: CoordinationId,
}

/// Somebody who is told.
pub trait Alerting: Send + Sync {
    /// Takes an alert for delivery.
    fn raise(&self, alert: Alert);
}
