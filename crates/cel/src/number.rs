//! Numbers: comparison across types, checked arithmetic, Go's texts of doubles.

use std::cmp::Ordering;

use crate::value::Val;

pub(crate) const INT_OVERFLOW: &str = "integer overflow";
pub(crate) const UINT_OVERFLOW: &str = "unsigned integer overflow";

/// The whole number a double is.
pub(crate) fn whole(d: f64) -> Option<i128> {
    (d.fract() == 0.0 && d.abs() < 1e20).then_some(d as i128)
}

/// How two numbers are ordered; `None` for NaN and for what is no number.
pub(crate) fn compare(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    let int = |v: &Val<'_>| match v {
        Val::Int(i) => Some(i128::from(*i)),
        Val::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    match (a, b) {
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Double(d), _) => compare_double(*d, b),
        (_, Val::Double(d)) => compare_double(*d, a).map(Ordering::reverse),
        _ => Some(int(a)?.cmp(&int(b)?)),
    }
}

/// A double against a whole number: out of its range by size, else as doubles (`compareDoubleInt`).
fn compare_double(d: f64, other: &Val<'_>) -> Option<Ordering> {
    let (least, most, value) = match other {
        Val::Int(i) => (i64::MIN as f64, i64::MAX as f64, *i as f64),
        Val::Uint(u) => (0.0, u64::MAX as f64, *u as f64),
        _ => return None,
    };
    if d < least {
        Some(Ordering::Less)
    } else if d > most {
        Some(Ordering::Greater)
    } else {
        d.partial_cmp(&value)
    }
}

/// Go's `%g`, shortest: `1e+06`, `0.5`, `+Inf`.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if d != 0.0 && !(-4..EXPONENT_MIN).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{d}")
}

/// From this exponent on Go writes it (`strconv`, shortest form).
const EXPONENT_MIN: i32 = 6;

/// `time.ParseFloat`'s idea of a number: hexadecimal and underscores only as Go's literals have them.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    let (sign, body) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    match body.to_ascii_lowercase().as_str() {
        "inf" | "infinity" => return Some(sign * f64::INFINITY),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    let value = if body.starts_with("0x") || body.starts_with("0X") {
        hexadecimal(&body[2..])?
    } else {
        let fits = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_');
        if !body.bytes().all(fits) || !body.bytes().any(|b| b.is_ascii_digit()) || !has_good_underscores(body) {
            return None;
        }
        body.replace('_', "").parse::<f64>().ok()?
    };
    value.is_finite().then_some(sign * value)
}

/// Underscores stand between digits only.
fn has_good_underscores(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    (0..bytes.len()).filter(|at| bytes[*at] == b'_').all(|at| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)))
}

/// `1.8p-3`, the part of a hexadecimal number after `0x`.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 13 {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()? as f64;
    Some(number * 2_f64.powi(exponent - 4 * i32::try_from(fraction.len()).ok()?))
}

/// `strconv.ParseInt(text, 10, 64)`
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// `strconv.ParseUint(text, 10, 64)`, which takes no sign.
pub(crate) fn parse_uint(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// To an int, without the fraction.
pub(crate) fn double_to_int(d: f64) -> Result<i64, &'static str> {
    let fits = d > i64::MIN as f64 && d < i64::MAX as f64;
    if fits { Ok(d as i64) } else { Err(INT_OVERFLOW) }
}

/// To a uint, without the fraction.
pub(crate) fn double_to_uint(d: f64) -> Result<u64, &'static str> {
    let fits = (0.0..18_446_744_073_709_551_616.0).contains(&d);
    if fits { Ok(d as u64) } else { Err(UINT_OVERFLOW) }
}
