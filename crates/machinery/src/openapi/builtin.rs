//! Schemas of built-in types.

use std::collections::BTreeMap;

use super::Version;
use crate::schema::{Field, ListType, MapType, Shape, Special, Type, Types, struct_of};
use crate::{GroupVersionKind, Value, json};

/// Descriptions: by type (`core/v1.Pod`) and field; the empty field is the type itself.
pub type Prose<'a> = &'a dyn Fn(&str, &str) -> Option<&'a str>;

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const DURATION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Duration";
const FIELDS_V1: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
const JSON: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON";

/// `io.k8s.api.core.v1.PodSpec`
pub fn definition_name(ty: &Type) -> String {
    match ty.proto.and_then(|p| p.strip_prefix("k8s.io.")) {
        // Protobuf packages cannot have dashes.
        Some(rest) => match rest.rsplit_once('.') {
            Some((package, name)) => format!("io.k8s.{}.{name}", package.replace('_', "-")),
            None => format!("io.k8s.{rest}"),
        },
        None => format!("io.k8s.api.{}.{}", ty.file.replace('/', "."), ty.name),
    }
}

/// The schemas of `roots` (type names like `core/v1.Pod`) and of all they refer to, by definition name.
/// `kinds` tells which kinds a type serves, for `x-kubernetes-group-version-kind`.
pub fn definitions<'r>(
    types: &Types,
    roots: impl IntoIterator<Item = &'r str>,
    version: Version,
    prose: Prose<'_>,
    kinds: &dyn Fn(&str) -> Vec<GroupVersionKind>,
) -> Value {
    let mut done: BTreeMap<String, Value> = BTreeMap::new();
    let mut waiting: Vec<&Type> = roots.into_iter().filter_map(|name| types.get(name)).collect();
    while let Some(ty) = waiting.pop() {
        let name = definition_name(ty);
        if done.contains_key(&name) {
            continue;
        }
        done.insert(name, schema(types, ty, version, prose, &kinds(&ty.full_name())));
        for (_, field) in types.members(ty) {
            reach(types, &field.shape, version, &mut done, &mut waiting);
        }
        if ty.special != Special::None {
            ty.fields.iter().for_each(|f| reach(types, &f.shape, version, &mut done, &mut waiting));
        }
    }
    done.into_iter().collect()
}

fn reach<'t>(
    types: &'t Types,
    shape: &Shape,
    version: Version,
    done: &mut BTreeMap<String, Value>,
    waiting: &mut Vec<&'t Type>,
) {
    match shape {
        Shape::List(inner) | Shape::Map(inner) => reach(types, inner, version, done, waiting),
        Shape::Ref(name) => {
            waiting.extend(types.resolve(name).filter(|ty| types.as_list(ty).is_none()));
        }
        other => {
            if let Some((name, schema)) = well_known(other, version) {
                done.entry(name.to_owned()).or_insert(schema);
            }
        }
    }
}

fn well_known(shape: &Shape, version: Version) -> Option<(&'static str, Value)> {
    let v3 = version == Version::V3;
    Some(match shape {
        Shape::Quantity if v3 => (QUANTITY, json!({"oneOf": [{"type": "string"}, {"type": "number"}]})),
        Shape::Quantity => (QUANTITY, json!({"type": "string"})),
        Shape::IntOrString if v3 => {
            (INT_OR_STRING, json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}))
        }
        Shape::IntOrString => (INT_OR_STRING, json!({"format": "int-or-string", "type": "string"})),
        Shape::RawExtension => (RAW_EXTENSION, json!({"type": "object"})),
        Shape::Time => (TIME, json!({"format": "date-time", "type": "string"})),
        Shape::MicroTime => (MICRO_TIME, json!({"format": "date-time", "type": "string"})),
        Shape::Duration => (DURATION, json!({"type": "string"})),
        Shape::FieldsV1 => (FIELDS_V1, json!({"type": "object"})),
        Shape::Json => (JSON, Value::object()),
        _ => return None,
    })
}

/// The schema of one type.
pub fn schema(types: &Types, ty: &Type, version: Version, prose: Prose<'_>, kinds: &[GroupVersionKind]) -> Value {
    let name = ty.full_name();
    let mut out = Value::object();
    if let Some(text) = prose(&name, "") {
        out.set("description", text);
    }
    if ty.special != Special::None {
        return out;
    }
    let mut properties = Value::object();
    for (member, field) in types.members(ty) {
        properties.set(member, property(types, field, version, prose(&name, member)));
    }
    let mut required: Vec<&str> = Vec::new();
    declared(types, ty, &mut |field| required.extend(field.required.then_some(field.name)));
    out.set("type", "object");
    if properties.members().next().is_some() {
        out.set("properties", properties);
    }
    if !required.is_empty() {
        out.set("required", required);
    }
    if types.is_atomic(ty) {
        out.set("x-kubernetes-map-type", "atomic");
    }
    if !kinds.is_empty() {
        let kind = |k: &GroupVersionKind| json!({"group": k.group.as_str(), "kind": k.kind.as_str(), "version": k.version.as_str()});
        out.set("x-kubernetes-group-version-kind", kinds.iter().map(kind).collect::<Value>());
    }
    out
}

/// Fields in the order of their declaration, inlined ones in place.
fn declared<'t>(types: &'t Types, ty: &'t Type, visit: &mut dyn FnMut(&'t Field)) {
    for field in &ty.fields {
        match &field.shape {
            Shape::Ref(name) if field.inline => {
                if let Some(inner) = types.resolve(name) {
                    declared(types, inner, visit);
                }
            }
            _ => visit(field),
        }
    }
}

fn property(types: &Types, field: &Field, version: Version, prose: Option<&str>) -> Value {
    let v3 = version == Version::V3;
    let mut out = shape(types, &field.shape, version, false);
    let default = field.default.as_ref().filter(|_| v3);
    if v3 && out.get("$ref").is_some() && (prose.is_some() || default.is_some()) {
        // In v3 nothing may stand beside a reference.
        out = json!({}).with("allOf", Value::Array(vec![out]));
    }
    if let Some(default) = default {
        out.set("default", default.clone());
    }
    if let Some(text) = prose {
        out.set("description", text);
    }
    if !field.enumeration.is_empty() {
        out.set("enum", field.enumeration.clone());
    }
    match field.list_type {
        ListType::Unset => {}
        ListType::Atomic => out.set("x-kubernetes-list-type", "atomic"),
        ListType::Set => out.set("x-kubernetes-list-type", "set"),
        ListType::Map => out.set("x-kubernetes-list-type", "map"),
    }
    if !field.list_map_keys.is_empty() {
        out.set("x-kubernetes-list-map-keys", field.list_map_keys.clone());
    }
    match field.map_type {
        // Said of the type itself.
        MapType::Atomic if struct_of(types, &field.shape).is_some() => {}
        MapType::Unset => {}
        MapType::Granular => out.set("x-kubernetes-map-type", "granular"),
        MapType::Atomic => out.set("x-kubernetes-map-type", "atomic"),
    }
    if let Some(key) = field.merge_key {
        out.set("x-kubernetes-patch-merge-key", key);
    }
    let strategies =
        [("merge", field.patch.merge), ("replace", field.patch.replace), ("retainKeys", field.patch.retain_keys)];
    let strategies: Vec<&str> = strategies.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
    if !strategies.is_empty() {
        out.set("x-kubernetes-patch-strategy", strategies.join(","));
    }
    out
}

/// `element`: in lists and maps v3 shows the zero value as default.
fn shape(types: &Types, shape: &Shape, version: Version, element: bool) -> Value {
    let zero = element && version == Version::V3;
    let scalar = |kind: &str, format: &str, default: Value| {
        let mut out = json!({"type": kind});
        if !format.is_empty() {
            out.set("format", format);
        }
        if zero && !default.is_null() {
            out.set("default", default);
        }
        out
    };
    let reference = |name: &str| json!({"$ref": format!("{}{name}", version.prefix())});
    match shape {
        Shape::String => scalar("string", "", "".into()),
        Shape::Bool => scalar("boolean", "", false.into()),
        Shape::Int32 => scalar("integer", "int32", 0.into()),
        Shape::Int64 => scalar("integer", "int64", 0.into()),
        Shape::Float64 => scalar("number", "double", 0.into()),
        Shape::Bytes => scalar("string", "byte", Value::Null),
        Shape::Any => Value::object(),
        Shape::List(inner) => json!({"type": "array"}).with("items", self::shape(types, inner, version, true)),
        Shape::Map(inner) => {
            json!({"type": "object"}).with("additionalProperties", self::shape(types, inner, version, true))
        }
        Shape::Ref(name) => match types.resolve(name) {
            Some(ty) => match types.as_list(ty) {
                Some(list) => self::shape(types, &list.shape, version, false),
                None => {
                    let target = reference(&definition_name(ty));
                    if zero && ty.special == Special::None {
                        json!({"default": {}}).with("allOf", Value::Array(vec![target]))
                    } else {
                        target
                    }
                }
            },
            None => json!({"type": "object"}),
        },
        other => well_known(other, version).map_or_else(Value::object, |(name, _)| reference(name)),
    }
}

impl Value {
    /// This object with one more member.
    fn with(mut self, key: &str, value: Value) -> Self {
        self.set(key, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::samples::types;

    fn none(_: &str, _: &str) -> Option<&'static str> {
        None
    }

    #[test]
    fn a_type_becomes_a_component_as_kubernetes_publishes_it() {
        let types = types();
        let prose = |ty: &str, field: &str| (ty == "core/v1.PodSpec" && field == "volumes").then_some("Volumes.");
        let spec = schema(&types, types.get("core/v1.PodSpec").unwrap(), Version::V3, &prose, &[]);
        assert_eq!(
            spec["properties"]["volumes"],
            json!({"type": "array", "description": "Volumes.", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge,retainKeys",
                "items": {"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.Volume"}], "default": {}}})
        );
        assert_eq!(
            spec["properties"]["nodeSelector"]["additionalProperties"],
            json!({"type": "string", "default": ""})
        );
        assert_eq!(spec["required"], json!(["containers"]));
        let spec = schema(&types, types.get("core/v1.PodSpec").unwrap(), Version::V2, &prose, &[]);
        assert_eq!(spec["properties"]["volumes"]["items"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Volume"}));
    }

    #[test]
    fn definitions_hold_all_that_is_referred_to() {
        let kinds = |name: &str| {
            if name == "core/v1.Pod" { vec![GroupVersionKind::new("", "v1", "Pod")] } else { Vec::new() }
        };
        for version in [Version::V2, Version::V3] {
            let all = definitions(&types(), ["core/v1.PodList", "core/v1.Odd"], version, &none, &kinds);
            let text = all.to_string();
            for part in text.split(version.prefix()).skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(all.get(name).is_some(), "{name}");
            }
            assert_eq!(
                all["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
                json!([{"group": "", "kind": "Pod", "version": "v1"}])
            );
        }
    }
}
