//! Cron schedules, as far as validity goes, in the words of `github.com/robfig/cron/v3`.

const FIELDS: [(&str, u32, u32); 5] =
    [("minute", 0, 59), ("hour", 0, 23), ("dom", 1, 31), ("month", 1, 12), ("dow", 0, 6)];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Is it a schedule?
pub(crate) fn parse(text: &str) -> Result<(), String> {
    let text = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, schedule)| schedule).trim(),
        None => text,
    };
    if let Some(descriptor) = text.strip_prefix('@') {
        if let Some(duration) = descriptor.strip_prefix("every ") {
            return match machinery::duration::parse(duration) {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("failed to parse duration {text}: {error}")),
            };
        }
        let known = DESCRIPTORS.contains(&text);
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {text}")) };
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(FIELDS).try_for_each(|(field, bounds)| field.split(',').try_for_each(|part| range(part, bounds)))
}

fn range(part: &str, (name, min, max): (&str, u32, u32)) -> Result<(), String> {
    let mut pieces = part.split('/');
    let (span, step) = (pieces.next().unwrap_or_default(), pieces.next());
    if pieces.next().is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let mut ends = span.split('-');
    let (low, high) = (ends.next().unwrap_or_default(), ends.next());
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {part}"));
    }
    let (start, end) = if low == "*" || low == "?" {
        (min, max)
    } else {
        let start = number(low, name)?;
        (start, high.map_or(Ok(start), |high| number(high, name))?)
    };
    if start < min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {part}"));
    }
    if end > max {
        return Err(format!("end of range ({end}) above maximum ({max}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    match step.map(|step| number(step, "")) {
        Some(Ok(0)) => Err(format!("step of range should be a positive number: {part}")),
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(()),
    }
}

fn number(text: &str, field: &str) -> Result<u32, String> {
    let names: &[&str] = match field {
        "month" => &MONTHS,
        "dow" => &DAYS,
        _ => &[],
    };
    let lower = text.to_lowercase();
    if let Some(i) = names.iter().position(|n| *n == lower) {
        return Ok(u32::try_from(i).unwrap_or(0) + u32::from(field == "month"));
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn schedules_are_judged_as_the_cron_library_does() {
        for good in ["* * * * *", "*/5 0-3 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 * * 6"] {
            assert_eq!(parse(good), Ok(()), "{good}");
        }
        for (bad, text) in [
            ("hello", "expected exactly 5 fields, found 1: [hello]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@soon", "unrecognized descriptor: @soon"),
        ] {
            assert_eq!(parse(bad).unwrap_err(), text);
        }
    }
}
