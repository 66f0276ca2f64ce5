//! `pods/binding`: the scheduler gives a pod its node.

use base::Timestamp;
use machinery::{FieldError, FieldPath, GroupResource, Status, Value, json, meta};

/// The pod (with its resourceVersion) bound to the node the Binding names; to be stored if unchanged.
/// Success is answered with a `Status`.
///
/// # Errors
/// 400 for a contradicting name, 409 for pods that are bound, gated or being deleted.
pub fn bind(pod: &Value, name: &str, binding: &Value, now: Timestamp) -> Result<Value, Status> {
    if meta::name(binding) != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let target = FieldPath::new("target");
    let kind = binding.str_at(&["target", "kind"]);
    let node = binding.str_at(&["target", "name"]);
    let mut errors = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&target.child("kind"), &kind.into(), &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required(&target.child("name"), ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", name, &errors));
    }
    let conflict = |why: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), name, &why));
    let (uid, version) = (meta::uid(binding), meta::resource_version(binding));
    if !uid.is_empty() && uid != meta::uid(pod) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        ));
    }
    if !version.is_empty() && version != meta::resource_version(pod) {
        return Err(Status::modified(&GroupResource::new("", "pods"), name));
    }
    if meta::is_terminating(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let bound = pod.str_at(&["spec", "nodeName"]);
    if !bound.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {bound:?}"));
    }
    if !pod["spec"]["schedulingGates"].items().is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut changed = pod.clone();
    changed["metadata"].remove("resourceVersion");
    *changed.at_mut(&["spec", "nodeName"]) = node.into();
    for (key, value) in binding["metadata"]["annotations"].members() {
        *changed.at_mut(&["metadata", "annotations", key]) = value.clone();
    }
    set_condition(&mut changed, "PodScheduled", "True", now);
    Ok(changed)
}

/// Sets `status.conditions` of a type, its time only when the status changes. Other members go.
pub(crate) fn set_condition(object: &mut Value, kind: &str, status: &str, now: Timestamp) {
    let list = object.at_mut(&["status", "conditions"]);
    if list.as_array().is_none() {
        *list = Value::Array(Vec::new());
    }
    let Some(conditions) = list.as_array_mut() else { return };
    let mut condition = json!({"type": kind, "status": status, "lastProbeTime": null});
    let position = conditions.iter().position(|c| c.str_at(&["type"]) == kind);
    let since = match position.map(|i| &conditions[i]) {
        Some(old) if old.str_at(&["status"]) == status => old["lastTransitionTime"].clone(),
        _ => now.rfc3339().into(),
    };
    condition.set("lastTransitionTime", since);
    match position {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let now = Timestamp::from_unix_seconds(0);
        let pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "3"}, "spec": {}, "status": {"phase": "Pending"}});
        let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
        let bound = bind(&pod, "p", &binding, now).unwrap();
        assert_eq!(bound.str_at(&["spec", "nodeName"]), "n1");
        assert_eq!(bound["status"]["conditions"][0].str_at(&["status"]), "True");
        let again = bind(&bound, "p", &binding, now).unwrap_err();
        assert_eq!(
            again.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
    }
}
