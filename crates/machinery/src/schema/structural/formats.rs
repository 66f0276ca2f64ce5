//! The string formats that CRD schemas may ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

const CHECKED: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
];

fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Is the format one that is checked at all? Others, like `int32`, are ignored.
pub(super) fn is_checked(format: &str) -> bool {
    CHECKED.contains(&normal(format).as_str())
}

/// Does the text have the format?
pub fn matches(format: &str, text: &str) -> bool {
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    match normal(format).as_str() {
        "bsonobjectid" => text.len() == 24 && hex(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && hex(digits)
        }
        "rgbcolor" => is_rgb(text),
        "byte" => !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => is_date(text),
        "datetime" => is_date_time(text),
        "duration" => crate::duration::parse(text).is_ok() || is_spoken_duration(text),
        _ => true,
    }
}

fn is_uri(text: &str) -> bool {
    if text.starts_with('/') {
        return !text.contains(|c: char| c.is_control() || c == ' ');
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !rest.contains(|c: char| c.is_control() || c == ' ')
}

fn is_email(text: &str) -> bool {
    let address = match text.rsplit_once('<') {
        Some((_, rest)) => rest.strip_suffix('>').unwrap_or_default(),
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let word = |s: &str| !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || "()<>[]:;@\\,\"".contains(c));
    let dots = |s: &str| !s.starts_with('.') && !s.ends_with('.') && !s.contains("..");
    (word(local) && dots(local)) && (word(domain) && dots(domain))
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b >= 0x80)
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 255 && name.split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else { return false };
    let max = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|n| n <= max)
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, size: usize| {
        let parts: Vec<&str> = text.split(separator).collect();
        let octets = parts.len() * size / 2;
        matches!(octets, 6 | 8 | 20)
            && parts.iter().all(|p| p.len() == size && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2) || groups('-', 2) || groups('.', 4)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut digits = String::with_capacity(32);
    for (i, part) in text.split('-').enumerate() {
        // Dashes may be missing, but stand only where they belong.
        if i > 0 && !matches!(digits.len(), 8 | 12 | 16 | 20) {
            return false;
        }
        digits.push_str(part);
    }
    let variant = !matches!(version, Some('4' | '5'))
        || matches!(digits.as_bytes().get(16), Some(b'8' | b'9' | b'a' | b'b' | b'A' | b'B'));
    digits.len() == 32
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
        && version.is_none_or(|v| digits.as_bytes()[12] == v as u8)
        && variant
}

fn isbn_digits(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let value = |(i, b): (usize, u8)| match b {
        b'0'..=b'9' => Some((i + 1) * usize::from(b - b'0')),
        b'X' if i == 9 => Some(100),
        _ => None,
    };
    digits.len() == 10
        && digits.bytes().enumerate().map(value).try_fold(0, |sum, v| v.map(|v| sum + v)).is_some_and(|s| s % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let weighted = |(i, b): (usize, u8)| usize::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 };
    digits.len() == 13
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.bytes().enumerate().map(weighted).sum::<usize>() % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let double = |(i, b): (usize, u8)| {
        let n = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
        if n > 9 { n - 9 } else { n }
    };
    (13..=16).contains(&digits.len()) && digits.bytes().rev().enumerate().map(double).sum::<u32>() % 10 == 0
}

fn is_ssn(text: &str) -> bool {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    digits.len() == 9 && digits.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 11
}

fn is_rgb(text: &str) -> bool {
    let Some(inner) = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else { return false };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && base::Timestamp::parse(&format!("{text}T00:00:00Z")).is_ok()
}

/// RFC 3339; the zone may be missing.
fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 19 || !matches!(bytes[10], b'T' | b't') {
        return false;
    }
    base::Timestamp::parse(text).is_ok() || base::Timestamp::parse(&format!("{text}Z")).is_ok()
}

/// `22 ns`, `3 days`
fn is_spoken_duration(text: &str) -> bool {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = text[digits..].trim().to_ascii_lowercase();
    let units = [
        "ns",
        "nanos",
        "nanosecond",
        "us",
        "\u{b5}s",
        "micros",
        "microsecond",
        "ms",
        "millis",
        "millisecond",
        "s",
        "sec",
        "second",
        "m",
        "min",
        "minute",
        "h",
        "hr",
        "hour",
        "d",
        "day",
        "w",
        "wk",
        "week",
    ];
    digits > 0 && (units.contains(&unit.as_str()) || unit.strip_suffix('s').is_some_and(|u| units.contains(&u)))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn known_formats_are_told_from_others() {
        let cases = [
            ("ipv4", "10.0.0.1", "10.0.0"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("date", "2020-02-29", "2021-02-29"),
            ("date-time", "2020-01-01T00:00:00Z", "2020-01-01"),
            ("duration", "1h", "x"),
            ("duration", "22 ns", "ns"),
            ("byte", "aGk=", "%"),
            ("hostname", "a.b", "a_b"),
            ("email", "a@b.c", "a"),
            ("uri", "http://x/y", "x y"),
            ("isbn", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111111111111111", "4111111111111112"),
            ("hexcolor", "#fff", "#ff"),
            ("rgbcolor", "rgb(1, 2, 3)", "rgb(1)"),
            ("password", "anything", ""),
        ];
        for (format, good, bad) in cases {
            assert!(matches(format, good), "{format} {good}");
            assert!(bad.is_empty() || !matches(format, bad), "{format} {bad}");
        }
    }
}
