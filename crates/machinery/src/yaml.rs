//! YAML in and out, with the scalars of `sigs.k8s.io/yaml`: YAML 1.1 booleans, octal `014`, whole floats as integers.
//!
//! Aliases, nesting and document sizes are bounded, so a few bytes never unfold into many.

use serde_saphyr::options::{AliasLimits, DuplicateKeyPolicy, NonFiniteFloatPolicy};

use crate::Value;

/// Values that aliases may add to one document.
const ALIAS_EVENTS_MAX: usize = 100_000;
/// Nesting, as for JSON.
const DEPTH_MAX: usize = 128;
/// Nodes of one stream.
const NODES_MAX: usize = 2_000_000;
/// Floats up to here are exact integers.
const WHOLE_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;

fn options(duplicates: DuplicateKeyPolicy) -> serde_saphyr::Options {
    let mut aliases = AliasLimits::default();
    aliases.max_total_replayed_events = ALIAS_EVENTS_MAX;
    aliases.max_replay_stack_depth = 16;
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
        },
        duplicate_keys: duplicates,
        alias_limits: aliases,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        with_snippet: false,
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())
}

/// Reads one document; of equal keys the last wins. An empty document is null.
///
/// # Errors
/// Syntax errors with line and column, more than one document, and documents that unfold beyond the bounds.
pub fn to_value(bytes: &[u8]) -> Result<Value, String> {
    read(bytes, DuplicateKeyPolicy::LastWins)
}

/// As [`to_value`], but equal keys are an error, as `fieldValidation=Strict` has it.
///
/// # Errors
/// As [`to_value`], and equal keys.
pub fn to_value_strict(bytes: &[u8]) -> Result<Value, String> {
    read(bytes, DuplicateKeyPolicy::Error)
}

fn read(bytes: &[u8], duplicates: DuplicateKeyPolicy) -> Result<Value, String> {
    let text = text(bytes)?;
    if is_blank(text) {
        return Ok(Value::Null);
    }
    let mut value: Value = serde_saphyr::from_str_with_options(text, options(duplicates))
        .map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))?;
    whole_floats(&mut value);
    Ok(value)
}

/// Reads all documents of a stream; empty ones are left out.
///
/// # Errors
/// As [`to_value`].
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = text(bytes)?;
    if is_blank(text) {
        return Ok(Vec::new());
    }
    let mut values: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options(DuplicateKeyPolicy::LastWins))
        .map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))?;
    values.retain(|v| !v.is_null());
    values.iter_mut().for_each(whole_floats);
    Ok(values)
}

/// Nothing but blanks and comments.
fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    })
}

/// Go's conversion goes through JSON, where `1.0` is `1`.
fn whole_floats(value: &mut Value) {
    match value {
        Value::Float(n) if n.fract() == 0.0 && n.abs() <= WHOLE_FLOAT_MAX => *value = Value::Int(*n as i64),
        Value::Array(a) => a.iter_mut().for_each(whole_floats),
        Value::Object(o) => o.iter_mut().for_each(|(_, v)| whole_floats(v)),
        _ => {}
    }
}

/// Writes one document.
pub fn from_value(value: &Value) -> String {
    let mut out = serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string());
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn scalars_read_as_sigs_yaml_reads_them() {
        let cases = [
            ("yes", json!(true)),
            ("on", json!(true)),
            ("No", json!(false)),
            ("TRUE", json!(true)),
            ("y", json!(true)),
            ("0o14", json!(12)),
            ("014", json!(12)),
            ("08", json!(8)),
            ("0x1f", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("~", Value::Null),
            ("NULL", Value::Null),
            ("", Value::Null),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            (".5", json!(0.5)),
            ("+1", json!(1)),
            ("1.", json!(1)),
            ("2001-01-01", json!("2001-01-01")),
            ("12:30:45", json!("12:30:45")),
            ("\"yes\"", json!("yes")),
            ("'1'", json!("1")),
            ("!!str 1", json!("1")),
            ("123456789012345678", json!(123_456_789_012_345_678_i64)),
            ("9223372036854775808", json!(9.223_372_036_854_776e18)),
            ("|\n  x\n  y\n", json!("x\ny\n")),
            ("=", json!("=")),
        ];
        let mut bad = Vec::new();
        for (text, expect) in cases {
            match to_value(format!("a: {text}").as_bytes()) {
                Ok(v) if v["a"] == expect && v.get("a").is_some() => {}
                other => bad.push((text, other)),
            }
        }
        assert!(bad.is_empty(), "{bad:?}");
    }

    #[test]
    fn documents_keys_and_anchors_work() {
        assert_eq!(to_value(b""), Ok(Value::Null));
        assert_eq!(to_value(b"# c\n"), Ok(Value::Null));
        assert_eq!(to_value(b"1: b\na: 1\na: 2"), Ok(json!({"1": "b", "a": 2})));
        assert!(to_value_strict(b"a: 1\na: 2").is_err());
        assert_eq!(to_value(b"a: &x {b: 1}\nc:\n  <<: *x\n  d: 2"), Ok(json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}})));
        assert_eq!(documents(b"a: 1\n---\n---\nb: 2\n"), Ok(vec![json!({"a": 1}), json!({"b": 2})]));
        assert!(to_value(b"a: [").is_err() && to_value(b"\xff").is_err());
        assert_eq!(to_value(br#"{"a": [1, "x"]}"#), Ok(json!({"a": [1, "x"]})));
    }

    #[test]
    fn a_billion_laughs_are_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
        }
        assert!(to_value(bomb.as_bytes()).is_err());
        assert!(to_value("[".repeat(10_000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"a": ["yes", "1", "null", "", "x: y", "multi\nline\n", " lead", "1e3", "0x1f", "2001-01-01", "~", "y", "012"],
            "b": {"c": null, "d": true, "e": 1, "f": 1.5, "g": [], "h": {}}, "yes": "no", "1": 2, "l": [[1, 2], {"a": [{"b": 1}]}]});
        assert_eq!(to_value(from_value(&value).as_bytes()), Ok(value));
    }
}
