//! A short look for records before the writer sleeps.
//!
//! Where callers wait for one answer before they ask again, the next record comes within the time
//! that waking a sleeping thread takes. Looking for it costs processor time, so it is done only
//! where it has paid lately. Invariant: a look ends after [`LOOK_MAX`], whatever comes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// About the cost of a sleep and a wake on a virtual machine, measured as 30 to 60 us a side.
const LOOK_MAX: Duration = Duration::from_micros(100);
/// How many looks in vain are borne after a row of good ones.
const CREDIT_MAX: u32 = 8;
const CREDIT_FOR_SUCCESS: u32 = 2;
/// Without credit one in so many is still tried, to notice that times have changed.
const PROBE_EVERY: u32 = 64;

/// Whether looking pays, by what happened lately. Used by one thread.
#[derive(Debug, Default)]
pub(super) struct Linger {
    credit: AtomicU32,
    skipped: AtomicU32,
}

impl Linger {
    /// Looks until `has_come`, for a moment, if that has paid lately.
    pub(super) fn look(&self, has_come: impl Fn() -> bool) {
        let credit = self.credit.load(Ordering::Relaxed);
        if credit == 0 && !self.skipped.fetch_add(1, Ordering::Relaxed).is_multiple_of(PROBE_EVERY)
        {
            return;
        }
        let until = Instant::now() + LOOK_MAX;
        let mut came = has_come();
        while !came && Instant::now() < until {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
            came = has_come();
        }
        let credit = if came {
            (credit + CREDIT_FOR_SUCCESS).min(CREDIT_MAX)
        } else {
            credit.saturating_sub(1)
        };
        self.credit.store(credit, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_in_vain_is_given_up_and_good_looks_earn_more() {
        let linger = Linger::default();
        linger.look(|| true);
        assert_eq!(linger.credit.load(Ordering::Relaxed), CREDIT_FOR_SUCCESS);
        for _ in 0..CREDIT_FOR_SUCCESS {
            linger.look(|| false);
        }
        assert_eq!(linger.credit.load(Ordering::Relaxed), 0);
    }
}
