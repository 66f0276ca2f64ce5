//! The `scale` subresource: an `autoscaling/v1 Scale` seen through a workload or a custom resource.

use machinery::{FieldError, FieldPath, GroupResource, Status, Value, json, labels, meta};

use crate::json_path;
use crate::row::{Resource, ScalePaths};

/// The Scale of a workload or custom resource. Upstream's 500 when a custom resource's count is of the wrong type.
///
/// # Errors
/// A selector that cannot be read, or a replica path that holds no integer.
pub fn get(resource: &Resource, object: &Value) -> Result<Value, Status> {
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1"});
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", member]) {
            *scale.at_mut(&["metadata", member]) = value.clone();
        }
    }
    let (spec, status, selector) = match resource.custom.as_ref().and_then(|c| c.scale.as_ref()) {
        Some(paths) => custom_counts(object, paths)?,
        None => builtin_counts(resource, object)?,
    };
    scale.set("spec", if spec == 0 { Value::object() } else { json!({"replicas": spec}) });
    scale.set("status", json!({"replicas": status}));
    if !selector.is_empty() {
        scale["status"].set("selector", selector);
    }
    Ok(scale)
}

fn builtin_counts(resource: &Resource, object: &Value) -> Result<(i64, i64, String), Status> {
    let count = |part: &str| object[part]["replicas"].as_i64().unwrap_or(0);
    let selector = &object["spec"]["selector"];
    let selector = if resource.plural == "replicationcontrollers" {
        labels::Selector::from_set(selector)
    } else {
        labels::Selector::from_label_selector(selector).map_err(Status::internal)?
    };
    Ok((count("spec"), count("status"), selector.to_string()))
}

fn custom_counts(object: &Value, paths: &ScalePaths) -> Result<(i64, i64, String), Status> {
    let read = |path: &str| json_path::first(object, path);
    let count = |path: &str| match read(path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Int(n)) => Ok(Some(*n)),
        Some(_) => Err(Status::internal(format!("{path} is not an integer"))),
    };
    let Some(spec) = count(&paths.spec_replicas)? else {
        return Err(Status::internal(format!("the spec replicas field {:?} does not exist", paths.spec_replicas)));
    };
    let status = count(&paths.status_replicas)?.unwrap_or(0);
    let selector = paths.label_selector.as_deref().and_then(read).and_then(Value::as_str).unwrap_or_default();
    Ok((spec, status, selector.to_owned()))
}

/// The object with the wanted number of replicas, to be given to [`crate::update`] with `Subresource::Scale`.
///
/// # Errors
/// 422 for a negative count, 409 when `scale` names another uid.
pub fn set(resource: &Resource, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let name = meta::name(object);
    if scale.str_at(&["kind"]) != "Scale" && !scale["kind"].is_null() {
        return Err(Status::bad_request(format!(
            "expected input object type to be Scale, but {}",
            scale.str_at(&["kind"])
        )));
    }
    if replicas < 0 {
        let path = FieldPath::new("spec").child("replicas");
        let error = FieldError::invalid(&path, &replicas.into(), "must be greater than or equal to 0");
        return Err(Status::invalid("autoscaling", "Scale", name, &vec![error]));
    }
    let uid = meta::uid(scale);
    if !uid.is_empty() && uid != meta::uid(object) {
        let what = GroupResource::new(&resource.gvk.group, &format!("{}/scale", resource.plural));
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(object));
        return Err(Status::conflict(&what, name, &why));
    }
    let mut changed = object.clone();
    let path = resource.custom.as_ref().and_then(|c| c.scale.as_ref()).map(|p| p.spec_replicas.clone());
    let path = path.unwrap_or_else(|| ".spec.replicas".to_owned());
    let members: Vec<&str> = path.split('.').filter(|m| !m.is_empty()).collect();
    *changed.at_mut(&members) = replicas.into();
    match meta::resource_version(scale) {
        "" => {}
        version => changed["metadata"].set("resourceVersion", version),
    }
    Ok(changed)
}
