//! The messages of the container API, and proto3's JSON rules over them.
//!
//! `data/messages.txt` holds names and types. [`decode`] refuses what Google refuses and brings a body into one form;
//! [`encode`] leaves out what proto3 leaves out and what a version does not have.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use machinery::Value;

use crate::{ApiError, ApiVersion};

static MESSAGES: LazyLock<BTreeMap<&'static str, BTreeMap<&'static str, Field>>> =
    LazyLock::new(|| parse(include_str!("../data/messages.txt")));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Only {
    Both,
    Beta,
    Ga,
}

#[derive(Debug)]
struct Field {
    shape: &'static str,
    only: Only,
}

/// Booleans and enumerations with presence: printed even when they are false or unspecified.
const OPTIONAL: &[&str] = &[
    "allowExternalTraffic",
    "enableK8sTokensViaDns",
    "enableK8sCertsViaDns",
    "insecureKubeletReadonlyPortEnabled",
    "gcpPublicCidrsAccessEnabled",
    "enablePublicEndpoint",
    "enableInsecureBindingSystemAuthenticated",
    "enableInsecureBindingSystemUnauthenticated",
    "defaultEnablePrivateNodes",
    "hpaProfile",
    "vulnerabilityMode",
    "workloadVulnerabilityMode",
];
/// The same for names that are optional in some messages only.
const OPTIONAL_IN: &[(&str, &str)] =
    &[("IPEndpointsConfig", "enabled"), ("SwapConfig", "enabled"), ("NodeNetworkConfig", "enablePrivateNodes")];

fn parse(text: &'static str) -> BTreeMap<&'static str, BTreeMap<&'static str, Field>> {
    let mut messages: BTreeMap<&'static str, BTreeMap<&'static str, Field>> = BTreeMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(field) = line.strip_prefix("  ") else {
            current = line;
            messages.insert(line, BTreeMap::new());
            continue;
        };
        let mut words = field.split(' ');
        let (Some(name), Some(shape)) = (words.next(), words.next()) else { continue };
        let only = match words.next() {
            Some("beta") => Only::Beta,
            Some("ga") => Only::Ga,
            _ => Only::Both,
        };
        messages.entry(current).or_default().insert(name, Field { shape, only });
    }
    messages
}

fn in_version(field: &Field, version: ApiVersion) -> bool {
    match field.only {
        Only::Both => true,
        Only::Beta => version != ApiVersion::V1,
        Only::Ga => version == ApiVersion::V1,
    }
}

/// Reads a request body as `message`: names in lowerCamelCase or as in the proto file, numbers also as text, nulls gone.
///
/// # Errors
/// 400 naming every unknown field and every value of a wrong type.
pub fn decode(message: &str, version: ApiVersion, body: &Value) -> Result<Value, ApiError> {
    let mut errors = Vec::new();
    let value = Decoder { version, errors: &mut errors }.message(message, body, "");
    if errors.is_empty() { Ok(value) } else { Err(ApiError::json(errors)) }
}

struct Decoder<'a> {
    version: ApiVersion,
    errors: &'a mut Vec<(String, String)>,
}

impl Decoder<'_> {
    fn message(&mut self, message: &str, value: &Value, path: &str) -> Value {
        let Some(fields) = MESSAGES.get(message) else { return value.clone() };
        let Some(object) = value.as_object() else {
            self.wrong(path, &format!("type.googleapis.com/google.container.v1.{message}"), value);
            return Value::Null;
        };
        let mut out = Value::object();
        for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            let name = camel(key);
            match fields.get(name.as_str()).filter(|field| in_version(field, self.version)) {
                Some(field) => {
                    let at = if path.is_empty() { snake(&name) } else { format!("{path}.{}", snake(&name)) };
                    let decoded = self.shape(field.shape, value, &at, (message, &name));
                    out.set(&name, decoded);
                }
                None => {
                    let place = if path.is_empty() { String::new() } else { format!(" at '{path}'") };
                    let text =
                        format!("Invalid JSON payload received. Unknown name {key:?}{place}: Cannot find field.");
                    self.errors.push((path.to_owned(), text));
                }
            }
        }
        out
    }

    fn shape(&mut self, shape: &str, value: &Value, path: &str, owner: (&str, &str)) -> Value {
        if let Some(element) = shape.strip_prefix("[]") {
            let Some(items) = value.as_array() else {
                // The front end takes a single value for a list of one.
                return vec![self.shape(element, value, path, owner)].into();
            };
            let decoded = items.iter().enumerate().map(|(i, v)| self.shape(element, v, &format!("{path}[{i}]"), owner));
            return decoded.collect();
        }
        if let Some(element) = shape.strip_prefix("map:") {
            let Some(object) = value.as_object() else {
                self.wrong(path, "Map", value);
                return Value::Null;
            };
            let entry = |(k, v): (&str, &Value)| (k.to_owned(), self.shape(element, v, &format!("{path}[{k}]"), owner));
            return object.iter().map(entry).collect::<Vec<_>>().into_iter().collect();
        }
        if let Some(names) = shape.strip_prefix("enum:") {
            return self.enumeration(names, value, path, owner);
        }
        match shape {
            "string" | "bytes" | "time" | "duration" => {
                self.expect(value.as_str().is_some(), "TYPE_STRING", value, path)
            }
            "bool" => match value.as_str() {
                Some(text @ ("true" | "false")) => Value::Bool(text == "true"),
                _ => self.expect(value.as_bool().is_some(), "TYPE_BOOL", value, path),
            },
            "int32" => match integer(value).filter(|n| i32::try_from(*n).is_ok()) {
                Some(n) => n.into(),
                None => self.expect(false, "TYPE_INT32", value, path),
            },
            "int64" => match integer(value) {
                Some(n) => n.to_string().into(),
                None => self.expect(false, "TYPE_INT64", value, path),
            },
            "double" => self.expect(value.as_f64().is_some(), "TYPE_DOUBLE", value, path),
            "any" => value.clone(),
            message => self.message(message, value, path),
        }
    }

    fn enumeration(&mut self, names: &str, value: &Value, path: &str, (message, field): (&str, &str)) -> Value {
        let by_number = value.as_i64().and_then(|n| names.split('|').nth(usize::try_from(n).ok()?));
        if let Some(name) = by_number.or_else(|| names.split('|').find(|name| value.as_str() == Some(name))) {
            return name.into();
        }
        let mut kind = field.to_owned();
        kind[..1].make_ascii_uppercase();
        self.wrong(path, &format!("type.googleapis.com/google.container.v1.{message}.{kind}"), value);
        Value::Null
    }

    fn expect(&mut self, good: bool, kind: &str, value: &Value, path: &str) -> Value {
        if good {
            return value.clone();
        }
        self.wrong(path, kind, value);
        Value::Null
    }

    fn wrong(&mut self, path: &str, kind: &str, value: &Value) {
        self.errors.push((path.to_owned(), format!("Invalid value at '{path}' ({kind}), {value}")));
    }
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).or_else(|| {
        let float = value.as_f64()?;
        (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
    })
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Writes `value` as `message` of a version: fields of other versions and zero values left out, empty objects kept.
pub fn encode(message: &str, version: ApiVersion, value: &Value) -> Value {
    let Some(fields) = MESSAGES.get(message) else { return value.clone() };
    let mut out = Value::object();
    for (name, value) in value.members() {
        let Some(field) = fields.get(name).filter(|field| in_version(field, version)) else { continue };
        let optional = OPTIONAL.contains(&name) || OPTIONAL_IN.contains(&(message, name));
        if let Some(encoded) = encode_shape(field.shape, version, value, optional) {
            out.set(name, encoded);
        }
    }
    out
}

fn encode_shape(shape: &str, version: ApiVersion, value: &Value, optional: bool) -> Option<Value> {
    if value.is_null() {
        return None;
    }
    if let Some(element) = shape.strip_prefix("[]") {
        let items: Vec<Value> =
            value.items().iter().filter_map(|item| encode_shape(element, version, item, true)).collect();
        return (!items.is_empty()).then(|| items.into());
    }
    if shape.starts_with("map:") {
        return value.members().next().is_some().then(|| value.clone());
    }
    if let Some(names) = shape.strip_prefix("enum:") {
        let zero = names.split('|').next() == value.as_str();
        return (optional || !zero).then(|| value.clone());
    }
    let zero = match shape {
        "string" | "bytes" | "time" | "duration" => value.as_str() == Some(""),
        "bool" => value.as_bool() == Some(false),
        "int32" | "double" => value.as_f64() == Some(0.0),
        "int64" => value.as_str() == Some("0"),
        "any" => false,
        message => return Some(encode(message, version, value)),
    };
    (optional || !zero).then(|| value.clone())
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn unknown_names_and_wrong_values_are_refused_in_googles_words() {
        let body = json!({"cluster": {"nam": "x", "nodePools": [{"initialNodeCount": "three"}],
            "releaseChannel": {"channel": "FAST"}, "privateCluster": true}, "colour": 1});
        let error = decode("CreateClusterRequest", ApiVersion::V1, &body).unwrap_err();
        let lines: Vec<&str> = error.message.lines().collect();
        assert_eq!(
            lines,
            [
                "Invalid JSON payload received. Unknown name \"nam\" at 'cluster': Cannot find field.",
                "Invalid value at 'cluster.node_pools[0].initial_node_count' (TYPE_INT32), \"three\"",
                "Invalid JSON payload received. Unknown name \"privateCluster\" at 'cluster': Cannot find field.",
                "Invalid value at 'cluster.release_channel.channel' \
                 (type.googleapis.com/google.container.v1.ReleaseChannel.Channel), \"FAST\"",
                "Invalid JSON payload received. Unknown name \"colour\": Cannot find field.",
            ]
        );
        assert_eq!(error.code.http(), 400);
    }

    #[test]
    fn both_spellings_and_both_number_forms_are_read() {
        let body = json!({"cluster": {"initial_node_count": "3", "defaultMaxPodsConstraint": {"maxPodsPerNode": 64}}});
        let read = decode("CreateClusterRequest", ApiVersion::V1, &body).unwrap();
        assert_eq!(
            read,
            json!({"cluster": {"initialNodeCount": 3, "defaultMaxPodsConstraint": {"maxPodsPerNode": "64"}}})
        );
    }

    #[test]
    fn zero_values_go_empty_objects_and_optional_booleans_stay() {
        let cluster = json!({"name": "c", "description": "", "legacyAbac": {"enabled": false}, "locations": [],
            "privateCluster": true, "releaseChannel": {"channel": "UNSPECIFIED"},
            "rbacBindingConfig": {"enableInsecureBindingSystemAuthenticated": false}});
        assert_eq!(
            encode("Cluster", ApiVersion::V1, &cluster),
            json!({"name": "c", "legacyAbac": {}, "releaseChannel": {},
                "rbacBindingConfig": {"enableInsecureBindingSystemAuthenticated": false}})
        );
        assert_eq!(encode("Cluster", ApiVersion::V1Beta1, &cluster)["privateCluster"], true.into());
    }
}
