//! A histogram that any thread may add to without waiting: counts by upper bound, and a sum.
//!
//! Not a metric: names and labels are `observe`'s. Values are whole numbers in a small unit
//! (microseconds, records). Invariant: an observation is in exactly one bucket for ever; the sum
//! and the buckets are read one after the other, so a reading may miss what comes meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds for durations, in microseconds: from 0.1 ms to a minute.
pub static DURATIONS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// Upper bounds for how many were done at once.
pub static COUNTS: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000];

/// Observations by upper bound.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One more than there are bounds: the last has what is above them all.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram held when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The upper bounds, growing.
    pub bounds: &'static [u64],
    /// How many were above the bound before and not above this one; the last: above all bounds.
    pub buckets: Vec<u64>,
    /// All values together.
    pub sum: u64,
}

impl Histogram {
    /// An empty one with these upper bounds, which grow.
    pub fn new(bounds: &'static [u64]) -> Self {
        debug_assert!(bounds.is_sorted());
        let buckets = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, buckets, sum: AtomicU64::new(0) }
    }

    /// Adds one observation.
    pub fn add(&self, value: u64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds one observation of a duration, in microseconds.
    pub fn add_duration(&self, duration: Duration) {
        self.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// What it holds now.
    pub fn read(&self) -> Reading {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        Reading { bounds: self.bounds, buckets, sum: self.sum.load(Ordering::Relaxed) }
    }
}

impl Reading {
    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_bucket_of_the_least_bound_that_is_not_below_it() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.add(value);
        }
        let reading = histogram.read();
        assert_eq!(reading.buckets, [2, 2, 2]);
        assert_eq!((reading.count(), reading.sum), (6, 1_062));
    }

    #[test]
    fn threads_that_add_at_once_lose_nothing() {
        let histogram = Histogram::new(DURATIONS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|value| histogram.add(value)));
            }
        });
        let reading = histogram.read();
        assert_eq!((reading.count(), reading.sum), (4_000, 4 * 499_500));
    }
}
