//! Priority: a pod's class becomes its number.

use std::sync::Arc;

use machinery::{GroupResource, Status, Value};

use super::{AdmissionRequest, Operation, Reader};

fn classes() -> GroupResource {
    GroupResource::new("scheduling.k8s.io", "priorityclasses")
}

/// Of several global defaults (a race can make them) the lowest counts.
fn default_class(reader: &dyn Reader) -> Option<Arc<Value>> {
    reader
        .list(&classes(), "")
        .into_iter()
        .filter(|class| class["globalDefault"].as_bool() == Some(true))
        .min_by_key(|class| class["value"].as_i64())
}

pub(super) fn mutate(request: &AdmissionRequest<'_>, pod: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    if !request.is("", "pods") {
        return Ok(());
    }
    if request.operation == Operation::Update {
        for field in ["priority", "preemptionPolicy"] {
            if pod["spec"][field].is_null() && !request.old()["spec"][field].is_null() {
                pod["spec"][field] = request.old()["spec"][field].clone();
            }
        }
        return Ok(());
    }
    if request.operation != Operation::Create {
        return Ok(());
    }
    let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
    let class = if name.is_empty() {
        default_class(reader)
    } else {
        let missing = || request.forbidden(Some(pod), format!("no PriorityClass with name {name} was found"));
        Some(reader.get(&classes(), "", &name).ok_or_else(missing)?)
    };
    let computed = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    if let Some(sent) = pod["spec"]["priority"].as_i64().filter(|sent| *sent != computed) {
        let why = format!(
            "the integer value of priority ({sent}) must not be provided in pod spec; priority admission controller \
             computed {computed} from the given PriorityClass name"
        );
        return Err(request.forbidden(Some(pod), why));
    }
    pod["spec"]["priority"] = computed.into();
    let Some(class) = class else { return Ok(()) };
    if name.is_empty() {
        pod["spec"]["priorityClassName"] = machinery::meta::name(&class).into();
    }
    let policy = class.str_at(&["preemptionPolicy"]);
    if policy.is_empty() {
        return Ok(());
    }
    let sent = pod.str_at(&["spec", "preemptionPolicy"]);
    if !sent.is_empty() && sent != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({sent}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(request.forbidden(Some(pod), why));
    }
    pod["spec"]["preemptionPolicy"] = policy.into();
    Ok(())
}

pub(super) fn validate(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let class = request.object();
    if !written || !request.is("scheduling.k8s.io", "priorityclasses") || class["globalDefault"].as_bool() != Some(true)
    {
        return Ok(());
    }
    let Some(default) = default_class(reader) else { return Ok(()) };
    let name = machinery::meta::name(&default);
    if request.operation == Operation::Create || name != machinery::meta::name(class) {
        let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
        return Err(request.forbidden(None, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn the_class_decides_the_number() {
        let mut reader = reader();
        let class = json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"});
        reader.put("scheduling.k8s.io", "priorityclasses", class);
        let pod = |spec: serde_json::Value| {
            Case::create("", "pods", "default", json!({"metadata": {"name": "p"}, "spec": spec}))
        };
        let high = pod(serde_json::json!({"priorityClassName": "high"})).mutate_by(mutate, &reader).unwrap();
        assert_eq!(
            (high["spec"]["priority"].as_i64(), high.str_at(&["spec", "preemptionPolicy"])),
            (Some(1000), "Never")
        );
        let none = pod(serde_json::json!({})).mutate_by(mutate, &reader).unwrap();
        assert_eq!(none["spec"]["priority"].as_i64(), Some(0));
        let lost = pod(serde_json::json!({"priorityClassName": "low"})).mutate_by(mutate, &reader).unwrap_err();
        assert_eq!(lost.message, "pods \"p\" is forbidden: no PriorityClass with name low was found");
    }
}
