//! Durations as Go writes and reads them: `1h2m0.5s`.

const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration, in nanoseconds.
///
/// # Errors
/// In the words of Go's `time.ParseDuration`.
pub fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", crate::go::quote(text));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, after) = rest.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_len = after.bytes().take_while(|b| *b != b'.' && !b.is_ascii_digit()).count();
        let (unit, after) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", crate::go::quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!(
                "time: unknown unit {} in duration {}",
                crate::go::quote(unit),
                crate::go::quote(text)
            ));
        };
        let part = part_nanos(whole, fraction, scale.unsigned_abs()).ok_or_else(invalid)?;
        total = total.checked_add(part).filter(|t| *t <= 1 << 63).ok_or_else(invalid)?;
        rest = after;
    }
    if negative { Ok((total as i64).wrapping_neg()) } else { i64::try_from(total).map_err(|_| invalid()) }
}

fn part_nanos(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale).filter(|n| *n <= 1 << 63)?;
    let mut unit = f64::from(u32::try_from(scale.min(1 << 31)).ok()?);
    if scale > 1 << 31 {
        unit = scale as f64;
    }
    if !fraction.is_empty() {
        // Go keeps as many digits as fit 63 bits.
        let digits = &fraction[..fraction.len().min(18)];
        let value: u64 = digits.parse().ok()?;
        nanos += (value as f64 * (unit / 10_f64.powi(i32::try_from(digits.len()).ok()?))) as u64;
    }
    Some(nanos)
}

/// Prints nanoseconds as Go's `Duration.String`.
pub fn print(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    if n == 0 {
        return "0s".to_owned();
    }
    if n < 1_000_000_000 {
        let (unit, scale) = match n {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{sign}{}{unit}", decimal(n, scale));
    }
    let (hours, minutes) = (n / 3_600_000_000_000, n / 60_000_000_000 % 60);
    let seconds = decimal(n % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(n: u64, scale: u64) -> String {
    let fraction = n % scale;
    if fraction == 0 {
        return (n / scale).to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{}.{}", n / scale, format!("{fraction:0width$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_and_prints_as_go_does() {
        let cases = [
            ("1h", Ok("1h0m0s")),
            ("1.5h", Ok("1h30m0s")),
            ("90s", Ok("1m30s")),
            ("100ms", Ok("100ms")),
            ("-1m", Ok("-1m0s")),
            (".5s", Ok("500ms")),
            ("1us", Ok("1\u{b5}s")),
            ("3000000000ns", Ok("3s")),
            ("1h1m1.001s", Ok("1h1m1.001s")),
            ("0", Ok("0s")),
            ("", Err("time: invalid duration \"\"")),
            ("1", Err("time: missing unit in duration \"1\"")),
            ("1x", Err("time: unknown unit \"x\" in duration \"1x\"")),
            ("1h2", Err("time: missing unit in duration \"1h2\"")),
            (" 1s", Err("time: invalid duration \" 1s\"")),
            ("9999999999h", Err("time: invalid duration \"9999999999h\"")),
        ];
        for (text, expect) in cases {
            assert_eq!(
                super::parse(text).map(super::print),
                expect.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        }
    }
}
