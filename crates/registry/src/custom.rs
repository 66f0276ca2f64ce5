//! Rows made of CustomResourceDefinition objects.

use std::cmp::Ordering;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::schema::Structural;
use machinery::{CompactString, FieldPath, GroupVersionKind, Value};

use crate::row::{Column, CustomRow, Resource, ScalePaths, SchemaRef, SubresourceRow};
use crate::strategy::{Generation, Strategy};
use crate::validation::{At, Errors};

/// A custom resource's schema, ready for use.
#[derive(Debug, Clone, Default)]
pub struct CustomSchema {
    /// `openAPIV3Schema` as the definition has it.
    pub open_api: Value,
    /// What prunes, defaults and validates.
    pub structural: Structural,
    /// Nothing is pruned: `x-kubernetes-preserve-unknown-fields` at the root, or `spec.preserveUnknownFields`.
    pub preserve_unknown_fields: bool,
}

impl CustomSchema {
    fn parse(version: &Value, preserve: bool) -> Self {
        let open_api = version.at(&["schema", "openAPIV3Schema"]).cloned().unwrap_or_default();
        let at_root = open_api["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true);
        // Definitions are checked when they are written; what is stored is taken as it is.
        let structural = Structural::parse_unchecked(&open_api);
        Self { open_api, structural, preserve_unknown_fields: preserve || at_root }
    }

    /// Removes unknown fields, giving back `unknown field "…"` for each, then sets defaults.
    pub fn prune_and_default(&self, object: &mut Value) -> Vec<String> {
        let unknown = if self.preserve_unknown_fields { Vec::new() } else { self.structural.prune(object) };
        self.structural.apply_defaults(object);
        unknown
    }

    /// Complains about values that break the schema. Rules in CEL are not among them.
    pub(crate) fn validate(&self, object: &Value, errors: &mut Errors) {
        if self.open_api.is_null() {
            return;
        }
        errors.0.append(&mut self.structural.validate(object, &FieldPath::default()));
    }

    /// As [`CustomSchema::validate`], but what was wrong before and has not changed may stay.
    pub(crate) fn validate_update(&self, new: &Value, old: &Value, errors: &mut Errors) {
        if self.open_api.is_null() {
            return;
        }
        errors.0.append(&mut self.structural.validate_update(new, old, &FieldPath::default()));
    }
}

/// Complains about a definition's schema that is not structural.
pub(crate) fn validate_schema(at: &At<'_>, errors: &mut Errors) {
    if let Err(mut complaints) = Structural::parse_at(at.value, &at.path) {
        errors.0.append(&mut complaints);
    }
}

/// Rules of all custom resources.
pub(crate) static STRATEGY: Strategy =
    Strategy { generation: Generation::Content, unconditional_update: false, ..Strategy::PLAIN };

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// What discovery lists while the definition is being deleted (`customresource_discovery_controller.go`).
const VERBS_AT_THE_END: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];

/// The verbs of a definition's resources as it is now.
fn verbs(definition: &Value) -> &'static [&'static str] {
    let mut conditions = definition["status"]["conditions"].items().iter();
    let ends = conditions.any(|c| c.str_at(&["type"]) == "Terminating" && c.str_at(&["status"]) == "True");
    if ends { &VERBS_AT_THE_END } else { &VERBS }
}

/// One row per served version, when the definition's names are accepted (or not judged yet).
pub(crate) fn rows(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let accepted = &definition["status"]["acceptedNames"];
    let names = if accepted.str_at(&["plural"]).is_empty() { &spec["names"] } else { accepted };
    let versions: Vec<&Value> = spec["versions"].items().iter().collect();
    let storage = versions.iter().find(|v| v["storage"].as_bool() == Some(true)).map_or("", |v| v.str_at(&["name"]));
    let mut served: Vec<CompactString> = versions
        .iter()
        .filter(|v| v["served"].as_bool() == Some(true))
        .map(|v| CompactString::from(v.str_at(&["name"])))
        .collect();
    served.sort_by(|a, b| compare_versions(b, a));
    let mut rows = Vec::new();
    for version in versions.iter().filter(|v| v["served"].as_bool() == Some(true)) {
        let schema = CustomSchema::parse(version, spec["preserveUnknownFields"].as_bool() == Some(true));
        rows.push(row(definition, names, version, storage, &served, schema));
    }
    rows
}

fn row(
    definition: &Value,
    names: &Value,
    version: &Value,
    storage: &str,
    served: &[CompactString],
    schema: CustomSchema,
) -> Resource {
    let spec = &definition["spec"];
    let (group, plural) = (spec.str_at(&["group"]), names.str_at(&["plural"]));
    let gvk = GroupVersionKind::new(group, version.str_at(&["name"]), names.str_at(&["kind"]));
    let singular = match names.str_at(&["singular"]) {
        "" => gvk.kind.to_lowercase(),
        given => CompactString::from(given),
    };
    let custom = custom_row(definition, names, version, served);
    Resource {
        singular,
        short: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"].as_str() == Some("Namespaced"),
        verbs: verbs(definition).iter().copied().map(CompactString::from).collect(),
        subresources: subresources(&gvk, &custom),
        storage_version: storage.into(),
        storage_group: group.into(),
        etcd_prefix: format!("/registry/{group}/{plural}/"),
        storage_version_hash: storage_version_hash(group, storage, &gvk.kind).into(),
        schema: SchemaRef::Structural(Arc::new(schema)),
        strategy: &STRATEGY,
        columns: columns(version),
        warning: deprecation(version, &gvk),
        custom: Some(Arc::new(custom)),
        plural: plural.into(),
        gvk,
    }
}

/// Base64 of the first eight bytes of the SHA-256 of `group/version/kind` (`discovery.StorageVersionHash`).
fn storage_version_hash(group: &str, storage: &str, kind: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{group}/{storage}/{kind}").as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

fn custom_row(definition: &Value, names: &Value, version: &Value, served: &[CompactString]) -> CustomRow {
    let scale = version.at(&["subresources", "scale"]).filter(|s| !s.is_null()).map(|scale| ScalePaths {
        spec_replicas: scale.str_at(&["specReplicasPath"]).to_owned(),
        status_replicas: scale.str_at(&["statusReplicasPath"]).to_owned(),
        label_selector: scale["labelSelectorPath"].as_str().filter(|p| !p.is_empty()).map(str::to_owned),
    });
    CustomRow {
        definition: machinery::meta::name(definition).to_owned(),
        list_kind: names.str_at(&["listKind"]).to_owned(),
        status: version.at(&["subresources", "status"]).is_some_and(|s| !s.is_null()),
        scale,
        selectable: version["selectableFields"].items().iter().map(|f| f.str_at(&["jsonPath"]).to_owned()).collect(),
        versions: served.to_vec(),
        conversion_webhook: definition.str_at(&["spec", "conversion", "strategy"]) == "Webhook",
    }
}

fn subresources(gvk: &GroupVersionKind, custom: &CustomRow) -> Vec<SubresourceRow> {
    let verbs = || ["get", "patch", "update"].into_iter().map(CompactString::from).collect();
    let mut rows = Vec::new();
    if custom.status {
        rows.push(SubresourceRow { name: "status".into(), kind: gvk.clone(), verbs: verbs(), type_name: "".into() });
    }
    if custom.scale.is_some() {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        rows.push(SubresourceRow {
            name: "scale".into(),
            kind,
            verbs: verbs(),
            type_name: "autoscaling/v1.Scale".into(),
        });
    }
    rows
}

fn texts(list: &Value) -> Vec<CompactString> {
    list.items().iter().filter_map(Value::as_str).map(CompactString::from).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let name = Column { name: "Name".into(), type_name: "string".into(), format: "name".into(), ..Column::default() };
    let mut columns = vec![name];
    let given = version["additionalPrinterColumns"].items();
    if given.is_empty() {
        columns.push(Column {
            name: "Age".into(),
            type_name: "date".into(),
            json_path: ".metadata.creationTimestamp".into(),
            ..Column::default()
        });
    }
    columns.extend(given.iter().map(|c| Column {
        name: c.str_at(&["name"]).to_owned(),
        type_name: c.str_at(&["type"]).to_owned(),
        format: c.str_at(&["format"]).to_owned(),
        description: c.str_at(&["description"]).to_owned(),
        priority: c["priority"].as_i64().unwrap_or(0),
        json_path: c.str_at(&["jsonPath"]).to_owned(),
    }));
    columns
}

fn deprecation(version: &Value, gvk: &GroupVersionKind) -> Option<String> {
    if version["deprecated"].as_bool() != Some(true) {
        return None;
    }
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    Some(own.unwrap_or_else(|| format!("{} {} is deprecated", gvk.api_version(), gvk.kind)))
}

/// Kubernetes' order of version names: GA over beta over alpha, higher numbers first; anything else last, by name.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    match (parse_version(a), parse_version(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// (stability, major, minor) of `v1`, `v2beta3`.
fn parse_version(text: &str) -> Option<(u8, u64, u64)> {
    let rest = text.strip_prefix('v')?;
    let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(split);
    let major: u64 = major.parse().ok().filter(|n| *n > 0)?;
    if stage.is_empty() {
        return Some((2, major, 0));
    }
    let (rank, minor) =
        stage.strip_prefix("beta").map(|m| (1, m)).or_else(|| stage.strip_prefix("alpha").map(|m| (0, m)))?;
    Some((rank, major, minor.parse().ok().filter(|n| *n > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_kubernetes_prefers_them() {
        let mut versions =
            ["v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "v10", "v2", "v11beta2", "foo10", "v1"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]
        );
    }
}
