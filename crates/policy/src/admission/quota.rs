//! ResourceQuota: what a write would use, charged against every quota of its namespace that matches.
//!
//! The plugin cannot write: [`charges`] gives the quotas as they must be stored, each only if it is still the one that
//! was read; after a conflict the caller reads anew and asks again.

use std::collections::BTreeSet;

use machinery::quantity::Quantity;
use machinery::{GroupResource, Status, Value};
use registry::quota::{Amounts, amounts, in_scope, to_value, tracks, usage};

use super::{AdmissionRequest, Operation, Reader};

/// If a quota tracks one of these, every container must say how much it wants.
const EXPLICIT: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// The quotas whose `status.used` grows by this write, with the new usage in place. Empty when none is concerned.
///
/// # Errors
/// 403 when a quota would be exceeded, when a quota's usage is not known yet, or when a container does not say what a
/// quota must count.
pub fn charges(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<Vec<Value>, Status> {
    if request.namespace.is_empty() || !handles(request) {
        return Ok(Vec::new());
    }
    let resource = request.resource.group_resource();
    let object = request.object();
    let mut charged = Vec::new();
    for quota in reader.list(&GroupResource::new("", "resourcequotas"), request.namespace) {
        let hard = amounts(&quota["status"]["hard"]);
        let usage = usage(&resource, object);
        let tracked: BTreeSet<&String> = hard.keys().filter(|name| tracks(&resource, name)).collect();
        if tracked.is_empty() || !in_scope(&quota, &resource, object) {
            continue;
        }
        let name = machinery::meta::name(&quota);
        if resource.resource == "pods" {
            explicit(object, &tracked)
                .map_err(|why| request.forbidden(None, format!("failed quota: {name}: {why}")))?;
        }
        let used = amounts(&quota["status"]["used"]);
        if tracked.iter().any(|name| !used.contains_key(*name)) {
            let list: Vec<&str> = tracked.iter().map(|s| s.as_str()).collect();
            let why = format!("status unknown for quota: {name}, resources: {}", list.join(","));
            return Err(request.forbidden(None, why));
        }
        let mut delta = usage;
        if request.operation == Operation::Update && in_scope(&quota, &resource, request.old()) {
            subtract(&mut delta, &registry::quota::usage(&resource, request.old()));
        }
        delta.retain(|name, amount| hard.contains_key(name) && *amount != zero());
        if delta.is_empty() {
            continue;
        }
        charged.push(charge(request, &quota, &delta, &used, &hard)?);
    }
    Ok(charged)
}

fn charge(
    request: &AdmissionRequest<'_>,
    quota: &Value,
    delta: &Amounts,
    used: &Amounts,
    hard: &Amounts,
) -> Result<Value, Status> {
    let mut after = used.clone();
    let mut exceeded = Vec::new();
    for (name, amount) in delta {
        let sum = used.get(name).map_or_else(|| *amount, |have| have.plus(amount));
        if hard.get(name).is_some_and(|most| sum > *most) {
            exceeded.push(name.as_str());
        }
        after.insert(name.clone(), sum);
    }
    if !exceeded.is_empty() {
        let show = |list: &Amounts| {
            let parts: Vec<String> =
                exceeded.iter().filter_map(|name| Some(format!("{name}={}", list.get(*name)?))).collect();
            parts.join(",")
        };
        let why = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            machinery::meta::name(quota),
            show(delta),
            show(used),
            show(hard)
        );
        return Err(request.forbidden(None, why));
    }
    let mut stored = quota.clone();
    stored["status"]["used"] = to_value(&after);
    Ok(stored)
}

fn handles(request: &AdmissionRequest<'_>) -> bool {
    let terminating = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].as_i64().is_some();
    let group = (request.resource.group.as_str(), request.resource.resource.as_str());
    match (group, request.subresource, request.operation) {
        (_, "", Operation::Create) | (("", "services" | "persistentvolumeclaims"), "", Operation::Update) => true,
        (("", "pods"), "", Operation::Update) => terminating(request.object()) != terminating(request.old()),
        (("", "pods"), "resize", Operation::Update) => true,
        _ => false,
    }
}

fn zero() -> Quantity {
    Quantity::parse("0").expect("a plain number")
}

/// Takes away what was charged before; never below zero.
fn subtract(delta: &mut Amounts, before: &Amounts) {
    for (name, amount) in delta.iter_mut() {
        if let Some(had) = before.get(name) {
            let rest = amount.minus(had);
            *amount = if rest < zero() { zero() } else { rest };
        }
    }
}

fn explicit(pod: &Value, tracked: &BTreeSet<&String>) -> Result<(), String> {
    let mut messages = Vec::new();
    for name in EXPLICIT.iter().copied().collect::<BTreeSet<_>>() {
        if !tracked.iter().any(|t| t.as_str() == name) {
            continue;
        }
        let (field, resource) = match name.split_once('.') {
            Some(("limits", resource)) => ("limits", resource),
            Some((_, resource)) => ("requests", resource),
            None => ("requests", name),
        };
        let missing: BTreeSet<&str> = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| pod["spec"][*list].items())
            .filter(|container| container["resources"][field].get(resource).is_none())
            .map(|container| container.str_at(&["name"]))
            .collect();
        if !missing.is_empty() {
            messages.push(format!("{name} for: {}", missing.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    if messages.is_empty() { Ok(()) } else { Err(format!("must specify {}", messages.join("; "))) }
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::testing::{Case, reader};

    fn quota(hard: serde_json::Value, used: serde_json::Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": "q"}, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn usage_is_charged_until_the_quota_is_full() {
        let mut reader = reader();
        let (hard, used) = (
            serde_json::json!({"pods": "2", "requests.cpu": "1"}),
            serde_json::json!({"pods": "1", "requests.cpu": "800m"}),
        );
        reader.put("", "resourcequotas", quota(hard, used));
        let pod = |cpu: &str| {
            Case::create(
                "",
                "pods",
                "default",
                json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}),
            )
        };
        let charged = pod("100m").with_request(|request| charges(request, &reader)).unwrap();
        assert_eq!(charged[0]["status"]["used"], json!({"pods": "2", "requests.cpu": "900m"}));
        assert_eq!(
            pod("300m").with_request(|request| charges(request, &reader)).unwrap_err().message,
            "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1"
        );
        let silent = Case::create(
            "",
            "pods",
            "default",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}),
        );
        assert_eq!(
            silent.with_request(|request| charges(request, &reader)).unwrap_err().message,
            "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c"
        );
    }

    #[test]
    fn every_kind_can_be_counted() {
        let mut reader = reader();
        reader.put(
            "",
            "resourcequotas",
            quota(
                serde_json::json!({"count/widgets.example.com": "1"}),
                serde_json::json!({"count/widgets.example.com": "1"}),
            ),
        );
        let widget = Case::create("example.com", "widgets", "default", json!({"metadata": {"name": "w"}}));
        assert!(widget.with_request(|r| charges(r, &reader)).unwrap_err().message.contains(
            "exceeded quota: q, requested: count/widgets.example.com=1, used: count/widgets.example.com=1, limited: count/widgets.example.com=1"
        ));
        let other = Case::create("", "configmaps", "default", json!({}));
        assert!(other.with_request(|r| charges(r, &reader)).unwrap().is_empty());
    }
}
