//! Custom resources' schemas at work: pruning and defaulting of what came in.

use machinery::Value;
use registry::custom::CustomSchema;

/// Members every object has, whatever its schema says.
const ALWAYS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Removes fields the schema does not have and fills in its defaults; returns `unknown field "…"` for each removed.
pub(crate) fn prune_and_default(schema: &CustomSchema, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if !schema.preserve_unknown_fields {
        let root = &schema.open_api;
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, child| {
                if ALWAYS.contains(&key) {
                    return true;
                }
                match root["properties"].get(key) {
                    Some(field) => {
                        prune(field, child, key, &mut unknown);
                        true
                    }
                    None => {
                        unknown.push(format!("unknown field {key:?}"));
                        false
                    }
                }
            });
        }
    }
    default(&schema.open_api, value);
    unknown
}

fn prune(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true) && schema["properties"].is_null() {
        return;
    }
    match value {
        Value::Object(object) => {
            if schema["x-kubernetes-embedded-resource"].as_bool() == Some(true) && schema["properties"].is_null() {
                return;
            }
            let embedded = schema["x-kubernetes-embedded-resource"].as_bool() == Some(true);
            let keep = schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true);
            let additional = &schema["additionalProperties"];
            object.retain(|key, child| {
                let here = format!("{path}.{key}");
                if embedded && ALWAYS.contains(&key) {
                    return true;
                }
                if let Some(field) = schema["properties"].get(key) {
                    prune(field, child, &here, unknown);
                    true
                } else if additional.as_object().is_some() {
                    prune(additional, child, &here, unknown);
                    true
                } else if keep || additional.as_bool() == Some(true) {
                    true
                } else {
                    unknown.push(format!("unknown field {here:?}"));
                    false
                }
            });
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{i}]"), unknown);
            }
        }
        _ => {}
    }
}

fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, field) in schema["properties"].members() {
                let nullable = field["nullable"].as_bool() == Some(true);
                let absent = object.get(key).is_none_or(|v| v.is_null() && !nullable);
                if absent && let Some(given) = field.get("default") {
                    object.insert(key, given.clone());
                }
                if let Some(child) = object.get_mut(key) {
                    default(field, child);
                }
            }
            let additional = &schema["additionalProperties"];
            if additional.as_object().is_some() {
                for (key, child) in object.iter_mut() {
                    if schema["properties"].get(key).is_none() {
                        default(additional, child);
                    }
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let open_api = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer", "default": 3}, "free": {"x-kubernetes-preserve-unknown-fields": true},
            "map": {"additionalProperties": {"type": "string"}}, "list": {"items": {"properties": {"a": {}}}}}}}});
        let schema = CustomSchema { open_api, ..CustomSchema::default() };
        let mut value = json!({"kind": "K", "metadata": {"name": "x"}, "bad": 1,
            "spec": {"free": {"y": 1}, "map": {"k": "v"}, "list": [{"a": 1, "b": 2}], "gone": {}}});
        let unknown = prune_and_default(&schema, &mut value);
        assert_eq!(
            unknown,
            ["unknown field \"bad\"", "unknown field \"spec.gone\"", "unknown field \"spec.list[0].b\""]
        );
        assert_eq!(value["spec"], json!({"free": {"y": 1}, "list": [{"a": 1}], "map": {"k": "v"}, "n": 3}));
    }
}
