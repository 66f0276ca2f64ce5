//! One document from the rows it is about.

use std::collections::{BTreeMap, BTreeSet};

use machinery::openapi::{Version, custom_resource, custom_resource_list, definition_name, definitions};
use machinery::schema::Types;
use machinery::{GroupVersionKind, Value, json};
use registry::{Resource, SchemaRef};

use super::paths;

/// What every group has beside its own kinds.
const EVERYWHERE: [&str; 6] = [
    "meta/v1.APIResourceList",
    "meta/v1.DeleteOptions",
    "meta/v1.WatchEvent",
    "meta/v1.Status",
    "meta/v1.ObjectMeta",
    "meta/v1.ListMeta",
];
/// What discovery answers above the versions.
const GROUPS: [&str; 3] = ["meta/v1.APIGroup", "meta/v1.APIGroupList", "meta/v1.APIVersions"];
/// A patch has no type of its own: anything may stand in it.
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The document of `rows`: schemas of what they and their subresources carry, and their paths; `places` are the paths of
/// discovery (`apis/apps`) in it.
pub(super) fn of(types: &Types, rows: &[&Resource], places: &[String], version: Version, git_version: &str) -> Value {
    let kinds = kinds(types, rows);
    let mut roots: Vec<&str> = kinds.keys().map(String::as_str).collect();
    roots.extend(EVERYWHERE.into_iter().filter(|_| !rows.is_empty()));
    roots.extend(GROUPS.into_iter().filter(|_| rows.is_empty() || version == Version::V2));
    let of_type = |name: &str| kinds.get(name).cloned().unwrap_or_default();
    let mut schemas = definitions(types, roots, version, &facts::prose, &of_type);
    if !rows.is_empty() {
        schemas.set(PATCH, json!({"type": "object"}));
    }
    for row in rows {
        if let SchemaRef::Structural(custom) = &row.schema {
            let name = name_of(types, row);
            schemas.set(&format!("{name}List"), custom_resource_list(&row.gvk, &row.list_kind(), &name, version));
            schemas.set(&name, custom_resource(&custom.open_api, &row.gvk, version));
        }
    }
    let mut all = Value::object();
    places.iter().for_each(|place| paths::add_discovery(place, version, &mut all));
    rows.iter().for_each(|row| paths::add(types, row, version, &mut all));
    let scheme = json!({"BearerToken": {"description": "Bearer Token authentication", "type": "apiKey",
        "name": "authorization", "in": "header"}});
    let mut out = Value::object();
    out.set(
        if version == Version::V2 { "swagger" } else { "openapi" },
        if version == Version::V2 { "2.0" } else { "3.0.0" },
    );
    out.set("info", json!({"title": "Kubernetes", "version": git_version}));
    out.set("paths", all);
    match version {
        Version::V2 => {
            out.set("definitions", schemas);
            out.set("securityDefinitions", scheme);
            out.set("security", json!([{"BearerToken": []}]));
        }
        Version::V3 => {
            out.set("components", Value::object());
            out["components"].set("schemas", schemas);
            out["components"].set("securitySchemes", scheme);
        }
    }
    out
}

/// Which kinds each type serves in these rows, lists and subresources' bodies included; the options of deletions and
/// the events of watches are kinds of every group.
fn kinds(types: &Types, rows: &[&Resource]) -> BTreeMap<String, Vec<GroupVersionKind>> {
    let mut kinds: BTreeMap<String, BTreeSet<GroupVersionKind>> = BTreeMap::new();
    if !rows.is_empty() {
        kinds.entry("meta/v1.Status".to_owned()).or_default().insert(GroupVersionKind::new("", "v1", "Status"));
    }
    for row in rows {
        for name in ["DeleteOptions", "WatchEvent"] {
            let kind = GroupVersionKind::new(&row.gvk.group, &row.gvk.version, name);
            kinds.entry(format!("meta/v1.{name}")).or_default().insert(kind);
        }
        for subresource in row.subresources.iter().filter(|s| paths::carries_object(s)) {
            kinds.entry(subresource.type_name.to_string()).or_default().insert(subresource.kind.clone());
        }
        let own = row.type_name();
        if own.is_empty() {
            continue;
        }
        kinds.entry(own.to_owned()).or_default().insert(row.gvk.clone());
        let list = format!("{own}List");
        if row.allows("list") && types.get(&list).is_some() {
            let kind = GroupVersionKind { kind: row.list_kind().into(), ..row.gvk.clone() };
            kinds.entry(list).or_default().insert(kind);
        }
    }
    kinds.into_iter().map(|(name, kinds)| (name, kinds.into_iter().collect())).collect()
}

/// The definition's name of a row's kind: `io.k8s.api.apps.v1.Deployment`, or for a custom one with its group reversed.
pub(super) fn name_of(types: &Types, row: &Resource) -> String {
    match &row.schema {
        SchemaRef::Builtin(name) => types.get(name).map(definition_name).unwrap_or_default(),
        SchemaRef::Structural(_) => {
            let reversed: Vec<&str> = row.gvk.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), row.gvk.version, row.gvk.kind)
        }
    }
}

/// All of a row that shows in a document.
pub(super) fn describe(row: &Resource, out: &mut String) {
    let verbs = row.verbs.join(",");
    out.push_str(&format!("{:?} {} {} {} {verbs}\n", row.gvk, row.plural, row.list_kind(), row.namespaced));
    for subresource in &row.subresources {
        out.push_str(&format!("{subresource:?}\n"));
    }
    if let SchemaRef::Structural(custom) = &row.schema {
        out.push_str(&custom.open_api.to_string());
        out.push('\n');
    }
}
