//! `--config-file`: etcd's YAML configuration, as values of its flags. Keys that etcd does not know are passed over.

use serde_json::{Map, Value};

use crate::flags::Kind;

/// Blocks of keys that stand for flags of other names.
const BLOCKS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
];

/// The flags that a file sets. `kind_of` tells a flag's kind.
///
/// # Errors
/// For text that is no YAML, and for values of another type than the flag's, about as Go says it.
pub(crate) fn read(text: &str, kind_of: impl Fn(&str) -> Option<Kind>) -> Result<Vec<(String, String)>, String> {
    let file: Option<Map<String, Value>> =
        serde_saphyr::from_str(text).map_err(|error| format!("error converting YAML to JSON: {error}"))?;
    let mut flags = Vec::new();
    for (key, value) in file.unwrap_or_default() {
        let block = BLOCKS.iter().find(|(name, _)| *name == key);
        let Some((_, names)) = block else {
            flags.extend(flag(&key, &value, &kind_of)?);
            continue;
        };
        let Value::Object(inner) = value else { return Err(format!("invalid {key}")) };
        for (name, flag_name) in *names {
            if let Some(value) = inner.get(*name) {
                flags.extend(flag(flag_name, value, &kind_of)?);
            }
        }
    }
    Ok(flags)
}

fn flag(
    name: &str,
    value: &Value,
    kind_of: &impl Fn(&str) -> Option<Kind>,
) -> Result<Option<(String, String)>, String> {
    let Some(kind) = kind_of(name) else { return Ok(None) };
    let text = match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Bool, Value::Bool(set)) => set.to_string(),
        (Kind::Number | Kind::Unsigned | Kind::Unsigned32, Value::Number(number)) => number.to_string(),
        // Go's durations are numbers of nanoseconds in a file.
        (Kind::Duration, Value::Number(nanos)) => format!("{nanos}ns"),
        (Kind::Text | Kind::Urls | Kind::Origins | Kind::Features, Value::String(text)) => text.clone(),
        // YAML takes many a text for something else; the strings in Go's structure are strict about it, ours are not.
        (Kind::Text, Value::Number(number)) => number.to_string(),
        (Kind::Text, Value::Array(items)) => {
            let items: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            items.ok_or_else(|| mismatch(name, kind, value))?.join(",")
        }
        _ => return Err(mismatch(name, kind, value)),
    };
    Ok(Some((name.to_owned(), text)))
}

fn mismatch(name: &str, kind: Kind, value: &Value) -> String {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let wanted = match kind {
        Kind::Bool => "bool",
        Kind::Number => "int64",
        Kind::Unsigned => "uint",
        Kind::Unsigned32 => "uint32",
        Kind::Duration => "time.Duration",
        Kind::Text | Kind::Urls | Kind::Origins | Kind::Features => "string",
    };
    format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go struct field \
         configYAML.{name} of type {wanted}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::kind_of;

    #[test]
    fn a_file_sets_flags() {
        let text = "name: a\nmax-txn-ops: 7\ngrpc-keepalive-min-time: 1000000000\nclient-transport-security:\n  \
                    cert-file: /c\n  client-cert-auth: true\ncipher-suites: [A, B]\nfeature-gates: LeaseCheckpoint=true\nunknown: [1]\nlisten-client-urls: http://127.0.0.1:1\n";
        let mut read = read(text, kind_of).expect("good YAML");
        read.sort();
        let expect = [
            ("cert-file", "/c"),
            ("cipher-suites", "A,B"),
            ("client-cert-auth", "true"),
            ("feature-gates", "LeaseCheckpoint=true"),
            ("grpc-keepalive-min-time", "1000000000ns"),
            ("listen-client-urls", "http://127.0.0.1:1"),
            ("max-txn-ops", "7"),
            ("name", "a"),
        ];
        assert_eq!(read, expect.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(super::read("", kind_of), Ok(Vec::new()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let fault = read("max-txn-ops: many\n", kind_of).expect_err("no number");
        assert!(
            fault.ends_with("cannot unmarshal string into Go struct field configYAML.max-txn-ops of type uint"),
            "{fault}"
        );
        assert!(read("a: [\n", kind_of).is_err());
        assert_eq!(read("peer-transport-security: 5\n", kind_of), Err("invalid peer-transport-security".to_owned()));
    }
}
