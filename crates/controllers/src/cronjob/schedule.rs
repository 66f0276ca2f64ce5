//! When a cron schedule is due, as `github.com/robfig/cron/v3` reads it (`ParseStandard`), in UTC.

use base::Timestamp;

/// Years that are searched for the next time: 29 February comes every eight at worst.
const DAYS_MAX: i64 = 366 * 9;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Schedule {
    /// The five fields, as bits.
    Fields { minutes: u64, hours: u64, days: u64, months: u64, weekdays: u64, any_day: bool, any_weekday: bool },
    /// `@every`, in seconds.
    Every(i64),
}

impl Schedule {
    /// Reads a schedule; `None` for what validation refuses.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            Some(rest) => rest.split_once(' ')?.1.trim(),
            None => text.trim(),
        };
        if let Some(every) = text.strip_prefix("@every ") {
            let nanos = machinery::duration::parse(every).ok()?;
            return Some(Self::Every((nanos / 1_000_000_000).max(1)));
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts.as_slice() else { return None };
        let any = |field: &str| field.split(',').any(|p| matches!(p.split('/').next(), Some("*" | "?")));
        Some(Self::Fields {
            minutes: bits(minutes, (0, 59), &[])?,
            hours: bits(hours, (0, 23), &[])?,
            days: bits(days, (1, 31), &[])?,
            months: bits(months, (1, 12), &MONTHS)?,
            weekdays: bits(weekdays, (0, 6), &DAYS)?,
            any_day: any(days),
            any_weekday: any(weekdays),
        })
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let seconds = after.unix_seconds();
        match self {
            Self::Every(every) => Some(Timestamp::from_unix_seconds(seconds + every)),
            Self::Fields { minutes, hours, .. } => {
                let first = seconds.div_euclid(60) + 1;
                let (first_day, first_minute) = (first.div_euclid(1440), first.rem_euclid(1440));
                let (day, from) = (first_day..first_day + DAYS_MAX)
                    .filter(|day| self.takes_day(*day))
                    .map(|day| (day, if day == first_day { first_minute } else { 0 }))
                    .find_map(|(day, from)| {
                        let due = |m: &i64| has(*hours, m / 60) && has(*minutes, m % 60);
                        Some((day, (from..1440).find(due)?))
                    })?;
                Some(Timestamp::from_unix_seconds((day * 1440 + from) * 60))
            }
        }
    }

    /// Days of month and of week narrow each other, unless both are given: then either will do.
    fn takes_day(&self, day: i64) -> bool {
        let Self::Fields { days, months, weekdays, any_day, any_weekday, .. } = self else { return true };
        let (month, of_month) = month_and_day(day);
        let (by_month, by_week) = (has(*days, of_month), has(*weekdays, (day + 4).rem_euclid(7)));
        has(*months, month) && if *any_day || *any_weekday { by_month && by_week } else { by_month || by_week }
    }
}

const fn has(bits: u64, n: i64) -> bool {
    bits >> n & 1 == 1
}

/// Month (from 1) and day (from 1) of a day since 1970, after Howard Hinnant's `civil_from_days`.
const fn month_and_day(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1)
}

fn bits(field: &str, bounds: (i64, i64), names: &[&str]) -> Option<u64> {
    field.split(',').try_fold(0, |all, part| Some(all | part_bits(part, bounds, names)?))
}

fn part_bits(part: &str, (min, max): (i64, i64), names: &[&str]) -> Option<u64> {
    let (span, step) = part.split_once('/').map_or((part, None), |(span, step)| (span, Some(step)));
    let number = |text: &str| {
        let named = names.iter().position(|n| n.eq_ignore_ascii_case(text));
        named.map_or_else(|| text.parse().ok(), |at| i64::try_from(at).ok().map(|at| at + min))
    };
    let (low, high) = match span.split_once('-') {
        _ if matches!(span, "*" | "?") => (min, max),
        Some((low, high)) => (number(low)?, number(high)?),
        None => {
            let low = number(span)?;
            (low, if step.is_some() { max } else { low })
        }
    };
    let step: usize = step.map_or(Some(1), |s| s.parse().ok().filter(|s| *s > 0))?;
    (min <= low && low <= high && high <= max).then(|| (low..=high).step_by(step).fold(0, |all, n| all | 1 << n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_time_of_a_schedule() {
        let cases = [
            ("*/1 * * * *", "2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"),
            ("*/15 * * * *", "2027-01-15T08:01:30Z", "2027-01-15T08:15:00Z"),
            ("5/20 * * * *", "2027-01-15T08:26:00Z", "2027-01-15T08:45:00Z"),
            ("30 4 * * *", "2027-01-15T08:00:00Z", "2027-01-16T04:30:00Z"),
            ("0 0 1 1 *", "2027-01-15T08:00:00Z", "2028-01-01T00:00:00Z"),
            ("@monthly", "2027-01-31T00:00:00Z", "2027-02-01T00:00:00Z"),
            ("0 12 * * mon-fri", "2027-01-15T12:00:00Z", "2027-01-18T12:00:00Z"),
            ("0 0 13 * FRI", "2027-01-15T12:00:00Z", "2027-01-22T00:00:00Z"),
            ("0 0 29 feb ?", "2027-01-15T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@every 90s", "2027-01-15T08:00:00Z", "2027-01-15T08:01:30Z"),
            ("TZ=UTC 0 9 * * *", "2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"),
        ];
        for (text, after, expect) in cases {
            let next = Schedule::parse(text).unwrap().next(Timestamp::parse(after).unwrap());
            assert_eq!(next.unwrap().rfc3339(), expect, "{text}");
        }
        assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(Timestamp::from_unix_seconds(0)), None);
        for bad in ["", "* * * *", "60 * * * *", "5-1 * * * *", "*/0 * * * *", "x * * * *"] {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }
}
