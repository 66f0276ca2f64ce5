//! Instants on the emulator's wall clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// An instant in UTC, in nanoseconds since the Unix epoch (years 1678 to 2262).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// The text was not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseTimestampError;

impl fmt::Display for ParseTimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an RFC 3339 time")
    }
}

impl std::error::Error for ParseTimestampError {}

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(0);

    /// Nanoseconds since the Unix epoch.
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Whole seconds since the Unix epoch.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(NANOS_PER_SECOND))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn unix_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Seconds since the Unix epoch, rounded down.
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(NANOS_PER_SECOND)
    }

    /// Reads RFC 3339, with any offset and any number of fraction digits.
    ///
    /// # Errors
    /// When the text is not RFC 3339 or outside the range of years.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| ParseTimestampError)?;
        i64::try_from(instant.as_nanosecond()).map(Self).map_err(|_| ParseTimestampError)
    }

    /// `2006-01-02T15:04:05Z`, as `metav1.Time` prints.
    pub fn rfc3339(self) -> String {
        self.format(0)
    }

    /// `2006-01-02T15:04:05.000000Z`, as `metav1.MicroTime` prints.
    pub fn rfc3339_micros(self) -> String {
        self.format(6)
    }

    /// Nine fraction digits, as the Google APIs print operation times.
    pub fn rfc3339_nanos(self) -> String {
        self.format(9)
    }

    /// Time elapsed since an earlier instant; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    fn format(self, fraction_digits: u8) -> String {
        let unit = 10_i64.pow(u32::from(9 - fraction_digits));
        let floor = self.0.div_euclid(unit).saturating_mul(unit);
        let instant = jiff::Timestamp::from_nanosecond(i128::from(floor)).expect("an i64 of nanoseconds is in range");
        format!("{instant:.prec$}", prec = usize::from(fraction_digits))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_the_forms_kubernetes_uses() {
        let t = Timestamp::from_unix_nanos(1_700_000_000_123_456_789);
        assert_eq!(t.rfc3339(), "2023-11-14T22:13:20Z");
        assert_eq!(t.rfc3339_micros(), "2023-11-14T22:13:20.123456Z");
        assert_eq!(t.rfc3339_nanos(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(Timestamp::parse("2023-11-15T00:13:20.123456789+02:00"), Ok(t));
        assert_eq!(Timestamp::parse("yesterday"), Err(ParseTimestampError));
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let t = Timestamp::from_unix_seconds(10);
        assert_eq!((t + Duration::from_secs(5)).since(t), Duration::from_secs(5));
        assert_eq!(t.since(t + Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(t + Duration::MAX, Timestamp::from_unix_nanos(i64::MAX));
    }
}
