//! ResourceQuota: what a write would use, charged against every quota of its namespace that matches.
//!
//! The plugin cannot write: [`charges`] gives the quotas as they must be stored, each only if it is still the one that
//! was read; after a conflict the caller reads anew and asks again.

use std::collections::BTreeSet;

use machinery::quantity::Quantity;
use machinery::{GroupResource, Status, Value};

use super::resources::{Amounts, amounts, pod_total, to_value};
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
            subtract(&mut delta, &self::usage(&resource, request.old()));
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
    one("0")
}

fn one(text: &str) -> Quantity {
    Quantity::parse(text).expect("a plain number")
}

/// Object count under its own name, `count/deployments.apps`.
fn count_name(resource: &GroupResource) -> String {
    format!("count/{resource}")
}

fn tracks(resource: &GroupResource, name: &str) -> bool {
    if name == count_name(resource) {
        return true;
    }
    if !resource.group.is_empty() {
        return false;
    }
    match resource.resource.as_str() {
        "pods" => {
            let ours = ["cpu", "memory", "ephemeral-storage", "pods"];
            let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            name.starts_with("hugepages-")
                || ours.contains(&bare)
                || name.starts_with("requests.") && bare != "storage" && !name.contains("storageclass")
        }
        "services" => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        "persistentvolumeclaims" => {
            matches!(name, "persistentvolumeclaims" | "requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/persistentvolumeclaims")
                || name.ends_with(".storageclass.storage.k8s.io/requests.storage")
        }
        own @ ("configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => name == own,
        _ => false,
    }
}

fn usage(resource: &GroupResource, object: &Value) -> Amounts {
    let mut used = Amounts::from([(count_name(resource), one("1"))]);
    if !resource.group.is_empty() {
        return used;
    }
    match resource.resource.as_str() {
        "pods" => pod_usage(object, &mut used),
        "services" => service_usage(object, &mut used),
        "persistentvolumeclaims" => claim_usage(object, &mut used),
        own @ ("configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => {
            used.insert(own.to_owned(), one("1"));
        }
        _ => {}
    }
    used
}

fn pod_usage(pod: &Value, used: &mut Amounts) {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return;
    }
    used.insert("pods".to_owned(), one("1"));
    for (name, amount) in pod_total(pod, "requests") {
        let native = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if native || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_total(pod, "limits") {
        used.insert(format!("limits.{name}"), amount);
    }
}

fn service_usage(service: &Value, used: &mut Amounts) {
    let ports = service["spec"]["ports"].items();
    let node_ports = match service.str_at(&["spec", "type"]) {
        "NodePort" => ports.len(),
        "LoadBalancer" if service["spec"]["allocateLoadBalancerNodePorts"].as_bool() == Some(false) => {
            ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
        }
        "LoadBalancer" => ports.len(),
        _ => 0,
    };
    let balancers = usize::from(service.str_at(&["spec", "type"]) == "LoadBalancer");
    for (name, count) in [("services", 1), ("services.nodeports", node_ports), ("services.loadbalancers", balancers)] {
        used.insert(name.to_owned(), one(&count.to_string()));
    }
}

fn claim_usage(claim: &Value, used: &mut Amounts) {
    let class = claim.str_at(&["spec", "storageClassName"]);
    let prefixes = [String::new(), format!("{class}.storageclass.storage.k8s.io/")];
    for prefix in prefixes.iter().take(if class.is_empty() { 1 } else { 2 }) {
        used.insert(format!("{prefix}persistentvolumeclaims"), one("1"));
        if let Some(size) = amounts(&claim["spec"]["resources"]["requests"]).remove("storage") {
            used.insert(format!("{prefix}requests.storage"), size);
        }
    }
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

/// Scopes narrow quotas over pods; a quota with scopes counts nothing else.
fn in_scope(quota: &Value, resource: &GroupResource, object: &Value) -> bool {
    let plain = quota["spec"]["scopes"].items().iter().filter_map(|scope| Some((scope.as_str()?, None)));
    let selected = quota["spec"]["scopeSelector"]["matchExpressions"].items();
    let selected = selected.iter().map(|term| (term.str_at(&["scopeName"]), Some(term)));
    plain.chain(selected).all(|(scope, term)| {
        resource.resource == "pods" && resource.group.is_empty() && pod_in_scope(object, scope, term)
    })
}

fn pod_in_scope(pod: &Value, scope: &str, term: Option<&Value>) -> bool {
    let terminating = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    let best_effort = || {
        let quiet = |list: Amounts| list.iter().all(|(n, q)| !matches!(n.as_str(), "cpu" | "memory") || *q == zero());
        quiet(pod_total(pod, "requests")) && quiet(pod_total(pod, "limits"))
    };
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = pod.str_at(&["spec", "priorityClassName"]);
            let listed = term.is_some_and(|t| t["values"].items().iter().any(|v| v.as_str() == Some(class)));
            match term.map_or("Exists", |t| t.str_at(&["operator"])) {
                "In" => !class.is_empty() && listed,
                "NotIn" => class.is_empty() || !listed,
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !term["namespaces"].items().is_empty() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        affinity["requiredDuringSchedulingIgnoredDuringExecution"].items().iter().any(crosses)
            || affinity["preferredDuringSchedulingIgnoredDuringExecution"]
                .items()
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
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
