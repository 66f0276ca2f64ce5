//! The generic verbs: pure functions from objects and a [`Context`] to what is to be stored.
//!
//! ```text
//! apiserver:  decode → default → mutate → create/update (prepare, validate) → validating admission → txn
//! ```

mod create;
mod delete;
mod update;

use machinery::{Status, Value};

use crate::context::{Context, Need};
use crate::row::Resource;
use crate::validation::At;

pub use create::{create, fill_name};
pub use delete::{delete, remove_on_update};
pub use update::update;

/// What has to be put into the [`Context`] before creating (no `old`) or updating the object.
pub fn needs(resource: &Resource, _old: Option<&Value>, _new: &Value) -> Vec<Need> {
    if resource.gvk.group.is_empty() && resource.plural == "services" { vec![Need::ServiceNetwork] } else { Vec::new() }
}

/// Makes the namespace in the object that of the request (empty for cluster-scoped resources): filled in where it is left
/// out, cleared where there is none (`rest.EnsureObjectNamespaceMatchesRequestNamespace`).
///
/// # Errors
/// 400 when both are there and differ.
pub fn ensure_namespace(expected: &str, object: &mut Value) -> Result<(), Status> {
    let given = machinery::meta::namespace(object);
    if given == expected {
        return Ok(());
    }
    if given.is_empty() {
        object["metadata"].set("namespace", expected);
    } else if expected.is_empty() {
        object["metadata"].remove("namespace");
    } else {
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(text));
    }
    Ok(())
}

/// Drops of an object that was sent what the system alone says of it (`rest.WipeObjectMetaSystemFields`).
pub fn wipe_system_fields(object: &mut Value) {
    if object["metadata"].as_object().is_none() {
        object.set("metadata", Value::object());
    }
    let metadata = &mut object["metadata"];
    for member in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(member);
    }
    // Not left out: so Go prints a time that is not set.
    metadata.set("creationTimestamp", Value::Null);
}

/// The namespace that an object of the resource has by the request.
fn expected_namespace<'a>(resource: &Resource, cx: &'a Context) -> &'a str {
    if resource.namespaced { &cx.namespace } else { "" }
}

/// Makes sure that `metadata` is there and drops what the server never keeps.
fn normalize(resource: &Resource, object: &mut Value) -> Result<(), Status> {
    if object.as_object().is_none() {
        return Err(Status::bad_request("the object provided is unrecognized (must be of type object)"));
    }
    object.set("apiVersion", resource.api_version());
    object.set("kind", resource.gvk.kind.as_str());
    if object["metadata"].as_object().is_none() {
        object.set("metadata", Value::object());
    }
    for member in ["managedFields", "selfLink"] {
        object["metadata"].remove(member);
    }
    Ok(())
}

/// The object's members that count for `metadata.generation`.
fn content(object: &Value) -> Value {
    object
        .members()
        .filter(|(key, _)| !matches!(*key, "metadata" | "status" | "apiVersion" | "kind"))
        .map(|(key, value)| (key, value.clone()))
        .collect()
}

fn root(object: &Value) -> At<'_> {
    At::root(object)
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;

    #[test]
    fn the_namespace_is_that_of_the_request() {
        let check = |expected: &str, metadata: Value| {
            let mut object = Value::object();
            object.set("metadata", metadata);
            let answer = ensure_namespace(expected, &mut object).map_err(|status| (status.code, status.message));
            answer.map(|()| object["metadata"].to_string())
        };
        let here = || Ok(r#"{"namespace":"a"}"#.to_owned());
        assert_eq!(check("a", json!({"namespace": "a"})), here());
        assert_eq!(check("a", json!({})), here());
        assert_eq!(check("a", json!({"namespace": ""})), here());
        assert_eq!(check("", json!({"namespace": "b"})), Ok("{}".to_owned()));
        assert_eq!(check("", json!({})), Ok("{}".to_owned()));
        let text = "the namespace of the provided object does not match the namespace sent on the request";
        assert_eq!(check("a", json!({"namespace": "b"})), Err((400, text.to_owned())));
    }

    #[test]
    fn what_the_system_says_is_not_taken_from_clients() {
        let mut object = json!({"metadata": {"name": "n", "uid": "u", "creationTimestamp": "2020-01-01T00:00:00Z",
            "deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1, "selfLink": "/x"}});
        wipe_system_fields(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "n", "creationTimestamp": null}}));
        let mut bare = json!({});
        wipe_system_fields(&mut bare);
        assert_eq!(bare, json!({"metadata": {"creationTimestamp": null}}));
    }
}
