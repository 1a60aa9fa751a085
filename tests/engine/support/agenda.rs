//! What will happen in a simulated world, in order of time.
//!
//! Not the world. Invariant: what is to happen at one time happens in the order in which it was
//! planned, so that a seed gives the same run each time.

use std::collections::BTreeMap;
use std::time::Duration;

use unanimity::model::time::Timestamp;

pub(crate) struct Agenda<H> {
    plans: BTreeMap<(Timestamp, u64), H>,
    planned: u64,
}

impl<H> Default for Agenda<H> {
    fn default() -> Self {
        Self { plans: BTreeMap::new(), planned: 0 }
    }
}

impl<H> Agenda<H> {
    /// Plans something.
    pub(crate) fn plan(&mut self, at: Timestamp, happening: H) {
        self.planned += 1;
        self.plans.insert((at, self.planned), happening);
    }

    /// What happens next, and when.
    pub(crate) fn next(&mut self) -> Option<(Timestamp, H)> {
        self.plans.pop_first().map(|((at, _), happening)| (at, happening))
    }
}

/// A line of a trace.
pub(crate) fn trace_line(now: Timestamp, text: &str) -> String {
    let micros = u64::try_from(now.0).expect("time begins at 0");
    format!("{:>10.3}s {text}", Duration::from_micros(micros).as_secs_f64())
}
