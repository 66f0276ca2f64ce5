//! Resource quantities: `1500m`, `1.5Gi`, `12e6`; exact decimals, printed canonically.

use std::cmp::Ordering;
use std::fmt;

const FORMAT_ERROR: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const NUMERIC_ERROR: &str = "unable to parse numeric part of quantity";
const SUFFIX_ERROR: &str = "unable to parse quantity's suffix";
/// Nothing finer than a nano is kept: it is rounded away from zero.
const EXPONENT_MIN: i32 = -9;
/// More digits than any machine has bytes or CPUs.
const DIGITS_MAX: usize = 36;

/// Which family of suffixes the quantity is printed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `k`, `M`, `G` …; `m`, `u`, `n`
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, `Gi` …
    BinarySi,
    /// `e3`, `e6` …
    DecimalExponent,
}

/// `number * 10^exponent`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    number: i128,
    exponent: i32,
    format: Format,
}

impl Quantity {
    /// Reads a quantity.
    ///
    /// # Errors
    /// In the words of `resource.ParseQuantity`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(FORMAT_ERROR),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let number_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, mut rest) = rest.split_at(number_len);
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let len = after.bytes().take_while(u8::is_ascii_digit).count();
            (fraction, rest) = after.split_at(len);
        }
        let (base, exponent, mut format) = suffix(rest)?;
        let digits = |s: &str| s.bytes().try_fold(0_i128, |n, b| n.checked_mul(10)?.checked_add(i128::from(b - b'0')));
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (mut number, mut scale) = if whole.len() + fraction.len() > DIGITS_MAX {
            // Keep what can matter, rounding up.
            let kept = &fraction[..fraction.len().min(DIGITS_MAX.saturating_sub(whole.len()))];
            let all = format!("{whole}{kept}");
            let head = &all[..all.len().min(DIGITS_MAX)];
            let dropped = i32::try_from(all.len() - head.len()).map_err(|_| NUMERIC_ERROR)?;
            let up = i128::from(kept.len() < fraction.len());
            (digits(head).ok_or(NUMERIC_ERROR)? + up, dropped - kept.len() as i32)
        } else {
            let all = digits(whole).and_then(|w| {
                fraction.bytes().try_fold(w, |n, b| n.checked_mul(10)?.checked_add(i128::from(b - b'0')))
            });
            (all.ok_or(NUMERIC_ERROR)?, -(fraction.len() as i32))
        };
        if base == 10 {
            scale = scale.saturating_add(exponent);
        } else {
            number = number.saturating_mul(1_i128 << exponent);
        }
        let mut q = Self { number, exponent: scale, format: Format::DecimalSi }.rounded_up(EXPONENT_MIN);
        if format == Format::BinarySi {
            let max = Self { number: i128::from(i64::MAX), exponent: 0, format };
            if q.magnitude_cmp(&max) == Ordering::Greater {
                q = max;
            }
            if q.number > 0 && q.magnitude_cmp(&Self { number: 1, exponent: 0, format }) == Ordering::Less {
                format = Format::DecimalSi;
            }
        }
        q.format = format;
        if negative {
            q.number = q.number.saturating_neg();
        }
        Ok(q)
    }

    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Self {
        Self { number: value as i128, exponent: 0, format }
    }

    /// A number of thousandths.
    pub const fn from_milli(value: i64) -> Self {
        Self { number: value as i128, exponent: -3, format: Format::DecimalSi }
    }

    /// How it is printed.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The number, rounded up to whole units; saturates.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The number in thousandths, rounded up; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// The nearest float.
    pub fn as_f64(&self) -> f64 {
        self.number as f64 * 10_f64.powi(self.exponent)
    }

    /// The whole number of units, when it is one.
    pub fn as_i64(&self) -> Option<i64> {
        let q = self.reduced();
        if q.exponent < 0 {
            return None;
        }
        i64::try_from(q.number.checked_mul(power(q.exponent)?)?).ok()
    }

    /// Is it zero?
    pub const fn is_zero(&self) -> bool {
        self.number == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(&self) -> i32 {
        self.number.signum() as i32
    }

    /// The sum, in this one's format (the other's when this is zero).
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        let exponent = self.exponent.min(other.exponent);
        let number = self.at_exponent(exponent).saturating_add(other.at_exponent(exponent));
        Self { number, exponent, format }
    }

    /// The difference, in this one's format (the other's when this is zero).
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self { number: other.number.saturating_neg(), ..*other })
    }

    fn at_exponent(&self, exponent: i32) -> i128 {
        if self.number == 0 {
            return 0;
        }
        let limit = if self.number < 0 { i128::MIN } else { i128::MAX };
        power(self.exponent - exponent).and_then(|p| self.number.checked_mul(p)).unwrap_or(limit)
    }

    fn scaled(&self, exponent: i32) -> i64 {
        let q = self.rounded_up(exponent);
        let n = q.at_exponent(exponent);
        i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
    }

    /// Nothing finer than `exponent`, rounded away from zero.
    fn rounded_up(&self, exponent: i32) -> Self {
        if self.exponent >= exponent || self.number == 0 {
            return *self;
        }
        let sign = self.number.signum();
        let number = power(exponent - self.exponent).map_or(sign, |p| {
            let (whole, rest) = (self.number / p, self.number % p);
            if rest == 0 { whole } else { whole + sign }
        });
        Self { number, exponent, format: self.format }
    }

    /// Without trailing zeros.
    fn reduced(&self) -> Self {
        let mut q = *self;
        if q.number == 0 {
            return Self { exponent: 0, ..q };
        }
        while q.number % 10 == 0 {
            q.number /= 10;
            q.exponent += 1;
        }
        q
    }

    fn magnitude_cmp(&self, other: &Self) -> Ordering {
        Self { number: self.number.saturating_abs(), ..*self }
            .cmp(&Self { number: other.number.saturating_abs(), ..*other })
    }

    fn decimal(&self) -> (i128, i32) {
        let mut q = self.reduced();
        while q.exponent.rem_euclid(3) != 0 {
            q.number = q.number.saturating_mul(10);
            q.exponent -= 1;
        }
        if self.format != Format::DecimalExponent && q.exponent > 18 {
            q.number = q.number.saturating_mul(power(q.exponent - 18).unwrap_or(i128::MAX));
            q.exponent = 18;
        }
        (q.number, q.exponent)
    }
}

fn power(exponent: i32) -> Option<i128> {
    10_i128.checked_pow(u32::try_from(exponent).ok()?)
}

fn suffix(text: &str) -> Result<(u8, i32, Format), &'static str> {
    let letters = text.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = &text[letters..];
    let digits = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(FORMAT_ERROR);
    }
    let decimal = |exponent| Ok((10, exponent, Format::DecimalSi));
    let binary = |exponent| Ok((2, exponent, Format::BinarySi));
    match text {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => match text.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()) {
            Some(exponent) => Ok((10, exponent, Format::DecimalExponent)),
            None => Err(SUFFIX_ERROR),
        },
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.number == 0 {
            return f.write_str("0");
        }
        let reduced = self.reduced();
        let whole = if reduced.exponent >= 0 { Some(reduced.at_exponent(0)) } else { None };
        if let (Format::BinarySi, Some(mut n)) = (self.format, whole)
            && n.unsigned_abs() >= 1024
        {
            let mut i = 0;
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            while n % 1024 == 0 && i < SUFFIXES.len() - 1 {
                n /= 1024;
                i += 1;
            }
            return write!(f, "{n}{}", SUFFIXES[i]);
        }
        let (number, exponent) = self.decimal();
        write!(f, "{number}")?;
        if exponent == 0 {
            return Ok(());
        }
        if self.format == Format::DecimalExponent {
            return write!(f, "e{exponent}");
        }
        f.write_str(match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// By value, whatever the format.
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let exponent = self.exponent.min(other.exponent);
        self.at_exponent(exponent).cmp(&other.at_exponent(exponent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_canonically_and_rounds_up() {
        let cases = [
            ("1", "1", 1, 1000),
            ("0.5", "500m", 1, 500),
            ("1500m", "1500m", 2, 1500),
            ("1000m", "1", 1, 1000),
            ("1.5Gi", "1536Mi", 1_610_612_736, 1_610_612_736_000),
            ("1024Mi", "1Gi", 1_073_741_824, 1_073_741_824_000),
            ("100Ki", "100Ki", 102_400, 102_400_000),
            ("1e3", "1e3", 1000, 1_000_000),
            ("0.0000000001", "1n", 1, 1),
            ("-1.5", "-1500m", -2, -1500),
            ("0Mi", "0", 0, 0),
            ("100E", "100E", i64::MAX, i64::MAX),
            ("0.1Mi", "104857600m", 104_858, 104_857_600),
            ("123456789012345678901234567890Ki", "9223372036854775807", i64::MAX, i64::MAX),
            ("1.2e-3", "1200e-6", 1, 2),
            ("512", "512", 512, 512_000),
            ("-1Mi", "-1Mi", -1_048_576, -1_048_576_000),
            ("1e-12", "1e-9", 1, 1),
            (".5", "500m", 1, 500),
            ("10000", "10k", 10_000, 10_000_000),
            ("1e20", "100e18", i64::MAX, i64::MAX),
            ("1e100", "10e99", i64::MAX, i64::MAX),
            ("1000000000000000000000", "1000E", i64::MAX, i64::MAX),
            ("0.5Ki", "512", 512, 512_000),
            ("Mi", "0", 0, 0),
        ];
        for (text, canonical, value, milli) in cases {
            let q = Quantity::parse(text).unwrap();
            assert_eq!((q.to_string().as_str(), q.value(), q.milli_value()), (canonical, value, milli), "{text}");
        }
    }

    #[test]
    fn refuses_what_upstream_refuses() {
        for (text, error) in [("", FORMAT_ERROR), ("5x", FORMAT_ERROR), ("1 ", FORMAT_ERROR), ("3e", SUFFIX_ERROR)] {
            assert_eq!(Quantity::parse(text).map(|q| q.to_string()), Err(error), "{text}");
        }
        for text in ["1e99999999", "-1e-2147483648", &"9".repeat(500), &format!("0.{}1", "0".repeat(500))] {
            let _ = Quantity::parse(text)
                .map(|q| (q.to_string(), q.value(), q.plus(&q), q.cmp(&Quantity::new(1, Format::DecimalSi))));
        }
    }

    #[test]
    fn adds_exactly_and_compares_by_value() {
        let q = |text| Quantity::parse(text).unwrap();
        assert_eq!(q("1500m").plus(&q("0.5")).to_string(), "2");
        assert_eq!(q("0").plus(&q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1Gi").minus(&q("512Mi")).to_string(), "512Mi");
        assert!(q("1Ki") > q("1k") && q("1000m") == q("1"));
    }
}
