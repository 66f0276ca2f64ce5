//! Timestamps and durations, read and written as Go does.

use std::cmp::Ordering;
use std::fmt;

use crate::number::INT_OVERFLOW;

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;
/// Years 1 to 9999.
pub(crate) const SECONDS_MIN: i64 = -62_135_596_800;
pub(crate) const SECONDS_MAX: i64 = 253_402_300_799;

/// A moment, and the zone it was written in (which its text keeps).
#[derive(Clone, Copy, Debug)]
pub struct Time {
    /// Since 1970.
    pub seconds: i64,
    pub nanos: u32,
    /// East of Greenwich.
    pub offset_seconds: i32,
}

impl Time {
    /// A moment in UTC.
    pub const fn utc(seconds: i64, nanos: u32) -> Self {
        Self { seconds, nanos, offset_seconds: 0 }
    }

    pub(crate) fn cmp(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }

    /// Go's `time.Parse(time.RFC3339, …)`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let number = |from: usize, to: usize| -> Option<i64> {
            let part = bytes.get(from..to)?;
            part.iter().all(u8::is_ascii_digit).then(|| part.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
        };
        let is = |at: usize, wanted: u8| bytes.get(at) == Some(&wanted);
        if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
            return None;
        }
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let mut at = 19;
        let mut nanos = 0;
        if is(at, b'.') || is(at, b',') {
            let count = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if count == 0 {
                return None;
            }
            for i in 0..9 {
                nanos = nanos * 10 + if i < count { u32::from(bytes[at + 1 + i] - b'0') } else { 0 };
            }
            at += 1 + count;
        }
        let offset_seconds = match bytes.get(at)? {
            b'Z' if bytes.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if bytes.len() == at + 6 && is(at + 3, b':') => {
                let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
                if hours > 24 || minutes > 60 {
                    return None;
                }
                let east = i32::try_from(hours * 3600 + minutes * 60).ok()?;
                if *sign == b'-' { -east } else { east }
            }
            _ => return None,
        };
        if !(1..=12).contains(&month)
            || day < 1
            || day > days_in(year, month)
            || hour > 23
            || minute > 59
            || second > 59
        {
            return None;
        }
        let seconds = days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
        Some(Self { seconds: seconds - i64::from(offset_seconds), nanos, offset_seconds })
    }

    pub(crate) const fn is_in_range(&self) -> bool {
        SECONDS_MIN <= self.seconds && self.seconds <= SECONDS_MAX
    }

    /// Some nanoseconds later.
    pub(crate) fn plus(&self, nanos: i64) -> Result<Self, &'static str> {
        let sum = i64::from(self.nanos) + nanos.rem_euclid(NANOS);
        let seconds = self.seconds.checked_add(nanos.div_euclid(NANOS)).and_then(|s| s.checked_add(sum / NANOS));
        let later = Self { seconds: seconds.ok_or(INT_OVERFLOW)?, nanos: (sum % NANOS) as u32, ..*self };
        if later.is_in_range() { Ok(later) } else { Err("timestamp overflow") }
    }

    /// The nanoseconds since another moment.
    pub(crate) fn since(&self, other: &Self) -> Result<i64, &'static str> {
        let seconds = self.seconds.checked_sub(other.seconds).and_then(|s| s.checked_mul(NANOS));
        let nanos = i64::from(self.nanos) - i64::from(other.nanos);
        seconds.and_then(|s| s.checked_add(nanos)).ok_or(INT_OVERFLOW)
    }

    /// Its parts on the clock and in the calendar of a zone that many seconds east.
    pub(crate) fn parts(&self, offset_seconds: i64) -> Parts {
        let local = self.seconds + offset_seconds;
        let days = local.div_euclid(DAY);
        let second = local.rem_euclid(DAY);
        let (year, month, day) = civil_from_days(days);
        Parts {
            year,
            month,
            day,
            day_of_year: days - days_from_civil(year, 1, 1),
            weekday: (days + 4).rem_euclid(7),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            milli: i64::from(self.nanos) / 1_000_000,
        }
    }
}

/// RFC 3339 with as many digits of the second as there are.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { year, month, day, hour, minute, second, .. } = self.parts(i64::from(self.offset_seconds));
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanos > 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        match self.offset_seconds {
            0 => f.write_str("Z"),
            east => {
                let sign = if east < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", east.abs() / 3600, east.abs() / 60 % 60)
            }
        }
    }
}

/// What `getHours` and the like read. Days of the year and of the week count from zero.
pub(crate) struct Parts {
    pub(crate) year: i64,
    pub(crate) month: i64,
    pub(crate) day: i64,
    pub(crate) day_of_year: i64,
    pub(crate) weekday: i64,
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    pub(crate) second: i64,
    pub(crate) milli: i64,
}

const fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a date (Howard Hinnant's algorithm).
pub(crate) const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

const fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + if month <= 2 { 1 } else { 0 }, month, day)
}

/// Go's `time.ParseDuration`: nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (is_negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let length = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let unit: u64 = match &after[..length] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let kept = &fraction[..fraction.len().min(18)];
        let part = kept.parse::<u64>().unwrap_or_default() as f64 * (unit as f64 / 10_f64.powi(kept.len() as i32));
        total = total.checked_add(whole.checked_mul(unit)?)?.checked_add(part as u64)?;
        if total > 1 << 63 {
            return None;
        }
        rest = &after[length..];
    }
    if is_negative {
        return Some((total as i64).wrapping_neg());
    }
    i64::try_from(total).ok()
}

/// `string(duration)`: seconds, with as many digits as needed.
pub(crate) fn duration_seconds_text(nanos: i64) -> String {
    let seconds = nanos.unsigned_abs() / NANOS.unsigned_abs();
    let rest = nanos.unsigned_abs() % NANOS.unsigned_abs();
    let fraction = format!(".{rest:09}");
    let fraction = if rest == 0 { "" } else { fraction.trim_end_matches('0') };
    format!("{}{seconds}{fraction}s", if nanos < 0 { "-" } else { "" })
}

/// Go's `Duration.String`, as messages show it.
pub(crate) fn duration_text(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let decimal = |unit: u64, name: &str| {
        let text = format!("{}.{:0width$}", all / unit, all % unit, width = unit.ilog10() as usize);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{sign}{text}{name}")
    };
    match all {
        0..1000 => format!("{sign}{all}ns"),
        1000..1_000_000 => decimal(1000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (all / 3_600_000_000_000, all / 60_000_000_000 % 60);
            let seconds = duration_seconds_text((all % 60_000_000_000) as i64);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, _) => format!("{sign}{minutes}m{seconds}"),
                _ => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}
