//! CustomResourceDefinitions: names, versions, schemas, printer columns.

use std::collections::BTreeSet;

use machinery::{Value, json, meta, names};

use crate::context::{Context, Deletion};
use crate::custom;
use crate::json_path;
use crate::strategy::{Generation, Strategy};
use crate::validation::{At, Errors, go};

pub(crate) static STRATEGY: Strategy = Strategy {
    generation: Generation::Spec,
    prepare_create: |definition, _| {
        // Go prints what its controller has not filled in yet.
        definition.set("status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}}));
        stored_versions(definition);
    },
    prepare_update: |new, _, _| stored_versions(new),
    validate: |at, _, errors| {
        name(at, errors);
        spec(&at.field("spec"), None, errors);
        dropped_versions(at, errors);
    },
    validate_update: Some(|new, old, _, errors| {
        spec(&new.field("spec"), Some(&old.field("spec")), errors);
        let accepted = old.at(&["status", "conditions"]).items();
        let established =
            accepted.iter().any(|c| c.field("type").text() == "Established" && c.field("status").text() == "True");
        let (now, then) = (new.field("spec"), old.field("spec"));
        if established {
            errors.immutable(&now.field("scope"), &then.field("scope"));
            errors.immutable(&now.at(&["names", "kind"]), &then.at(&["names", "kind"]));
        }
        errors.immutable(&now.field("group"), &then.field("group"));
        errors.immutable(&now.at(&["names", "plural"]), &then.at(&["names", "plural"]));
        dropped_versions(new, errors);
    }),
    validate_subresource: |new, _, _, errors| dropped_versions(new, errors),
    delete,
    ..Strategy::PLAIN
};

/// Held by a definition that is being deleted, until its instances are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The first delete marks a definition and lets a finalizer hold it, so that its instances go first.
fn delete(current: &Value, cx: &Context) -> Option<Deletion> {
    if meta::is_terminating(current) {
        return None;
    }
    let now = cx.now.rfc3339();
    let mut marked = current.clone();
    let mut finalizers: Vec<Value> = meta::finalizers(current).map(Value::from).collect();
    if !meta::finalizers(current).any(|finalizer| finalizer == CLEANUP) {
        finalizers.push(CLEANUP.into());
    }
    marked["metadata"].set("finalizers", Value::Array(finalizers));
    marked["metadata"].set("deletionTimestamp", now.as_str());
    marked["metadata"].remove("resourceVersion");
    let mut conditions = current["status"]["conditions"].items().to_vec();
    conditions.retain(|condition| condition.str_at(&["type"]) != "Terminating");
    conditions.push(json!({"type": "Terminating", "status": "True", "lastTransitionTime": now.as_str(),
        "reason": "InstanceDeletionPending",
        "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"}));
    *marked.at_mut(&["status", "conditions"]) = Value::Array(conditions);
    Some(Deletion::Mark(marked))
}

/// The storage version is remembered as one that objects may be stored in.
fn stored_versions(definition: &mut Value) {
    let versions = definition["spec"]["versions"].items();
    let storage: Vec<String> = versions
        .iter()
        .filter(|v| v["storage"].as_bool() == Some(true))
        .map(|v| v.str_at(&["name"]).to_owned())
        .collect();
    let mut stored = definition["status"]["storedVersions"].items().to_vec();
    for name in storage {
        if !stored.iter().any(|v| v.as_str() == Some(&name)) {
            stored.push(name.into());
        }
    }
    *definition.at_mut(&["status", "storedVersions"]) = Value::Array(stored);
}

fn dropped_versions(at: &At<'_>, errors: &mut Errors) {
    let stored = at.at(&["status", "storedVersions"]);
    if stored.is_empty() {
        errors.invalid_as(&stored, go::strings("string", &Value::Null), "must have at least one stored version");
    }
    let versions = at.at(&["spec", "versions"]).items();
    for version in stored.items() {
        if !versions.iter().any(|v| v.field("name").text() == version.text()) {
            errors.invalid(&version, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1 ", &format!("{} ", version.text())));
        }
    }
}

fn name(at: &At<'_>, errors: &mut Errors) {
    let own = at.at(&["metadata", "name"]);
    let spec = at.field("spec");
    let required = format!("{}.{}", spec.at(&["names", "plural"]).text(), spec.field("group").text());
    if own.text() != required {
        errors.invalid(&own, "must be spec.names.plural+\".\"+spec.group");
    }
}

fn joined(at: &At<'_>, complaints: Vec<String>, errors: &mut Errors) {
    if !complaints.is_empty() {
        errors.invalid(at, complaints.join(","));
    }
}

fn spec(at: &At<'_>, old: Option<&At<'_>>, errors: &mut Errors) {
    let group = at.field("group");
    if group.is_empty() {
        errors.required(&group, "");
    } else if !names::is_dns1123_subdomain(group.text()).is_empty() {
        joined(&group, names::is_dns1123_subdomain(group.text()), errors);
    } else if !group.text().contains('.') {
        errors.invalid(&group, "should be a domain with at least one dot");
    }
    errors.one_of_required(&at.field("scope"), &["Cluster", "Namespaced"]);
    let versions = at.field("versions");
    for version in versions.items() {
        let schema = version.at(&["schema", "openAPIV3Schema"]);
        if !schema.is_set() {
            errors.required(&schema, "schemas are required");
        }
    }
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for version in versions.items() {
        let name = version.field("name");
        unique &= seen.insert(name.text());
        joined(&name, names::is_dns1035_label(name.text()), errors);
        let rest = unfolded(version.value, &versions.items(), at);
        self::version(&At { value: &rest, path: version.path.clone() }, old, errors);
    }
    if !unique {
        errors.invalid(&versions, "must contain unique version names");
    }
    if versions.items().iter().filter(|v| v.field("storage").truth()).count() != 1 {
        let text = if versions.is_empty() {
            "[]apiextensions.CustomResourceDefinitionVersion{}".to_owned()
        } else {
            versions.value.to_string()
        };
        errors.invalid_as(&versions, text, "must have exactly one version marked as storage version");
    }
    resource_names(&at.field("names"), errors);
    folded_contents(at, old, errors);
    if at.field("preserveUnknownFields").truth() && old.is_none_or(|o| !o.field("preserveUnknownFields").truth()) {
        errors.invalid(
            &at.field("preserveUnknownFields"),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    conversion(&at.field("conversion"), errors);
}

fn resource_names(at: &At<'_>, errors: &mut Errors) {
    for member in ["plural", "singular", "kind", "listKind"] {
        if at.field(member).is_empty() {
            errors.required(&at.field(member), "");
        }
    }
    for member in ["plural", "singular"] {
        let name = at.field(member);
        if !name.is_empty() {
            joined(&name, names::is_dns1035_label(name.text()), errors);
        }
    }
    for member in ["kind", "listKind"] {
        let name = at.field(member);
        let complaints = names::is_dns1035_label(&name.text().to_lowercase());
        if !name.is_empty() && !complaints.is_empty() {
            errors.invalid(&name, format!("may have mixed case, but should otherwise match: {}", complaints.join(",")));
        }
    }
    for list in ["shortNames", "categories"] {
        for name in at.field(list).items() {
            joined(&name, names::is_dns1035_label(name.text()), errors);
        }
        if list == "shortNames"
            && !at.field("kind").is_empty()
            && at.field("kind").text() == at.field("listKind").text()
        {
            errors.invalid(&at.field("listKind"), "kind and listKind may not be the same");
        }
    }
}

/// Upstream folds what all versions have alike into one place, and complains about it there.
fn folded(versions: &[At<'_>], member: &str, spec: &At<'_>, place: &str) -> Option<machinery::FieldPath> {
    let first = versions.first()?.field(member);
    let alike = first.is_set() && versions.iter().all(|v| v.field(member).value == first.value);
    alike.then(|| spec.path.child(place))
}

fn version(at: &At<'_>, old: Option<&At<'_>>, errors: &mut Errors) {
    let before = old.and_then(|o| {
        o.field("versions").items().into_iter().find(|v| v.field("name").text() == at.field("name").text())
    });
    let schema = at.at(&["schema", "openAPIV3Schema"]);
    let unchanged = before.is_some_and(|b| b.at(&["schema", "openAPIV3Schema"]).value == schema.value);
    let warning = at.field("deprecationWarning");
    if warning.is_set() {
        if !at.field("deprecated").truth() {
            errors.invalid(&warning, "can only be set for deprecated versions");
        }
        if warning.text().len() > 256 {
            errors.invalid(&warning, "must be <= 256 characters long");
        }
        if warning.is_empty() {
            errors.invalid(&warning, "must not be empty");
        }
    }
    contents(at, unchanged, errors);
}

/// Schema, subresources and columns of a version, wherever they are complained about.
fn contents(at: &At<'_>, schema_unchanged: bool, errors: &mut Errors) {
    let schema = at.at(&["schema", "openAPIV3Schema"]);
    if schema.is_set() && !schema_unchanged {
        custom::validate_schema(&schema, errors);
    }
    subresources(&at.field("subresources"), errors);
    at.field("additionalPrinterColumns").items().iter().for_each(|column| printer_column(column, errors));
    for field in at.field("selectableFields").items() {
        let path = field.field("jsonPath");
        if path.is_empty() {
            errors.required(&path, "");
        } else if path.text().starts_with(".metadata") {
            errors.invalid(&path, "must not point to fields in metadata");
        }
    }
}

/// What is folded is checked once, after the names.
fn folded_contents(at: &At<'_>, old: Option<&At<'_>>, errors: &mut Errors) {
    let versions = at.field("versions").items();
    let Some(first) = versions.first() else { return };
    let before = old.map(|o| o.field("versions").value[0].clone()).unwrap_or_default();
    if let Some(path) = folded(&versions, "schema", at, "validation") {
        let schema = first.at(&["schema", "openAPIV3Schema"]).renamed(path.child("openAPIV3Schema"));
        if schema.is_set() && before["schema"]["openAPIV3Schema"] != *schema.value {
            custom::validate_schema(&schema, errors);
        }
    }
    if let Some(path) = folded(&versions, "subresources", at, "subresources") {
        subresources(&first.field("subresources").renamed(path), errors);
    }
    if let Some(path) = folded(&versions, "additionalPrinterColumns", at, "additionalPrinterColumns") {
        let columns = first.field("additionalPrinterColumns").renamed(path);
        columns.items().iter().for_each(|column| printer_column(column, errors));
    }
}

/// The version without what is checked elsewhere.
fn unfolded(version: &Value, versions: &[At<'_>], spec: &At<'_>) -> Value {
    let mut version = version.clone();
    for (member, place) in [
        ("schema", "validation"),
        ("subresources", "subresources"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
    ] {
        if folded(versions, member, spec, place).is_some() {
            version.remove(member);
        }
    }
    version
}

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

fn printer_column(at: &At<'_>, errors: &mut Errors) {
    if at.field("name").is_empty() {
        errors.required(&at.field("name"), "");
    }
    let (kind, format) = (at.field("type"), at.field("format"));
    let words = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.is_empty() {
        errors.required(&kind, &words);
    } else if !COLUMN_TYPES.contains(&kind.text()) {
        errors.invalid(&kind, words);
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format.text()) {
        errors.invalid(&format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    // Upstream names the Go field here.
    simple_path(&at.field("jsonPath").renamed(at.path.child("JSONPath")), "", errors);
}

fn simple_path(at: &At<'_>, below: &str, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
        return;
    }
    if !at.text().starts_with('.') || !json_path::is_valid(at.text()) {
        errors.invalid(at, "must be a simple json path starting with .");
        return;
    }
    if !below.is_empty() && !at.text().starts_with(&format!("{below}.")) {
        errors.invalid(at, format!("should be a json path under {below}"));
    }
}

fn subresources(at: &At<'_>, errors: &mut Errors) {
    let scale = at.field("scale");
    if !scale.is_set() {
        return;
    }
    simple_path(&scale.field("specReplicasPath"), ".spec", errors);
    simple_path(&scale.field("statusReplicasPath"), ".status", errors);
    let selector = scale.field("labelSelectorPath");
    if !selector.is_empty() && ![".spec.", ".status."].iter().any(|p| selector.text().starts_with(p)) {
        errors.invalid(&selector, "should be a json path under either .spec or .status");
    }
}

fn conversion(at: &At<'_>, errors: &mut Errors) {
    if !at.is_set() {
        return;
    }
    errors.one_of_required(&at.field("strategy"), &["None", "Webhook"]);
    let webhook = at.field("webhook");
    if at.field("strategy").text() != "Webhook" {
        if webhook.is_set() {
            let shown = webhook.renamed(at.path.child("webhookClientConfig"));
            errors.forbidden(&shown, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    let client = webhook.field("clientConfig").renamed(at.path.child("webhookClientConfig"));
    if client.is_set() {
        super::webhooks::client_config(&client, errors);
    } else {
        errors.required(&client, "required when strategy is set to Webhook");
    }
    let reviews = webhook.field("conversionReviewVersions").renamed(at.path.child("conversionReviewVersions"));
    if reviews.is_empty() {
        errors.required(&reviews, "");
    } else if !reviews.items().iter().any(|v| matches!(v.text(), "v1" | "v1beta1")) {
        errors.invalid(&reviews, "must include at least one of v1, v1beta1");
    }
}
