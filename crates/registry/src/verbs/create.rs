//! Create: system metadata, preparation, validation (`rest.BeforeCreate`).

use machinery::{Reason, Status, Value, meta};

use super::{ensure_namespace, expected_namespace, normalize, root};
use crate::context::Context;
use crate::row::{Resource, SchemaRef};
use crate::strategy::{Generation, StatusRule};
use crate::validation::{Errors, metadata};

/// Letters of a generated suffix.
const SUFFIX_LETTERS: usize = 5;
/// Longest prefix that leaves room for the suffix in 63 bytes.
const GENERATED_PREFIX_BYTES_MAX: usize = 63 - SUFFIX_LETTERS;

/// Fills `metadata.name` from `generateName`. Also done by [`create`]; admission that wants the name calls it before.
pub fn fill_name(object: &mut Value, cx: &Context) {
    let generate = object.str_at(&["metadata", "generateName"]).to_owned();
    if generate.is_empty() || !meta::name(object).is_empty() {
        return;
    }
    let mut end = generate.len().min(GENERATED_PREFIX_BYTES_MAX);
    while !generate.is_char_boundary(end) {
        end -= 1;
    }
    object["metadata"].set("name", format!("{}{}", &generate[..end], cx.name_suffix));
}

/// Turns a decoded, defaulted and admitted object into what is to be stored, in the row's version, without resourceVersion.
///
/// # Errors
/// 422 with every field at fault; 400 when namespace or name contradict the URL; 500 when a need is not answered.
pub fn create(resource: &Resource, mut object: Value, cx: &Context) -> Result<Value, Status> {
    normalize(resource, &mut object)?;
    if !matches!(meta::resource_version(&object), "" | "0") {
        let mut status = Status::new(Reason::Unknown, "resourceVersion should not be set on objects to be created");
        status.code = 500;
        return Err(status);
    }
    if !cx.name.is_empty() && !meta::name(&object).is_empty() && meta::name(&object) != cx.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta::name(&object),
            cx.name
        )));
    }
    ensure_namespace(expected_namespace(resource, cx), &mut object)?;
    system_metadata(&mut object, cx);
    crate::allocation::allocate(resource, &mut object, None, cx)?;
    prepare(resource, &mut object, cx);
    validate(resource, &object, cx)?;
    Ok(object)
}

fn system_metadata(object: &mut Value, cx: &Context) {
    fill_name(object, cx);
    let metadata = &mut object["metadata"];
    for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        metadata.remove(member);
    }
    metadata.set("creationTimestamp", cx.now.rfc3339());
    metadata.set("uid", cx.uid.as_str());
}

fn prepare(resource: &Resource, object: &mut Value, cx: &Context) {
    let strategy = resource.strategy;
    if strategy.status == StatusRule::Separate && resource.has_status() {
        object.remove("status");
    }
    if strategy.generation != Generation::Unused {
        object["metadata"].set("generation", 1);
    }
    (strategy.prepare_create)(object, cx);
}

fn validate(resource: &Resource, object: &Value, cx: &Context) -> Result<(), Status> {
    let at = root(object);
    let mut errors = Errors::default();
    // The strategies' own validation includes metadata under the kind's name rule, and comes first.
    metadata::validate(
        &at.field("metadata"),
        resource.namespaced,
        resource.strategy.name,
        resource.custom.is_none(),
        &mut errors,
    );
    if let SchemaRef::Structural(schema) = &resource.schema {
        schema.validate(object, &mut errors);
    }
    (resource.strategy.validate)(&at, cx, &mut errors);
    if errors.is_empty() {
        metadata::validate(&at.field("metadata"), resource.namespaced, crate::names::path_segment, false, &mut errors);
    }
    finish(resource, object, &errors)
}

/// 422 when there are complaints.
pub(super) fn finish(resource: &Resource, object: &Value, errors: &Errors) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    // Events are core's, by whichever group they come.
    let group = if resource.gvk.group == "events.k8s.io" { "" } else { &resource.gvk.group };
    Err(Status::invalid(group, &resource.gvk.kind, meta::name(object), &errors.0))
}
