//! `meta.k8s.io/v1 Table` and `PartialObjectMetadata`: what kubectl shows.
//!
//! Columns come from the facts (or a definition's JSON paths), cells from one function per kind, in upstream's form.

mod cluster;
mod network;
mod pod;
mod workloads;

use base::Timestamp;
use machinery::{Value, json, labels, meta};

use crate::row::{Column, Resource};

/// What a row carries besides its cells (`includeObject`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IncludeObject {
    None,
    /// `PartialObjectMetadata`
    #[default]
    Metadata,
    Object,
}

/// The query parameter's word.
impl IncludeObject {
    /// `None` when the word is none of `None`, `Metadata`, `Object` (empty is `Metadata`).
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" | "Metadata" => Self::Metadata,
            "None" => Self::None,
            "Object" => Self::Object,
            _ => return None,
        })
    }
}

/// A Table of objects in the row's version. `metadata` is the list's (or one object's resourceVersion), `headers`
/// is false for all but the first event of a watch.
pub fn table<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: IncludeObject,
    headers: bool,
    now: Timestamp,
) -> Value {
    let mut table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"});
    table.set("metadata", metadata);
    let columns: Value = resource.columns.iter().filter(|_| headers).map(column).collect();
    table.set("columnDefinitions", columns);
    table.set("rows", objects.into_iter().map(|object| row(resource, object, include, now)).collect::<Value>());
    table
}

/// The object's metadata alone.
pub fn partial_metadata(object: &Value) -> Value {
    let mut partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
    partial.set("metadata", object["metadata"].clone());
    partial
}

fn column(column: &Column) -> Value {
    let description = match (column.description.as_str(), column.json_path.as_str()) {
        ("", "") => String::new(),
        ("", path) => format!("Custom resource definition column (in JSONPath format): {path}"),
        (text, _) => text.to_owned(),
    };
    json!({
        "name": column.name, "type": column.type_name, "format": column.format, "description": description,
        "priority": column.priority,
    })
}

fn row(resource: &Resource, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells =
        if resource.custom.is_some() { custom_cells(resource, object, now) } else { cells(resource, object, now) };
    let mut row = Value::object();
    row.set("cells", Value::Array(cells));
    if resource.gvk.kind == "Pod"
        && resource.gvk.group.is_empty()
        && let Some(condition) = pod::row_condition(object)
    {
        row.set("conditions", Value::Array(vec![condition]));
    }
    match include {
        IncludeObject::None => row.set("object", Value::Null),
        IncludeObject::Metadata => row.set("object", partial_metadata(object)),
        IncludeObject::Object => row.set("object", object.clone()),
    }
    row
}

fn cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let p = Printed { object, now };
    let kind = resource.gvk.kind.as_str();
    let made = match resource.gvk.group.as_str() {
        "" if kind == "Pod" => Some(pod::cells(p)),
        "apps" | "batch" | "autoscaling" | "policy" => workloads::cells(kind, p),
        "" => workloads::cells(kind, p).or_else(|| network::cells(kind, p)).or_else(|| cluster::cells(kind, p)),
        "events.k8s.io" => cluster::cells(kind, Printed { object: &crate::convert::event_as_core(object), now }),
        _ => network::cells(kind, p).or_else(|| cluster::cells(kind, p)),
    };
    made.unwrap_or_else(|| vec![meta::name(object).into(), created_at(object)])
}

/// Kinds without printer show when they were made.
fn created_at(object: &Value) -> Value {
    match object.str_at(&["metadata", "creationTimestamp"]) {
        "" => Value::Null,
        time => time.into(),
    }
}

fn custom_cells(resource: &Resource, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![Value::from(meta::name(object))];
    for column in resource.columns.iter().skip(1) {
        let value = crate::json_path::first(object, &column.json_path);
        cells.push(value.map_or(Value::Null, |v| custom_cell(&column.type_name, v, now)));
    }
    cells
}

fn custom_cell(type_name: &str, value: &Value, now: Timestamp) -> Value {
    match (type_name, value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Int(_)) | ("number", Value::Int(_) | Value::Float(_)) | ("boolean", Value::Bool(_)) => {
            value.clone()
        }
        #[allow(clippy::cast_possible_truncation)] // Go's int64(float64) truncates as well.
        ("integer", Value::Float(f)) => Value::Int(*f as i64),
        ("date", Value::String(text)) => match Timestamp::parse(text) {
            Ok(time) => age(Some(time), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

/// An object being printed at an instant.
#[derive(Clone, Copy)]
struct Printed<'a> {
    object: &'a Value,
    now: Timestamp,
}

impl<'a> Printed<'a> {
    fn name(self) -> Value {
        meta::name(self.object).into()
    }

    fn text(self, path: &[&str]) -> &'a str {
        self.object.str_at(path)
    }

    /// A text or a stand-in for an unset one.
    fn text_or(self, path: &[&str], unset: &'a str) -> Value {
        let text = self.text(path);
        if text.is_empty() { unset.into() } else { text.into() }
    }

    fn int(self, path: &[&str]) -> i64 {
        self.object.at(path).and_then(Value::as_i64).unwrap_or(0)
    }

    fn flag(self, path: &[&str], unset: bool) -> Value {
        self.object.at(path).and_then(Value::as_bool).unwrap_or(unset).into()
    }

    fn items(self, path: &[&str]) -> &'a [Value] {
        self.object.at(path).map_or(&[], Value::items)
    }

    fn age(self) -> Value {
        age(meta::creation_timestamp(self.object), self.now).into()
    }

    /// Time since a member.
    fn since(self, path: &[&str]) -> String {
        age(Timestamp::parse(self.text(path)).ok(), self.now)
    }

    /// Names and images of the containers at a pod spec.
    fn containers(self, path: &[&str]) -> [Value; 2] {
        let list = self.items(&[path, &["containers"]].concat());
        let join = |key: &str| list.iter().map(|c| c.str_at(&[key])).collect::<Vec<_>>().join(",");
        [join("name").into(), join("image").into()]
    }

    /// A label selector in one line.
    fn selector(self, path: &[&str]) -> Value {
        let selector = self.object.at(path).cloned().unwrap_or_default();
        match labels::Selector::from_label_selector(&selector) {
            Ok(_) if selector.is_null() => "<none>".into(),
            Ok(selector) => match selector.to_string() {
                text if text.is_empty() => "<none>".into(),
                text => text.into(),
            },
            Err(_) => "<error>".into(),
        }
    }

    /// A map of labels in one line.
    fn label_map(self, path: &[&str]) -> Value {
        let map = self.object.at(path);
        let text: Vec<String> = map
            .into_iter()
            .flat_map(Value::members)
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        if text.is_empty() { "<none>".into() } else { text.join(",").into() }
    }

    fn condition(self, name: &str) -> Option<&'a Value> {
        self.items(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == name)
    }
}

/// Time since an instant, or `<unknown>`.
fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    match time {
        Some(time) => human_duration((now.unix_nanos().saturating_sub(time.unix_nanos())).div_euclid(1_000_000_000)),
        None => "<unknown>".to_owned(),
    }
}

/// Two or three significant figures, as `k8s.io/apimachinery/pkg/util/duration` prints.
fn human_duration(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, sub: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{sub}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => pair(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_users_know_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (729 * 86400, "729d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
