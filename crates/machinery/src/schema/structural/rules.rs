//! What an `openAPIV3Schema` must obey to be structural, with the texts of `apiextensions-apiserver`.

use super::Structural;
use crate::{FieldError, FieldErrors, FieldPath, Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) fn check(raw: &Value, schema: &Structural, path: &FieldPath) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if schema.nullable {
        errors.push(FieldError::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    supported(raw, path, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let mut structure = FieldErrors::new();
    invariants(raw, schema, Level::Root, path, &mut structure);
    completeness(schema, schema, path, path, &mut structure);
    structure.sort_by_key(ToString::to_string);
    structure
}

const NOT_SUPPORTED: &[&str] = &["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];

/// Keywords and values that CRDs may not use, anywhere.
fn supported(raw: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let kind = raw.str_at(&["type"]);
    if !matches!(kind, "" | "array" | "boolean" | "integer" | "null" | "number" | "object" | "string") {
        let known = &["array", "boolean", "integer", "number", "object", "string"];
        errors.push(FieldError::not_supported(&path.child("type"), &kind.into(), known));
    }
    for key in NOT_SUPPORTED.iter().filter(|key| raw.get(key).is_some_and(|v| !v.is_null())) {
        errors.push(FieldError::forbidden(&path.child(key), format!("{key} is not supported")));
    }
    let mut forbid = |key: &str, why: &str| errors.push(FieldError::forbidden(&path.child(key), why));
    if kind == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if raw["items"].as_array().is_some() {
        forbid("items", "items must be a schema object and not an array");
    }
    if raw["uniqueItems"].as_bool() == Some(true) {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        forbid("uniqueItems", why);
    }
    let additional = &raw["additionalProperties"];
    if raw["properties"].members().next().is_some() && matches!(additional, Value::Object(_) | Value::Bool(false)) {
        forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
    }
    extensions(raw, path, errors);
    rules(raw, path, errors);
    for (name, property) in raw["properties"].members() {
        supported(property, &path.child("properties").key(name), errors);
    }
    for key in ["items", "additionalProperties", "not"].into_iter().filter(|key| raw[*key].as_object().is_some()) {
        supported(&raw[key], &path.child(key), errors);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, alternative) in raw[key].items().iter().enumerate() {
            supported(alternative, &path.child(key).index(i), errors);
        }
    }
}

fn extensions(raw: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let kind = raw.str_at(&["type"]);
    if raw["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, &Value::Bool(false), "must be true or undefined"));
    }
    for (key, wanted, known) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let Some(value) = raw.get(key).and_then(Value::as_str) else { continue };
        let detail = format!("must be {wanted} if {key} is specified");
        if kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), detail));
        } else if kind != wanted {
            errors.push(FieldError::invalid(&path.child("type"), &kind.into(), detail));
        }
        if !known.contains(&value) {
            errors.push(FieldError::not_supported(&path.child(key), &value.into(), known));
        }
    }
    list_map(raw, path, errors);
}

fn list_map(raw: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    let (list_type, keys) = (raw.str_at(&["x-kubernetes-list-type"]), &raw["x-kubernetes-list-map-keys"]);
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if !keys.items().is_empty() && list_type != "map" {
        let (at, detail) =
            (path.child("x-kubernetes-list-type"), "must be map if x-kubernetes-list-map-keys is non-empty");
        errors.push(match list_type {
            "" => FieldError::required(&at, detail),
            other => FieldError::invalid(&at, &other.into(), detail),
        });
    }
    if list_type != "map" {
        return;
    }
    if keys.items().is_empty() {
        errors.push(FieldError::required(&keys_path, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = &raw["items"];
    if items.is_null() {
        errors.push(FieldError::required(&path.child("items"), "must have a schema if x-kubernetes-list-type is map"));
        return;
    }
    let kind = items.str_at(&["type"]);
    if kind != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&path.child("items").child("type"), &kind.into(), detail));
        return;
    }
    let required = |key: &str| items["required"].items().iter().any(|r| r.as_str() == Some(key));
    for (i, key) in keys.items().iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let at = path.child("items").child("properties").key(name);
        match items["properties"].get(name) {
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&keys_path, keys, detail));
            }
            Some(property) if matches!(property.str_at(&["type"]), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(&at.child("type"), &kind.into(), detail));
            }
            Some(property) => {
                if property.get("default").is_none() && !required(name) {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                    errors.push(FieldError::required(&at.child("default"), detail));
                }
                if property["nullable"].as_bool() == Some(true) {
                    let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                    errors.push(FieldError::forbidden(&at.child("nullable"), detail));
                }
            }
        }
        if keys.items()[..i].contains(key) {
            errors.push(FieldError::invalid(&keys_path, keys, "must not contain duplicate entries"));
        }
    }
}

fn rules(raw: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    for (i, rule) in raw["x-kubernetes-validations"].items().iter().enumerate() {
        let at = path.child("x-kubernetes-validations").index(i);
        let text = |key| rule.str_at(&[key]);
        let lines = |text: &str| text.trim().contains(['\n', '\r']);
        let message = &rule["message"];
        if text("rule").trim().is_empty() {
            errors.push(FieldError::required(&at.child("rule"), "rule is not specified"));
        } else if !text("message").is_empty() && text("message").trim().is_empty() {
            errors.push(FieldError::invalid(&at.child("message"), message, "message must be non-empty if specified"));
        } else if lines(text("message")) {
            errors.push(FieldError::invalid(&at.child("message"), message, "message must not contain line breaks"));
        } else if lines(text("rule")) && text("message").trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at.child("message"), detail));
        }
        if !text("messageExpression").is_empty() && text("messageExpression").trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), detail));
        }
        let reasons = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if rule.get("reason").is_some() && !reasons.contains(&text("reason")) {
            errors.push(FieldError::not_supported(&at.child("reason"), &rule["reason"], reasons));
        }
    }
}

/// Type, items and the like where a structural schema must have them.
fn invariants(raw: &Value, schema: &Structural, level: Level, path: &FieldPath, errors: &mut FieldErrors) {
    let invalid = |key: &str, value: Value, why: &str| FieldError::invalid(&path.child(key), &value, why);
    if schema.kind == "array" && schema.items.is_none() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    if let Some(items) = &schema.items {
        invariants(&raw["items"], items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in &schema.properties {
        let at = path.child("properties").key(name);
        invariants(&raw["properties"][name.as_str()], property, Level::Field, &at, errors);
    }
    if let Some(additional) = &schema.additional_properties {
        if level == Level::Root {
            errors.push(FieldError::forbidden(&path.child("additionalProperties"), "must not be used at the root"));
        }
        if let super::AdditionalProperties::Schema(inner) = additional {
            let at = path.child("additionalProperties");
            invariants(&raw["additionalProperties"], inner, Level::Field, &at, errors);
        }
    }
    if schema.int_or_string {
        let why = "must be false if x-kubernetes-int-or-string is true";
        for (key, set) in [
            ("x-kubernetes-preserve-unknown-fields", schema.preserve_unknown_fields),
            ("x-kubernetes-embedded-resource", schema.embedded_resource),
        ] {
            if set {
                errors.push(invalid(key, true.into(), why));
            }
        }
    }
    nested_rules(raw, schema.int_or_string, path, errors);
    if schema.embedded_resource && schema.kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if schema.kind.is_empty() {
            FieldError::required(&path.child("type"), why)
        } else {
            invalid("type", schema.kind.clone().into(), why)
        });
    } else if schema.kind.is_empty() && !schema.int_or_string && !schema.preserve_unknown_fields {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&path.child("type"), why));
    }
    if schema.embedded_resource && schema.additional_properties.is_some() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), why));
    }
    if level == Level::Root && !schema.kind.is_empty() && schema.kind != "object" {
        errors.push(invalid("type", schema.kind.clone().into(), "must be object at the root"));
    }
    metadata(schema, level, path, errors);
    if schema.embedded_resource && !schema.preserve_unknown_fields && schema.properties.is_empty() {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), why));
    }
}

fn metadata(schema: &Structural, level: Level, path: &FieldPath, errors: &mut FieldErrors) {
    if level != Level::Root && !schema.embedded_resource {
        return;
    }
    for (name, kind) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let Some(property) = schema.property(name).filter(|p| p.kind != kind) else { continue };
        let at = path.child("properties").key(name).child("type");
        errors.push(FieldError::invalid(&at, &property.kind.clone().into(), format!("must be {kind}")));
    }
    let Some(metadata) = schema.property("metadata").filter(|_| level == Level::Root) else { return };
    let named = |name: &str| matches!(name, "name" | "generateName");
    let more = metadata.properties.iter().any(|(name, _)| !named(name))
        || metadata.additional_properties.is_some()
        || metadata.preserve_unknown_fields
        || metadata.nullable
        || !metadata.values.required.is_empty();
    if more {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(&path.child("properties").key("metadata"), why));
    }
}

/// What stands inside `allOf`, `anyOf`, `oneOf` and `not` may restrict values, but not describe them.
fn nested_rules(raw: &Value, int_or_string: bool, path: &FieldPath, errors: &mut FieldErrors) {
    let pattern = raw.str_at(&["pattern"]);
    // Classes by Unicode property are fine in Go; this engine cannot judge them.
    if let Err(error) = regex_lite::Regex::new(pattern)
        && !pattern.contains("\\p")
        && !pattern.contains("\\P")
        && !pattern.contains("[[:")
    {
        let why = format!("must be a valid regular expression, but isn't: error parsing regexp: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), &pattern.into(), why));
    }
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    for key in ["allOf", "anyOf", "oneOf"] {
        if key == "anyOf" && int_or_string && raw[key] == either {
            continue;
        }
        for (i, alternative) in raw[key].items().iter().enumerate() {
            let skip = key == "allOf" && i == 0 && int_or_string && alternative["anyOf"] == either;
            nested(alternative, skip, key == "allOf", &path.child(key).index(i), errors);
        }
    }
    if raw["not"].as_object().is_some() {
        nested(&raw["not"], false, false, &path.child("not"), errors);
    }
}

fn nested(raw: &Value, skip_any_of: bool, rules: bool, path: &FieldPath, errors: &mut FieldErrors) {
    nested_rules(raw, skip_any_of, path, errors);
    for (name, property) in raw["properties"].members() {
        nested(property, false, rules, &path.child("properties").key(name), errors);
    }
    if raw["items"].as_object().is_some() {
        nested(&raw["items"], false, rules, &path.child("items"), errors);
    }
    let mut forbid = |key: &str, why: &str| errors.push(FieldError::forbidden(&path.child(key), why));
    let set = |key: &str| {
        raw.get(key).is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false)) && v.as_str() != Some(""))
    };
    for (key, why) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
        ("x-kubernetes-embedded-resource", "must be false to be structural"),
        ("x-kubernetes-int-or-string", "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
    ] {
        if set(key) {
            forbid(key, why);
        }
    }
    if !rules && !raw["x-kubernetes-validations"].items().is_empty() {
        forbid("x-kubernetes-validations", "must be empty to be structural");
    }
    if raw["properties"].get("metadata").is_some() {
        let at = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Every field that alternatives at the root restrict must be described outside of them.
fn completeness(node: &Structural, rules: &Structural, path: &FieldPath, at: &FieldPath, errors: &mut FieldErrors) {
    let values = &rules.values;
    for (key, list) in [("allOf", &values.all_of), ("anyOf", &values.any_of), ("oneOf", &values.one_of)] {
        for (i, alternative) in list.iter().enumerate() {
            described(node, alternative, path, &at.child(key).index(i), errors);
        }
    }
    if let Some(not) = &values.not {
        described(node, not, path, &at.child("not"), errors);
    }
}

fn described(node: &Structural, rules: &Structural, path: &FieldPath, at: &FieldPath, errors: &mut FieldErrors) {
    const WHY: &str = "because it is defined in ";
    completeness(node, rules, path, at, errors);
    match (&node.items, &rules.items) {
        (None, Some(_)) => {
            let why = format!("{WHY}{}", at.child("items"));
            errors.push(FieldError::required(&path.child("items"), why));
        }
        (Some(node), Some(rules)) => described(node, rules, &path.child("items"), &at.child("items"), errors),
        _ => {}
    }
    for (name, property) in &rules.properties {
        let (inner, inner_at) = (path.child("properties").key(name), at.child("properties").key(name));
        match node.property(name) {
            Some(node) => described(node, property, &inner, &inner_at, errors),
            None => errors.push(FieldError::required(&inner, format!("{WHY}{inner_at}"))),
        }
    }
}
