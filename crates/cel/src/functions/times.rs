//! The parts of timestamps and durations. Without a zone it is UTC (Kubernetes sets `DefaultUTCTimeZone`).

use super::{NO_SUCH_OVERLOAD, Outcome, Row, row, text};
use crate::time::{Parts, Time};
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("timestamp::getFullYear() -> int", "timestamp_to_year", |args| part(args, |p| p.year)),
    row("timestamp::getFullYear(string) -> int", "timestamp_to_year_with_tz", |args| part(args, |p| p.year)),
    row("timestamp::getMonth() -> int", "timestamp_to_month", |args| part(args, |p| p.month - 1)),
    row("timestamp::getMonth(string) -> int", "timestamp_to_month_with_tz", |args| part(args, |p| p.month - 1)),
    row("timestamp::getDayOfYear() -> int", "timestamp_to_day_of_year", |args| part(args, |p| p.day_of_year)),
    row("timestamp::getDayOfYear(string) -> int", "timestamp_to_day_of_year_with_tz", |args| {
        part(args, |p| p.day_of_year)
    }),
    row("timestamp::getDayOfMonth() -> int", "timestamp_to_day_of_month", |args| part(args, |p| p.day - 1)),
    row("timestamp::getDayOfMonth(string) -> int", "timestamp_to_day_of_month_with_tz", |args| {
        part(args, |p| p.day - 1)
    }),
    row("timestamp::getDate() -> int", "timestamp_to_day_of_month_1_based", |args| part(args, |p| p.day)),
    row("timestamp::getDate(string) -> int", "timestamp_to_day_of_month_1_based_with_tz", |args| part(args, |p| p.day)),
    row("timestamp::getDayOfWeek() -> int", "timestamp_to_day_of_week", |args| part(args, |p| p.weekday)),
    row("timestamp::getDayOfWeek(string) -> int", "timestamp_to_day_of_week_with_tz", |args| part(args, |p| p.weekday)),
    row("timestamp::getHours() -> int", "timestamp_to_hours", |args| part(args, |p| p.hour)),
    row("timestamp::getHours(string) -> int", "timestamp_to_hours_with_tz", |args| part(args, |p| p.hour)),
    row("duration::getHours() -> int", "duration_to_hours", |args| whole(args, 3_600_000_000_000)),
    row("timestamp::getMinutes() -> int", "timestamp_to_minutes", |args| part(args, |p| p.minute)),
    row("timestamp::getMinutes(string) -> int", "timestamp_to_minutes_with_tz", |args| part(args, |p| p.minute)),
    row("duration::getMinutes() -> int", "duration_to_minutes", |args| whole(args, 60_000_000_000)),
    row("timestamp::getSeconds() -> int", "timestamp_to_seconds_tz", |args| part(args, |p| p.second)),
    row("timestamp::getSeconds(string) -> int", "timestamp_to_seconds_tz", |args| part(args, |p| p.second)),
    row("duration::getSeconds() -> int", "duration_to_seconds", |args| whole(args, 1_000_000_000)),
    row("timestamp::getMilliseconds() -> int", "timestamp_to_milliseconds", |args| part(args, |p| p.milli)),
    row("timestamp::getMilliseconds(string) -> int", "timestamp_to_milliseconds_with_tz", |args| {
        part(args, |p| p.milli)
    }),
    row("duration::getMilliseconds() -> int", "duration_to_milliseconds", |args| whole(args, 1_000_000)),
];

fn part<'a>(args: &[Val<'a>], take: fn(&Parts) -> i64) -> Outcome<'a> {
    let Val::Timestamp(time) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let zone = args.get(1).map_or(Ok("UTC"), text)?;
    Ok(Val::Int(take(&time.parts(offset(zone, time)?))))
}

fn whole<'a>(args: &[Val<'a>], unit: i64) -> Outcome<'a> {
    let Val::Duration(nanos) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    Ok(Val::Int(nanos / unit))
}

/// Seconds east of Greenwich of `+02:00`, or of a named zone at that time.
fn offset(zone: &str, at: &Time) -> Result<i64, String> {
    let Some((hours, minutes)) = zone.split_once(':') else { return named(zone, at) };
    let number = |text: &str| {
        let syntax = || format!("strconv.Atoi: parsing {}: invalid syntax", machinery::go::quote(text));
        text.parse::<i64>().map_err(|_| syntax())
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let east = if zone.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes };
    Ok(east * 60)
}

fn named(zone: &str, at: &Time) -> Result<i64, String> {
    if matches!(zone, "" | "UTC" | "Local") {
        return Ok(0);
    }
    let unknown = || format!("unknown time zone {zone}");
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(zone).map_err(|_| unknown())?;
    let at = jiff::Timestamp::from_second(at.seconds).map_err(|_| unknown())?;
    Ok(i64::from(zone.to_offset(at).seconds()))
}
