//! The paths of a row: what may be done where, with which parameters and bodies.

use machinery::openapi::{Version, definition_name};
use machinery::schema::Types;
use machinery::{GroupVersionKind, Value, json};
use registry::{Resource, SubresourceRow};

use super::document::name_of;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const OBJECT_TYPES: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAM_TYPES: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// (verb, method, `x-kubernetes-action`, first word of the operation's name)
type Verb = (&'static str, &'static str, &'static str, &'static str);
const ON_ALL: [Verb; 3] = [
    ("list", "get", "list", "list"),
    ("create", "post", "post", "create"),
    ("deletecollection", "delete", "deletecollection", "delete"),
];
const ON_ONE: [Verb; 4] = [
    ("get", "get", "get", "read"),
    ("update", "put", "put", "replace"),
    ("patch", "patch", "patch", "patch"),
    ("delete", "delete", "delete", "delete"),
];

const WRITING: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCHING: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETING: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LISTING: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// Are objects sent or answered there, not streams or whatever a proxy reaches?
pub(super) fn carries_object(subresource: &SubresourceRow) -> bool {
    !subresource.type_name.is_empty()
        && !matches!(subresource.name.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy")
}

/// Adds the paths of a row.
pub(super) fn add(types: &Types, row: &Resource, version: Version, paths: &mut Value) {
    let gvk = &row.gvk;
    let base = if gvk.group.is_empty() {
        format!("/api/{}", gvk.version)
    } else {
        format!("/apis/{}/{}", gvk.group, gvk.version)
    };
    let own = name_of(types, row);
    let maker = Maker { row, version, own: &own };
    let place = if row.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let collection = format!("{place}/{}", row.plural);
    maker.item(paths, &collection, &ON_ALL, &row.verbs, None, "");
    maker.item(paths, &format!("{collection}/{{name}}"), &ON_ONE, &row.verbs, None, "");
    if row.namespaced {
        maker.item(paths, &format!("{base}/{}", row.plural), &ON_ALL[..1], &row.verbs, None, "ForAllNamespaces");
    }
    for subresource in row.subresources.iter().filter(|s| carries_object(s)) {
        let schema = types.get(&subresource.type_name).map(definition_name).unwrap_or_default();
        let of = Some((subresource, schema.as_str()));
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        maker.item(paths, &path, &ON_ONE, &subresource.verbs, of, "");
        maker.item(paths, &path, &ON_ALL[1..2], &subresource.verbs, of, "");
    }
    for subresource in row.subresources.iter().filter(|s| row.custom.is_some() && s.type_name.is_empty()) {
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        maker.item(paths, &path, &ON_ONE, &subresource.verbs, Some((subresource, &own)), "");
    }
}

/// Adds the discovery document at `place`: `api`, `apis`, `apis/GROUP`, or one of these with a version.
pub(super) fn add_discovery(place: &str, version: Version, paths: &mut Value) {
    let parts: Vec<&str> = place.split('/').collect();
    let (kind, id, tag) = match parts.as_slice() {
        ["api"] => ("APIVersions", "CoreAPIVersions".to_owned(), "core".to_owned()),
        ["apis"] => ("APIGroupList", "APIVersions".to_owned(), "apis".to_owned()),
        ["apis", group] => {
            let group = group_name(group);
            ("APIGroup", format!("{group}APIGroup"), small(&group))
        }
        [.., group, of] => {
            let group = group_name(if *group == "api" { "" } else { group });
            ("APIResourceList", format!("{group}{}APIResources", capital(of)), format!("{}_{of}", small(&group)))
        }
        _ => return,
    };
    let mut get = json!({"operationId": format!("get{id}"), "tags": [tag]});
    if version == Version::V2 {
        get.set("consumes", OBJECT_TYPES.to_vec());
        get.set("produces", OBJECT_TYPES.to_vec());
        get.set("schemes", json!(["https"]));
    }
    get.set("responses", responses(version, &[("200", "OK")], &OBJECT_TYPES, &format!("{META}{kind}")));
    paths.at_mut(&[&format!("/{place}/")]).set("get", get);
}

struct Maker<'a> {
    row: &'a Resource,
    version: Version,
    /// The definition of the row's kind.
    own: &'a str,
}

impl Maker<'_> {
    /// Adds the operations on one path that `verbs` allow.
    fn item(
        &self,
        paths: &mut Value,
        path: &str,
        on: &[Verb],
        verbs: &[machinery::CompactString],
        of: Option<(&SubresourceRow, &str)>,
        suffix: &str,
    ) {
        let offered: Vec<&Verb> = on.iter().filter(|(verb, ..)| verbs.iter().any(|v| v == verb)).collect();
        if offered.is_empty() {
            return;
        }
        let parameters = ["name", "namespace"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
        let mut parameters: Vec<Value> = parameters.map(|name| self.parameter(name, "path", "string")).collect();
        parameters.push(self.parameter("pretty", "query", "string"));
        let item = paths.at_mut(&[path]);
        for verb in offered {
            item.set(verb.1, self.operation(verb, of, suffix));
        }
        item.set("parameters", parameters);
    }

    fn parameter(&self, name: &str, place: &str, kind: &str) -> Value {
        let mut out = json!({"name": name, "in": place});
        if place == "path" {
            out.set("required", true);
        }
        match self.version {
            Version::V2 => {
                out.set("type", kind);
                out.set("uniqueItems", true);
            }
            Version::V3 => out.set("schema", json!({"type": kind, "uniqueItems": true})),
        }
        out
    }

    fn operation(&self, verb: &Verb, of: Option<(&SubresourceRow, &str)>, suffix: &str) -> Value {
        let (_, _, action, word) = *verb;
        let row = self.row;
        let own = of.map_or(self.own, |(_, schema)| schema);
        let (gvk, of_name) = match of {
            Some((subresource, _)) => (&subresource.kind, capital(&subresource.name)),
            None => (&row.gvk, String::new()),
        };
        let list = format!("{}List", self.own);
        let status = format!("{META}Status");
        let (answer, options): (&str, &[(&str, &str)]) = match action {
            "list" => (&list, LISTING),
            "post" | "put" => (own, WRITING),
            "patch" => (own, PATCHING),
            "delete" | "deletecollection" => (&status, DELETING),
            _ => (own, &[]),
        };
        let body = match action {
            "post" | "put" => Some((own.to_owned(), true)),
            "patch" => Some((format!("{META}Patch"), true)),
            "delete" | "deletecollection" => Some((format!("{META}DeleteOptions"), false)),
            _ => None,
        };
        let codes: &[(&str, &str)] = match action {
            "post" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "put" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let place = if row.namespaced && suffix.is_empty() { "Namespaced" } else { "" };
        let collection = if action == "deletecollection" { "Collection" } else { "" };
        let group = group_name(&row.gvk.group);
        let mut out = json!({"tags": [format!("{}_{}", small(&group), row.gvk.version)]});
        let version = capital(&row.gvk.version);
        let id = format!("{word}{group}{version}{collection}{place}{}{of_name}{suffix}", row.gvk.kind);
        out.set("operationId", id);
        let query: Vec<Value> = options.iter().map(|(name, kind)| self.parameter(name, "query", kind)).collect();
        self.bodies(&mut out, action, body, query);
        out.set("responses", responses(self.version, codes, &produced(action), answer));
        out.set("x-kubernetes-action", action);
        out.set("x-kubernetes-group-version-kind", kind_value(gvk));
        out
    }

    /// Parameters, and the body where that version has it.
    fn bodies(&self, out: &mut Value, action: &str, body: Option<(String, bool)>, mut query: Vec<Value>) {
        let takes: &[&str] = match action {
            // kubectl sends the last one to whatever takes it, and custom resources cannot.
            "patch" if self.row.custom.is_some() => &PATCH_TYPES[..2],
            "patch" => &PATCH_TYPES,
            _ => &["*/*"],
        };
        match self.version {
            Version::V2 => {
                out.set("consumes", takes.to_vec());
                out.set("produces", produced(action));
                out.set("schemes", json!(["https"]));
                if let Some((schema, required)) = body {
                    let mut parameter = json!({"name": "body", "in": "body"});
                    if required {
                        parameter.set("required", true);
                    }
                    parameter.set("schema", reference(self.version, &schema));
                    query.insert(0, parameter);
                }
            }
            Version::V3 => {
                if let Some((schema, required)) = body {
                    let mut request = json!({"content": content(self.version, takes, &schema)});
                    if required {
                        request.set("required", true);
                    }
                    out.set("requestBody", request);
                }
            }
        }
        if !query.is_empty() {
            out.set("parameters", query);
        }
    }
}

/// The answers of an operation by code.
fn responses(version: Version, codes: &[(&str, &str)], media: &[&str], answer: &str) -> Value {
    let mut responses = Value::object();
    for (code, text) in codes {
        let mut response = json!({"description": *text});
        match version {
            Version::V2 => response.set("schema", reference(version, answer)),
            Version::V3 => response.set("content", content(version, media, answer)),
        }
        responses.set(code, response);
    }
    responses.set("401", json!({"description": "Unauthorized"}));
    responses
}

fn reference(version: Version, name: &str) -> Value {
    json!({"$ref": format!("{}{name}", version.prefix())})
}

fn content(version: Version, media: &[&str], schema: &str) -> Value {
    let mut content = Value::object();
    for media in media {
        content.set(media, Value::object());
        content[*media].set("schema", reference(version, schema));
    }
    content
}

fn produced(action: &str) -> Vec<&'static str> {
    let streams: &[&str] = if action == "list" { &STREAM_TYPES } else { &[] };
    OBJECT_TYPES.iter().chain(streams).copied().collect()
}

fn kind_value(gvk: &GroupVersionKind) -> Value {
    json!({"group": gvk.group.as_str(), "version": gvk.version.as_str(), "kind": gvk.kind.as_str()})
}

/// `RbacAuthorization` of `rbac.authorization.k8s.io`, `Core` of the group without a name.
fn group_name(group: &str) -> String {
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    let group = if group.is_empty() { "core" } else { group };
    group.split(['.', '-']).map(capital).collect()
}

fn capital(word: impl AsRef<str>) -> String {
    let mut chars = word.as_ref().chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn small(word: &str) -> String {
    let (first, rest) = word.split_at(usize::from(!word.is_empty()));
    first.to_lowercase() + rest
}
