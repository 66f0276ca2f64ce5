//! Where a Service's traffic goes: EndpointSlices, and the older Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::{Value, json, meta};

use crate::action::controller_reference;
use crate::resource::{ENDPOINT_SLICES, ENDPOINTS as ENDPOINTS_RESOURCE, PODS, SERVICES};
use crate::world::is;
use crate::{Action, Change, Context, Controller, Key, Watch, World, pods, selector, template};

pub(crate) static ENDPOINT_SLICE: Controller = Controller {
    name: "endpointslice-controller",
    watches: &[Watch::own(&SERVICES), Watch::map(&PODS, by_pod), Watch::map(&ENDPOINT_SLICES, by_slice)],
    reconcile: slices,
    settle_ms: 25,
};

pub(crate) static ENDPOINTS: Controller = Controller {
    name: "endpoint-controller",
    watches: &[
        Watch::map(&SERVICES, by_service),
        Watch::map(&PODS, by_pod),
        Watch::map(&ENDPOINTS_RESOURCE, by_endpoints),
    ],
    reconcile: endpoints,
    settle_ms: 25,
};

const SLICE_MAX: usize = 100;
const ENDPOINTS_MAX: usize = 1000;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

fn by_pod(world: &World, change: &Change) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        let same = |path: &[&str]| old.at(path) == new.at(path);
        let still = pods::is_ready(old) == pods::is_ready(new) && pods::phase(old) == pods::phase(new);
        let terminating = meta::is_terminating(old) == meta::is_terminating(new);
        if still && terminating && same(&["metadata", "labels"]) && same(&["status", "podIP"]) {
            return Vec::new();
        }
    }
    let mut keys = Vec::new();
    for pod in change.objects() {
        let services = world.in_namespace(&SERVICES, meta::namespace(pod));
        let ours = services.filter(|s| selector::selects(&s["spec"]["selector"], selector::labels(pod)));
        keys.extend(ours.map(|s| Key::of(&SERVICES, s)));
    }
    keys.dedup();
    keys
}

fn by_slice(_: &World, change: &Change) -> Vec<Key> {
    let ours = change.objects().filter(|s| meta::label(s, MANAGED_BY) == Some(MANAGER));
    let service = ours.filter_map(|s| Some((meta::namespace(s), meta::label(s, SERVICE_NAME)?)));
    service.map(|(namespace, name)| Key::new(&SERVICES, namespace, name)).take(1).collect()
}

/// A service itself; one that has gone takes its Endpoints along, whoever wrote them.
fn by_service(_: &World, change: &Change) -> Vec<Key> {
    let gone = change.new.is_none();
    let resource = if gone { &ENDPOINTS_RESOURCE } else { &SERVICES };
    change.objects().last().map(|s| Key::of(resource, s)).into_iter().collect()
}

fn by_endpoints(_: &World, change: &Change) -> Vec<Key> {
    change.objects().map(|e| Key::new(&SERVICES, meta::namespace(e), meta::name(e))).take(1).collect()
}

/// The pods behind a service that have an address and are not finished, by name.
fn backends<'a>(cx: &'a Context<'_>, service: &Value) -> Vec<&'a Arc<Value>> {
    let all = cx.world.in_namespace(&PODS, meta::namespace(service));
    all.filter(|p| selector::selects(&service["spec"]["selector"], selector::labels(p)))
        .filter(|p| !p.str_at(&["status", "podIP"]).is_empty() && !pods::is_finished(p))
        .collect()
}

/// A service's ports as one pod serves them; a named target port a pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for port in service["spec"]["ports"].items() {
        let target = match &port["targetPort"] {
            Value::Int(number) if *number > 0 => Some(*number),
            Value::String(name) => named_port(pod, name, port.str_at(&["protocol"])),
            _ => port["port"].as_i64(),
        };
        if let Some(number) = target {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let mut entry = json!({"name": port["name"].as_str().unwrap_or(""), "port": number, "protocol": protocol});
            if !port["appProtocol"].is_null() {
                entry.set("appProtocol", port["appProtocol"].clone());
            }
            found.push(entry);
        }
    }
    found
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let containers = pod["spec"]["containers"].items().iter().chain(pod["spec"]["initContainers"].items());
    let mut all = containers.flat_map(|c| c["ports"].items());
    let fits = |p: &&Value| {
        p["name"].as_str() == Some(name) && p["protocol"].as_str().unwrap_or("TCP") == protocol_or(protocol)
    };
    all.find(fits)?["containerPort"].as_i64()
}

fn protocol_or(protocol: &str) -> &str {
    if protocol.is_empty() { "TCP" } else { protocol }
}

fn is_headless(service: &Value) -> bool {
    matches!(service.str_at(&["spec", "clusterIP"]), "None")
}

fn target(pod: &Value) -> Value {
    json!({"kind": "Pod", "namespace": meta::namespace(pod), "name": meta::name(pod), "uid": meta::uid(pod)})
}

fn hostname<'a>(service: &Value, pod: &'a Value) -> Option<&'a str> {
    let hostname = pod["spec"]["hostname"].as_str().filter(|h| !h.is_empty())?;
    (pod.str_at(&["spec", "subdomain"]) == meta::name(service)).then_some(hostname)
}

fn endpoint(cx: &Context<'_>, service: &Value, pod: &Value) -> Value {
    let terminating = meta::is_terminating(pod);
    let serving = pods::is_ready(pod) || publishes_unready(service);
    let ready = publishes_unready(service) || (serving && !terminating);
    let mut entry = json!({
        "addresses": [pod.str_at(&["status", "podIP"])],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    });
    entry.set("targetRef", target(pod));
    let node = pod.str_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        entry.set("nodeName", node);
        let zone = cx.world.node(node).and_then(|n| meta::label(n, "topology.kubernetes.io/zone"));
        if let Some(zone) = zone {
            entry.set("zone", zone);
        }
    }
    if let Some(hostname) = hostname(service, pod) {
        entry.set("hostname", hostname);
    }
    entry
}

fn publishes_unready(service: &Value) -> bool {
    service["spec"]["publishNotReadyAddresses"].as_bool() == Some(true)
}

/// A service the controllers write for: with a selector, and not another name for something else.
fn subject<'a>(cx: &'a Context<'_>, key: &Key) -> Option<&'a Value> {
    let service = cx.world.lookup(key).map(|s| &**s).filter(|s| !meta::is_terminating(s))?;
    let selecting = service["spec"]["selector"].members().next().is_some();
    (selecting && service.str_at(&["spec", "type"]) != "ExternalName").then_some(service)
}

fn slices(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let ours = |s: &&Arc<Value>| {
        meta::label(s, SERVICE_NAME) == Some(&key.object.name) && meta::label(s, MANAGED_BY) == Some(MANAGER)
    };
    let existing: Vec<&Arc<Value>> =
        cx.world.in_namespace(&ENDPOINT_SLICES, &key.object.namespace).filter(ours).collect();
    let Some(service) = subject(cx, key) else {
        // With the service gone the garbage collector takes them; without a selector they are not ours to keep.
        let orphaned = cx.world.lookup(key).is_some();
        return existing.iter().filter(|_| orphaned).map(|s| Action::delete(&ENDPOINT_SLICES, s)).collect();
    };
    // One group per list of ports, keyed by its text; endpoints by the pod's uid.
    let mut groups: BTreeMap<Vec<u8>, (Value, BTreeMap<String, Value>)> = BTreeMap::new();
    for pod in backends(cx, service) {
        let ports = Value::from(ports(service, pod));
        let group = groups.entry(ports.to_vec()).or_insert_with(|| (ports, BTreeMap::new()));
        group.1.insert(meta::uid(pod).to_owned(), endpoint(cx, service, pod));
    }
    let mut actions = Vec::new();
    let filled = groups.values().any(|g| !g.1.is_empty());
    let mut spare: Vec<&Arc<Value>> = Vec::new();
    for slice in existing {
        let group = groups.get_mut(&slice["ports"].to_vec());
        let Some((_, wanted)) = group.filter(|g| !g.1.is_empty()) else {
            spare.push(slice);
            continue;
        };
        let mut kept: Vec<Value> = Vec::new();
        for old in slice["endpoints"].items() {
            kept.extend(wanted.remove(old.str_at(&["targetRef", "uid"])));
        }
        while kept.len() < SLICE_MAX {
            let Some((_, new)) = wanted.pop_first() else { break };
            kept.push(new);
        }
        actions.extend(rewrite(service, slice, None, kept));
    }
    for (ports, mut wanted) in groups.into_values() {
        while !wanted.is_empty() {
            let rest = if wanted.len() > SLICE_MAX {
                let split = wanted.keys().nth(SLICE_MAX).cloned().expect("there are more");
                wanted.split_off(&split)
            } else {
                BTreeMap::new()
            };
            let chunk: Vec<Value> = std::mem::replace(&mut wanted, rest).into_values().collect();
            match spare.pop() {
                Some(slice) => actions.extend(rewrite(service, slice, Some(ports.clone()), chunk)),
                None => actions.push(Action::create(&ENDPOINT_SLICES, new_slice(service, ports.clone(), chunk))),
            }
        }
    }
    finish(service, actions, spare, filled)
}

/// A service without endpoints keeps one empty slice; other spare ones go. Slices that stay as they are cost nothing.
fn finish(service: &Value, mut actions: Vec<Action>, mut spare: Vec<&Arc<Value>>, filled: bool) -> Vec<Action> {
    if !filled {
        match spare.pop() {
            Some(slice) => actions.extend(rewrite(service, slice, Some(Value::Null), Vec::new())),
            None => actions.push(Action::create(&ENDPOINT_SLICES, new_slice(service, Value::Null, Vec::new()))),
        }
    }
    actions.extend(spare.into_iter().map(|s| Action::delete(&ENDPOINT_SLICES, s)));
    actions
}

fn slice_labels(service: &Value) -> Value {
    let mut labels: Value = selector::labels(service).members().map(|(k, v)| (k, v.clone())).collect();
    labels.set(SERVICE_NAME, meta::name(service));
    labels.set(MANAGED_BY, MANAGER);
    if is_headless(service) {
        labels.set(HEADLESS, "");
    }
    labels
}

fn new_slice(service: &Value, ports: Value, endpoints: Vec<Value>) -> Value {
    let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"generateName": format!("{}-", meta::name(service)), "namespace": meta::namespace(service)}});
    slice["metadata"].set("labels", slice_labels(service));
    slice["metadata"].set("ownerReferences", vec![controller_reference(service, "v1", "Service")]);
    slice.set("endpoints", endpoints);
    slice.set("ports", ports);
    slice
}

/// The update that gives a slice these endpoints (and ports); none when it has them.
fn rewrite(service: &Value, slice: &Arc<Value>, ports: Option<Value>, endpoints: Vec<Value>) -> Option<Action> {
    let mut new = Value::clone(slice);
    new.set("endpoints", endpoints);
    if let Some(ports) = ports {
        new.set("ports", ports);
    }
    new["metadata"].set("labels", slice_labels(service));
    (!template::equal(&new, slice)).then(|| Action::update(&ENDPOINT_SLICES, new))
}

fn endpoints(cx: &Context<'_>, key: &Key) -> Vec<Action> {
    let (namespace, name) = (&key.object.namespace, &key.object.name);
    let existing = cx.world.get(&ENDPOINTS_RESOURCE, namespace, name);
    if is(&key.resource, &ENDPOINTS_RESOURCE) {
        let orphan = existing.filter(|_| cx.world.get(&SERVICES, namespace, name).is_none());
        return orphan.map(|e| Action::delete(&ENDPOINTS_RESOURCE, e)).into_iter().collect();
    }
    let Some(service) = subject(cx, key) else {
        let gone = cx.world.lookup(key).is_none();
        let ours = |e: &&Arc<Value>| meta::label(e, ENDPOINTS_MANAGED_BY).is_some();
        return existing
            .filter(|e| gone && ours(e))
            .map(|e| Action::delete(&ENDPOINTS_RESOURCE, e))
            .into_iter()
            .collect();
    };
    let subsets = subsets(cx, service);
    let mut labels: Value = selector::labels(service).members().map(|(k, v)| (k, v.clone())).collect();
    labels.set(ENDPOINTS_MANAGED_BY, "endpoint-controller");
    if is_headless(service) {
        labels.set(HEADLESS, "");
    }
    match existing {
        None => {
            let mut object = json!({"apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": name.as_str(), "namespace": namespace.as_str()}});
            object["metadata"].set("labels", labels);
            if !subsets.is_empty() {
                object.set("subsets", subsets);
            }
            vec![Action::create(&ENDPOINTS_RESOURCE, object)]
        }
        Some(old) => {
            let mut object = Value::clone(old);
            object["metadata"].set("labels", labels);
            object.set("subsets", subsets);
            if template::equal(&object, old) {
                return Vec::new();
            }
            vec![Action::update(&ENDPOINTS_RESOURCE, object)]
        }
    }
}

const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

fn subsets(cx: &Context<'_>, service: &Value) -> Vec<Value> {
    type Addresses = (Vec<Value>, Vec<Value>);
    let mut groups: BTreeMap<Vec<u8>, (Value, Addresses)> = BTreeMap::new();
    let live = backends(cx, service).into_iter().filter(|p| publishes_unready(service) || !meta::is_terminating(p));
    for pod in live.take(ENDPOINTS_MAX) {
        let ports = Value::from(ports(service, pod));
        if ports.items().is_empty() && !is_headless(service) {
            continue;
        }
        let mut address = json!({"ip": pod.str_at(&["status", "podIP"]), "targetRef": target(pod)});
        if !pod.str_at(&["spec", "nodeName"]).is_empty() {
            address.set("nodeName", pod.str_at(&["spec", "nodeName"]));
        }
        if let Some(hostname) = hostname(service, pod) {
            address.set("hostname", hostname);
        }
        let (_, (ready, unready)) = groups.entry(ports.to_vec()).or_insert_with(|| (ports, Addresses::default()));
        if publishes_unready(service) || pods::is_ready(pod) { ready.push(address) } else { unready.push(address) }
    }
    let subset = |(ports, (ready, unready)): (Value, Addresses)| {
        let mut subset = Value::object();
        for (key, mut list) in [("addresses", ready), ("notReadyAddresses", unready)] {
            if !list.is_empty() {
                list.sort_by(|a, b| a.str_at(&["ip"]).cmp(b.str_at(&["ip"])));
                subset.set(key, list);
            }
        }
        let ports: Vec<Value> = ports.items().iter().cloned().map(unnamed).collect();
        if !ports.is_empty() {
            subset.set("ports", ports);
        }
        subset
    };
    groups.into_values().map(subset).collect()
}

/// Endpoints leave an empty port name out; EndpointSlices write it.
fn unnamed(mut port: Value) -> Value {
    if port.str_at(&["name"]).is_empty() {
        port.remove("name");
    }
    port
}
