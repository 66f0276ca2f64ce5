//! `metadata` of every object (`k8s.io/apimachinery/pkg/api/validation`).

use machinery::{FieldError, Value, names};

use super::{At, Errors, IMMUTABLE, NOT_NEGATIVE, labels, same};

/// Annotations' keys and values together may have this many bytes.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Rules that hold for a new and for a changed object. `name` is the kind's own rule.
///
/// `core_rule`: finalizers must be qualified (built-in kinds, when creating).
pub(crate) fn validate(
    at: &At<'_>,
    namespaced: bool,
    name: fn(&str, bool) -> Vec<String>,
    core_rule: bool,
    errors: &mut Errors,
) {
    let generate = at.field("generateName");
    if !generate.is_empty() {
        errors.all_invalid(&generate, name(generate.text(), true));
    }
    let own = at.field("name");
    if own.is_empty() {
        errors.required(&own, "name or generateName is required");
    } else {
        errors.all_invalid(&own, name(own.text(), false));
    }
    let namespace = at.field("namespace");
    match (namespaced, namespace.is_empty()) {
        (true, true) => errors.required(&namespace, ""),
        (true, false) => errors.dns_label(&namespace),
        (false, false) => errors.forbidden(&namespace, "not allowed on this type"),
        (false, true) => {}
    }
    if at.field("generation").int().is_some_and(|g| g < 0) {
        errors.invalid(&at.field("generation"), NOT_NEGATIVE);
    }
    labels(&at.field("labels"), errors);
    annotations(&at.field("annotations"), errors);
    owners(&at.field("ownerReferences"), errors);
    finalizers(&at.field("finalizers"), core_rule, errors);
}

/// What an update must not change.
pub(crate) fn validate_update(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    if old.field("deletionTimestamp").is_set() {
        no_new_finalizers(&new.field("finalizers"), &old.field("finalizers"), errors);
    }
    let version = new.field("resourceVersion");
    if version.is_empty() {
        errors.invalid(&version, "must be specified for an update");
    }
    let generation = |at: &At<'_>| at.field("generation").int().unwrap_or(0);
    if generation(new) < generation(old) {
        errors.invalid_value(&new.field("generation"), generation(new), "must not be decremented");
    }
    for member in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (new, old) = (new.field(member), old.field(member));
        if !same(new.value, old.value) {
            errors.push(FieldError::invalid(&new.path, new.value, IMMUTABLE));
            if member == "uid" {
                // Upstream looks twice: before any update, and with each kind's own rules.
                errors.push(FieldError::invalid(&new.path, new.value, IMMUTABLE));
            }
        }
    }
    labels(&new.field("labels"), errors);
    annotations(&new.field("annotations"), errors);
    owners(&new.field("ownerReferences"), errors);
}

/// Annotation keys and total size.
pub(crate) fn annotations(at: &At<'_>, errors: &mut Errors) {
    let mut bytes = 0;
    for (key, value) in at.entries() {
        bytes += key.len() + value.text().len();
        for complaint in names::is_qualified_name(&key.to_lowercase()) {
            errors.invalid_value(at, key, complaint);
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(&at.path, ANNOTATIONS_BYTES_MAX));
    }
}

fn owners(at: &At<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in at.items() {
        // Upstream names the list, not the element, in the paths of these complaints.
        let member = |name: &str| At { value: owner.field(name).value, path: at.path.child(name) };
        let version = member("apiVersion");
        let bare = version.text().rsplit_once('/').map_or(version.text(), |(_, v)| v);
        if bare.is_empty() {
            errors.invalid(&version, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if member(name).is_empty() {
                errors.invalid(&member(name), format!("{name} must not be empty"));
            }
        }
        if version.text() == "v1" && owner.field("kind").text() == "Event" {
            let text = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(&at.path, owner.value, text));
        }
        if owner.field("controller").truth() {
            let this = format!("{}/{}", owner.field("kind").text(), owner.field("name").text());
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let text = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(at, text);
                }
            }
        }
    }
}

fn finalizers(at: &At<'_>, core_rule: bool, errors: &mut Errors) {
    let has = |name: &str| at.value.items().iter().any(|f| f.as_str() == Some(name));
    for finalizer in at.items() {
        for complaint in names::is_qualified_name(finalizer.text()) {
            errors.invalid_value(at, finalizer.text(), complaint);
        }
    }
    // The core types' rule comes on top, at the elements.
    for finalizer in at.items() {
        let standard = matches!(finalizer.text(), "kubernetes" | "orphan" | "foregroundDeletion");
        if core_rule && !finalizer.text().contains('/') && !standard {
            errors.invalid(&finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(at, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn no_new_finalizers(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let mut extra: Vec<String> = new
        .value
        .items()
        .iter()
        .filter(|f| !old.value.items().contains(f))
        .filter_map(Value::as_str)
        .map(|f| format!("{f:?}"))
        .collect();
    if extra.is_empty() {
        return;
    }
    extra.sort();
    extra.dedup();
    errors.forbidden(
        new,
        format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            extra.join(", ")
        ),
    );
}
