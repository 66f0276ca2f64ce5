//! Namespaces: deleted in two phases, `spec.finalizers` emptied by `/finalize` in between.

use machinery::{Value, meta};

use crate::context::{Context, Deletion, Subresource};
use crate::strategy::{Strategy, text};

pub(crate) static STRATEGY: Strategy = Strategy {
    name: crate::names::label,
    selectable: &[text("status.phase")],
    prepare_create,
    prepare_update: |new, old, _| keep(new, old, "spec"),
    prepare_subresource: |new, old, cx| match cx.subresource {
        Subresource::Finalize => keep(new, old, "status"),
        _ => keep(new, old, "spec"),
    },
    validate: |at, _, errors| {
        for finalizer in at.at(&["spec", "finalizers"]).items() {
            errors.all_invalid(&finalizer, machinery::names::is_qualified_name(finalizer.text()));
        }
    },
    validate_subresource: |new, old, cx, errors| {
        if cx.subresource == Subresource::Status {
            let (phase, deleting) = (new.at(&["status", "phase"]), old.at(&["metadata", "deletionTimestamp"]).is_set());
            if deleting && phase.text() != "Terminating" {
                errors.invalid(&phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
            if !deleting && phase.text() != "Active" {
                errors.invalid(&phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
        }
    },
    delete,
    ..Strategy::PLAIN
};

fn keep(new: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => new.set(key, value.clone()),
        None => drop(new.remove(key)),
    }
}

fn prepare_create(object: &mut Value, _: &Context) {
    object.set("status", machinery::json!({"phase": "Active"}));
    let finalizers = object["spec"]["finalizers"].items();
    if !finalizers.iter().any(|f| f.as_str() == Some("kubernetes")) {
        let mut all = finalizers.to_vec();
        all.push("kubernetes".into());
        *object.at_mut(&["spec", "finalizers"]) = Value::Array(all);
    }
    // Every namespace carries its name as a label, so that selectors can name it (since 1.21).
    let name = meta::name(object).to_owned();
    *object.at_mut(&["metadata", "labels", "kubernetes.io/metadata.name"]) = name.into();
}

/// The first delete marks a namespace `Terminating`; it goes when nothing holds it any more.
fn delete(current: &Value, cx: &Context) -> Option<Deletion> {
    if !meta::is_terminating(current) {
        let mut marked = current.clone();
        marked["metadata"].set("deletionTimestamp", cx.now.rfc3339());
        marked["metadata"].remove("resourceVersion");
        *marked.at_mut(&["status", "phase"]) = "Terminating".into();
        return Some(Deletion::Mark(marked));
    }
    let held = !current["spec"]["finalizers"].items().is_empty() || meta::finalizers(current).next().is_some();
    Some(if held { Deletion::Unchanged } else { Deletion::Remove })
}
