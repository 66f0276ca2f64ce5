//! Pods made from templates, and telling whether two templates mean the same.

use machinery::{CompactString, Value, json, meta};

use crate::action::controller_reference;

/// A pod of a template, owned by `owner`, with a generated name.
pub fn pod(template: &Value, owner: &Value, api_version: &str, kind: &str) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": format!("{}-", meta::name(owner)), "namespace": meta::namespace(owner)}});
    for part in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.at(&["metadata", part]).filter(|v| !v.is_null()) {
            pod["metadata"].set(part, value.clone());
        }
    }
    pod["metadata"].set("ownerReferences", vec![controller_reference(owner, api_version, kind)]);
    pod.set("spec", template["spec"].clone());
    pod
}

/// A short name for a template, the same for the same template: FNV-1a over its canonical JSON, in the letters that
/// generated names use. Clients read the label's value but never compute it.
pub fn hash(template: &Value, collisions: Option<i64>) -> String {
    let mut state: u32 = 0x811c_9dc5;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    eat(&normal(template).to_vec());
    if let Some(count) = collisions {
        eat(&count.to_le_bytes());
    }
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    state.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// Do two trees mean the same? Null, `{}` and `[]` count as absent, as in Go's semantic equality.
pub fn equal(a: &Value, b: &Value) -> bool {
    normal(a) == normal(b)
}

/// As [`equal`] for pod templates, whatever the value of one label.
pub fn equal_without_label(a: &Value, b: &Value, label: &str) -> bool {
    let strip = |t: &Value| {
        let mut t = t.clone();
        if let Some(labels) = t.get_mut("metadata").and_then(|m| m.get_mut("labels")) {
            labels.remove(label);
        }
        normal(&t)
    };
    strip(a) == strip(b)
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            object.iter().map(|(k, v)| (CompactString::from(k), normal(v))).filter(|(_, v)| !is_blank(v)).collect()
        }
        Value::Array(items) => items.iter().map(normal).collect(),
        other => other.clone(),
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Adds a label to the object at a path, making the map when missing.
pub fn add_label(object: &mut Value, path: &[&str], key: &str, value: &str) {
    object.at_mut(path).set(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_mean_the_same_have_the_same_hash() {
        let a = json!({"metadata": {"creationTimestamp": null, "labels": {"a": "b"}}, "spec": {"volumes": []}});
        let b = json!({"metadata": {"labels": {"a": "b"}}});
        assert!(equal(&a, &b));
        assert_eq!(hash(&a, None), hash(&b, None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
        let c = json!({"metadata": {"labels": {"a": "b", "pod-template-hash": "x"}}});
        assert!(equal_without_label(&a, &c, "pod-template-hash"));
    }
}
