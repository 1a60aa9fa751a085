//! Time as a number that is handed in. Not a clock: nothing here reads one.
//!
//! Invariant: a [`Timestamp`] is microseconds since 1970-01-01T00:00:00Z, so it can be journalled
//! and shown to people; the engine's clock makes it grow monotonically within one process.

use std::fmt::{self, Write as _};
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time, in microseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time that lies before every other: a deadline that has always passed.
    pub const PAST: Self = Self(i64::MIN);

    /// How long after `earlier` this is, zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// RFC 3339 in UTC with microseconds, the form that the journal's text columns hold.
    pub fn to_rfc3339(self) -> String {
        let (days, micros) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let (year, month, day) = civil_from_days(days);
        let seconds = micros / 1_000_000;
        let mut text = String::with_capacity(32);
        if (0..10_000).contains(&year) {
            push_digits(&mut text, year, 1_000);
        } else {
            let _ = write!(text, "{year:04}");
        }
        // A journal writes a dozen of these for each coordination; formatting them one by one
        // would cost more than the row.
        for (mark, number) in [
            ('-', month),
            ('-', day),
            ('T', seconds / 3_600),
            (':', seconds / 60 % 60),
            (':', seconds % 60),
        ] {
            text.push(mark);
            push_digits(&mut text, number, 10);
        }
        text.push('.');
        push_digits(&mut text, micros % 1_000_000, 100_000);
        text.push_str("+00:00");
        text
    }
}

/// Adds the decimal digits of `number` from the place of `unit` down.
fn push_digits(text: &mut String, number: i64, mut unit: i64) {
    while unit > 0 {
        let digit = u8::try_from(number / unit % 10).unwrap_or(0);
        text.push(char::from(b'0' + digit));
        unit /= 10;
    }
}

/// Year, month and day of a count of days since the epoch, by shifting the year to begin in March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_printed_as_civil_dates() {
        assert_eq!(Timestamp(0).to_rfc3339(), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(Timestamp(951_782_400_000_001).to_rfc3339(), "2000-02-29T00:00:00.000001+00:00");
        assert_eq!(Timestamp(-1).to_rfc3339(), "1969-12-31T23:59:59.999999+00:00");
        assert_eq!(Timestamp(i64::MAX).to_rfc3339(), "294247-01-10T04:00:54.775807+00:00");
    }
}
