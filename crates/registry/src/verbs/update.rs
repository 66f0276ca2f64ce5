//! Update of an object or of a subresource (`rest.BeforeUpdate`).

use machinery::{Reason, Status, Value, meta};

use super::create::finish;
use super::{content, ensure_namespace, expected_namespace, normalize, root};
use crate::context::{Context, Subresource};
use crate::row::{Resource, SchemaRef};
use crate::strategy::{Generation, StatusRule};
use crate::validation::{Errors, metadata, same};

/// Turns a changed object into what is to be stored. `old` carries its resourceVersion; so does the result's validation,
/// but the result itself has none.
///
/// # Errors
/// 409 when `new` names another resourceVersion than `old` has, or another uid and is no patched object; 422 for fields at
/// fault; 400 when it contradicts the URL.
pub fn update(resource: &Resource, old: &Value, mut new: Value, cx: &Context) -> Result<Value, Status> {
    normalize(resource, &mut new)?;
    check_identity(resource, old, &mut new, cx)?;
    ensure_namespace(expected_namespace(resource, cx), &mut new)?;
    match old["metadata"]["generation"].as_i64() {
        Some(generation) => new["metadata"].set("generation", generation),
        None => drop(new["metadata"].remove("generation")),
    }
    if cx.subresource == Subresource::None {
        crate::allocation::allocate(resource, &mut new, Some(old), cx)?;
        prepare_main(resource, old, &mut new, cx);
    } else {
        prepare_part(resource, old, &mut new, cx);
    }
    keep_system_metadata(old, &mut new);
    validate(resource, old, &new, cx)?;
    new["metadata"].remove("resourceVersion");
    Ok(new)
}

/// Name, uid and resourceVersion: mismatches are conflicts the client asked to be told of.
fn check_identity(resource: &Resource, old: &Value, new: &mut Value, cx: &Context) -> Result<(), Status> {
    let name = meta::name(new);
    if !cx.name.is_empty() && name != cx.name {
        if !name.is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                cx.name
            )));
        }
        new["metadata"].set("name", cx.name.as_str());
    }
    let uid = meta::uid(new);
    if !cx.is_patch && !uid.is_empty() && uid != meta::uid(old) {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            resource.etcd_key(meta::namespace(old), meta::name(old)),
            meta::uid(old)
        );
        return Err(Status::conflict(&resource.group_resource(), meta::name(old), &why));
    }
    let stored = meta::resource_version(old);
    let given = meta::resource_version(new);
    if given.is_empty() || given == "0" {
        if resource.strategy.unconditional_update && resource.custom.is_none() {
            new["metadata"].set("resourceVersion", stored);
        } else {
            new["metadata"].remove("resourceVersion");
        }
    } else if given.parse::<u64>().is_err() {
        // Upstream's storage parses it, and makes no status of the failure.
        return Err(Status::new(Reason::Unknown, format!("strconv.ParseUint: parsing {given:?}: invalid syntax")));
    } else if given != stored {
        return Err(Status::modified(&resource.group_resource(), meta::name(old)));
    }
    Ok(())
}

fn prepare_main(resource: &Resource, old: &Value, new: &mut Value, cx: &Context) {
    let strategy = resource.strategy;
    if strategy.status != StatusRule::Ordinary && resource.has_status() {
        copy(old, new, "status");
    }
    (strategy.prepare_update)(new, old, cx);
    let changed = match strategy.generation {
        Generation::Unused => false,
        Generation::Spec => !same(&old["spec"], &new["spec"]),
        Generation::Content => !same(&content(old), &content(new)),
        Generation::SpecOrAnnotations => {
            !same(&old["spec"], &new["spec"]) || !same(&old["metadata"]["annotations"], &new["metadata"]["annotations"])
        }
    };
    if changed {
        new["metadata"].set("generation", meta::generation(old) + 1);
    }
}

/// Status and the other parts: everything that is not the part stays as it was.
fn prepare_part(resource: &Resource, old: &Value, new: &mut Value, cx: &Context) {
    if cx.subresource == Subresource::Status {
        let owned: Vec<String> = old
            .members()
            .chain(new.members())
            .map(|(key, _)| key.to_owned())
            .filter(|key| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
            .collect();
        for key in &owned {
            copy(old, new, key);
        }
        if resource.custom.is_some() {
            let version = new["metadata"]["resourceVersion"].clone();
            copy(old, new, "metadata");
            new["metadata"].set("resourceVersion", version);
        }
    }
    (resource.strategy.prepare_subresource)(new, old, cx);
}

/// Makes a member of `new` what it is in `old`.
fn copy(old: &Value, new: &mut Value, key: &str) {
    match old.get(key) {
        Some(value) => new.set(key, value.clone()),
        None => drop(new.remove(key)),
    }
}

fn keep_system_metadata(old: &Value, new: &mut Value) {
    let before = &old["metadata"];
    let metadata = &mut new["metadata"];
    if metadata["uid"].as_str().unwrap_or_default().is_empty() {
        metadata.set("uid", before["uid"].clone());
    }
    if !before["creationTimestamp"].is_null() {
        metadata.set("creationTimestamp", before["creationTimestamp"].clone());
    }
    if !before["deletionTimestamp"].is_null() {
        metadata.set("deletionTimestamp", before["deletionTimestamp"].clone());
    } else if metadata["deletionTimestamp"].is_null() {
        metadata.remove("deletionTimestamp");
    }
    if !before["deletionGracePeriodSeconds"].is_null() && metadata["deletionGracePeriodSeconds"].is_null() {
        metadata.set("deletionGracePeriodSeconds", before["deletionGracePeriodSeconds"].clone());
    }
}

fn validate(resource: &Resource, old: &Value, new: &Value, cx: &Context) -> Result<(), Status> {
    let (at, before) = (root(new), root(old));
    let mut errors = Errors::default();
    let (metadata_at, metadata_before) = (at.field("metadata"), before.field("metadata"));
    metadata::validate(&metadata_at, resource.namespaced, crate::names::path_segment, false, &mut errors);
    metadata::validate_update(&metadata_at, &metadata_before, &mut errors);
    let strategy = resource.strategy;
    if let SchemaRef::Structural(schema) = &resource.schema {
        schema.validate_update(new, old, &mut errors);
    }
    if cx.subresource != Subresource::None {
        (strategy.validate_subresource)(&at, &before, cx, &mut errors);
    } else if let Some(validate_update) = strategy.validate_update {
        validate_update(&at, &before, cx, &mut errors);
    } else {
        (strategy.validate)(&at, cx, &mut errors);
    }
    finish(resource, new, &errors)
}
