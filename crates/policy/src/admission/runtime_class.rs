//! RuntimeClass: a pod gets its class's overhead and scheduling.

use machinery::{GroupResource, Status, Value};

use super::{AdmissionRequest, Operation, Reader};

fn class_of(
    request: &AdmissionRequest<'_>,
    pod: &Value,
    reader: &dyn Reader,
) -> Result<Option<std::sync::Arc<Value>>, Status> {
    let Some(name) = pod["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let class = reader.get(&GroupResource::new("node.k8s.io", "runtimeclasses"), "", name);
    let missing = || request.forbidden(Some(pod), format!("pod rejected: RuntimeClass {name:?} not found"));
    class.map(Some).ok_or_else(missing)
}

pub(super) fn mutate(request: &AdmissionRequest<'_>, pod: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    let Some(class) = class_of(request, pod, reader)? else { return Ok(()) };
    let overhead = &class["overhead"]["podFixed"];
    if !overhead.is_null() {
        let sent = &pod["spec"]["overhead"];
        if !sent.is_null() && sent != overhead {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(request.forbidden(Some(pod), why));
        }
        pod["spec"]["overhead"] = overhead.clone();
    }
    for (key, value) in class["scheduling"]["nodeSelector"].members() {
        let own = &pod["spec"]["nodeSelector"][key];
        if !own.is_null() && own != value {
            let (ours, theirs) = (value.as_str().unwrap_or_default(), own.as_str().unwrap_or_default());
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {ours}; pod.spec.nodeSelector[{key}] = {theirs}"
            );
            return Err(request.forbidden(Some(pod), why));
        }
        pod["spec"]["nodeSelector"][key] = value.clone();
    }
    let more = class["scheduling"]["tolerations"].items();
    if !more.is_empty() {
        let mut all = pod["spec"]["tolerations"].items().to_vec();
        all.extend(more.iter().filter(|t| !pod["spec"]["tolerations"].items().contains(t)).cloned());
        pod["spec"]["tolerations"] = Value::Array(all);
    }
    Ok(())
}

pub(super) fn validate(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    let pod = request.object();
    let class = class_of(request, pod, reader)?;
    let overhead = &pod["spec"]["overhead"];
    let defined = class.as_ref().map(|class| &class["overhead"]["podFixed"]).filter(|o| !o.is_null());
    match (overhead.is_null(), defined) {
        (true, None) => Ok(()),
        (false, Some(defined)) if overhead == defined => Ok(()),
        (false, None) => Err(request
            .forbidden(None, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
        _ => Err(request.forbidden(None, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")),
    }
}
