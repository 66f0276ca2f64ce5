//! Schemas of custom resources, as published beside the built-in ones.

use super::Version;
use crate::{GroupVersionKind, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The schema of a custom kind from its `openAPIV3Schema` (null for none): with `apiVersion`, `kind`, `metadata` and
/// the kind's extension; for v2 without what v2 lacks.
pub fn custom_resource(schema: &Value, kind: &GroupVersionKind, version: Version) -> Value {
    let preserves = schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true);
    let mut out = if schema.is_null() || (version == Version::V2 && preserves) {
        json!({"type": "object"})
    } else {
        let mut out = custom_schema(schema, version);
        let properties = out.at_mut(&["properties"]);
        properties.set("apiVersion", json!({"type": "string", "description": API_VERSION}));
        properties.set("kind", json!({"type": "string", "description": KIND}));
        properties.set("metadata", described_reference("ObjectMeta", METADATA, version));
        out
    };
    set_kind(&mut out, kind);
    out
}

/// The schema of the list of a custom kind; `item` is the definition's name.
pub fn custom_resource_list(kind: &GroupVersionKind, list_kind: &str, item: &str, version: Version) -> Value {
    let list = GroupVersionKind { kind: list_kind.into(), ..kind.clone() };
    let items = json!({"$ref": format!("{}{item}", version.prefix())});
    let plural = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md",
        kind.kind.to_lowercase()
    );
    let mut out = json!({
        "type": "object", "description": format!("{list_kind} is a list of {}", kind.kind), "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "items": {"type": "array", "description": plural},
        },
    });
    out["properties"]["items"].set("items", items);
    let list_meta = described_reference(
        "ListMeta",
        "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
        version,
    );
    out["properties"].set("metadata", list_meta);
    set_kind(&mut out, &list);
    out
}

fn set_kind(schema: &mut Value, kind: &GroupVersionKind) {
    let (group, version, kind) = (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str());
    schema.set("x-kubernetes-group-version-kind", json!([{"group": group, "version": version, "kind": kind}]));
}

fn described_reference(name: &str, description: &str, version: Version) -> Value {
    let target = json!({"$ref": format!("{}{META}{name}", version.prefix())});
    match version {
        Version::V2 => {
            let mut out = target;
            out.set("description", description);
            out
        }
        Version::V3 => {
            let mut out = json!({"description": description});
            out.set("allOf", Value::Array(vec![target]));
            out
        }
    }
}

/// An `openAPIV3Schema` as published; v2 knows no alternatives, null or integer-or-string.
pub fn custom_schema(schema: &Value, version: Version) -> Value {
    let mut out = schema.clone();
    publish(&mut out, version);
    out
}

fn publish(schema: &mut Value, version: Version) {
    if schema.as_object().is_none() {
        return;
    }
    if version == Version::V2 {
        downgrade(schema);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(inner) = schema.get_mut(key) {
            publish(inner, version);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.iter_mut().for_each(|(_, property)| publish(property, version));
    }
    if schema["x-kubernetes-embedded-resource"].as_bool() == Some(true)
        && !(version == Version::V2 && schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true))
    {
        let properties = schema.at_mut(&["properties"]);
        properties.set("apiVersion", json!({"type": "string", "description": API_VERSION}));
        properties.set("kind", json!({"type": "string", "description": KIND}));
        properties.set("metadata", described_reference("ObjectMeta", METADATA, version));
        let mut required: Vec<Value> = schema["required"].items().to_vec();
        for name in ["apiVersion", "kind"] {
            if !required.iter().any(|r| r.as_str() == Some(name)) {
                required.push(name.into());
            }
        }
        schema.set("required", Value::Array(required));
    }
}

fn downgrade(schema: &mut Value) {
    let flag = |schema: &Value, key: &str| schema[key].as_bool() == Some(true);
    let nullable = |property: &Value| property["nullable"].as_bool() == Some(true);
    // A property that may be null cannot be asked for in v2.
    let optional: Vec<String> =
        schema["properties"].members().filter(|(_, p)| nullable(p)).map(|(name, _)| name.to_owned()).collect();
    if nullable(&schema["additionalProperties"]) {
        schema.remove("required");
    } else if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|r| !optional.iter().any(|o| r.as_str() == Some(o)));
        if required.is_empty() {
            schema.remove("required");
        }
    }
    for key in ["allOf", "oneOf", "anyOf", "not", "default"] {
        schema.remove(key);
    }
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if flag(schema, "nullable") || preserves {
        schema.remove("items");
        schema.remove("properties");
    }
    let kind = schema.str_at(&["type"]);
    let typeless = flag(schema, "nullable")
        || flag(schema, "x-kubernetes-int-or-string")
        || (kind == "array" && schema.get("items").is_none())
        || (preserves && kind == "object");
    if typeless {
        schema.remove("type");
    }
    schema.remove("nullable");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_loses_what_it_cannot_say() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "string", "nullable": true}, "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}]},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}}}}}});
        let kind = GroupVersionKind::new("g", "v1", "K");
        let v2 = custom_resource(&schema, &kind, Version::V2);
        assert_eq!(
            v2["properties"]["spec"],
            json!({"type": "object", "required": ["b"], "properties": {"a": {}, "b": {"x-kubernetes-int-or-string": true},
                "c": {"x-kubernetes-preserve-unknown-fields": true}}})
        );
        assert_eq!(
            v2["properties"]["metadata"]["$ref"].as_str(),
            Some("#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        );
        let v3 = custom_resource(&schema, &kind, Version::V3);
        assert_eq!(v3["properties"]["spec"], schema["properties"]["spec"]);
        assert_eq!(v3["x-kubernetes-group-version-kind"], json!([{"group": "g", "version": "v1", "kind": "K"}]));
        assert_eq!(custom_resource(&Value::Null, &kind, Version::V3)["type"].as_str(), Some("object"));
    }
}
