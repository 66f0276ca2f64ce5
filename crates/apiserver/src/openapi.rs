//! `/openapi/v2` and `/openapi/v3`, made from the rows' types on first use.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use machinery::schema::{Field, ListType, MapType, Shape, Type, Types};
use machinery::{GroupVersionKind, Value, json};
use registry::{Registry, Resource, SchemaRef};

use crate::message::Reply;
use crate::paths::document;
use crate::server::Call;

/// Where schemas refer to each other.
const V2: &str = "#/definitions/";
const V3: &str = "#/components/schemas/";

impl Call<'_> {
    pub(crate) fn openapi_v2(&self) -> Reply {
        let registry = self.server.registry.load_full();
        let server = self.server;
        let made = server.documents.get(&registry, "openapi v2", |registry| {
            let mut builder = Builder::new(&server.types, V2);
            let mut paths = Value::object();
            for version in registry.group_versions() {
                for row in registry.rows_of(&version.group, &version.version) {
                    builder.row(row, &mut paths, false);
                }
            }
            let info = json!({"title": "Kubernetes", "version": server.config.git_version});
            let mut value = json!({"swagger": "2.0"});
            value.set("info", info);
            value.set("paths", paths);
            value.set("definitions", builder.finish());
            value.to_vec()
        });
        self.with_etag(made, "application/json")
    }

    pub(crate) fn openapi_v3_index(&self) -> Reply {
        let registry = self.server.registry.load_full();
        let mut paths = Value::object();
        for version in registry.group_versions() {
            let path = path_of(&version.group, &version.version);
            let (_, hash) = self.v3(&registry, &version.group, &version.version);
            paths.set(&path, json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
        }
        let mut value = Value::object();
        value.set("paths", paths);
        document(200, "application/json", value.to_vec())
    }

    fn v3(&self, registry: &std::sync::Arc<Registry>, group: &str, version: &str) -> (Bytes, String) {
        let server = self.server;
        server.documents.get(registry, &format!("openapi v3 {group}/{version}"), |registry| {
            let mut builder = Builder::new(&server.types, V3);
            let mut paths = Value::object();
            for row in registry.rows_of(group, version) {
                builder.row(row, &mut paths, true);
            }
            let mut value = json!({"openapi": "3.0.0"});
            value.set("info", json!({"title": "Kubernetes", "version": server.config.git_version}));
            value.set("paths", paths);
            let mut components = Value::object();
            components.set("schemas", builder.finish());
            value.set("components", components);
            value.to_vec()
        })
    }

    pub(crate) fn openapi_v3(&self, path: &str) -> Reply {
        let registry = self.server.registry.load_full();
        let parts: Vec<&str> = path.split('/').collect();
        let (group, version) = match parts.as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            _ => return Reply::text(404, "404 page not found\n"),
        };
        if registry.rows_of(group, version).next().is_none() {
            return Reply::text(404, "404 page not found\n");
        }
        self.with_etag(self.v3(&registry, group, version), "application/json")
    }
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// Gathers schemas: what rows need, and what those need.
struct Builder<'a> {
    types: &'a Types,
    prefix: &'static str,
    made: BTreeMap<String, Value>,
    wanted: BTreeSet<String>,
    kinds: BTreeMap<String, Vec<Value>>,
}

fn definition_name(ty: &Type) -> String {
    match ty.proto {
        Some(proto) => proto.replacen("k8s.io.", "io.k8s.", 1),
        None => format!("io.k8s.{}", ty.full_name().replace('/', ".")),
    }
}

fn gvk_value(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group.as_str(), "version": gvk.version.as_str(), "kind": gvk.kind.as_str()})
}

impl<'a> Builder<'a> {
    fn new(types: &'a Types, prefix: &'static str) -> Self {
        Self { types, prefix, made: BTreeMap::new(), wanted: BTreeSet::new(), kinds: BTreeMap::new() }
    }

    /// The row's schema, its list's, and its paths.
    fn row(&mut self, row: &Resource, paths: &mut Value, v3: bool) {
        let name = match &row.schema {
            SchemaRef::Builtin(type_name) => match self.types.get(type_name) {
                Some(ty) => {
                    self.wanted.insert(type_name.to_string());
                    definition_name(ty)
                }
                None => return,
            },
            SchemaRef::Structural(_) => self.custom(row),
        };
        let kinds = self.kinds.entry(name.clone()).or_default();
        let gvk = gvk_value(&row.gvk);
        if !kinds.contains(&gvk) {
            kinds.push(gvk);
        }
        self.list(row, &name);
        let base = if row.gvk.group.is_empty() {
            format!("/api/{}", row.gvk.version)
        } else {
            format!("/apis/{}/{}", row.gvk.group, row.gvk.version)
        };
        let place = if row.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base };
        let collection = format!("{place}/{}", row.plural);
        let each = |verbs: &[(&str, &str, &str)]| -> Value {
            let offered = verbs.iter().filter(|(verb, _, _)| row.allows(verb));
            offered.map(|(_, method, action)| (*method, self.operation(row, method, action, &name, v3))).collect()
        };
        let on_list = each(&[
            ("list", "get", "list"),
            ("create", "post", "post"),
            ("deletecollection", "delete", "deletecollection"),
        ]);
        let on_one = each(&[
            ("get", "get", "get"),
            ("update", "put", "put"),
            ("patch", "patch", "patch"),
            ("delete", "delete", "delete"),
        ]);
        paths.set(&collection, on_list);
        paths.set(&format!("{collection}/{{name}}"), on_one);
    }

    fn operation(&self, row: &Resource, method: &str, action: &str, name: &str, v3: bool) -> Value {
        let options: &[&str] = match method {
            "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
            "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
            "delete" => &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
            _ => &["pretty"],
        };
        let parameter = |option: &&str| {
            let kind = match *option {
                "force" | "orphanDependents" => "boolean",
                "gracePeriodSeconds" => "integer",
                _ => "string",
            };
            if v3 {
                json!({"name": option, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
            } else {
                json!({"name": option, "in": "query", "type": kind, "uniqueItems": true})
            }
        };
        let reference = json!({"$ref": format!("{}{name}", self.prefix)});
        let mut ok = json!({"description": "OK"});
        if v3 {
            let mut content = json!({"application/json": {}});
            content["application/json"].set("schema", reference);
            ok.set("content", content);
        } else {
            ok.set("schema", reference);
        }
        let mut operation =
            json!({"operationId": format!("{action}{}{}{}", row.gvk.group, row.gvk.version, row.gvk.kind)});
        operation.set("parameters", options.iter().map(parameter).collect::<Value>());
        let mut responses = Value::object();
        responses.set("200", ok);
        operation.set("responses", responses);
        operation.set("x-kubernetes-action", action);
        operation.set("x-kubernetes-group-version-kind", gvk_value(&row.gvk));
        operation
    }

    fn list(&mut self, row: &Resource, item: &str) {
        let name = format!("{}List", item);
        let meta = self.reference("meta/v1.ListMeta");
        let mut properties = json!({"apiVersion": {"type": "string"}, "kind": {"type": "string"}});
        properties.set("metadata", meta);
        let mut items = json!({"type": "array"});
        items.set("items", json!({"$ref": format!("{}{item}", self.prefix)}));
        properties.set("items", items);
        let mut schema = json!({"type": "object", "required": ["items"]});
        schema.set("properties", properties);
        let gvk = GroupVersionKind::new(&row.gvk.group, &row.gvk.version, &row.list_kind());
        self.kinds.insert(name.clone(), vec![gvk_value(&gvk)]);
        self.made.insert(name, schema);
    }

    fn custom(&mut self, row: &Resource) -> String {
        let reversed: Vec<&str> = row.gvk.group.split('.').rev().collect();
        let name = format!("{}.{}.{}", reversed.join("."), row.gvk.version, row.gvk.kind);
        let SchemaRef::Structural(custom) = &row.schema else { return name };
        let mut schema = custom.open_api.clone();
        if schema.as_object().is_none() {
            schema = json!({"type": "object"});
        }
        if schema["properties"].as_object().is_some() || !custom.preserve_unknown_fields {
            let meta = self.reference("meta/v1.ObjectMeta");
            *schema.at_mut(&["properties", "apiVersion"]) = json!({"type": "string"});
            *schema.at_mut(&["properties", "kind"]) = json!({"type": "string"});
            *schema.at_mut(&["properties", "metadata"]) = meta;
        }
        self.made.insert(name.clone(), schema);
        name
    }

    fn reference(&mut self, type_name: &str) -> Value {
        match self.types.get(type_name) {
            Some(ty) => {
                self.wanted.insert(type_name.to_owned());
                json!({"$ref": format!("{}{}", self.prefix, definition_name(ty))})
            }
            None => json!({"type": "object"}),
        }
    }

    fn finish(mut self) -> Value {
        while let Some(type_name) = self.wanted.pop_first() {
            let Some(ty) = self.types.get(&type_name) else { continue };
            let name = definition_name(ty);
            if self.made.contains_key(&name) {
                continue;
            }
            // Placed before it is filled, as types refer to themselves.
            self.made.insert(name.clone(), Value::Null);
            let schema = self.object(ty);
            self.made.insert(name, schema);
        }
        let kinds = self.kinds;
        let with_kinds = |(name, mut schema): (String, Value)| {
            if let Some(kinds) = kinds.get(&name) {
                schema.set("x-kubernetes-group-version-kind", Value::Array(kinds.clone()));
            }
            (name, schema)
        };
        self.made.into_iter().map(with_kinds).collect()
    }

    fn object(&mut self, ty: &Type) -> Value {
        let types = self.types;
        if let Some(list) = types.as_list(ty) {
            return self.shape(&list.shape);
        }
        let mut properties = Value::object();
        let mut required: Vec<&str> = Vec::new();
        for (name, field) in types.members(ty) {
            properties.set(name, self.field(field));
            if field.required {
                required.push(name);
            }
        }
        let mut schema = json!({"type": "object"});
        if properties.members().next().is_some() {
            schema.set("properties", properties);
        }
        if !required.is_empty() {
            schema.set("required", required);
        }
        schema
    }

    fn field(&mut self, field: &Field) -> Value {
        let mut schema = self.shape(&field.shape);
        let list_type = match field.list_type {
            ListType::Unset => None,
            ListType::Atomic => Some("atomic"),
            ListType::Set => Some("set"),
            ListType::Map => Some("map"),
        };
        if let Some(word) = list_type {
            schema.set("x-kubernetes-list-type", word);
        }
        if !field.list_map_keys.is_empty() {
            schema.set("x-kubernetes-list-map-keys", field.list_map_keys.clone());
        }
        if field.map_type != MapType::Unset {
            let word = if field.map_type == MapType::Atomic { "atomic" } else { "granular" };
            schema.set("x-kubernetes-map-type", word);
        }
        if let Some(key) = field.merge_key {
            schema.set("x-kubernetes-patch-merge-key", key);
        }
        let strategies =
            [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")];
        let words: Vec<&str> = strategies.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if !words.is_empty() {
            schema.set("x-kubernetes-patch-strategy", words.join(","));
        }
        if let Some(default) = &field.default {
            schema.set("default", default.clone());
        }
        if !field.enumeration.is_empty() {
            schema.set("enum", field.enumeration.clone());
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String | Shape::Quantity | Shape::Duration => json!({"type": "string"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Float64 => json!({"type": "number", "format": "double"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
            Shape::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Shape::RawExtension | Shape::FieldsV1 => json!({"type": "object"}),
            Shape::Json | Shape::Any => json!({}),
            Shape::Ref(name) => self.reference(&name.to_string()),
            Shape::List(item) => {
                let mut schema = json!({"type": "array"});
                schema.set("items", self.shape(item));
                schema
            }
            Shape::Map(value) => {
                let mut schema = json!({"type": "object"});
                schema.set("additionalProperties", self.shape(value));
                schema
            }
        }
    }
}
