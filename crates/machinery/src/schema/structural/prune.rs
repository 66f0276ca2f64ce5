//! Pruning and defaulting of custom resources.

use super::{AdditionalProperties, Structural};
use crate::{Value, go};

fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

pub(super) fn prune(schema: &Structural, resource: &mut Value) -> Vec<String> {
    let mut walk = Walk { path: String::new(), unknown: Vec::new() };
    walk.value(Some(schema), resource, true);
    walk.unknown.sort_unstable();
    walk.unknown.iter().map(|path| format!("unknown field {}", go::quote(path))).collect()
}

struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    /// `resource`: does the value have `apiVersion`, `kind` and `metadata` of its own?
    fn value(&mut self, schema: Option<&Structural>, value: &mut Value, resource: bool) {
        let keep = schema.is_some_and(|s| s.preserve_unknown_fields);
        let resource = resource || schema.is_some_and(|s| s.embedded_resource);
        match value {
            Value::Object(object) => object.retain(|name, member| {
                let Some(schema) = schema else {
                    self.unknown_field(name);
                    return false;
                };
                if resource && is_meta(name) {
                    return true;
                }
                let inner = match (schema.property(name), &schema.additional_properties) {
                    (Some(property), _) => Some(property),
                    (None, Some(AdditionalProperties::Schema(schema))) => Some(&**schema),
                    // Without a schema of their own, members of members are unknown.
                    (None, Some(AdditionalProperties::Allowed(_))) => None,
                    (None, None) => {
                        if !keep {
                            self.unknown_field(name);
                        }
                        return keep;
                    }
                };
                let mark = self.enter(name);
                self.value(inner, member, false);
                self.path.truncate(mark);
                true
            }),
            Value::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    let mark = self.path.len();
                    self.path.push_str(&format!("[{i}]"));
                    let inner = schema.and_then(|s| s.items.as_deref());
                    match inner {
                        None if keep => {}
                        Some(inner) if keep => self.kept_item(inner, item),
                        inner => self.value(inner, item, false),
                    }
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
    }

    /// An item of a list that keeps unknown fields: its own level keeps them too.
    fn kept_item(&mut self, schema: &Structural, item: &mut Value) {
        if schema.preserve_unknown_fields {
            return self.value(Some(schema), item, false);
        }
        let kept = Structural { preserve_unknown_fields: true, ..schema.clone() };
        self.value(Some(&kept), item, false);
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    fn unknown_field(&mut self, name: &str) {
        if self.path.is_empty() && is_meta(name) {
            return;
        }
        let dot = if self.path.is_empty() { "" } else { "." };
        self.unknown.push(format!("{}{dot}{name}", self.path));
    }
}

fn wants_default(schema: &Structural, value: &Value) -> bool {
    value.is_null() && !schema.nullable
}

pub(super) fn apply_defaults(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                if object.get(name).is_none_or(|v| wants_default(property, v)) {
                    object.insert(name.clone(), default.clone());
                }
            }
            let additional = schema.additional();
            for (name, member) in object.iter_mut() {
                match (schema.property(name), additional) {
                    (Some(property), _) => apply_defaults(property, member),
                    (None, Some(additional)) => {
                        if wants_default(additional, member) {
                            *member = additional.default.clone().unwrap_or_default();
                        }
                        apply_defaults(additional, member);
                    }
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &schema.items else { return };
            for item in items {
                if wants_default(schema, item) {
                    *item = schema.default.clone().unwrap_or_default();
                }
                apply_defaults(schema, item);
            }
        }
        _ => {}
    }
}
