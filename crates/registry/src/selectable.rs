//! Fields that field selectors may name.

use machinery::{Status, Value, meta};

use crate::row::Resource;

/// The selectable fields of an object: `(label, value)`, names first. Unset fields have their zero value.
pub fn selectable_fields(resource: &Resource, object: &Value) -> Vec<(String, String)> {
    labels(resource).into_iter().filter_map(|label| Some((label.clone(), field(resource, object, &label)?))).collect()
}

/// The value of one selectable field; `None` when selectors may not name it.
pub fn field(resource: &Resource, object: &Value, label: &str) -> Option<String> {
    match label {
        "metadata.name" => return Some(meta::name(object).to_owned()),
        "metadata.namespace" if has_namespace_label(resource) => {
            return Some(meta::namespace(object).to_owned());
        }
        _ => {}
    }
    if let Some(custom) = &resource.custom {
        let path = custom.selectable.iter().find(|path| path.trim_start_matches('.') == label)?;
        let value = crate::json_path::first(object, path);
        return Some(value.map(show).unwrap_or_default());
    }
    let field = resource.strategy.selectable.iter().find(|f| f.label == label)?;
    let path: Vec<&str> = field.path.split('.').collect();
    Some(match object.at(&path) {
        None | Some(Value::Null) => field.unset.to_owned(),
        Some(value) => show(value),
    })
}

fn labels(resource: &Resource) -> Vec<String> {
    let mut labels = vec!["metadata.name".to_owned()];
    if has_namespace_label(resource) {
        labels.push("metadata.namespace".to_owned());
    }
    match &resource.custom {
        Some(custom) => labels.extend(custom.selectable.iter().map(|p| p.trim_start_matches('.').to_owned())),
        None => labels.extend(resource.strategy.selectable.iter().map(|f| f.label.to_owned())),
    }
    labels
}

/// Cluster-scoped kinds take the label too, unless they list their fields themselves.
fn has_namespace_label(resource: &Resource) -> bool {
    resource.namespaced || (resource.custom.is_none() && resource.strategy.selectable.is_empty())
}

/// 400 when the selector names a field that is not selectable.
///
/// # Errors
/// In upstream's words, which name the field.
pub fn check_selector(resource: &Resource, label: &str) -> Result<(), Status> {
    if field(resource, &Value::object(), label).is_some() {
        return Ok(());
    }
    Err(Status::bad_request(if resource.gvk.group == "batch" && resource.plural == "jobs" {
        format!("field label {label:?} not supported for Job")
    } else if resource.custom.is_none() && resource.strategy.selectable.is_empty() {
        // Kinds without fields of their own are left to the scheme's default.
        format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {label}")
    }))
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
