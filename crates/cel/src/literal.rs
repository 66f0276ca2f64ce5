//! The texts of literals to values.

use crate::value::Val;

pub(crate) fn int(text: &str, is_negative: bool) -> Result<Val<'static>, &'static str> {
    let (digits, radix) = radix(text);
    let sign = if is_negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map(Val::Int).map_err(|_| "invalid int literal")
}

pub(crate) fn uint(text: &str) -> Result<Val<'static>, &'static str> {
    let (digits, radix) = radix(&text[..text.len() - 1]);
    u64::from_str_radix(digits, radix).map(Val::Uint).map_err(|_| "invalid uint literal")
}

pub(crate) fn double(text: &str, is_negative: bool) -> Result<Val<'static>, &'static str> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Val::Double(if is_negative { -value } else { value })),
        _ => Err("invalid double literal"),
    }
}

fn radix(text: &str) -> (&str, u32) {
    text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16))
}

/// What a quoted text, with its quotes and perhaps an `r` before them, stands for.
pub(crate) fn unescape(quoted: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    let text = quoted.replace("\r\n", "\n").replace('\r', "\n");
    let body = text.trim_start_matches(['r', 'R']);
    let is_raw = body.len() < text.len();
    let quotes = if body.len() >= 6 && (body.starts_with("'''") || body.starts_with("\"\"\"")) { 3 } else { 1 };
    let body = &body[quotes..body.len() - quotes];
    if is_raw || !body.contains('\\') {
        return Ok(body.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = escaped(&rest[at + 1..], is_bytes, &mut out)?;
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(out)
}

/// Reads one escape sequence, without its backslash; the lexer has seen that it is well formed.
fn escaped<'t>(text: &'t str, is_bytes: bool, out: &mut Vec<u8>) -> Result<&'t str, &'static str> {
    const WRONG: &str = "unable to unescape string";
    let first = text.chars().next().ok_or("unable to unescape string, found '\\' as last character")?;
    let (digits, radix) = match first {
        'x' | 'X' => (1..3, 16),
        'u' | 'U' if is_bytes => return Err(WRONG),
        'u' => (1..5, 16),
        'U' => (1..9, 16),
        '0'..='3' => (0..3, 8),
        _ => {
            out.push(match first {
                'a' => 7,
                'b' => 8,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                '\\' | '\'' | '"' | '`' | '?' => first as u8,
                _ => return Err(WRONG),
            });
            return Ok(&text[1..]);
        }
    };
    let code = text.get(digits.clone()).and_then(|digits| u32::from_str_radix(digits, radix).ok()).ok_or(WRONG)?;
    if is_bytes {
        out.push(code as u8);
    } else {
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(&text[digits.end..])
}
