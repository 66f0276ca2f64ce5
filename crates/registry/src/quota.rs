//! What objects count against a ResourceQuota, for the admission that charges it and the controller that recounts it.

use std::collections::BTreeMap;

use machinery::quantity::Quantity;
use machinery::{GroupResource, Value};

/// Resource name to amount.
pub type Amounts = BTreeMap<String, Quantity>;

/// Reads a `ResourceList`; amounts that cannot be read count as absent (validation refuses them elsewhere).
pub fn amounts(list: &Value) -> Amounts {
    list.members()
        .filter_map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some((name.to_owned(), Quantity::parse(&text).ok()?))
        })
        .collect()
}

/// A `ResourceList` again.
pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, quantity)| (name.as_str(), quantity.to_string())).collect()
}

fn add(into: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        let sum = into.get(name).map_or_else(|| *quantity, |have| have.plus(quantity));
        into.insert(name.clone(), sum);
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, quantity) in other {
        if into.get(name).is_none_or(|have| have < quantity) {
            into.insert(name.clone(), *quantity);
        }
    }
}

/// What the pod takes as a whole of `field` (`requests` or `limits`): containers and sidecars together, or an init
/// container with the sidecars before it, whichever is more; plus the overhead.
pub fn pod_total(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let mut total = Amounts::new();
    for container in pod["spec"]["containers"].items() {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod["spec"]["initContainers"].items() {
        let own = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut peak, &sidecars);
        } else {
            let mut with_sidecars = sidecars.clone();
            add(&mut with_sidecars, &own);
            raise(&mut peak, &with_sidecars);
        }
    }
    raise(&mut total, &peak);
    let overhead = amounts(&pod["spec"]["overhead"]);
    for (name, quantity) in overhead {
        if field == "requests" || total.contains_key(&name) {
            add(&mut total, &Amounts::from([(name, quantity)]));
        }
    }
    total
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

/// Does a quota that limits `name` count objects of this resource?
pub fn tracks(resource: &GroupResource, name: &str) -> bool {
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

/// What one object uses, under the names that quotas know.
pub fn usage(resource: &GroupResource, object: &Value) -> Amounts {
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

/// Scopes narrow quotas over pods; a quota with scopes counts nothing else.
pub fn in_scope(quota: &Value, resource: &GroupResource, object: &Value) -> bool {
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
