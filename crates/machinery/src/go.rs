//! How Go prints what error texts quote.

use std::fmt::Write;

use crate::Value;

/// `strconv.Quote`.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\0'..='\u{1f}' | '\u{7f}' => push(&mut out, format_args!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                push(&mut out, format_args!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}

/// A float as `%v` prints it: shortest digits, exponent form from 1e21 on and below 1e-4.
pub(crate) fn float(n: f64) -> String {
    if n == 0.0 {
        return "0".to_owned();
    }
    if n.abs() >= 1e21 || n.abs() < 1e-4 {
        let text = format!("{n:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, magnitude) = exponent.strip_prefix('-').map_or(("+", exponent), |m| ("-", m));
        return format!("{digits}e{sign}{magnitude:0>2}");
    }
    format!("{n}")
}

/// A JSON tree as `%v` prints Go's maps and slices.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(n) => float(*n),
        Value::String(s) => s.to_string(),
        Value::Array(a) => format!("[{}]", a.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(o) => {
            let members: Vec<String> = o.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

/// A JSON tree as `%#v` prints Go's maps and slices.
pub(crate) fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(s) => quote(s),
        Value::Float(n) => float(*n),
        Value::Bool(_) | Value::Int(_) => value.to_string(),
        Value::Array(a) => format!("[]interface {{}}{{{}}}", a.iter().map(syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(o) => {
            let members: Vec<String> = o.iter().map(|(k, v)| format!("{}:{}", quote(k), syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
    }
}

/// The Go type a JSON value is read into.
pub(crate) const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn prints_as_go_does() {
        assert_eq!(super::quote("a'b\"\u{1}\u{7f}é\n"), "\"a'b\\\"\\x01\\x7fé\\n\"");
        for (n, text) in [(1.0, "1"), (1.5, "1.5"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-7, "1e-07")] {
            assert_eq!(super::float(n), text);
        }
    }
}
