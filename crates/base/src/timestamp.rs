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

/// An instant of any year that RFC 3339 can write: what clients put into objects need not be near today. Nothing is
/// reckoned with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CalendarTime(jiff::civil::DateTime);

const EPOCH: jiff::civil::DateTime = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);

impl CalendarTime {
    /// Reads RFC 3339, with any offset and any number of fraction digits.
    ///
    /// # Errors
    /// When the text is not RFC 3339.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return Ok(Self(jiff::tz::Offset::UTC.to_datetime(instant)));
        }
        // The last hours of the calendar are no instants in every time zone, but they are in UTC.
        let local = text.strip_suffix('Z').ok_or(ParseTimestampError)?;
        local.parse().map(Self).map_err(|_| ParseTimestampError)
    }

    /// From seconds since the Unix epoch and nanoseconds after that; none outside the calendar.
    pub fn from_parts(seconds: i64, nanos: i32) -> Option<Self> {
        EPOCH
            .checked_add(jiff::SignedDuration::new(seconds, 0))
            .ok()?
            .checked_add(jiff::SignedDuration::new(0, nanos))
            .ok()
            .map(Self)
    }

    /// Seconds since the Unix epoch, rounded down, and nanoseconds after that.
    pub fn parts(self) -> (i64, i32) {
        let whole = self.0.duration_since(EPOCH).as_nanos();
        let second = i128::from(NANOS_PER_SECOND);
        let fraction = i32::try_from(whole.rem_euclid(second)).unwrap_or(0);
        (i64::try_from(whole.div_euclid(second)).unwrap_or(0), fraction)
    }

    /// As [`Timestamp::rfc3339`].
    pub fn rfc3339(self) -> String {
        format!("{:.0}Z", self.0)
    }

    /// As [`Timestamp::rfc3339_micros`].
    pub fn rfc3339_micros(self) -> String {
        format!("{:.6}Z", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_far_from_today_are_read_and_written() {
        let check = |text: &str, parts: (i64, i32)| {
            let time = CalendarTime::parse(text).unwrap();
            assert_eq!(time.parts(), parts, "{text}");
            assert_eq!(CalendarTime::from_parts(parts.0, parts.1), Some(time));
            assert_eq!(time.rfc3339_micros(), text);
        };
        check("0001-01-01T00:00:02.000000Z", (-62_135_596_798, 0));
        check("1969-12-31T23:59:59.500000Z", (-1, 500_000_000));
        check("9999-12-31T23:59:59.000000Z", (253_402_300_799, 0));
        assert_eq!(CalendarTime::parse("0001-01-01T00:00:02Z").unwrap().rfc3339(), "0001-01-01T00:00:02Z");
        assert_eq!(CalendarTime::from_parts(i64::MAX, 0), None);
    }

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
