//! LimitRanger: defaults and bounds of what containers, pods and claims ask for.

use std::sync::Arc;

use machinery::quantity::Quantity;
use machinery::{GroupResource, Status, Value};
use registry::quota::{Amounts, amounts, pod_total};

use super::{AdmissionRequest, Operation, Reader};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn ranges(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Vec<Arc<Value>> {
    let pod = request.is("", "pods") && request.operation == Operation::Create;
    let resize = request.is_sub("", "pods", "resize") && request.operation == Operation::Update;
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let claim = request.is("", "persistentvolumeclaims") && written;
    if pod || resize || claim {
        reader.list(&GroupResource::new("", "limitranges"), request.namespace)
    } else {
        Vec::new()
    }
}

pub(super) fn mutate(request: &AdmissionRequest<'_>, pod: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    if request.resource.resource != "pods" {
        return Ok(());
    }
    for range in ranges(request, reader) {
        let mut defaults = (Value::object(), Value::object());
        for limit in range["spec"]["limits"].items().iter().filter(|l| l.str_at(&["type"]) == "Container") {
            for (name, quantity) in limit["defaultRequest"].members() {
                defaults.0.set(name, quantity.clone());
            }
            for (name, quantity) in limit["default"].members() {
                defaults.1.set(name, quantity.clone());
            }
        }
        let mut notes = Vec::new();
        for (kind, title) in [("containers", "container"), ("initContainers", "init container")] {
            let Some(list) = pod["spec"].get_mut(kind).and_then(Value::as_array_mut) else { continue };
            for container in list.iter_mut().filter(|c| c.as_object().is_some()) {
                let name = container.str_at(&["name"]).to_owned();
                for (field, word, values) in [("requests", "request", &defaults.0), ("limits", "limit", &defaults.1)] {
                    let set = fill(container, field, values);
                    if !set.is_empty() {
                        notes.push(format!("{} {word} for {title} {name}", set.join(", ")));
                    }
                }
            }
        }
        if !notes.is_empty() {
            pod["metadata"]["annotations"][ANNOTATION] = format!("LimitRanger plugin set: {}", notes.join("; ")).into();
        }
    }
    Ok(())
}

/// Sets what the container leaves open; the names that were set, sorted.
fn fill(container: &mut Value, field: &str, defaults: &Value) -> Vec<String> {
    let mut set = Vec::new();
    for (name, quantity) in defaults.members() {
        let own = &container["resources"][field];
        if own.get(name).is_none() && (own.is_null() || own.as_object().is_some()) {
            container["resources"][field][name] = quantity.clone();
            set.push(name.to_owned());
        }
    }
    set
}

pub(super) fn validate(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    for range in ranges(request, reader) {
        let mut errors = Vec::new();
        for limit in range["spec"]["limits"].items() {
            check(limit, request, &mut errors);
        }
        if !errors.is_empty() {
            let text = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
            return Err(request.forbidden(None, text));
        }
    }
    Ok(())
}

fn check(limit: &Value, request: &AdmissionRequest<'_>, errors: &mut Vec<String>) {
    let (kind, object) = (limit.str_at(&["type"]), request.object());
    if request.resource.resource == "persistentvolumeclaims" {
        if kind == "PersistentVolumeClaim" {
            let requests = amounts(&object["spec"]["resources"]["requests"]);
            let none = Amounts::new();
            errors.extend(amounts(&limit["min"]).iter().filter_map(|(n, q)| minimum(kind, n, q, &requests, &none)));
            errors.extend(amounts(&limit["max"]).iter().filter_map(|(n, q)| maximum_request(kind, n, q, &requests)));
        }
        return;
    }
    if kind == "Container" {
        for list in ["containers", "initContainers"] {
            for container in object["spec"][list].items() {
                let of = |field: &str| amounts(&container["resources"][field]);
                bounds(kind, limit, &of("requests"), &of("limits"), errors);
            }
        }
    } else if kind == "Pod" {
        bounds(kind, limit, &pod_total(object, "requests"), &pod_total(object, "limits"), errors);
    }
}

fn bounds(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    errors.extend(amounts(&limit["min"]).iter().filter_map(|(n, q)| minimum(kind, n, q, requests, limits)));
    errors.extend(amounts(&limit["max"]).iter().filter_map(|(n, q)| maximum(kind, n, q, requests, limits)));
    let ratios = amounts(&limit["maxLimitRequestRatio"]);
    errors.extend(ratios.iter().filter_map(|(n, q)| ratio(kind, n, q, requests, limits)));
}

fn minimum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {bound}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(request), _) if request < bound => Some(format!("{head}, but request is {request}")),
        (_, Some(limit)) if limit < bound => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn maximum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {bound}");
    match (limits.get(name), requests.get(name)) {
        (None, _) => Some(format!("{head}.  No limit is specified")),
        (Some(limit), _) if limit > bound => Some(format!("{head}, but limit is {limit}")),
        (_, Some(request)) if request > bound => Some(format!("{head}, but request is {request}")),
        _ => None,
    }
}

fn maximum_request(kind: &str, name: &str, bound: &Quantity, requests: &Amounts) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {bound}");
    match requests.get(name) {
        None => Some(format!("{head}.  No request is specified")),
        Some(request) if request > bound => Some(format!("{head}, but request is {request}")),
        Some(_) => None,
    }
}

fn ratio(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {bound}");
    let amount = |list: &Amounts| list.get(name).map(Quantity::as_f64).filter(|amount| *amount != 0.0);
    let Some(request) = amount(requests) else {
        return Some(format!("{head}, but no request is specified or request is 0"));
    };
    let Some(limit) = amount(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let observed = limit / request;
    (observed > bound.as_f64()).then(|| format!("{head}, but provided ratio is {observed:.6}"))
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn defaults_are_filled_in_and_bounds_hold() {
        let mut reader = reader();
        reader.put(
            "",
            "limitranges",
            json!({"metadata": {"namespace": "default", "name": "l"}, "spec": {"limits": [{"type": "Container",
                "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}}),
        );
        let pod = |cpu: serde_json::Value| {
            Case::create(
                "",
                "pods",
                "default",
                json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "resources": {"limits": cpu}}]}}),
            )
        };
        let filled = pod(serde_json::json!({})).mutate_by(mutate, &reader).unwrap();
        assert_eq!(
            filled["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            filled["metadata"]["annotations"][ANNOTATION].as_str(),
            Some("LimitRanger plugin set: cpu request for container c; cpu limit for container c")
        );
        let large = pod(serde_json::json!({"cpu": "2"})).validate_by(validate, &reader).unwrap_err();
        assert_eq!(large.message, "pods \"p\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    }
}
