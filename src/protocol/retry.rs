//! Capped exponential backoff with jitter, as a function. Not a timer: the caller adds it to now.
//!
//! Invariant: the same seed and attempt give the same delay; a delay lies between half of and the
//! whole of `min(cap, base * 2^attempt)` ("equal jitter", as in the AWS Architecture Blog's
//! "Exponential Backoff And Jitter").

use std::time::Duration;

/// How delays grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The upper bound of the first delay.
    pub base: Duration,
    /// The upper bound of every delay.
    pub cap: Duration,
    /// Makes different coordinations wait differently.
    pub seed: u64,
}

impl Backoff {
    /// The delay after the `attempt`-th failure, counted from 0.
    pub fn delay(&self, attempt: u32) -> Duration {
        let bound = self.base.saturating_mul(1_u32 << attempt.min(20)).min(self.cap);
        let half = bound / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        half + Duration::from_micros(mix(self.seed ^ u64::from(attempt)) % spread)
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014): spreads near seeds far apart.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_repeat_for_a_seed() {
        let backoff =
            Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(5), seed: 7 };
        for attempt in 0..64 {
            let bound = Duration::from_millis(50 << attempt.min(20)).min(backoff.cap);
            let delay = backoff.delay(attempt);
            assert!(delay >= bound / 2 && delay <= bound, "attempt {attempt}: {delay:?}");
            assert_eq!(delay, backoff.delay(attempt));
        }
        assert_ne!(backoff.delay(3), Backoff { seed: 8, ..backoff }.delay(3));
    }
}
