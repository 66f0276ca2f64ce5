//! The schema of a custom resource: an `openAPIV3Schema` that is structural, made ready for pruning, defaulting and
//! validation as `k8s.io/apiextensions-apiserver` does them.

mod formats;
mod lists;
mod prune;
mod ratchet;
mod rules;
mod validate;

use regex_lite::Regex;

pub use formats::matches as matches_format;

use super::{ListType, MapType};
use crate::{CompactString, FieldErrors, FieldPath, Value};

/// One node of a structural schema.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    /// `type`; empty when unset.
    pub kind: CompactString,
    pub nullable: bool,
    pub default: Option<Value>,
    pub items: Option<Box<Structural>>,
    /// Sorted by name.
    pub properties: Vec<(CompactString, Structural)>,
    pub additional_properties: Option<AdditionalProperties>,
    pub preserve_unknown_fields: bool,
    pub embedded_resource: bool,
    pub int_or_string: bool,
    pub list_type: ListType,
    pub list_map_keys: Vec<CompactString>,
    pub map_type: MapType,
    /// `x-kubernetes-validations`, as written; evaluated elsewhere.
    pub validations: Vec<Value>,
    pub values: ValueRules,
}

/// `additionalProperties`: a schema, or whether there may be any.
#[derive(Clone, Debug)]
pub enum AdditionalProperties {
    Schema(Box<Structural>),
    Allowed(bool),
}

/// What values must satisfy beyond their type.
#[derive(Clone, Debug, Default)]
pub struct ValueRules {
    /// Only formats that are checked; others are dropped.
    pub format: CompactString,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: CompactString,
    /// `pattern` compiled; `None` also for what this engine cannot compile, which then matches everything.
    regex: Option<Regex>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub enumeration: Vec<Value>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<CompactString>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

impl Structural {
    /// Checks and reads an `openAPIV3Schema`.
    ///
    /// # Errors
    /// What keeps it from being a structural schema, by path from `openAPIV3Schema`, in upstream's words.
    pub fn parse(schema: &Value) -> Result<Self, FieldErrors> {
        Self::parse_at(schema, &FieldPath::new("openAPIV3Schema"))
    }

    /// As [`Structural::parse`], with errors from a given path (`spec.versions[0].schema.openAPIV3Schema`).
    ///
    /// # Errors
    /// As [`Structural::parse`].
    pub fn parse_at(schema: &Value, path: &FieldPath) -> Result<Self, FieldErrors> {
        let parsed = read(schema);
        let errors = rules::check(schema, &parsed, path);
        if errors.is_empty() { Ok(parsed) } else { Err(errors) }
    }

    /// Reads a schema without checking it, as one does with a CRD that was accepted before.
    pub fn parse_unchecked(schema: &Value) -> Self {
        read(schema)
    }

    /// The schema of a property, if there is one of its own.
    pub fn property(&self, name: &str) -> Option<&Self> {
        let at = self.properties.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// The schema of all other properties.
    pub fn additional(&self) -> Option<&Self> {
        match &self.additional_properties {
            Some(AdditionalProperties::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// Removes the fields the schema does not know from a resource; returns `unknown field "…"` for each.
    pub fn prune(&self, resource: &mut Value) -> Vec<String> {
        prune::prune(self, resource)
    }

    /// Sets the defaults of absent fields, and of nulls where null is not allowed.
    pub fn apply_defaults(&self, value: &mut Value) {
        prune::apply_defaults(self, value);
    }

    /// What is wrong with a value; `path` is where it stands (empty for a whole resource).
    pub fn validate(&self, value: &Value, path: &FieldPath) -> FieldErrors {
        let mut errors = validate::validate(self, value, None, path);
        // The rules on list items presuppose the right types.
        if errors.is_empty() {
            lists::validate(self, value, path, &mut errors);
        }
        errors
    }

    /// What is wrong with a changed value beyond what was wrong with it before: parts that are as they were may stay
    /// wrong (`CRDValidationRatcheting`), and lists may stay repetitive as long as any list was.
    pub fn validate_update(&self, value: &Value, old: &Value, path: &FieldPath) -> FieldErrors {
        let mut errors = validate::validate(self, value, Some(old), path);
        if errors.is_empty() {
            let mut before = FieldErrors::new();
            lists::validate(self, old, path, &mut before);
            if before.is_empty() {
                lists::validate(self, value, path, &mut errors);
            }
        }
        errors
    }

    /// Does a node here or below have rules in CEL?
    pub fn has_validations(&self) -> bool {
        !self.validations.is_empty()
            || self.items.as_ref().is_some_and(|s| s.has_validations())
            || self.additional().is_some_and(Self::has_validations)
            || self.properties.iter().any(|(_, s)| s.has_validations())
            || self.values.all_of.iter().any(Self::has_validations)
    }
}

fn read(schema: &Value) -> Structural {
    let flag = |key: &str| schema[key].as_bool() == Some(true);
    let mut properties: Vec<(CompactString, Structural)> =
        schema["properties"].members().map(|(name, s)| (name.into(), read(s))).collect();
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    Structural {
        kind: schema.str_at(&["type"]).into(),
        nullable: flag("nullable"),
        default: schema.get("default").filter(|d| !d.is_null()).cloned(),
        items: schema.get("items").filter(|i| i.as_object().is_some()).map(|i| Box::new(read(i))),
        properties,
        additional_properties: match &schema["additionalProperties"] {
            Value::Bool(allowed) => Some(AdditionalProperties::Allowed(*allowed)),
            Value::Object(_) => Some(AdditionalProperties::Schema(Box::new(read(&schema["additionalProperties"])))),
            _ => None,
        },
        preserve_unknown_fields: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        list_type: match schema.str_at(&["x-kubernetes-list-type"]) {
            "map" => ListType::Map,
            "set" => ListType::Set,
            "atomic" => ListType::Atomic,
            _ => ListType::Unset,
        },
        list_map_keys: texts(&schema["x-kubernetes-list-map-keys"]),
        map_type: match schema.str_at(&["x-kubernetes-map-type"]) {
            "atomic" => MapType::Atomic,
            "granular" => MapType::Granular,
            _ => MapType::Unset,
        },
        validations: schema["x-kubernetes-validations"].items().to_vec(),
        values: read_values(schema),
    }
}

fn read_values(schema: &Value) -> ValueRules {
    let flag = |key: &str| schema[key].as_bool() == Some(true);
    let number = |key: &str| schema[key].as_f64();
    let count = |key: &str| schema[key].as_i64();
    let list = |key: &str| schema[key].items().iter().map(read).collect();
    let format = schema.str_at(&["format"]);
    let pattern = schema.str_at(&["pattern"]);
    ValueRules {
        format: if formats::is_checked(format) { format.into() } else { CompactString::default() },
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: pattern.into(),
        regex: if pattern.is_empty() { None } else { Regex::new(pattern).ok() },
        max_items: count("maxItems"),
        min_items: count("minItems"),
        unique_items: flag("uniqueItems"),
        multiple_of: number("multipleOf"),
        enumeration: schema["enum"].items().to_vec(),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        required: texts(&schema["required"]),
        all_of: list("allOf"),
        any_of: list("anyOf"),
        one_of: list("oneOf"),
        not: schema.get("not").filter(|n| n.as_object().is_some()).map(|n| Box::new(read(n))),
    }
}

fn texts(list: &Value) -> Vec<CompactString> {
    list.items().iter().filter_map(Value::as_str).map(Into::into).collect()
}

#[cfg(test)]
mod tests;
