//! ControllerRevisions: what a set's template was, as `kubectl rollout` reads it, a strategic merge patch of the set.

use machinery::{Value, json, meta};

use crate::action::controller_reference;
use crate::template;

/// The revision of a set's template as it is now. `label` is the one that carries the hash.
pub(crate) fn revision(set: &Value, (api_version, kind): (&str, &str), label: &str, number: i64) -> Value {
    let mut kept = set["spec"]["template"].clone();
    kept.set("$patch", "replace");
    let hash = template::hash(&set["spec"]["template"], set["status"]["collisionCount"].as_i64().filter(|c| *c > 0));
    let mut labels = set["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_null() {
        labels = Value::object();
    }
    labels.set(label, hash.as_str());
    json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": format!("{}-{hash}", meta::name(set)), "namespace": meta::namespace(set), "labels": labels,
            "ownerReferences": [controller_reference(set, api_version, kind)]},
        "data": {"spec": {"template": kept}}, "revision": number})
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &Value) -> Value {
    let mut kept = revision["data"]["spec"]["template"].clone();
    if kept.as_object().is_some() {
        kept.remove("$patch");
    }
    kept
}
