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

/// Checks the namespace in the object against that in the URL, filling it in.
fn ensure_namespace(resource: &Resource, object: &mut Value, cx: &Context) -> Result<(), Status> {
    let expected = if resource.namespaced { cx.namespace.as_str() } else { "" };
    let given = machinery::meta::namespace(object);
    if given.is_empty() && !expected.is_empty() {
        object["metadata"].set("namespace", expected);
    } else if given != expected {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
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
